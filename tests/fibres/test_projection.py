"""Projecting on f(x) = y: against the closed form where f is affine, and against scipy within bounds."""

import numpy as np
import pytest
import scipy.optimize

from onnx_invert.numerics import mixture
from onnx_invert.numerics.manifold import Metric, identity, project

RNG = np.random.default_rng(0)
N, M = 12, 3
W, B, Y = RNG.standard_normal((N, M)), RNG.standard_normal(M), RNG.standard_normal(M)


def affine(x):
    return x @ W + B


def slope(x):
    return np.broadcast_to(W.T, (len(x), M, N))


def carried(start, metric, **options):
    return project(affine, slope, start, Y, metric, units=np.ones(M), floor=1e-12, **options)


def test_an_affine_map_is_a_draw_of_the_conditional_distribution():
    """Mean and covariance of N(μ, C) given x W + b = y, from the formula of conditioning."""
    factor, mu = RNG.standard_normal((8, N)), RNG.standard_normal(N)
    rest = np.full((1, N), 0.1)
    cov = factor.T @ factor + np.diag(rest[0])
    noise = RNG.standard_normal((40_000, N)) @ np.linalg.cholesky(cov).T
    x = carried(mu + noise, Metric(factor[None], rest)).x
    assert np.abs(affine(x) - Y).max() < 1e-9
    gain = cov @ W @ np.linalg.inv(W.T @ cov @ W)
    mean, left = mu + gain @ (Y - affine(mu)), cov - gain @ W.T @ cov
    scale = np.sqrt(np.diag(cov).max())
    assert np.abs(x.mean(axis=0) - mean).max() < 0.05 * scale
    assert np.abs(np.cov(x.T) - left).max() < 0.05 * scale**2


def test_the_identity_leads_to_the_nearest_point():
    start = RNG.standard_normal((5, N))
    nearest = start + np.linalg.lstsq(W.T, (Y - affine(start)).T, rcond=None)[0].T
    np.testing.assert_allclose(carried(start, identity(N)).x, nearest, atol=1e-8)


def test_within_bounds_as_scipy_finds_it_feasible():
    low, high = np.full(N, -0.6), np.full(N, 0.6)
    inside = np.random.default_rng(1).uniform(-0.5, 0.5, N)
    y = affine(inside)
    start = np.random.default_rng(2).uniform(-1, 1, (6, N))
    done = project(affine, slope, start, y, identity(N), units=np.ones(M), floor=1e-12, box=(low, high))
    assert done.error.max() < 1e-9
    assert (done.x >= low).all()
    assert (done.x <= high).all()
    for row, x in zip(start, done.x, strict=True):
        least = scipy.optimize.minimize(
            lambda v, row=row: np.sum((v - row) ** 2),
            inside,
            jac=lambda v, row=row: 2 * (v - row),
            bounds=list(zip(low, high, strict=True)),
            constraints={"type": "eq", "fun": lambda v: affine(v) - y, "jac": lambda v: W.T},
            method="SLSQP",
        )
        # What is held at a bound is not let go again within a step: near the least, not it.
        assert np.sum((x - np.clip(row, low, high)) ** 2) < 4 * max(least.fun, 0.1)


def test_a_y_out_of_reach_is_said_to_be():
    done = project(
        lambda x: np.maximum(x @ W, 0.0),
        lambda x: W.T * (x @ W > 0)[:, :, None],
        np.ones((2, N)),
        np.full(M, -1.0),
        identity(N),
        units=np.ones(M),
        floor=1e-12,
    )
    assert (done.error > 0.9).all()


def test_a_singular_derivative_is_no_crash():
    done = project(
        lambda x: np.zeros((len(x), 1)),
        lambda x: np.zeros((len(x), 1, N)),
        np.ones((2, N)),
        np.ones(1),
        identity(N),
        units=np.ones(1),
        floor=1e-12,
    )
    np.testing.assert_array_equal(done.error, 1.0)
    np.testing.assert_array_equal(done.x, 1.0)


def data(count=600):
    rng = np.random.default_rng(3)
    kind = rng.integers(0, 3, count)
    x = rng.standard_normal((count, 4)) @ np.diag([1.0, 0.1, 10.0, 1e-3]) + 20.0 * kind[:, None]
    return x, np.stack([20.0 * kind, x[:, 0]], axis=1)


def test_a_mixture_is_read_as_it_was_written():
    mixed = mixture.fit(*data())
    again = mixture.parse(mixed.text())
    for name in ("weights", "centres", "low", "high"):
        np.testing.assert_allclose(getattr(again, name), getattr(mixed, name), rtol=1e-6)
    width = mixed.high - mixed.low
    assert np.abs((again.means - mixed.means) / width).max() < 1e-3
    assert np.abs((again.factors - mixed.factors) / width).max() < 1e-2
    assert again.text() == mixture.parse(again.text()).text()
    for text in ("", "{}", mixed.text()[:-8], '{"weights":["<i8",3]}\nAAAA', "[1]\n"):
        with pytest.raises(ValueError):
            mixture.parse(text)


def test_draws_are_of_the_clusters_that_have_this_y():
    x, y = data()
    mixed = mixture.fit(x, y)
    drawn, metric = mixed.draw(np.array([40.0, 40.0]), 200, 1.0, np.random.default_rng(0))
    assert np.abs(drawn[:, 1] - 40).max() < 2  # the other clusters lie at 0 and 20
    assert (drawn >= mixed.low).all()
    assert (drawn <= mixed.high).all()
    assert metric.factor.shape == (200, 4, 4)


def test_the_mixture_keeps_to_its_budget():
    x = np.random.default_rng(0).standard_normal((300, 5000))
    assert len(mixture.fit(x, x[:, :3]).text()) < 600_000
    assert mixture.fit(x[:1], x[:1, :3]) is None
    assert mixture.fit(np.zeros((3, 1 << 18)), np.zeros((3, 1))) is None
    with pytest.raises(ValueError, match="not finite"):
        mixture.fit(np.full((3, 2), np.nan), np.zeros((3, 1)))
