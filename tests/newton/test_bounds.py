"""Bounds without data: what is drawn, to verify on and to set the solver up with, lies within them."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnxruntime as ort

import onnx_invert

MODEL = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y)
    <float[2,2] w = {1, 2, -1, 3}> { a = MatMul(x, w) y = LeakyRelu<alpha = 0.25>(a) }"""


def test_samples_are_drawn_within_the_bounds() -> None:
    """Far from where they are drawn without: no N(0, 1) lies there."""
    model = onnx.parser.parse_model(MODEL)
    low, high = np.array([10.0, -30.0]), np.array([11.0, -20.0])
    inversion = onnx_invert.invert(model, bounds=(low, high))
    assert inversion.guarantee is onnx_invert.Guarantee.RIGHT
    x = np.random.default_rng(0).uniform(low, high, (50, 2)).astype(np.float32)
    forward, back = (ort.InferenceSession(m.SerializeToString()) for m in (model, inversion.model))
    (y,) = forward.run(None, {"x": x})
    (found,) = back.run(None, {"y": y})
    np.testing.assert_allclose(found, x, rtol=1e-4)
    assert ((found >= low) & (found <= high)).all()
