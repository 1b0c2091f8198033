"""The laws that every rule is held to, public: a third party's rules are checked by the same functions.

    from onnx_invert.testing import check_rule

    check_rule("LeakyRelu", attributes={"alpha": 0.2})
    check_rule("MyOp", domain="my.domain", rules=my_rules, samples=x)

Needs a node that onnxruntime or onnx's reference evaluator can run. Nothing here depends on pytest.
"""

from __future__ import annotations

from onnx_invert.testing.case import Case
from onnx_invert.testing.laws import check_rule, refusals
from onnx_invert.testing.portable import check_portable

__all__ = ["Case", "check_portable", "check_rule", "refusals"]
