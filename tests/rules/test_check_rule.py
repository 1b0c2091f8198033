"""`check_rule` itself: rules that are wrong in one way each, and the law that catches them."""

import numpy as np
import onnx_ir as ir
import pytest

from onnx_invert.rules.facts import Branch, Diagonal, Elementwise, Matrix, Rearrangement
from onnx_invert.rules.interval import NON_NEGATIVE, POSITIVE, REALS, between
from onnx_invert.rules.registry import RuleSet
from onnx_invert.testing import check_rule


def artanh(e, y):
    quotient = e.op("Div", e.op("Add", y, 1.0), e.op("Sub", e.scalar(1.0), y))
    return e.op("Mul", e.op("Log", quotient), 0.5)


def tanh_rules(**changes):
    rules = RuleSet()
    stated = {
        "inverse": artanh,
        "forward": np.tanh,
        "derivative": lambda e, x, y: e.op("Sub", e.scalar(1.0), e.op("Mul", y, y)),
        "image": between(-1, 1),
    }  # fmt: skip
    rules.unary("Tanh", "x = artanh(y)", **{**stated, **changes})
    return with_neighbours(rules)


def with_neighbours(rules):
    """The rules of the nodes that `check_rule` puts around the operator."""

    @rules.rule("MatMul")
    def product(node):
        """x = y @ W⁻¹."""
        return (Matrix(node.constant(1)),)

    @rules.rule("Mul")
    def scaling(node):
        """x = y / b."""
        return (Diagonal(np.asarray(node.constant(1), np.float64)),)

    return rules


def test_a_sound_rule_of_a_third_party_passes():
    x = np.random.default_rng(0).uniform(0.5, 1.5, (3, 3, 4))
    assert check_rule("Tanh", rules=tanh_rules(), samples=x) == "bijection"


def nan_becomes_zero(e, y):
    known = e.op("Equal", y, y)
    known.dtype = ir.DataType.BOOL
    return e.op("Where", known, artanh(e, y), e.scalar(0.0))


WRONG = {
    "inverse": ({"inverse": lambda e, y: e.op("Mul", e.op("Atan", y), 1.0)}, "g(f(x)) = x"),
    "derivative": ({"derivative": lambda e, x, y: e.op("Sub", e.scalar(1.0), y)}, "the derivative is that of f"),
    "forward": ({"forward": lambda v: 0.99 * np.tanh(v)}, "Tanh"),
    "image-too-small": ({"image": between(-1, 0)}, "Tanh"),
    "image-too-large": ({"image": REALS}, "Tanh"),
    "image-one-sided": ({"image": POSITIVE}, "Tanh"),
    "operator": ({"inverse": lambda e, y: e.op("Atanh", y)}, "the inverse runs everywhere"),
    "nan-becomes-a-number": ({"inverse": nan_becomes_zero}, "NaN stays NaN"),
    "invalid": ({"inverse": lambda e, y: e.op("Softsign", y, y)}, "the inverse is valid ONNX"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_fact_is_caught(wrong):
    changes, law = WRONG[wrong]
    x = np.random.default_rng(0).uniform(0.5, 1.5, (3, 3, 4))
    with pytest.raises(AssertionError) as caught:
        check_rule("Tanh", rules=tanh_rules(**changes), samples=x)
    assert law in str(caught.value)


def chain_rules(op, function):
    rules = RuleSet()
    rules.rule(op)(function)
    return rules


def matmul_with_half_the_matrix(node):
    """A weight that is not the node's."""
    return (Matrix(node.constant(1) * np.float32(0.5)),)


def matmul_that_forgets_its_rank(node):
    """A narrowing product taken for a shape change."""
    return (Rearrangement(lambda e, x: x, lambda e, y: e.op("Concat", y, y, axis=1)),)


@pytest.mark.parametrize("function", [matmul_with_half_the_matrix, matmul_that_forgets_its_rank])
def test_a_wrong_chain_is_caught(function):
    weight = np.random.default_rng(1).standard_normal((4, 2)).astype(np.float32)
    with pytest.raises(AssertionError) as caught:
        check_rule("MatMul", operands={1: weight}, rules=chain_rules("MatMul", function), surround=False)
    assert "MatMul (opset 17, float32" in str(caught.value)


def test_a_chosen_branch_that_is_called_a_bijection_is_caught():
    def square(node):
        """x = sqrt(y), though x may be negative."""
        branch = Branch(REALS, NON_NEGATIVE, lambda e, y: e.op("Sqrt", y))
        return (Elementwise(np.square, lambda e, x, y: e.op("Mul", x, 2.0), (branch,)),)

    rules = chain_rules("Pow", square)
    with pytest.raises(AssertionError, match="bijection"):
        check_rule("Pow", operands={1: np.float32(2)}, rules=rules, surround=False)


def test_a_refusal_is_an_assertion():
    with pytest.raises(AssertionError, match="the node has an inverse"):
        check_rule("Relu")
