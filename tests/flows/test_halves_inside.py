"""Models that take and give float32 and compute in halves: what rounds on the way counts, not the ends alone."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnxruntime as ort

import onnx_invert

COUPLING = onnx.parser.parse_model(
    """<ir_version: 9, opset_import: ["" : 18]> g (float[N,2] x, float[N,1] c) => (float[N,2] y)
    <int64[2] each = {1, 1}, float weight = {0.7}> {
        w = Cast<to=10>(weight)  h = Cast<to=10>(x)  k = Cast<to=10>(c)  a, b = Split<axis=1>(h, each)
        v = Mul(a, w)  s = Tanh(v)  e = Exp(s)  p = Mul(b, e)  t = Tanh(p)  q = Add(p, t)
        m = Mul(a, k)  z = Concat<axis=1>(m, q)  y = Cast<to=1>(z)
    }"""
)


def test_halves_between_float32_ends_are_held_to_what_halves_round() -> None:
    made = onnx_invert.invert(COUPLING, recover=["x"], log_det=True, residual=True)
    assert made.guarantee.promises_x
    assert 1e-4 < made.round_trip.x.worst < 2e-2  # no float32 comes back, and a half does
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 2)).astype(np.float32)
    c = rng.uniform(0.5, 2, size=(64, 1)).astype(np.float32)
    forward, inverse = (
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for model in (COUPLING, made.model)
    )
    (y,) = forward.run(None, {"x": x, "c": c})
    found = dict(zip([port.name for port in inverse.get_outputs()], inverse.run(None, {"y": y, "c": c}), strict=True))
    assert np.abs(found["x"] - x).max() < 2e-2
    assert found["residual"].max() < 2e-2
    assert found["log_det"].dtype == np.float32
    a, b = x[:, 0].astype(np.float64), x[:, 1].astype(np.float64)
    s = np.tanh(0.7 * a)
    wanted = -(s + np.log1p(1 - np.tanh(b * np.exp(s)) ** 2) + np.log(c[:, 0].astype(np.float64)))
    assert np.abs(found["log_det"] - wanted).max() < 2e-2


def test_a_type_that_no_known_output_follows_from_widens_no_tolerance() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 18]> g (float[N,2] x) => (float[N,2] y, float16[N,2] other)
        { y = Tanh(x)  h = Cast<to=10>(x)  other = Exp(h) }"""
    )
    made = onnx_invert.invert(model, known=["y"])
    assert made.round_trip.x.tolerance == onnx_invert.invert(model_of_tanh()).round_trip.x.tolerance


def model_of_tanh() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[N,2] x) => (float[N,2] y) { y = Tanh(x) }'
    )
