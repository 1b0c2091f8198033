"""Priors against scikit-learn: shrinkage, ridge strength by cross-validation, chunks that change nothing."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import Ridge, RidgeCV

from onnx_invert.numerics.prior import fit

RNG = np.random.default_rng(0)
X = RNG.standard_normal((400, 6)) @ RNG.standard_normal((6, 12)) + 0.1 * RNG.standard_normal((400, 12)) + 3
Y = np.tanh(X[:, :3] - 3) + 0.1 * RNG.standard_normal((400, 3))


def whole(y=Y, x=X):
    return lambda: [(y, x)]


def test_the_covariance_is_ledoit_and_wolfs():
    prior = fit(whole(), conditional=False)
    np.testing.assert_allclose(prior.mean, X.mean(axis=0))
    np.testing.assert_allclose(
        prior.factor.rows.T @ prior.factor.rows, LedoitWolf().fit(X).covariance_, rtol=1e-9, atol=1e-12
    )


def test_chunks_change_nothing():
    pieces = [(Y[i : i + 64], X[i : i + 64]) for i in range(0, len(X), 64)]
    for conditional in (False, True):
        one, many = fit(whole(), conditional=conditional), fit(lambda: iter(pieces), conditional=conditional)
        np.testing.assert_allclose(one.expected(Y), many.expected(Y), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(
            one.factor.rows.T @ one.factor.rows,
            many.factor.rows.T @ many.factor.rows,
            rtol=1e-6,
            atol=1e-6 * np.square(one.factor.rows).sum(),
        )


def test_the_regression_is_ridge_at_a_strength_that_cross_validation_takes():
    prior = fit(whole(), conditional=True)
    features = prior.regression.features(Y)
    strengths = np.logspace(-10, 6, 161)
    chosen = RidgeCV(alphas=strengths).fit(features, X)  # leave-one-out, which cross-validation generalises
    expected = Ridge(alpha=chosen.alpha_).fit(features, X).predict(features)
    ours = np.mean(np.square(prior.expected(Y) - X))
    theirs = np.mean(np.square(expected - X))
    assert ours == pytest.approx(theirs, rel=0.1)


def test_left_out_residuals_are_those_of_fits_without_the_sample():
    small_y, small_x = Y[:40], X[:40]
    prior = fit(whole(small_y, small_x), conditional=True)
    features = prior.regression.features(small_y)
    # The strength follows from the fit itself: (ΦᵀΦ + λ) B = ΦᵀX for centred Φ and X.
    centred, target = features - features.mean(axis=0), small_x - small_x.mean(axis=0)
    weights = prior.regression.weights
    gap = centred.T @ target - centred.T @ centred @ weights
    strength = float(np.sum(gap * weights) / np.sum(weights * weights))
    left = []
    for i in range(40):
        kept = np.arange(40) != i
        model = Ridge(alpha=strength).fit(features[kept], small_x[kept])
        left.append(small_x[i] - model.predict(features[i : i + 1])[0])
    trace = np.trace(prior.factor.rows.T @ prior.factor.rows)
    assert trace == pytest.approx(np.mean(np.sum(np.square(left), axis=1)), rel=0.02)


def test_every_direction_can_move():
    flat = X.copy()
    flat[:, 4] = 1.0
    few = fit(whole(Y[:5], flat[:5]), conditional=False)
    assert np.linalg.matrix_rank(few.factor.rows) == 12


def test_every_direction_can_move_where_the_formula_finds_no_chance():
    """Of two samples, and of two that repeat, S is that of each sample: Ledoit and Wolf's shrinkage is 0."""
    assert LedoitWolf().fit(X[:2]).shrinkage_ == 0
    for x, known in ((X[:2], Y[:2]), (np.tile(X[:2], (8, 1)), np.tile(Y[:2], (8, 1)))):
        rows = fit(whole(known, x), conditional=False).factor.rows
        values = np.linalg.svd(rows, compute_uv=False)
        assert len(values) == X.shape[1]
        assert values.min() > 1e-2 * values.max()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:1], "1 samples"),
        (np.where(X > 7, np.nan, X), "not finite"),
    ],
)
def test_bad_data(x, message):
    with pytest.raises(ValueError, match=message):
        fit(whole(Y[: len(x)], x), conditional=False)


@pytest.mark.filterwarnings("error")
def test_where_f_is_not_finite_only_a_regression_is_refused():
    known = Y.copy()
    known[3, 1], known[8] = np.nan, np.inf
    with pytest.raises(ValueError, match="not finite on 2 of its 400 samples"):
        fit(whole(known), conditional=True)
    assert np.isfinite(fit(whole(known), conditional=False).mean).all()


@pytest.mark.parametrize("conditional", [False, True])
def test_numbers_in_different_units_do_not_mix(conditional):
    """x in pascals, farads and metres: the prior is that of x in units of its ranges, and undoes itself."""
    units = 10.0 ** np.array([11, -12, 0, 4, -5, 2, 0, 0, 0, 7, 0, 0])
    alike = X / np.ptp(X, axis=0)
    one, other = (fit(whole(x=x), conditional=conditional) for x in (alike, alike * units))
    np.testing.assert_allclose(other.expected(Y), one.expected(Y) * units, rtol=1e-7)
    covariance = other.factor.rows.T @ other.factor.rows / np.outer(units, units)
    np.testing.assert_allclose(covariance, one.factor.rows.T @ one.factor.rows, rtol=1e-7, atol=1e-12)
    if not conditional:
        np.testing.assert_allclose(np.sqrt(np.diag(covariance)), alike.std(axis=0), rtol=0.02)
    w = RNG.standard_normal((5, other.factor.size))
    np.testing.assert_allclose(other.factor.back(other.factor.after(w)), w, atol=1e-9)


def test_a_number_that_does_not_move_keeps_a_size():
    """Among others in different units: a little of its own size, and none of the others'."""
    x = np.hstack([X * 10.0 ** np.arange(12), np.full((400, 1), 7e-6), np.zeros((400, 1))])
    factor = fit(whole(x=x), conditional=False).factor
    deviations = np.sqrt(np.sum(np.square(factor.rows), axis=0))
    assert 0 < deviations[-2] < 7e-6
    assert factor.size == 14


def test_each_direction_of_x_has_a_strength_of_its_own():
    """One is rough and clear, six are smooth and noisy: against scikit-learn's strength for all, and for each."""
    rng = np.random.default_rng(1)
    y = rng.uniform(-1, 1, (1200, 2))
    rough, smooth = 3 * np.sin(6 * y[:, 0]) * np.sin(6 * y[:, 1]), y[:, 0] + 2 * y[:, 1]
    turn = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    truth = np.stack([rough, *[smooth] * 6], axis=1) @ turn
    x = truth + rng.standard_normal((1200, 7)) * [0.1, *[1.0] * 6] @ turn
    seen, fresh = slice(0, 400), slice(400, 1200)
    prior = fit(whole(y[seen], x[seen]), conditional=True)
    features = prior.regression.features
    strengths = np.logspace(-8, 4, 49)
    one = RidgeCV(alphas=strengths).fit(features(y[seen]), x[seen])
    alone = [RidgeCV(alphas=strengths).fit(features(y[seen]), column) for column in (x @ turn.T)[seen].T]

    def error(found):
        return np.mean(np.square(found - truth[fresh]))

    ours = error(prior.expected(y[fresh]))
    assert ours < 0.8 * error(one.predict(features(y[fresh])))
    assert ours < 1.2 * error(np.stack([model.predict(features(y[fresh])) for model in alone], axis=1) @ turn)


def test_what_y_does_not_tell_takes_no_numbers():
    """Of forty directions of x two follow y: the regression keeps them, and less than half of the others."""
    rng = np.random.default_rng(2)
    y = rng.uniform(-1, 1, (900, 2))
    x = np.sin(3 * y) @ rng.standard_normal((2, 40)) + 0.05 * rng.standard_normal((900, 40))
    regression = fit(whole(y, x), conditional=True).regression
    kept, size = len(regression.back), regression.features.size
    assert 2 <= kept < 20
    assert regression.weights.shape == (size, kept)
    assert size == 2 + 900


def test_no_more_is_fitted_than_few_samples_tell():
    """Twenty samples, of which y tells nothing: next to their mean."""
    rng = np.random.default_rng(3)
    errors, means = [], []
    for _ in range(10):
        y, x = rng.standard_normal((20, 4)), rng.standard_normal((20, 6))
        errors.append(np.mean(np.square(fit(whole(y, x), conditional=True).expected(rng.standard_normal((200, 4))))))
        means.append(np.mean(np.square(x.mean(axis=0))))
    assert np.mean(errors) < 3 * np.mean(means)
