"""What is plausible for x, fitted to data: x = m(y) + w A with w ~ N(0, I), m constant or a regression on y.

The data come in chunks and may be larger than memory: every pass adds up sums and products alone. The strength of
the ridge is chosen by the data, by generalised cross-validation. A Aᵀ is the covariance (covariance.py) of the
leave-one-out residuals, since a regression's own residuals are too small by what it has fitted.
Source: G. Golub, M. Heath & G. Wahba, Generalized cross-validation, Technometrics 21, 1979; A. Rahimi & B. Recht,
Random features for large-scale kernel machines, 2007.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from onnx_invert.numerics.covariance import MOST_NUMBERS, Array, Root, root

Chunks = Callable[[], Iterable[tuple[Array, Array]]]
"""Called once a pass: pairs of known numbers (rows, m) and unknown ones (rows, n)."""

MOST_FEATURES = 512
"""Random features at most, and never more than an eighth of the samples."""

LARGEST_REGRESSION = 4 * MOST_NUMBERS
"""Of any matrix of the regression: half a gigabyte. Random features are left out above a quarter of it."""


@dataclass(frozen=True)
class Regression:
    """m(y) = mean + z U + relu(z R + b) V with z = (y − center) / scale.

    Shapes: center, scale (m), linear U (m, n), directions R (m, p), offsets b (p), weights V (p, n).
    """

    center: Array
    scale: Array
    linear: Array
    directions: Array
    offsets: Array
    weights: Array

    def features(self, y: Array) -> Array:
        """(rows, m + p)."""
        z = (y - self.center) / self.scale
        return np.hstack([z, np.maximum(z @ self.directions + self.offsets, 0.0)])


@dataclass(frozen=True)
class Prior:
    """x = mean + [regression of y] + w A, with A the factor."""

    mean: Array
    factor: Root
    regression: Regression | None = None

    def expected(self, y: Array) -> Array:
        """m(y) (rows, n)."""
        if self.regression is None:
            return np.broadcast_to(self.mean, (len(y), self.mean.size))
        weights = np.vstack([self.regression.linear, self.regression.weights])
        return self.mean + self.regression.features(y) @ weights


def fit(chunks: Chunks, *, conditional: bool) -> Prior:
    """Fit the prior to pairs of known and unknown numbers; without `conditional` the known ones do not matter.

    Raises:
        ValueError: fewer than two samples, numbers that are not finite, a regression too large to be held.
    """
    if not conditional:
        count, mean = _mean(chunks)
        return Prior(mean, root(lambda: (x - mean for _, x in chunks()), mean.size))
    count, mean = _mean(chunks)
    blank = _blank(chunks, count, mean.size)
    gram, cross, feature_mean = _products(chunks, blank, mean)
    values, vectors = scipy.linalg.eigh(gram)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ cross
    total = sum(float(np.sum(np.square(x - mean))) for _, x in chunks())
    ridge = _ridge(values, turned, total, count)
    weights = vectors @ (turned / (values + ridge)[:, None])
    m = blank.center.size
    offset = mean - feature_mean @ weights
    regression = Regression(blank.center, blank.scale, weights[:m], blank.directions, blank.offsets, weights[m:])

    def residuals() -> Iterable[Array]:
        for y, x in chunks():
            features = blank.features(y) - feature_mean
            leverage = np.sum(np.square(features @ vectors) / (values + ridge), axis=1) + 1 / count
            left = (x - mean) - features @ weights
            yield left / np.maximum(1 - leverage, 1 / count)[:, None]

    return Prior(offset, root(residuals, mean.size), regression)


def _mean(chunks: Chunks) -> tuple[int, Array]:
    count, total = 0, np.zeros(())
    for _, x in chunks():
        if not np.isfinite(x).all():
            raise ValueError(f"{int(np.sum(~np.isfinite(x)))} of its numbers are not finite")
        count += len(x)
        total = total + x.sum(axis=0)
    if count < 2:
        raise ValueError(f"it has {count} samples, and at least two are needed")
    return count, total / count


def _blank(chunks: Chunks, count: int, n: int) -> Regression:
    """The features: their weights are not fitted yet."""
    total, squares = np.zeros(()), np.zeros(())
    for y, _ in chunks():
        total = total + y.sum(axis=0)
    center = total / count
    for y, _ in chunks():
        squares = squares + np.square(y - center).sum(axis=0)
    scale = np.sqrt(squares / count)
    scale = np.where(scale > 0, scale, 1.0)
    m = center.size
    if m * max(m, n) > LARGEST_REGRESSION:
        size = 8 * m * max(m, n) / 2**30
        raise ValueError(f"a regression of {n} numbers on {m} takes matrices of {size:.1f} GB, a gaussian prior none")
    p = max(0, min(MOST_FEATURES, count // 8, MOST_NUMBERS // n - m))
    rng = np.random.default_rng(m)
    directions = rng.standard_normal((m, p)) / np.sqrt(m)
    empty = np.zeros((0, 0))
    return Regression(center, scale, empty, directions, rng.standard_normal(p), empty)


def _products(chunks: Chunks, blank: Regression, mean: Array) -> tuple[Array, Array, Array]:
    """ΦᵀΦ and ΦᵀX of centred features Φ and unknowns X, and the features' mean."""
    count, total = 0, np.zeros(())
    for y, _ in chunks():
        features = blank.features(y)
        count += len(features)
        total = total + features.sum(axis=0)
    center = total / count
    size = center.size
    gram, cross = np.zeros((size, size)), np.zeros((size, mean.size))
    for y, x in chunks():
        features = blank.features(y) - center
        gram += features.T @ features
        cross += features.T @ (x - mean)
    return gram, cross, center


def _ridge(values: Array, turned: Array, total: float, count: int) -> float:
    """The strength λ with the least count · ‖residuals‖² / (count − degrees of freedom)²."""
    top = max(float(values.max(initial=0.0)), np.finfo(float).tiny)
    squares = np.square(turned).sum(axis=1)
    best, least = top, np.inf
    for ridge in top * np.logspace(-12, 2, 141):
        shrunk = values + ridge
        residual = total - float(np.sum(squares * (values + 2 * ridge) / np.square(shrunk)))
        freedom = count - 1 - float(np.sum(values / shrunk))
        if freedom > 0 and max(residual, 0.0) / freedom**2 < least:
            best, least = float(ridge), max(residual, 0.0) / freedom**2
    return best
