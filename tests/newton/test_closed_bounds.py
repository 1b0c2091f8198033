"""Bounds of x where a closed form has the only x of a y: it is the answer within them, and the start beyond."""

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper
from scipy.linalg import expm
from scipy.optimize import least_squares, lsq_linear, nnls
from solving import layers, normal, residuals, run

from onnx_invert import Guarantee, VerificationError, check, invert

FLOW = """<ir_version: 8, opset_import: ["" : 17]> coupling (float[N,4] x) => (float[N,4] y)
    <int64[2] halves = {2, 2}, float[2,2] w = {0.9, -0.7, 0.5, 1.1}, float[2,2] v = {0.3, 0.2, -0.4, 0.6}> {
        a, b = Split<axis = 1>(x, halves)
        t = MatMul(a, w) u = Tanh(t) s = MatMul(u, v) g = Exp(s) p = Mul(b, g) q = Add(p, u)
        y = Concat<axis = 1>(a, q) }"""


def heat(size, time):
    """What one-dimensional diffusion makes of a temperature, as a matrix (size, size)."""
    laplacian = np.eye(size, k=1) + np.eye(size, k=-1) - 2 * np.eye(size)
    return expm(time * laplacian)


def spread_of(model, x):
    """The units in which least squares are: standard deviations of the outputs (m)."""
    return np.std(run(model, x=x)[0].astype(np.float64), axis=0)


def loops(model):
    return sum(node.op_type == "Loop" for node in model.graph.node)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, np.inf)])
def test_affine_against_scipy(low, high):
    """x with many zeros comes back; with noise on y it is the bounded least squares, as scipy has it."""
    matrix = heat(24, 0.6)
    model = layers(matrix.T, width=24)
    rng = np.random.default_rng(0)
    data = rng.uniform(0, 1, (256, 24)).astype(np.float32)
    inversion = invert(model, bounds=(low, high), data=data, residual=True)
    assert inversion.guarantee is Guarantee.LEFT
    assert inversion.report["evidence"] == "proven"
    assert inversion.report["method"] == "closed-form+newton"
    assert "x lies within --bounds" in inversion.report["requirements"]
    assert loops(inversion.model) == 1
    x = np.where(rng.uniform(size=(32, 24)) < 0.6, 0, rng.uniform(0, 1, (32, 24))).astype(np.float32)
    (y,) = run(model, x=x)
    found, left = run(inversion.model, y=y)
    assert ((found >= low) & (found <= high)).all()
    assert np.abs(found - x).max() < 1e-5
    assert left.max() < 2e-6
    noisy = (y + 0.1 * np.std(y) * rng.standard_normal(y.shape)).astype(np.float32)
    found, left = run(inversion.model, y=noisy)
    assert ((found >= low) & (found <= high)).all()
    assert left.min() > 1e-3
    unit = 1 / spread_of(model, data)
    for got, row in zip(found.astype(np.float64), noisy.astype(np.float64), strict=True):
        if high == 1:
            best = np.sqrt(2 * lsq_linear(matrix * unit[:, None], row * unit, (0, 1), tol=1e-14).cost)
        else:
            best = nnls(matrix * unit[:, None], row * unit)[1]
        assert np.linalg.norm((matrix @ got - row) * unit) < 1.002 * best


def test_only_what_lies_beyond_is_moved():
    """Within the bounds x is the closed form's to the last bit, whatever the other samples of the batch are."""
    first, second = (np.linalg.qr(normal(5, 5, seed=seed))[0] for seed in (0, 1))
    model = layers(first, "Elu", second, width=5)
    plain, bounded = invert(model), invert(model, bounds=(-1, 1))
    assert plain.report["method"] == "closed-form"
    assert bounded.guarantee is Guarantee.LEFT
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.99, 0.99, (64, 5)).astype(np.float32)
    x[::4] *= 3
    (y,) = run(model, x=x)
    (closed,), (found,) = run(plain.model, y=y), run(bounded.model, y=y)
    inside = (np.abs(x) < 1).all(axis=1)
    assert 0 < inside.sum() < 64
    np.testing.assert_array_equal(found[inside], closed[inside])
    assert np.abs(found).max() <= 1
    unit = 1 / spread_of(model, rng.uniform(-1, 1, (4096, 5)).astype(np.float32))

    def off(v, row):
        hidden = v @ first
        return (np.where(hidden > 0, hidden, np.expm1(hidden)) @ second - row) * unit

    for got, row in zip(found[~inside].astype(np.float64), y[~inside], strict=True):
        best = min(least_squares(off, v, bounds=(-1, 1), args=(row,)).cost for v in (np.zeros(5), 0.999 * got))
        assert 0.5 * np.sum(np.square(off(got, row))) < 1.05 * best  # in units of other samples


def test_a_coupling_layer():
    """Equations, whose weights the solver shares; one number of x is fixed, one free on a side."""
    model = onnx.parser.parse_model(FLOW)
    low, high = np.float64([-1, 0.5, -np.inf, -1]), np.float64([1, 0.5, 1, 1])
    inversion = invert(model, bounds=(low, high), residual=True)
    assert inversion.guarantee is Guarantee.LEFT
    assert inversion.report["method"] == "closed-form+newton"
    x = np.random.default_rng(0).uniform(-0.9, 0.9, (40, 4)).astype(np.float32)
    x[:, 1] = 0.5
    x[20:, 3] *= 3
    (y,) = run(model, x=x)
    found, left = run(inversion.model, y=y)
    inside = np.abs(x[:, 3]) <= 1
    np.testing.assert_allclose(found[inside], x[inside], atol=1e-5)
    assert (found[:, 1] == 0.5).all()
    assert found[:, 2].max() <= 1
    assert np.abs(found[:, 3]).max() <= 1
    assert left[inside].max() < 5e-6
    assert left[~inside].min() > 1e-3
    stored = [numpy_helper.to_array(t) for t in inversion.model.graph.initializer]
    for weight in (numpy_helper.to_array(t) for t in model.graph.initializer):
        assert sum(a.shape == weight.shape and (a == weight).all() for a in stored) <= 1


def test_more_outputs_than_inputs():
    """A left inverse: x within comes back, and of a y off the image it is the least squares within."""
    weight = normal(4, 9)
    model = layers(weight, width=4)
    data = np.random.default_rng(0).uniform(-1, 1, (256, 4)).astype(np.float32)
    inversion = invert(model, bounds=(-1, 1), data=data)
    assert inversion.report["method"] == "closed-form+newton"
    y = (data[:24] @ weight + normal(24, 9, seed=1)).astype(np.float32)
    (found,) = run(inversion.model, y=y)
    unit = 1 / spread_of(model, data)
    for got, row in zip(found.astype(np.float64), y, strict=True):
        best = lsq_linear(weight.T * unit[:, None], row * unit, (-1, 1), tol=1e-14).cost
        assert 0.5 * np.sum(np.square((got @ weight - row) * unit)) < 1.001 * best + 1e-9


def test_a_right_inverse_is_none():
    """Fewer outputs than inputs: that one x lies beyond says nothing of the others; the solver finds one within."""
    model = layers(np.float32([[1], [0.1]]), width=2)
    inversion = invert(model, bounds=([0, 0], [0.5, 10]))
    assert inversion.guarantee is Guarantee.RIGHT
    assert inversion.report["method"] == "newton"
    (x,) = run(inversion.model, y=np.float32([[1.4]]))
    np.testing.assert_allclose(x @ [1, 0.1], 1.4, rtol=1e-5)
    assert (x >= 0).all() and (x <= [0.5, 10]).all()


def test_what_is_not_finite():
    """NaN and infinity in y give NaN, in that sample alone; a y outside of tanh's image gives an x within."""
    model = layers(np.eye(3) * 0.7, "Tanh", width=3)
    inverse = invert(model, bounds=(-1, 1)).model
    y = np.float32([[0.1, 0.2, 0.3], [np.nan, 0, 0], [2, -3, 0.1], [np.inf, 0, 0]])
    (x,) = run(inverse, y=y)
    np.testing.assert_allclose(x[0], np.arctanh(y[0]) / 0.7, rtol=1e-5)
    np.testing.assert_allclose(x[2], [1, -1, np.arctanh(0.1) / 0.7], rtol=1e-3)
    assert np.isnan(x[[1, 3]]).any(axis=1).all()


def test_data_beyond():
    """x's that lie beyond cannot come back: that is said, and nothing is written."""
    model = layers(np.eye(3) * 2, width=3)
    x = normal(50, 3).astype(np.float32)
    with pytest.raises(VerificationError) as error:
        invert(model, bounds=(-1, 1), data=x)
    assert any("lie beyond --bounds" in note for note in error.value.inversion.notes)
    within = x[(np.abs(x) <= 1).all(axis=1)]
    assert invert(model, bounds=(-1, 1), data=within).round_trip.unsolved == 0


def test_check_knows_it(tmp_path):
    """`check` holds the file to what it states, on x's within."""
    model = layers(np.linalg.qr(normal(3, 3))[0], "Tanh", width=3)
    onnx.save(model, tmp_path / "f.onnx")
    np.save(tmp_path / "x.npy", np.float32(normal(40, 3) / 5))
    invert(tmp_path / "f.onnx", tmp_path / "g.onnx", bounds=(-1, 1))
    result = check(tmp_path / "f.onnx", tmp_path / "g.onnx", data=tmp_path / "x.npy")
    assert result.passed
    assert result.claim is Guarantee.LEFT


def test_ill_conditioned():
    """Rounding leaves nothing of x, and y is reproduced: said as such."""
    matrix = heat(16, 3.5)
    model = layers(matrix.T, width=16)
    inversion = invert(model, bounds=(0, 1), residual=True)
    assert inversion.guarantee is Guarantee.GENERALIZED
    x = np.random.default_rng(3).uniform(0, 1, (20, 16)).astype(np.float32)
    (y,) = run(model, x=x)
    found, left = run(inversion.model, y=y)
    off = residuals(run(model, x=found)[0], y)
    assert np.median(off) < 3e-7
    assert off.max() < 1e-5
    np.testing.assert_allclose(left, off, atol=2e-7)
