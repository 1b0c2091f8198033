"""Reductions over axes, against differences."""

import numpy as np
import onnx
import pytest
from finite_differences import X, check, draw, hold, ints, jacobians, one_node, positive

import onnx_invert

# The operators, and the opset from which their axes are an operand.
OPERATORS = {
    "ReduceSum": 13,
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"), 18),
    **dict.fromkeys(("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"), 18),
}


def reduced(op, x, axes, *, opset, **attributes):
    """Check it with the axes where that opset has them."""
    if axes is None:
        return check(op, x, opset=opset, **attributes)
    if opset < OPERATORS[op]:
        return check(op, x, opset=opset, axes=list(axes), **attributes)
    return check(op, x, ints(*axes), opset=opset, **attributes)


def sample(op, *shape):
    return positive(*shape) if op == "ReduceLogSum" else draw(*shape)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [(1,), (-1,), (1, 2), (-2, -1), (2, 1)], ids=str)
@pytest.mark.parametrize("op", OPERATORS)
def test_axes(op, axes, keepdims):
    reduced(op, X(sample(op, 3, 2, 4)), axes, opset=18, keepdims=keepdims)


@pytest.mark.parametrize("op", OPERATORS)
def test_axes_as_an_attribute(op):
    reduced(op, X(sample(op, 3, 2, 4)), (-1,), opset=13, keepdims=0)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("op", OPERATORS)
def test_all_axes(op, keepdims):
    reduced(op, X(sample(op, 2, 3), False), None, opset=18, keepdims=keepdims)


@pytest.mark.parametrize("op", OPERATORS)
def test_no_axes(op):
    check(op, X(positive(3, 4)), None, opset=18, noop_with_empty_axes=1)
    check(op, X(positive(3, 4)), ints(), opset=18, noop_with_empty_axes=1)


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceLogSumExp"])
def test_a_reduction_over_the_samples_is_refused(op):
    model = (
        onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (double[N,3] x) => (double[N,3] y) {{
            m = {op}<keepdims = 1, axes = [0]>(x)
            y = Sub(x, m)
        }}""")
        if op != "ReduceSum"
        else onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (double[N,3] x) => (double[N,3] y) {
            first = Constant<value_ints = [0]>()
            m = ReduceSum<keepdims = 1>(x, first)
            y = Sub(x, m)
        }""")
    )
    with pytest.raises(onnx_invert.NotInvertibleError, match=rf"{op}\): it mixes the samples of a batch"):
        onnx_invert.jacobian(model)
    # Of a fixed size, all of x is one sample.
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    hold(model, {"x": draw(4, 3)})


@pytest.mark.parametrize(
    "x",
    [[2.0, 0.0, -3.0, 0.5], [0.0, 0.0, 1.0, 2.0], [-1.0, -2.0, -3.0, 0.0], [-1.5, 2.0, -3.0, 1.0]],
    ids=str,
)
def test_products_with_zeros(x):
    check("ReduceProd", X(np.array([x, x[::-1]])), axes=[1])


def test_norm_of_zero_gives_a_number():
    for derivative in jacobians(*one_node("ReduceL2", X(np.zeros((2, 3))), axes=[1])):
        np.testing.assert_array_equal(derivative, np.zeros((2, 1, 3)))


def test_equal_extremes_share_the_derivative():
    x = np.array([[1.0, 3.0, 3.0, 0.0]])
    for derivative in jacobians(*one_node("ReduceMax", X(x), axes=[1])):
        np.testing.assert_array_equal(derivative, [[[0, 0.5, 0.5, 0]]])


def test_log_sum_exp_of_large_numbers():
    x = np.array([[1000.0, 1001.0, -1000.0]])
    model, values = one_node("ReduceLogSumExp", X(x), axes=[1])
    for derivative in jacobians(model, values):
        np.testing.assert_allclose(derivative[0, 0], [1 / (1 + np.e), np.e / (1 + np.e), 0], rtol=1e-12)


def test_axes_known_at_run_time_are_refused():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        g (double[N,3] x, int64[1] axes) => (double[N,1] y) { y = ReduceSum(x, axes) }""")
    with pytest.raises(onnx_invert.NotInvertibleError, match="its axes are known only at run time"):
        onnx_invert.jacobian(model)
