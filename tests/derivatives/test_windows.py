"""Convolutions and transposed convolutions against differences, in float64 and in onnxruntime's float32."""

from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from differences import apart, filled_in, hold_in_onnxruntime, in_onnxruntime, session
from finite_differences import X, check, draw, hold, one_node, run

import onnx_invert
from onnx_invert.errors import NotInvertibleError

CONVOLUTIONS = {
    "plain": ((2, 5, 6), (3, 2, 3, 3), {}),
    "strided": ((2, 7, 6), (3, 2, 3, 2), {"strides": [2, 2]}),
    "with a remainder": ((1, 8, 8), (2, 1, 3, 3), {"strides": [3, 4]}),
    "stride beyond the kernel": ((1, 8, 7), (2, 1, 2, 1), {"strides": [3, 3]}),
    "padded on both sides": ((2, 4, 5), (2, 2, 3, 3), {"pads": [1, 1, 1, 1]}),
    "padded unevenly": ((2, 4, 5), (2, 2, 3, 3), {"pads": [2, 0, 1, 3], "strides": [2, 1]}),
    "dilated": ((1, 8, 7), (2, 1, 3, 2), {"dilations": [2, 3], "pads": [1, 0, 2, 1], "strides": [2, 1]}),
    "in groups": ((4, 4, 3), (6, 2, 2, 2), {"group": 2, "pads": [0, 1, 1, 0]}),
    "depthwise": ((3, 5, 5), (3, 1, 3, 3), {"group": 3, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "pointwise": ((3, 2, 3), (4, 3, 1, 1), {}),
    "same, upper": ((1, 5, 6), (2, 1, 2, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same, lower": ((1, 5, 6), (2, 1, 2, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "valid": ((1, 5, 6), (2, 1, 2, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    "1-D": ((2, 9), (3, 2, 4), {"strides": [2], "pads": [1, 2]}),
    "3-D": ((1, 3, 4, 3), (2, 1, 2, 3, 2), {"strides": [1, 2, 1], "pads": [0, 1, 0, 1, 0, 1]}),
}

TRANSPOSED = {
    "plain": ((2, 3, 4), (2, 3, 3, 2), {}),
    "strided": ((2, 3, 3), (2, 3, 3, 2), {"strides": [2, 2]}),
    "stride beyond the kernel": ((1, 3, 3), (1, 2, 2, 1), {"strides": [3, 3]}),
    "padded": ((1, 3, 4), (1, 2, 4, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "padded unevenly": ((1, 3, 4), (1, 2, 4, 4), {"strides": [2, 3], "pads": [2, 0, 1, 3]}),
    "output padding": ((1, 3, 3), (1, 2, 3, 3), {"strides": [3, 2], "output_padding": [2, 1], "pads": [1, 1, 0, 1]}),
    "output padding alone": ((1, 2, 2), (1, 2, 2, 2), {"strides": [4, 4], "output_padding": [3, 1]}),
    "dilated": ((1, 3, 3), (1, 2, 3, 2), {"dilations": [2, 3], "pads": [1, 0, 1, 1]}),
    "in groups": ((4, 2, 3), (4, 3, 2, 2), {"group": 2, "strides": [2, 1]}),
    "1-D": ((2, 4), (2, 3, 4), {"strides": [3], "pads": [1, 2]}),
    "3-D": ((1, 2, 2, 2), (1, 2, 2, 3, 2), {"strides": [2, 1, 2]}),
    "same, upper": ((1, 3, 3), (1, 2, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [3, 2]}),
    "same, lower": ((1, 3, 3), (1, 2, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [3, 2]}),
    "valid": ((1, 3, 3), (1, 2, 4, 3), {"auto_pad": "VALID", "strides": [3, 2]}),
    "output shape, upper": (
        (1, 3, 3),
        (1, 2, 4, 4),
        {"auto_pad": "SAME_UPPER", "strides": [2, 2], "output_shape": [7, 6]},
    ),
}

# onnx's reference evaluator leaves these out; onnxruntime is the oracle.
TRANSPOSED_IN_ONNXRUNTIME = {
    "output shape": ((1, 3, 3), (1, 2, 4, 4), {"strides": [2, 2], "output_shape": [7, 6]}),
    "output shape and padding": (
        (1, 5, 5),
        (1, 1, 4, 4),
        {"strides": [2, 2], "output_shape": [10, 9], "output_padding": [1, 0]},
    ),
    "less than the kernel": ((1, 3, 3), (1, 2, 1, 1), {"auto_pad": "SAME_LOWER", "strides": [3, 2]}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv(name):
    image, weight, attributes = CONVOLUTIONS[name]
    kernel, bias = draw(*weight), draw(weight[0])
    if "SAME" in attributes.get("auto_pad", ""):
        in_onnxruntime("Conv", X(draw(2, *image)), kernel, bias, **attributes)
    check("Conv", X(draw(2, *image)), kernel, bias, **attributes)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv_in_onnxruntime(name):
    image, weight, attributes = CONVOLUTIONS[name]
    in_onnxruntime("Conv", X(draw(2, *image)), draw(*weight), **attributes)


@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose(name):
    image, weight, attributes = TRANSPOSED[name]
    bias = draw(weight[1] * attributes.get("group", 1))
    check("ConvTranspose", X(draw(2, *image)), draw(*weight), bias, **attributes)


@pytest.mark.parametrize("name", [*TRANSPOSED, *TRANSPOSED_IN_ONNXRUNTIME])
def test_conv_transpose_in_onnxruntime(name):
    image, weight, attributes = {**TRANSPOSED, **TRANSPOSED_IN_ONNXRUNTIME}[name]
    in_onnxruntime("ConvTranspose", X(draw(2, *image)), draw(*weight), **attributes)


def test_an_unknown_bias():
    image, weight = draw(1, 1, 4, 4), draw(3, 1, 2, 2)
    check("Conv", image, weight, X(draw(3), batched=False))
    check("ConvTranspose", image, draw(1, 3, 2, 2), X(draw(3), batched=False))


def test_a_fixed_batch():
    check("Conv", X(draw(2, 1, 4, 3), batched=False), draw(2, 1, 2, 2), strides=[2, 1])


MODEL = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (double[N,2,{h},4] x, double[3,2,2,2] v) => (double[N,3,a,b] y) {{
        w = Tanh(v)
        y = Conv<strides=[1, 2]>(x, w)
    }}
"""


def test_a_computed_weight():
    model = onnx.parser.parse_model(MODEL.format(h=3))
    x, v = draw(2, 2, 3, 4), draw(3, 2, 2, 2)
    forward, reverse = (onnx_invert.jacobian(model, wrt=["x"], mode=mode) for mode in ("forward", "reverse"))
    expected = check("Conv", X(x), np.tanh(v), strides=[1, 2])
    for derivative in (forward, reverse):
        np.testing.assert_allclose(run(derivative, {"x": x, "v": v})[0], expected, atol=1e-12)


def test_the_weight_is_stored_once():
    model, _ = one_node("Conv", X(draw(2, 2, 6, 6)), draw(5, 2, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
    for mode in ("forward", "reverse"):
        derivative = onnx_invert.jacobian(model, mode=mode)
        assert sum(np.prod(tensor.dims) == 90 for tensor in derivative.graph.initializer) == 1


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_as_many_channels_in_openvino(op):
    """It packs a constant once, for the direction in which it is used first."""
    openvino = pytest.importorskip("openvino")
    model, values = one_node(op, X(draw(2, 4, 5, 5)), draw(4, 4, 3, 3), dtype=np.float32, pads=[1, 1, 1, 1])
    model.graph.node.append(onnx.helper.make_node("Tanh", ["y0"], ["z"], name="tanh"))
    model.graph.output[0].name = "z"
    core = openvino.Core()
    for mode in ("forward", "reverse"):
        derivative = onnx_invert.jacobian(model, mode=mode)
        compiled = core.compile_model(
            core.read_model(derivative.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        (expected,) = session(derivative).run(None, values)
        np.testing.assert_allclose(compiled(list(values.values()))[0], expected, atol=1e-5)


def test_refusals():
    with pytest.raises(NotInvertibleError, match="its weight depends on what is unknown"):
        onnx_invert.jacobian(onnx.parser.parse_model(MODEL.format(h=3)), wrt=["v"])
    text = MODEL.format(h=3).replace("x, w)", "z, w)").replace("w = Tanh(v)", "z = Resize(x, , s)\n w = Tanh(v)")
    sized = onnx.parser.parse_model(text.replace("double[3,2,2,2] v)", "double[3,2,2,2] v, float[4] s)"))
    with pytest.raises(NotInvertibleError, match="known only at run time"):
        onnx_invert.jacobian(sized, wrt=["x"])


# conv, batch norm, SiLU, average pooling, dense.
NETWORK = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (double[N,2,8,8] x) => (double[N,3] y)
    <double[4,2,3,3] w, double[4] b, double[4] m, double[4] v, double[4] s, double[4] o, double[64,3] d> {
        a = Conv<pads=[1, 1, 1, 1]>(x, w, b)
        n = BatchNormalization(a, s, o, m, v)
        e = Sigmoid(n)
        u = Mul(n, e)
        q = AveragePool<kernel_shape=[2, 2], strides=[2, 2]>(u)
        f = Flatten(q)
        y = MatMul(f, d)
    }
"""


def test_conv_batch_norm_silu_average_pool():
    hold(filled_in(NETWORK), {"x": draw(2, 2, 8, 8)})


KERAS = Path(__file__).parent.parent / "data" / "keras"


@pytest.mark.parametrize(
    "name",
    [
        *("avgpool_same_s1", "bn_conv", "conv1d_same", "conv2dT_valid_s2", "conv2d_2x2_s2_patch", "conv2d_dilated"),
        *("conv2d_same_s2", "conv2d_valid_s2", "dense_log_softmax", "dense_softmax", "gap", "groupnorm", "layernorm"),
        *("maxpool", "separable", "upsample_bilinear", "zeropad"),
    ],
)
def test_keras_exports(name):
    model = onnx.load(KERAS / f"{name}.onnx")
    x = model.graph.input[0]
    shape = [dim.dim_value or 2 for dim in x.type.tensor_type.shape.dim]
    hold_in_onnxruntime(model, {x.name: apart(*shape).astype(np.float32)}, rtol=2e-3)
