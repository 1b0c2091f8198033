"""Every rule, held to every law."""

import pytest
from cases import EXAMPLES

from onnx_invert.rules import default_rules
from onnx_invert.testing import check_rule


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_rule(example):
    assert check_rule(example.op, **example.arguments) == example.guarantee


def test_every_rule_has_a_case():
    # Those of ai.onnx.ml return float32 alone; test_pipelines.py holds them to numpy.
    assert {rule.op_type for rule in default_rules() if not rule.domain} == {example.op for example in EXAMPLES}


def test_labels_are_unique():
    labels = [str(example) for example in EXAMPLES]
    assert len(set(labels)) == len(labels)
