"""The rank of `factorize`: what its threshold drops and keeps, in every type."""

import math

import ml_dtypes
import numpy as np
import pytest
import scipy.linalg
from against_scipy import DTYPES, WIDE_ENOUGH, check, gaussian, norm, with_singular_values
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_invert.numerics import tolerance
from onnx_invert.numerics.factorization import factorize
from onnx_invert.numerics.tolerance import EPS64, eps, rank_threshold, svd_error


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.float16, 2.0**-10), (ml_dtypes.bfloat16, 2.0**-7), (np.float32, 2.0**-23), (np.float64, 2.0**-52)],
)
def test_eps_and_threshold(dtype, expected):
    assert eps(dtype) == expected == float(ml_dtypes.finfo(dtype).eps)
    assert rank_threshold(dtype, 5.0) == expected * 5.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", WIDE_ENOUGH)
@pytest.mark.parametrize("kind", ["zero column", "zero row", "same column", "same row", "product"])
def test_rank_lost_exactly(shape, dtype, kind):
    a = gaussian(shape, seed=3)
    k, m = shape
    if kind == "zero column":
        a[:, 1], expected = 0.0, min(k, m - 1)
    elif kind == "zero row":
        a[2], expected = 0.0, min(k - 1, m)
    elif kind == "same column":
        a[:, 3], expected = a[:, 0], min(k, m - 1)
    elif kind == "same row":
        a[3], expected = a[0], min(k - 1, m)
    else:
        a, expected = gaussian((k, 2), 5) @ gaussian((2, m), 6), 2
    assert check(a.astype(dtype)).rank == expected


@pytest.mark.parametrize("shape", [(60, 35), (35, 60), (48, 48)])
def test_many_dropped_directions_in_a_cluster(shape):
    a = gaussian(shape, seed=8)
    a[:, 5:] = 0.0
    a[:, 30:] = a[:, :1]
    f = check(a.astype(np.float32))
    assert (f.rank, f.method) == (5, "cholesky")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize(("shape", "rank"), [((300, 200), 1), ((200, 300), 40), ((256, 256), 128), ((40, 40), 20)])
def test_a_rounded_product_keeps_its_rank(shape, rank, dtype):
    """Rounded to `dtype`, it has full rank in exact arithmetic: by singular values up to half the threshold."""
    product = gaussian((shape[0], rank)) @ gaussian((rank, shape[1]), 1)
    a = product.astype(dtype)
    assert norm(a.astype(np.float64) - product) <= rank_threshold(dtype, np.linalg.norm(product)) / 2
    assert check(a).rank == rank


@pytest.mark.parametrize("n", [64, 256, 512])
def test_no_gaussian_square_is_called_singular(n):
    conditions = []
    for seed in range(40 if n < 512 else 10):
        a = gaussian((n, n), seed).astype(np.float32)
        s = scipy.linalg.svdvals(a.astype(np.float64))
        conditions.append(s[0] / s[-1])
        if conditions[-1] < 1e5:
            assert factorize(a).rank == n
    assert np.median(conditions) < 1e5 / 4


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_gaussian_layer_in_half_precision(dtype):
    f = check(gaussian((784, 128)).astype(dtype))
    assert f.rank == 128
    x = f.pinv(np.float16)
    assert np.linalg.matrix_rank(x.astype(np.float64)) == 128


@pytest.mark.parametrize("kind", ["dead", "copied"])
@pytest.mark.parametrize("shape", [(400, 200), (200, 400), (200, 200)])
def test_lost_units_are_proven_from_the_gram_matrix(shape, kind):
    """Not from its eigenvalues alone: at the square of the threshold they are not known."""
    a = gaussian(shape) + 40 * np.eye(*shape)  # well conditioned
    a[:, ::10] = a[:, 1:2] if kind == "copied" else 0.0
    a[::10] = a[1] if kind == "copied" else 0.0
    f = check(a.astype(np.float32))
    assert tolerance.GRAM_TRUST * tolerance.gram_error(shape) * f.sigma_max**2 > f.threshold**2
    assert (f.rank, f.method) == (min(shape[1] * 9 // 10, shape[0] * 9 // 10), "cholesky")


@pytest.mark.parametrize("n", [3, 50, 400])
def test_float64_weights_and_the_error_of_the_svd(n):
    """A matrix of ones comes back with singular values beyond eps64 · ‖A‖_F: `svd_error` covers them."""
    for a in (np.ones((n, n)), np.outer(2.0 ** np.arange(n), np.ones(n)) / 2.0**n, np.ones((n, n), np.int64)):
        f = factorize(a)
        assert (f.rank, f.threshold) == (1, pytest.approx(svd_error(a.shape) * f.sigma_max))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (30, 30)])
@pytest.mark.parametrize("dropped", [1, 4])
@pytest.mark.parametrize("factor", [0.5, 0.9, 0.999, 1.001, 1.1, 2.0])
def test_rank_on_both_sides_of_the_threshold(shape, dropped, factor, dtype):
    sigma = np.linspace(1, 2, min(shape))[::-1].copy()
    n, eps2 = min(shape), (eps(dtype) * factor) ** 2
    # sigma = factor · eps · ‖A‖_F, where ‖A‖_F counts the `dropped` of them too
    retained = np.linalg.norm(sigma[: n - dropped])
    sigma[-dropped:] = np.sqrt(eps2 / (1 - dropped * eps2)) * retained
    f = check(with_singular_values(shape, sigma), dtype=dtype)
    assert f.rank == n - (dropped if factor < 1 else 0)
    if abs(factor - 1) < 0.01:
        assert f.method == "svd"


def test_close_above_and_below_the_threshold_is_left_to_the_svd():
    """Dropped directions from a Gram matrix need a gap, which 0.8 to 1.2 of the threshold is not."""
    sigma = np.array([1.0, 1.0, 1.0, 1.0, 1.2, 0.8])
    sigma[4:] *= rank_threshold(np.float16, 2.0)  # the condition is low enough for a Gram matrix otherwise
    f = check(with_singular_values((6, 12), sigma), dtype=np.float16)
    assert (f.rank, f.method) == (5, "svd")
    sigma[5] /= 2
    f = check(with_singular_values((6, 12), sigma), dtype=np.float16)
    assert (f.rank, f.method) == (5, "cholesky")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision(dtype):
    a = gaussian((12, 5)).astype(dtype)
    f = check(a)
    assert f.rank == 5
    a[:, 3] = a[:, 1]
    assert check(a).rank == 4


def test_integers_are_exact():
    a = np.array([[1, 2], [3, 5], [0, 1]])
    f = factorize(a)
    assert f.threshold == 3 * EPS64 * f.sigma_max
    assert norm(f.pinv(np.float64) - scipy.linalg.pinv(a)) <= 10 * EPS64 * f.condition


def test_the_stored_type_sets_the_threshold():
    a = gaussian((20, 8)).astype(np.float32)
    a[:, 7] = (a[:, :7] @ np.ones(7, np.float32)) * np.float32(0.1)  # dependent up to float32 rounding
    assert factorize(a).rank == factorize(a.astype(np.float64), dtype=np.float32).rank == 7
    assert factorize(a.astype(np.float64)).rank == 8


@settings(deadline=None, max_examples=200)
@given(
    shape=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    rank=st.integers(0, 24),
    decay=st.floats(0, 3),
    exponent=st.integers(-20, 20),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_ranks(*, shape, rank, decay, exponent, dtype, seed):
    sigma = np.zeros(min(shape))
    rank = min(rank, len(sigma))
    sigma[:rank] = np.logspace(0, -decay, rank) if rank else 0.0
    a = (with_singular_values(shape, sigma, seed) * 2.0**exponent).astype(dtype)
    # stored in dtype, the zero singular values stay below the threshold; sigma ≥ 1e-3 stays above it
    assert rank_threshold(dtype, math.sqrt(24)) < 1e-3
    assert (check(a).rank if rank else factorize(a).rank) == rank
