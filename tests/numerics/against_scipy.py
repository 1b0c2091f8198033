"""`check`: all that is promised of `factorize(a)`, against scipy.linalg; and matrices to check."""

import math

import numpy as np
import pytest
import scipy.linalg

from onnx_invert.numerics.factorization import Factorization, factorize
from onnx_invert.numerics.tolerance import DROPPED_ERROR, EPS64, eps, rank_threshold, svd_error

SHAPES = [(1, 1), (1, 6), (6, 1), (5, 5), (9, 4), (4, 9), (60, 35), (35, 60), (48, 48)]
WIDE_ENOUGH = [shape for shape in SHAPES if min(shape) > 3]
DTYPES = [np.float32, np.float64]


def gaussian(shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def with_singular_values(shape, sigma, seed=0):
    n = min(shape)
    u, _ = np.linalg.qr(gaussian((shape[0], n), seed + 1))
    v, _ = np.linalg.qr(gaussian((shape[1], n), seed + 2))
    return (u * sigma) @ v.T


def norm(x):
    return np.linalg.norm(x, 2) if x.size else 0.0


def allowed(f: Factorization, out) -> float:
    """Relative error in the 2-norm that `f.pinv(out)` may have against scipy.linalg.pinv.

    Rounding to `out` moves each entry by eps/2 of itself: eps/2·√rank in the norm. Before it, a backward
    stable method is off by c·eps64·cond; c is 100 because the oracle's is: LAPACK's bdsqr takes singular
    vectors as converged at eps^(-1/8) ≈ 90 eps. A Gram matrix, where it is not refined, is off by
    eps64·cond² times the growth of sums of max(K, M) terms, √max(K, M), and by the error of dropped directions.
    """
    stable = 100 * EPS64 * f.condition
    refined = f.rank == min(f.shape) and eps(out) == EPS64
    growth = math.sqrt(max(f.shape)) + (DROPPED_ERROR if f.rank < min(f.shape) else 0.0)
    squared = EPS64 * f.condition**2 * growth
    unrefined = squared if f.method == "cholesky" and not refined else 0.0
    return eps(out) * math.sqrt(f.rank) / 2 + stable + unrefined


def check(a, dtype=None) -> Factorization:
    """All that is promised of `factorize(a)`, against scipy."""
    f = factorize(a, dtype=dtype)
    exact = np.asarray(a, dtype=np.float64)
    s = scipy.linalg.svdvals(exact)
    assert f.shape == a.shape
    assert f.sigma_max == pytest.approx(s[0], rel=0.01)
    stored = rank_threshold(dtype or a.dtype, np.linalg.norm(exact))
    assert f.threshold == pytest.approx(max(stored, svd_error(f.shape) * s[0]), rel=1e-6)
    assert f.rank == np.count_nonzero(s > f.threshold)
    assert f.condition == (pytest.approx(s[0] / s[f.rank - 1], rel=0.01) if f.rank else math.inf)

    oracle = scipy.linalg.pinv(exact, atol=f.threshold, rtol=0)
    for out in (np.dtype(dtype or a.dtype), np.dtype(np.float64)):
        x = f.pinv(out)
        assert (x.dtype, x.shape, x.flags.c_contiguous) == (out, exact.T.shape, True)
        if f.rank:
            assert norm(x.astype(np.float64) - oracle) <= allowed(f, out) * norm(oracle)
        else:
            assert not x.any()

    rows = f.null_space()
    assert (rows.shape, rows.dtype) == ((a.shape[0] - f.rank, a.shape[0]), np.float64)
    if len(rows):
        # Householder vectors: eps64 each
        assert norm(rows @ rows.T - np.eye(len(rows))) <= 10 * EPS64 * math.sqrt(a.shape[0])
        dropped = s[f.rank] if f.rank < len(s) else 0.0
        blur = 100 * EPS64 * (f.condition if f.rank else 1.0)
        assert norm(rows @ exact) <= dropped + blur * s[0]
        # the same space as scipy's, up to eps64·cond² (the worst of the methods), 100 as in `allowed`
        if f.rank and dropped < s[f.rank - 1] / 2:
            theirs = scipy.linalg.null_space(exact.T, rcond=f.threshold / s[0])
            assert norm(rows.T @ rows - theirs @ theirs.T) <= 100 * EPS64 * f.condition**2
    return f
