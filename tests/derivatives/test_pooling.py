"""Pooling against differences, in float64 and in onnxruntime's float32."""

import numpy as np
import onnx.parser
import pytest
from differences import apart, filled_in, in_onnxruntime
from finite_differences import X, check, draw, hold, jacobians, one_node

import onnx_invert
from onnx_invert.errors import NotInvertibleError

SHAPES = {
    "side by side": ((2, 4, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "side by side, in threes": ((1, 3, 6), {"kernel_shape": [3, 2], "strides": [3, 2]}),
    "side by side, with a remainder": ((1, 5, 7), {"kernel_shape": [2, 3], "strides": [2, 3]}),
    "overlapping": ((1, 4, 5), {"kernel_shape": [2, 3]}),
    "overlapping, padded": ((2, 5, 6), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "padded unevenly": ((1, 5, 4), {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [2, 0, 1, 1]}),
    "apart": ((1, 6, 7), {"kernel_shape": [2, 1], "strides": [3, 2]}),
    "1-D": ((2, 7), {"kernel_shape": [3], "strides": [2]}),
    "1-D, side by side": ((2, 6), {"kernel_shape": [3], "strides": [3]}),
    "3-D": ((1, 3, 4, 3), {"kernel_shape": [2, 3, 2], "strides": [1, 2, 1], "pads": [0, 1, 0, 0, 1, 1]}),
    "3-D, side by side": ((1, 4, 2, 4), {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
    "same, upper": ((1, 5, 4), {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "same, lower": ((1, 5, 5), {"kernel_shape": [2, 2], "strides": [2, 1], "auto_pad": "SAME_LOWER"}),
    "valid": ((1, 5, 5), {"kernel_shape": [2, 2], "strides": [2, 1], "auto_pad": "VALID"}),
    "rounded up": ((1, 5, 6), {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}),
    "rounded up, padded": (
        (1, 6, 6),
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
    ),
    "rounded up, side by side": ((1, 4, 6), {"kernel_shape": [2, 3], "strides": [2, 3], "ceil_mode": 1}),
}
DILATED = {
    "dilated": ((1, 6, 5), {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1, 1, 1, 1]}),
    "dilated, strided": ((1, 7, 6), {"kernel_shape": [2, 2], "dilations": [3, 1], "strides": [2, 2]}),
}


# onnx's reference evaluator makes an image of another size of SAME_LOWER; onnxruntime is the oracle.
@pytest.mark.parametrize("name", [name for name in (*SHAPES, *DILATED) if name != "same, lower"])
def test_max_pool(name):
    image, attributes = {**SHAPES, **DILATED}[name]
    check("MaxPool", X(apart(2, *image)), **attributes)


@pytest.mark.parametrize("name", [*SHAPES, *DILATED])
def test_max_pool_in_onnxruntime(name):
    image, attributes = {**SHAPES, **DILATED}[name]
    in_onnxruntime("MaxPool", X(apart(2, *image)), **attributes)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("name", SHAPES)
def test_average_pool(name, padding):
    image, attributes = SHAPES[name]
    check("AveragePool", X(draw(2, *image)), count_include_pad=padding, **attributes)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("name", [*SHAPES, *DILATED])
def test_average_pool_in_onnxruntime(name, padding):
    image, attributes = {**SHAPES, **DILATED}[name]
    opset = 19 if name in DILATED else 17
    in_onnxruntime("AveragePool", X(draw(2, *image)), count_include_pad=padding, opset=opset, **attributes)


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("name", ["side by side", "overlapping, padded", "1-D", "3-D"])
def test_lp_pool(name, power):
    image, attributes = SHAPES[name]
    check("LpPool", X(draw(2, *image)), p=power, **attributes)


@pytest.mark.parametrize("image", [(3, 4, 5), (2, 6), (2, 2, 3, 2)], ids=str)
def test_global_pooling(image):
    check("GlobalAveragePool", X(draw(2, *image)))
    check("GlobalMaxPool", X(apart(2, *image)))
    in_onnxruntime("GlobalMaxPool", X(apart(2, *image)))
    in_onnxruntime("GlobalAveragePool", X(draw(2, *image)))


@pytest.mark.parametrize("power", [1, 2, 3])
def test_global_lp_pool(power):
    check("GlobalLpPool", X(draw(2, 2, 3, 4)), p=power)


def test_ties_share():
    x = np.array([[5.0, 1, 2, 7], [5, 4, 7, 7]]).reshape(1, 1, 2, 4)
    for dtype in (np.float64, np.float32):
        model, values = one_node("MaxPool", X(x), dtype=dtype, kernel_shape=[2, 2], strides=[2, 2])
        for found in jacobians(model, values):
            first, second = found.reshape(2, 2, 4)
            np.testing.assert_allclose(first, [[0.5, 0, 0, 0], [0.5, 0, 0, 0]])
            np.testing.assert_allclose(second, [[0, 0, 0, 1 / 3], [0, 0, 1 / 3, 1 / 3]], rtol=1e-6)


def test_ties_with_padding():
    """A place beside the padding does not count twice, nor does padding count at a maximum of 0."""
    x = np.array([0.0, -1, 0, -2]).reshape(1, 1, 4)
    model, values = one_node("MaxPool", X(x), kernel_shape=[3], strides=[2], pads=[1, 1])
    for found in jacobians(model, values):
        np.testing.assert_allclose(found[0], [[1, 0, 0, 0], [0, 0, 1, 0]])


def test_ties_over_the_image():
    model, values = one_node("GlobalMaxPool", X(np.array([3.0, 1, 3, 2]).reshape(1, 1, 2, 2)))
    for found in jacobians(model, values):
        np.testing.assert_allclose(found[0], [[0.5, 0, 0.5, 0]])


# conv, ReLU, max pooling, twice, then dense.
LENET = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (double[N,1,12,12] x) => (double[N,4] y)
    <double[3,1,3,3] w1, double[3] b1, double[4,3,2,2] w2, double[4] b2, double[16,4] d, double[4] c,
     int64[2] t = {-1, 16}> {
        a1 = Conv(x, w1, b1)
        r1 = Relu(a1)
        p1 = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(r1)
        a2 = Conv(p1, w2, b2)
        r2 = Relu(a2)
        p2 = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(r2)
        f = Reshape(p2, t)
        m = MatMul(f, d)
        y = Add(m, c)
    }
"""


def test_conv_relu_max_pool_dense():
    model = filled_in(LENET)
    hold(model, {"x": draw(2, 1, 12, 12)}, step=1e-6)


def test_refusals():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,1,H,4] x) => (float[1,1,a,b] y) { y = MaxPool<kernel_shape=[2, 2]>(x) }
    """)
    with pytest.raises(NotInvertibleError, match="its image sizes 'H' are known only at run time"):
        onnx_invert.jacobian(model)
    model, _ = one_node("AveragePool", X(draw(1, 1, 2)), kernel_shape=[1], pads=[1, 0])
    with pytest.raises(NotInvertibleError, match="one of its windows holds padding alone"):
        onnx_invert.jacobian(model)
