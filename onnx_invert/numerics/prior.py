"""What is plausible for x, fitted to data: x = m(y) + w A with w ~ N(0, I), m constant or a regression on y.

    m(y) = clip(mean + φ(y) W)

φ are features of y (kernel.py), W their ridge regression. No number of m(y) leaves the range of the data's: x lies in
it, and what is clipped to a range is nearer to all that it holds.
The data come in chunks and may be larger than memory: every pass adds up sums and products, and one takes a part of
the samples, x mixed into few numbers. The strength of the ridge is chosen by generalised cross-validation, the
features by a held-out fifth of that part. A Aᵀ is the covariance (covariance.py) of the leave-one-out residuals, since
a regression's own residuals are too small by what it has fitted.
Numbers of x whose ranges differ by more than `ALIKE` are in different units, metres beside pascals, and all this is
done in units of their ranges: the covariance is shrunk towards one variance for all, which is far beyond the range of
the small ones otherwise, and rounding next to the large ones is more than they are.
Source: G. Golub, M. Heath & G. Wahba, Generalized cross-validation, Technometrics 21, 1979; kernel.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from onnx_invert.numerics.covariance import LARGEST, MOST_NUMBERS, Array, Root, in_units, root
from onnx_invert.numerics.kernel import LEAST, Features, features
from onnx_invert.numerics.ridge import Sketch

Chunks = Callable[[], Iterable[tuple[Array, Array]]]
"""Called once a pass: pairs of known numbers (rows, m) and unknown ones (rows, n)."""

ALIKE = 256.0
"""Widest range over narrowest of numbers in one unit: pixels of 8 bits differ by no more."""

FARTHEST = 1e70
"""|x| beyond which covariances, which take sums of fourth powers, overflow."""

MOST_LANDMARKS = 2048
"""At most, and never more than half the samples."""

PART, MIXED = 8192, 256
"""Samples that the features are chosen on at most, and how many numbers x is mixed into for that."""

LARGEST_REGRESSION = 4 * MOST_NUMBERS
"""Of any matrix of the regression: half a gigabyte. There are no landmarks above a quarter of it."""


@dataclass(frozen=True)
class Regression:
    """φ(y) @ `weights` (m + p, n)."""

    features: Features
    weights: Array


@dataclass(frozen=True)
class Prior:
    """x = mean + [regression of y, held within `ends` (2, n) with the mean] + w A, with A the factor."""

    mean: Array
    factor: Root
    regression: Regression | None = None
    ends: Array | None = None

    def expected(self, y: Array) -> Array:
        """m(y) (rows, n)."""
        if self.regression is None:
            return np.broadcast_to(self.mean, (len(y), self.mean.size))
        found = self.mean + self.regression.features(y) @ self.regression.weights
        return found if self.ends is None else np.clip(found, *self.ends)


def fit(
    chunks: Chunks, *, conditional: bool, landmarks: int = MOST_LANDMARKS, unit: float = float(np.finfo(float).eps)
) -> Prior:
    """Fit the prior to pairs of known and unknown numbers; without `conditional` the known ones do not matter.

    `unit` is the rounding of the type that the known ones come in: where none of them moves beyond it, they tell
    nothing, and m is constant.

    Raises:
        ValueError: fewer than two samples, numbers that are too large or not finite, a regression that is too large.
    """
    count, mean, ends = _mean(chunks)
    units = _units(ends, unit)
    if units is None:
        return _fit(chunks, (count, mean, ends), conditional, landmarks, unit)
    alike = (count, mean / units, ends / units)
    found = _fit(lambda: ((y, x / units) for y, x in chunks()), alike, conditional, landmarks, unit)
    regression = found.regression
    if regression is not None:
        regression = Regression(regression.features, regression.weights * units)
    return Prior(
        found.mean * units,
        in_units(found.factor, units),
        regression,
        None if found.ends is None else found.ends * units,
    )


def _units(ends: Array, unit: float) -> Array | None:
    """The range of each number (n), where they are in different units; None if they are not, or are too many.

    A number that does not move beyond rounding has its own size for a unit, or that of the others.
    """
    low, high = ends
    size, width = np.maximum(np.abs(low), np.abs(high)), high - low
    moves = width > 4 * unit * size
    if width.size > LARGEST or not moves.any() or width[moves].max() <= ALIKE * width[moves].min():
        return None
    others = float(np.exp(np.mean(np.log(width[moves]))))
    return np.where(moves, width, np.where(size > 0, size, others))


def _fit(chunks: Chunks, seen: tuple[int, Array, Array], conditional: bool, landmarks: int, unit: float) -> Prior:
    """The same with x in one unit; `seen` is what `_mean` has found."""
    count, mean, ends = seen
    phi = _features(chunks, count, mean.size, landmarks, unit) if conditional else None
    if phi is None:
        return Prior(mean, root(lambda: (x - mean for _, x in chunks()), mean.size))
    gram, cross, center, total = _products(chunks, phi, mean)
    values, vectors = scipy.linalg.eigh(gram)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ cross
    ridge = _ridge(values, turned, total, count)
    weights = vectors @ (turned / (values + ridge)[:, None])

    def residuals() -> Iterable[Array]:
        for y, x in chunks():
            inner = phi(y) - center
            leverage = np.sum(np.square(inner @ vectors) / (values + ridge), axis=1) + 1 / count
            left = (x - mean) - inner @ weights
            left /= np.maximum(1 - leverage, 1 / count)[:, None]
            yield x - np.clip(x - left, *ends)

    return Prior(mean - center @ weights, root(residuals, mean.size), Regression(phi, weights), ends)


def _mean(chunks: Chunks) -> tuple[int, Array, Array]:
    """How many samples there are, the mean of x and the ends of its range.

    The range of N samples is widened by an (N − 1)th at each end, which makes it that of a uniform distribution.
    """
    count, total, low, high = 0, np.zeros(()), np.array(np.inf), np.array(-np.inf)
    for _, x in chunks():
        if not np.isfinite(x).all():
            raise ValueError(f"{int(np.sum(~np.isfinite(x)))} of its numbers are not finite")
        if (most := float(np.abs(x).max(initial=0.0))) > FARTHEST:
            raise ValueError(f"its numbers go up to {most:.2g}, of which the fourth power is infinite: scale them")
        count += len(x)
        total = total + x.sum(axis=0)
        low = np.minimum(low, x.min(axis=0, initial=np.inf))
        high = np.maximum(high, x.max(axis=0, initial=-np.inf))
    if count < 2:
        raise ValueError(f"it has {count} samples, and at least two are needed")
    more = (high - low) / (count - 1)
    return count, total / count, np.stack([low - more, high + more])


def _features(chunks: Chunks, count: int, n: int, landmarks: int, unit: float) -> Features | None:
    """The features, chosen by the data; None if no known number moves."""
    total, squares, largest, broken = np.zeros(()), np.zeros(()), np.zeros(()), 0
    for y, _ in chunks():
        finite = np.isfinite(y).all(axis=1)
        broken += int(np.sum(~finite))
        total = total + y[finite].sum(axis=0)
        largest = np.maximum(largest, np.abs(y[finite]).max(axis=0, initial=0.0))
    if broken:
        raise ValueError(
            f"f is not finite on {broken} of its {count} samples, and a regression on f needs it, a gaussian prior "
            "does not"
        )
    center = total / count
    m = center.size
    if m * max(m, n) > LARGEST_REGRESSION:
        size = 8 * m * max(m, n) / 2**30
        raise ValueError(f"a regression of {n} numbers on {m} takes matrices of {size:.1f} GB, a gaussian prior none")
    mix = Sketch(n, MIXED) if n > MIXED else np.array
    every = -(-count // max(2, min(PART, MOST_NUMBERS // (m + MIXED))))
    part, seen, rest = [], 0, np.zeros(())
    for y, x in chunks():
        apart = y - center
        rest, squares = rest + apart.sum(axis=0), squares + np.square(apart).sum(axis=0)
        rows = slice(-seen % every, None, every)
        part.append((y[rows].copy(), mix(x[rows])))  # a view would keep the chunk
        seen += len(y)
    # By as much as its own sum was rounded, the mean of a number that does not move is off.
    center = center + rest / count
    scale = np.sqrt(np.maximum(squares / count - np.square(rest / count), 0.0))
    moves = scale > 4 * unit * largest
    if not moves.any():
        return None
    # In units of its own, what moves by rounding alone would take any other y for one that is far from all data.
    scale = np.where(moves, scale, scale[moves].max())
    most = max(0, min(landmarks, count // 2, MOST_NUMBERS // n - m))
    known, told = (np.concatenate(rows) for rows in zip(*part, strict=True))
    return features(known, told, center, scale, most)


def _products(chunks: Chunks, phi: Features, mean: Array) -> tuple[Array, Array, Array, float]:
    """ΦᵀΦ and ΦᵀX of centred features Φ and unknowns X, the features' mean, and ‖X‖²."""
    count, total = 0, np.zeros(())
    for y, _ in chunks():
        inner = phi(y)
        count += len(inner)
        total = total + inner.sum(axis=0)
    center, squares = total / count, 0.0
    gram, cross = np.zeros((center.size, center.size)), np.zeros((center.size, mean.size))
    for y, x in chunks():
        inner, apart = phi(y) - center, x - mean
        gram += inner.T @ inner
        cross += inner.T @ apart
        squares += float(np.sum(np.square(apart)))
    return gram, cross, center, squares


def _ridge(values: Array, turned: Array, total: float, count: int) -> float:
    """The strength λ with the least count · ‖residuals‖² / (count − degrees of freedom)²."""
    top = max(float(values.max(initial=0.0)), np.finfo(float).tiny)
    squares = np.square(turned).sum(axis=1)
    best, least = top, np.inf
    for ridge in top * np.geomspace(LEAST, 100, 91):
        shrunk = values + ridge
        residual = total - float(np.sum(squares * (values + 2 * ridge) / np.square(shrunk)))
        freedom = count - 1 - float(np.sum(values / shrunk))
        if freedom > 0 and max(residual, 0.0) / freedom**2 < least:
            best, least = float(ridge), max(residual, 0.0) / freedom**2
    return best
