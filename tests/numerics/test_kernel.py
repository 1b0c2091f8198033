"""The features of a conditional prior, against scipy's distances and scikit-learn's regression."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression

from onnx_invert.numerics import kernel
from onnx_invert.numerics.prior import fit

RNG = np.random.default_rng(3)
Y = RNG.standard_normal((600, 3)) * [1.0, 20.0, 0.05] + [0.0, 5.0, 1.0]
Z = (Y - Y.mean(axis=0)) / Y.std(axis=0)
X = np.stack([np.sin(2 * Z[:, 0]), np.cos(1.5 * Z[:, 1]), Z[:, 0] * Z[:, 2], np.abs(Z[:, 2])], axis=1)
X += 0.02 * RNG.standard_normal(X.shape)


def chosen(y=Y, x=X, count=200):
    return kernel.features(y, x, y.mean(axis=0), y.std(axis=0), count)


def test_the_features_are_what_they_are_said_to_be():
    phi = chosen()
    u = phi.within(Y)
    np.testing.assert_allclose(phi(Y)[:, :3], u)
    np.testing.assert_allclose(phi(Y)[:, 3:], 1 / np.sqrt(1 + cdist(u, phi.landmarks.T, "sqeuclidean")), atol=1e-12)
    rows = {tuple(row) for row in np.round(u, 9)}
    assert all(tuple(row) in rows for row in np.round(phi.landmarks.T, 9))


def steps(phi, direction):
    """How far apart in u two y are that lie a standard deviation apart in this direction."""
    moved = Y.mean(axis=0) + np.array(direction) * Y.std(axis=0)
    return float(np.linalg.norm(phi.within(moved[None, :]) - phi.within(Y.mean(axis=0)[None, :])))


def test_what_bends_faster_gets_a_narrower_kernel():
    slow, fast = (
        chosen(x=np.stack([np.sin(rate * Z[:, 0] / 2), np.cos(rate * Z[:, 1] / 2)], axis=1)) for rate in (1, 6)
    )
    assert steps(fast, [1, 0, 0]) > 1.5 * steps(slow, [1, 0, 0])


def test_what_tells_nothing_weighs_little():
    """In any direction: x follows the first number plus the second, and not their difference, nor the third."""
    phi = chosen(x=np.sin(2 * (Z[:, :1] + Z[:, 1:2])))
    along = steps(phi, [0.5, 0.5, 0])
    assert steps(phi, [0.5, -0.5, 0]) < 0.2 * along
    assert steps(phi, [0, 0, 1]) < 0.2 * along


def test_distances_follow_the_slopes_of_the_regression():
    phi = chosen()
    weights = RNG.standard_normal((phi.size, 4))
    trial = kernel._Trial(phi, 1.0, 0.0, weights)
    turn, size = kernel._turn(trial, Y[:50]), 1e-5
    slopes = [
        np.stack([(phi(row + h) - phi(row - h))[0] @ weights / (2 * size) for h in size * np.diag(phi.scale)])
        for row in Y[:50, None]
    ]
    total = sum(slope @ slope.T for slope in slopes)
    np.testing.assert_allclose(turn @ turn / np.trace(turn @ turn), total / np.trace(total), atol=1e-6)
    straight = (Y[:50] - phi.center) / phi.scale
    assert np.sum((straight @ turn) ** 2) == pytest.approx(np.sum(straight**2))


def test_its_regression_beats_one_whose_distances_are_all_alike():
    """Of ten numbers x follows two: against scikit-learn's kernel ridge regression at its best bandwidth and ridge."""
    y = RNG.standard_normal((600, 10))
    x = np.stack([np.sin(2 * y[:, 0] * y[:, 1]), np.abs(y[:, 0] - y[:, 1])], axis=1)
    train, test = slice(0, 500), slice(500, 600)
    ours = np.mean(np.square(fit(lambda: [(y[train], x[train])], conditional=True).expected(y[test]) - x[test]))
    mean = x[train].mean(axis=0)
    theirs = [
        KernelRidge(kernel="rbf", gamma=gamma, alpha=alpha).fit(y[train], x[train] - mean).predict(y[test]) + mean
        for gamma in (0.01, 0.03, 0.1, 0.3)
        for alpha in (1e-3, 1e-2, 1e-1, 1)
    ]
    assert ours < 0.7 * min(np.mean(np.square(found - x[test])) for found in theirs)


def test_it_follows_what_bends_where_a_line_does_not():
    train, test = slice(0, 500), slice(500, 600)
    prior = fit(lambda: [(Y[train], X[train])], conditional=True)
    ours = np.mean(np.square(prior.expected(Y[test]) - X[test]))
    line = LinearRegression().fit(Y[train], X[train])
    assert ours < 0.15 * np.mean(np.square(line.predict(Y[test]) - X[test]))


def test_no_number_leaves_the_range_of_the_data():
    far = Y.mean(axis=0) + 30 * (Y - Y.mean(axis=0))
    prior = fit(lambda: [(Y, X)], conditional=True)
    found = prior.expected(far)
    slack = np.ptp(X, axis=0) / (len(X) - 1)
    assert (found >= X.min(axis=0) - slack - 1e-12).all()
    assert (found <= X.max(axis=0) + slack + 1e-12).all()


def test_a_few_samples_are_not_the_whole_range():
    y = np.arange(4.0)[:, None]
    prior = fit(lambda: [(y, np.hstack([y, -y]))], conditional=True)
    assert prior.ends == pytest.approx(np.array([[-1, -4], [4, 1]]))


def test_float32_holds_what_it_expects():
    smooth = np.stack([Z[:, 0] + 0.01 * Z[:, 1] ** 2, Z[:, 2]], axis=1)
    prior = fit(lambda: [(Y, smooth)], conditional=True)
    phi = prior.regression.features(Y).astype(np.float32)
    found = phi @ prior.regression.weights.astype(np.float32) + prior.mean.astype(np.float32)
    exact = prior.mean + prior.regression.features(Y) @ prior.regression.weights
    assert np.max(np.abs(found - exact)) < 1e-4


@pytest.mark.parametrize("noise", [0.0, 2e-17])
def test_what_moves_by_rounding_alone_tells_nothing(noise):
    """A constant whose sum is rounded: one unit in its last place, or 1e-3 of it, is not far from all data."""
    constant = np.full((len(Y), 1), 0.1) + noise * (np.arange(len(Y)) % 3)[:, None]
    prior = fit(lambda: [(np.hstack([Y, constant]), X)], conditional=True)
    fresh = np.hstack([Y[:50], constant[:50]])
    moved = fresh + np.eye(Y.shape[1] + 1)[-1] * 1e-3
    spread = X.std(axis=0).max()
    np.testing.assert_allclose(prior.expected(moved), prior.expected(fresh), rtol=0, atol=0.01 * spread)


@pytest.mark.parametrize("known", [np.full((40, 2), 0.1), np.zeros((40, 2))], ids=["constant", "zero"])
@pytest.mark.filterwarnings("error")
def test_known_numbers_that_are_all_the_same_leave_the_mean(known):
    prior = fit(lambda: [(known, X[:40])], conditional=True)
    assert prior.regression is None
    np.testing.assert_allclose(prior.mean, X[:40].mean(axis=0))


@pytest.mark.filterwarnings("error")
def test_one_sample_that_is_unlike_all_others():
    known = np.zeros((400, 2))
    known[7] = 1.0
    prior = fit(lambda: [(known, X[:400])], conditional=True)
    assert np.isfinite(prior.expected(known)).all()
