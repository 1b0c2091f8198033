"""`factorize` against scipy.linalg: pseudo-inverse, condition, null space, methods and failures."""

import math
import tracemalloc

import numpy as np
import pytest
import scipy.linalg
from against_scipy import (
    DTYPES,
    SHAPES,
    WIDE_ENOUGH,
    allowed,
    check,
    gaussian,
    norm,
    with_singular_values,
)

from onnx_invert.numerics import factorization, factors, gram, tolerance
from onnx_invert.numerics.factorization import factorize
from onnx_invert.numerics.tolerance import EPS64, eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank(shape, dtype):
    f = check(gaussian(shape).astype(dtype))
    square, small = shape[0] == shape[1], dtype == np.float32
    assert f.rank == min(shape)
    assert f.method == ("lu" if square else "cholesky" if small else "qr")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (30, 30), (60, 35), (35, 60)])
@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6, 1e8, 1e10, 1e12])
def test_slow_decay(shape, dtype, condition):
    a = with_singular_values(shape, np.geomspace(1, 1 / condition, min(shape)))
    f = check(a.astype(dtype))
    if dtype == np.float64:
        assert f.rank == min(shape)
        assert f.condition == pytest.approx(condition, rel=0.01)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 6, 12])
def test_hilbert(n, dtype):
    check(scipy.linalg.hilbert(n).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 5), (9, 4), (4, 9), (60, 35)])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_changes_nothing_but_the_scale(shape, dtype, scale):
    for a in (gaussian(shape), gaussian((shape[0], 2)) @ gaussian((2, shape[1]))):
        scaled = (a * scale).astype(dtype)
        f, plain = check(scaled), factorize((scaled.astype(np.float64) / scale), dtype=dtype)
        assert (f.rank, f.method) == (plain.rank, plain.method)


@pytest.mark.parametrize("scale", [1e-305, 1e-200, 1e200, 1e300])
def test_scales_whose_squares_leave_float64(scale):
    a = gaussian((7, 3)) * scale
    f = factorize(a)
    assert f.rank == 3
    x = f.pinv(np.float64)
    assert norm((x * scale) @ (a / scale) - np.eye(3)) <= 10 * EPS64 * f.condition


@pytest.mark.parametrize("shape", [(5, 5), (9, 4), (4, 9)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_matrix(shape, dtype):
    f = factorize(np.zeros(shape, dtype))
    assert (f.rank, f.threshold, f.sigma_max, f.condition) == (0, 0.0, 0.0, math.inf)
    np.testing.assert_array_equal(f.pinv(dtype), np.zeros(shape[::-1], dtype), strict=True)
    np.testing.assert_array_equal(f.null_space(), np.eye(shape[0]), strict=True)


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0)])
def test_empty(shape):
    f = factorize(np.zeros(shape, np.float32))
    assert (f.rank, f.condition) == (0, math.inf)
    assert f.pinv(np.float32).shape == shape[::-1]
    np.testing.assert_array_equal(f.null_space(), np.eye(shape[0]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite_is_refused_with_its_place(bad):
    a = np.ones((3, 4), np.float32)
    a[1, 2] = bad
    with pytest.raises(ValueError, match=rf"not finite: 1 of 12 entries, the first is {bad} at row 1, column 2"):
        factorize(a)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_only_matrices(shape):
    with pytest.raises(ValueError, match=r"expected a matrix \(K, M\), got an array of shape"):
        factorize(np.ones(shape))


def test_complex_weights_are_refused():
    with pytest.raises(TypeError, match="a matrix of complex128 has no tolerance"):
        factorize(np.ones((2, 2), np.complex128))


def test_an_inverse_that_does_not_fit_is_refused():
    f = factorize(np.diag([1.0, 1e-5]).astype(np.float32))
    assert f.pinv(np.float32)[1, 1] == pytest.approx(1e5, rel=2 * eps(np.float32))
    with pytest.raises(OverflowError, match="does not fit float16: its smallest retained singular value is 1e-05"):
        f.pinv(np.float16)
    with pytest.raises(OverflowError, match="does not fit float64"):
        factorize(np.array([[5e-324]])).pinv(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*WIDE_ENOUGH, (1, 6), (6, 1)])
@pytest.mark.parametrize("rank", [1, 3, None])
def test_penrose(shape, dtype, rank):
    sigma = np.zeros(min(shape))
    kept = min(rank or len(sigma), len(sigma))
    sigma[:kept] = np.geomspace(3, 3e-3, kept)
    # kept in float64, the threshold that of `dtype`: A then has the rank exactly, up to eps64
    a = with_singular_values(shape, sigma)
    f = factorize(a, dtype=dtype)
    x = f.pinv(np.float64)
    assert f.rank == kept
    # an error δ‖X‖ in X moves AXA by cond·δ‖A‖, XAX by 2·cond·δ‖X‖, the projectors by cond·δ
    loose = 2 * f.condition * allowed(f, np.float64)
    assert loose <= 1e-4
    assert norm(a @ x @ a - a) <= loose * norm(a)
    assert norm(x @ a @ x - x) <= loose * norm(x)
    assert norm((a @ x).T - a @ x) <= loose
    assert norm((x @ a).T - x @ a) <= loose


@pytest.mark.parametrize("shape", [(60, 35), (35, 60)])
def test_gram_is_refined_for_a_wider_result(shape):
    """float32 weights, float64 result: eps64·cond, where the Gram matrix alone gives eps64·cond²."""
    a = with_singular_values(shape, np.geomspace(1, 1 / 3e3, 35)).astype(np.float32)
    f = check(a)
    assert f.method == "cholesky"
    oracle = scipy.linalg.pinv(a.astype(np.float64))
    assert norm(f.pinv(np.float64) - oracle) <= 10 * EPS64 * f.condition * norm(oracle)


def test_methods_by_condition():
    shape = (60, 35)

    def method(condition, dtype):
        a = with_singular_values(shape, np.geomspace(1, 1 / condition, 35))
        return factorize(a, dtype=dtype).method

    assert [method(c, np.float32) for c in (1e3, 3e4, 1e6)] == ["cholesky", "qr", "svd"]
    assert [method(c, np.float64) for c in (1e3, 3e4, 1e8)] == ["qr", "qr", "svd"]


def test_dropped_directions_are_orthonormal():
    """300 eigenvalues in one cluster at zero: as they come, LAPACK's vectors are further off."""
    a = gaussian((400, 20)) @ gaussian((20, 320), 1)
    reduced = gram.tridiagonalize(gram.gram(a / np.abs(a).max()))
    rows = reduced.lowest_eigenvectors(300).T
    assert norm(rows @ rows.T - np.eye(300)) <= EPS64 * math.sqrt(320)
    # an eigenvector is exact for a matrix within √n·eps64 of G, G the square of A: the root of it here
    assert norm(a @ rows.T) <= norm(a) * math.sqrt(EPS64 * math.sqrt(320))


def test_gesvd_where_gesdd_does_not_converge(monkeypatch):
    real, drivers = scipy.linalg.svd, []

    def stubborn(a, **options):
        drivers.append(options.get("lapack_driver", "gesdd"))
        if drivers[-1] == "gesdd":
            raise scipy.linalg.LinAlgError("SVD did not converge")
        return real(a, **options)

    monkeypatch.setattr(factors, "svd", stubborn)
    f = check(with_singular_values((9, 6), np.geomspace(1, 1e-10, 6)))
    assert (f.method, drivers) == ("svd", ["gesdd", "gesvd"])


@pytest.mark.parametrize(("cls", "shape"), [("Cholesky", (9, 6)), ("Lu", (6, 6))])
def test_a_failed_factorisation_falls_back_to_the_svd(monkeypatch, cls, shape):
    def failing(a, *_):
        a[:] = np.nan  # what a factorisation that works in place may leave
        raise scipy.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr(getattr(factorization, cls), "of", failing)
    assert check(gaussian(shape).astype(np.float32)).method == "svd"


def test_the_same_answer_twice_and_the_weights_untouched():
    for a in (
        gaussian((9, 4)),
        gaussian((5, 5)),
        gaussian((9, 4)).astype(np.float32),
        np.ones((4, 6), np.float32),
    ):
        before = a.copy()
        f = factorize(a)
        first, rows = f.pinv(a.dtype), f.null_space()
        first_copy = first.copy()
        first[:] = 0
        np.testing.assert_array_equal(f.pinv(a.dtype), first_copy)
        np.testing.assert_array_equal(f.null_space(), rows)
        np.testing.assert_array_equal(a, before)


@pytest.mark.parametrize(("shape", "method"), [((512, 512), "lu"), ((700, 400), "cholesky"), ((400, 700), "cholesky")])
def test_workspace(shape, method):
    """At most four float64 copies of the weights at any moment, beside the weights."""
    n = min(shape)
    a = (gaussian(shape) + 60 * np.eye(*shape)).astype(np.float32)
    factorize(a[:2, :2])
    tracemalloc.start()
    try:
        f = factorize(a)
        x = f.pinv(np.float32)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (f.method, f.rank, x.shape) == (method, n, shape[::-1])
    assert peak <= 4 * a.size * 8


def test_random_matrices_are_as_accurate_as_the_tolerance_page_says():
    """HEADROOM: before it is rounded, a float32 weight's pseudo-inverse is off by less than 0.1 eps."""
    for seed in range(20):
        a = with_singular_values((80, 50), np.geomspace(1, 1 / 4e3, 50), seed).astype(np.float32)
        f = factorize(a)
        assert f.method == "cholesky"
        oracle = scipy.linalg.pinv(a.astype(np.float64))
        raw = f._factors.pinv(eps(np.float32)) * 2.0**-f._exponent
        assert norm(raw - oracle) <= tolerance.HEADROOM * eps(np.float32) * norm(oracle)
