"""Samples and frames of any number merged in one axis, as before a Linear, and split again behind it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

import onnx_invert

WEIGHTS = (
    "<double[4,4] a = {1, 0.5, 0, -1, 0, 2, 0.3, 0, 0.4, 0, 1.5, 0, 0, -0.2, 0, 0.7}, double[2,4] w = {0.3, -0.4, "
    "0.7, 1, -0.8, 0.2, 0.5, 0.1}, int64[2] parts = {2, 2}, int64[2] flat = {-1, 4}, int64[1] four = {4}, "
    "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}>"
)
COUPLING = """
    c = MatMul(h, a)  p, q = Split<axis = 1>(c, parts)  n = MatMul(p, w)  s, t = Split<axis = 1>(n, parts)
    u = Tanh(s)  e = Exp(u)  m = Mul(q, e)  k = Add(m, t)  z = Concat<axis = 1>(k, p)
"""
SHAPE = "size = Shape(x)  i = Slice(size, zero, one)  j = Slice(size, one, two)  l = Slice(size, two, three)"

BODIES = {
    "frames": (
        "N,T,4",
        f"h = Reshape(x, flat) {COUPLING} {SHAPE} s3 = Concat<axis = 0>(i, j, four) y = Reshape(z, s3)",
    ),
    "their product written out": (
        "N,T,4",
        f"{SHAPE} ij = Mul(i, j) s2 = Concat<axis = 0>(ij, four) h = Reshape(x, s2) {COUPLING} y = Reshape(z, size)",
    ),
    "frames last": (
        "N,4,T",
        f"v = Transpose<perm = [0, 2, 1]>(x) h = Reshape(v, flat) {COUPLING} {SHAPE} "
        "s3 = Concat<axis = 0>(i, l, four) b = Reshape(z, s3) y = Transpose<perm = [0, 2, 1]>(b)",
    ),
    "frames before samples": (
        "N,T,4",
        f"v = Transpose<perm = [1, 0, 2]>(x) h = Reshape(v, flat) {COUPLING} {SHAPE} "
        "s3 = Concat<axis = 0>(j, i, four) b = Reshape(z, s3) y = Transpose<perm = [1, 0, 2]>(b)",
    ),
    "pixels": (
        "N,4,H,W",
        f"v = Transpose<perm = [0, 2, 3, 1]>(x) h = Reshape(v, flat) {COUPLING} size = Shape(v) "
        "b = Reshape(z, size) y = Transpose<perm = [0, 3, 1, 2]>(b)",
    ),
}

SIZES = ({"N": 3, "T": 5, "H": 2, "W": 3}, {"N": 1, "T": 1, "H": 1, "W": 4}, {"N": 0, "T": 2, "H": 2, "W": 2})


def _model(shape: str, body: str) -> onnx.ModelProto:
    ends = f"(double[{shape}] x) => (double[{shape}] y)"
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {ends} {WEIGHTS} {{ {body} }}')


def _runner(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _log_det(forward: ort.InferenceSession, x: np.ndarray) -> float:
    """slogdet of the Jacobian of one sample, by central differences."""
    step = 1e-6 * np.eye(x.size).reshape(x.size, *x.shape)
    ends = [forward.run(None, {"x": x + sign * step})[0].reshape(x.size, -1) for sign in (1, -1)]
    return float(np.linalg.slogdet((ends[0] - ends[1]) / 2e-6)[1])


@pytest.mark.parametrize("name", BODIES)
def test_come_apart_again(name: str) -> None:
    shape, body = BODIES[name]
    model = _model(shape, body)
    inversion = onnx_invert.invert(model, log_det=True, method="closed-form")
    assert inversion.guarantee is onnx_invert.Guarantee.BIJECTION
    forward, back = _runner(model), _runner(inversion.model)
    generator = np.random.default_rng(0)
    for sizes in SIZES:
        if not sizes["N"] and name == "frames before samples":
            continue  # the network itself does not run then: to Reshape, a 0 is the size that stands there
        x = generator.normal(size=[sizes[dim] if dim in sizes else int(dim) for dim in shape.split(",")])
        (y,) = forward.run(None, {"x": x})
        found = dict(zip([port.name for port in back.get_outputs()], back.run(None, {"y": y}), strict=True))
        assert found["x"].shape == x.shape
        np.testing.assert_allclose(found["x"], x, atol=1e-12)
        np.testing.assert_allclose(found["log_det"], [-_log_det(forward, one) for one in x], atol=1e-7)


def test_sizes_that_no_input_tells_are_named() -> None:
    """y holds N·T numbers, and neither N nor T."""
    model = _model("N,T,4", f"h = Reshape(x, flat) {COUPLING} y = Identity(z)")
    del model.graph.output[0].type.tensor_type.shape.dim[0]
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "M"
    with pytest.raises(onnx_invert.OnnxInvertError, match="its output no longer tells the sizes 'N' and 'T'"):
        onnx_invert.invert(model, method="closed-form")
