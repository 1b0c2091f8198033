"""Bounds without data: what is drawn, to verify on and to set the solver up with, lies within them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
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
    inversion = onnx_invert.invert(model, bounds=(low, high), method="newton")
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


SURROGATE = layers(normal(6, 24) / 2, "Tanh", normal(24, 3, seed=1) / 4, width=6)
FREE = np.array([-1, -np.inf, -1, -np.inf, -1, -1]), np.array([1, 1, np.inf, np.inf, 1, 1])


@pytest.mark.parametrize("prior", [False, True], ids=["alone", "prior"])
def test_free_ends_and_fixed_numbers(prior: bool) -> None:
    """An infinite end holds nothing, and equal ends are the number itself: the others solve the equations."""
    low, high = (end.copy() for end in FREE)
    low[0] = high[0] = 0.3
    low[5] = high[5] = -1e9 / 7  # so large that it would outweigh all others
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (300, 6)).astype(np.float32)
    model = layers(np.diag([1, 1, 1, 1, 1, 1e-9]), normal(6, 24) / 2, "Tanh", normal(24, 3, seed=1) / 4, width=6)
    seen = x.copy()
    seen[:, [0, 5]] = low[[0, 5]]
    options = {"prior": x[100:]} if prior else {}
    inversion = onnx_invert.invert(model, data=seen[:100], bounds=(low, high), residual=True, **options)
    assert inversion.guarantee is onnx_invert.Guarantee.RIGHT
    assert inversion.notes == ()  # -1e9/7 rounds, and does not lie beyond for that
    (y,) = run(model, x=seen[:100])
    found, told = run(inversion.model, y=y)
    assert (found[:, [0, 5]] == low[[0, 5]].astype(np.float32)).all()
    assert ((found >= low.astype(np.float32)) & (found <= high.astype(np.float32))).all()
    assert residuals(run(model, x=found)[0], y).max() < 1e-6
    assert told.max() < 1e-6
    for tensor in inversion.model.graph.initializer:
        assert not np.isinf(onnx.numpy_helper.to_array(tensor)).any()


def test_no_negative_number() -> None:
    """0 and inf, without data: x is drawn from 0 on, and what lies at 0 is exactly 0."""
    inversion = onnx_invert.invert(SURROGATE, bounds=(0, np.inf))
    assert inversion.guarantee is onnx_invert.Guarantee.RIGHT
    x = np.maximum(normal(100, 6), 0).astype(np.float32)
    x[:, 0] += 0.1  # of no y = 0 there is a relative residual
    (y,) = run(SURROGATE, x=x)
    (found,) = run(inversion.model, y=y)
    assert found.min() == 0
    assert residuals(run(SURROGATE, x=found)[0], y).max() < 2e-6


def test_bounds_that_bound_nothing() -> None:
    """The file is that of the solver without bounds."""
    free = onnx_invert.invert(SURROGATE, bounds=(-np.inf, np.inf), verify=False).model
    plain = onnx_invert.invert(SURROGATE, method="newton", verify=False).model
    assert free.graph == plain.graph


def test_bounds_by_input() -> None:
    """Two inputs of other shapes; one number is fixed."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] size, float[N,3] load) => (float[N,2] y)
        <float[2,2] a = {1, 2, -1, 3}, float[3,2] b = {1, 0, 0, 1, 1, 1}>
        { p = MatMul(size, a) q = MatMul(load, b) s = Add(p, q) y = Tanh(s) }""")
    low = {"size": np.zeros(2), "load": np.array([-1, 0.5, -1])}
    high = {"size": np.ones(2), "load": np.array([1, 0.5, np.inf])}
    inversion = onnx_invert.invert(model, recover=["size", "load"], bounds=(low, high))
    rng = np.random.default_rng(0)
    feeds = {"size": rng.uniform(0, 1, (50, 2)), "load": rng.uniform(-0.5, 0.5, (50, 3))}
    feeds["load"][:, 1] = 0.5
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    (y,) = run(model, **feeds)
    size, load = run(inversion.model, y=y)
    assert (load[:, 1] == 0.5).all()
    assert ((size >= 0) & (size <= 1)).all()
    assert residuals(run(model, size=size, load=load)[0], y).max() < 1e-5
    with pytest.raises(onnx_invert.UsageError, match=r"has no array for 'load'\. It has: 'size'"):
        onnx_invert.invert(model, recover=["size", "load"], bounds=({"size": 0}, 1))
