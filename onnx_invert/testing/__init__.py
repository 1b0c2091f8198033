"""The laws that every rule is held to, public: a third party's rules are checked by the same functions.

    from onnx_invert.testing import check_rule

    check_rule("LeakyRelu", attributes={"alpha": 0.2})
    check_rule("MyOp", domain="my.domain", rules=my_rules, samples=x)

and every completion by `check_completion`: what a node loses, as a latent of as few numbers as is stated.

    check_completion("Relu", surplus=4, shape=(4,))

Needs a node that onnxruntime or onnx's reference evaluator can run. Nothing here depends on pytest.
"""

from __future__ import annotations

from onnx_invert.testing.case import Case
from onnx_invert.testing.completions import Count, check_completion
from onnx_invert.testing.laws import check_rule, refusals
from onnx_invert.testing.portable import check_portable

__all__ = ["Case", "Count", "check_completion", "check_portable", "check_rule", "refusals"]
