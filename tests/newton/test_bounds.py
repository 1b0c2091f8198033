"""Bounds without data: what is drawn, to verify on and to set the solver up with, lies within them."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest
from scipy.optimize import lsq_linear
from solving import layers, normal, residuals, run

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


def test_a_face_lets_go_again() -> None:
    """x₁ leaves through a face on the way, and the solution has it inside: least squares with bounds agree."""
    rng = np.random.default_rng(5)
    w = rng.standard_normal((4, 6)) * np.logspace(0, 1.5, 4)[:, None]
    x = rng.uniform(-1, 1, (64, 4)).astype(np.float32)
    x[:32] = np.where(rng.uniform(size=(32, 4)) < 0.4, np.sign(x[:32]), x[:32])  # on faces
    w /= np.std(x @ w, axis=0)  # least squares are in units of the outputs' spread
    model = layers(w, width=4)
    inversion = onnx_invert.invert(model, bounds=(-1, 1), data=x, method="newton")
    assert inversion.round_trip is not None and inversion.round_trip.unsolved == 0
    y = (x @ w + rng.standard_normal((64, 6))).astype(np.float32)  # and what no x reaches
    (found,) = run(inversion.model, y=y)
    best = np.array([lsq_linear(w.T, row, (-1, 1)).cost for row in y])
    np.testing.assert_allclose(0.5 * np.sum(np.square(found @ w - y), axis=1), best, rtol=1e-3)


def test_numbers_of_all_sizes() -> None:
    """Ends from 1e-12 to 1e11, which products of J in x's own units do not hold."""
    unit = 10.0 ** np.array([11, -12, 0, 4, -5])
    first, second = normal(5, 16) / unit[:, None] / 2, normal(16, 3, seed=1) / 4
    model = layers(first, "Tanh", second, width=5)
    low, high = unit * np.float64([1, 1, -1, 0.5, 2]), unit * np.float64([3, 3, 1, 1.5, 3])
    x = np.random.default_rng(2).uniform(low, high, (100, 5)).astype(np.float32)
    inversion = onnx_invert.invert(model, bounds=(low, high), data=x)
    assert inversion.guarantee is onnx_invert.Guarantee.RIGHT
    with pytest.raises(onnx_invert.VerificationError, match="try  --bounds or --prior, which say where x lies"):
        onnx_invert.invert(model, data=x)
    (y,) = run(model, x=x)
    (found,) = run(inversion.model, y=y)
    assert ((found >= low) & (found <= high)).all()
    assert residuals(run(model, x=found)[0], y).max() < 2e-6


def test_ends_that_float32_does_not_have() -> None:
    """2π in float32 is above 2π, and −2π below: x is within what was asked for, not within what it rounds to."""
    model = layers(np.eye(3), width=3)
    ends = np.float64([2 * np.pi, 0.1, 100 / 3])
    inversion = onnx_invert.invert(model, bounds=(-ends, ends), method="newton")
    for sign in (1, -1):
        (found,) = run(inversion.model, y=np.float32([sign * 2 * ends]))
        assert (np.abs(found.astype(np.float64)) <= ends).all()
        np.testing.assert_allclose(found[0], sign * ends, rtol=1e-6)
