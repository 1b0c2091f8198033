"""Runs of affine steps become one product, and widening with narrowing becomes one matrix."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
from closed_form import explain, invert
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_invert import Guarantee, NotInvertibleError
from onnx_invert.build.affine import Step, fold, undo_diagonal, undo_matrix
from onnx_invert.rules.facts import Diagonal


@pytest.fixture
def normal():
    """Arrays of a shape, drawn anew in every test."""
    rng = np.random.default_rng(5)
    return lambda *shape: rng.standard_normal(shape)


def network(*steps: tuple[str, np.ndarray] | str, width: int, dtype: int = TensorProto.DOUBLE) -> onnx.ModelProto:
    """Nodes in a row: ("MatMul", W), ("Add", b), or the name of an operator alone."""
    nodes, weights, value = [], [], "x"
    out = width
    for index, step in enumerate(steps):
        op, array = (step, None) if isinstance(step, str) else step
        names = [value]
        if array is not None:
            weights.append(numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(dtype)), f"w{index}"))
            names.append(f"w{index}")
            out = array.shape[-1] if op == "MatMul" else out
        value = "y" if index + 1 == len(steps) else f"h{index}"
        nodes.append(helper.make_node(op, names, [value], name=f"n{index}"))
    graph = helper.make_graph(
        nodes,
        "row",
        [helper.make_tensor_value_info("x", dtype, ["N", width])],
        [helper.make_tensor_value_info("y", dtype, ["N", out])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in invert(model, verify=False).model.graph.node]


def test_matrices_and_diagonals_in_a_row_cost_one_product(normal):
    model = network(
        ("Sub", normal(6)),
        ("Div", 1 + np.abs(normal(6))),
        ("MatMul", normal(6, 6)),
        ("Add", normal(6)),
        ("MatMul", normal(6, 6)),
        ("Mul", 1 + np.abs(normal(6))),
        ("MatMul", normal(6, 6)),
        width=6,
    )
    assert operators(model) == ["MatMul", "Add"]


def test_an_activation_ends_a_run(normal):
    model = network(("MatMul", normal(6, 6)), "Tanh", ("MatMul", normal(6, 6)), width=6)
    assert operators(model).count("MatMul") == 2


def test_a_product_that_would_be_larger_is_kept_in_two(normal):
    """50 → 2 → 50: the two factors hold 200 numbers, their product 2,500."""
    model = network(("MatMul", normal(50, 2)), ("MatMul", normal(2, 50)), width=50)
    inverse = invert(model, verify=False).model
    assert [node.op_type for node in inverse.graph.node].count("MatMul") == 2
    assert sum(int(np.prod(tensor.dims)) for tensor in inverse.graph.initializer) == 200


@pytest.mark.parametrize("widths", [(10, 64, 10), (10, 64, 5), (5, 64, 10), (10, 64, 64, 10), (4, 6, 8, 3)])
def test_widening_then_narrowing_alone_is_one_matrix(widths, normal):
    """x @ W₁ @ W₂ keeps all that K·M numbers can: a bijection for 10 → 64 → 10, in one product."""
    steps = [("MatMul", normal(k, m)) for k, m in pairwise(widths)]
    model = network(*steps, width=widths[0])
    first, last = widths[0], widths[-1]
    assert invert(model).guarantee is Guarantee.of(first <= last, first >= last)
    assert operators(model) == ["MatMul"]


def test_diagonals_between_join_in(normal):
    model = network(
        ("MatMul", normal(4, 9)), ("Add", normal(9)), ("Mul", normal(9)), ("MatMul", normal(9, 4)), width=4
    )
    assert invert(model).guarantee is Guarantee.BIJECTION
    assert operators(model) == ["MatMul", "Add"]
    (row,) = [row for row in explain(model).rows if row.rank is not None]
    assert row.rank == 4


def test_an_activation_between_is_refused(normal):
    with pytest.raises(NotInvertibleError, match="widens 4 → 9 before 'n2'"):
        invert(network(("MatMul", normal(4, 9)), "Tanh", ("MatMul", normal(9, 4)), width=4))


def test_a_scale_before_a_narrowing_matrix_keeps_the_answer_layer_by_layer(normal):
    """scaler then PCA: x = (y @ W⁺) · s + m, scikit-learn's answer, not the least norm of the product."""
    shift, scale, weight = normal(6), np.array([1.0, 10, 100, 0.1, 5, 2]), normal(6, 2)
    inverse = invert(network(("Sub", shift), ("Div", scale), ("MatMul", weight), width=6)).model
    y = normal(20, 2)
    found = ReferenceEvaluator(inverse).run(None, {"y": y})[0]
    expected = y @ np.linalg.pinv(weight) * scale + shift
    least_norm = y @ np.linalg.pinv(weight / scale[:, None]) + shift
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert not np.allclose(found, least_norm, rtol=1e-2)
    assert [node.op_type for node in inverse.graph.node] == ["MatMul", "Add"]


def test_square_layers_before_a_narrowing_one_keep_the_answer_layer_by_layer(normal):
    square, narrow = normal(5, 5), normal(5, 2)
    inverse = invert(network(("MatMul", square), ("MatMul", narrow), width=5)).model
    y = normal(7, 2)
    found = ReferenceEvaluator(inverse).run(None, {"y": y})[0]
    assert np.allclose(found, y @ np.linalg.pinv(narrow) @ np.linalg.inv(square), rtol=1e-10)


def evaluate(steps: list[Step], y: np.ndarray) -> np.ndarray:
    for step in steps:
        y = (y * step.scale if step.matrix is None else y @ step.matrix) + step.shift
    return y


@pytest.mark.parametrize("seed", range(20))
def test_fold_keeps_the_map(seed, normal):
    rng = np.random.default_rng(seed)
    steps, width = [], 5
    for _ in range(6):
        if rng.random() < 0.5:
            scale = rng.standard_normal(width)
            scale[rng.integers(width)] *= rng.random() < 0.7
            steps.append(undo_diagonal(Diagonal(scale, rng.standard_normal(width))))
        else:
            new = int(rng.integers(1, 9))
            steps.append(undo_matrix(rng.standard_normal((width, new))))
            width = new
    y = rng.standard_normal((4, 5))
    folded = fold(steps)
    expected = evaluate(steps, y)
    assert np.allclose(evaluate(folded, y), expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())
    assert len(folded) <= len(steps)
    assert len(folded) <= max(1, sum(step.matrix is not None for step in steps))
