"""What is plausible for x, fitted to data: x = m(y) + w A with w ~ N(0, I), m constant or a regression on y.

    m(y) = clip(mean + φ(y) W)

φ are features of y (kernel.py), W their ridge regression. No number of m(y) leaves the range of the data's: x lies in
it, and what is clipped to a range is nearer to all that it holds.
The data come in chunks and may be larger than memory: every pass adds up sums and products, and one takes a part of
the samples, x mixed into few numbers. The strengths of the ridge are chosen by generalised cross-validation
(strengths.py), the features by a held-out fifth of that part. A Aᵀ is the covariance (covariance.py) of the
leave-one-out residuals, since a regression's own residuals are too small by what it has fitted.
Numbers of x whose ranges differ by more than `ALIKE` are in different units, metres beside pascals, and all this is
done in units of their ranges: the covariance is shrunk towards one variance for all, which is far beyond the range of
the small ones otherwise, and rounding next to the large ones is more than they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg

from onnx_invert.numerics.covariance import LARGEST, MOST_NUMBERS, Array, Root, in_units, root
from onnx_invert.numerics.kernel import Features, features
from onnx_invert.numerics.ridge import Sketch
from onnx_invert.numerics.strengths import common, directions, is_idle, single

Chunks = Callable[[], Iterable[tuple[Array, Array]]]
"""Called once a pass: pairs of known numbers (rows, m) and unknown ones (rows, n)."""

ALIKE = 256.0
"""Widest range over narrowest of numbers in one unit: pixels of 8 bits differ by no more."""

FARTHEST = 1e70
"""|x| beyond which covariances, which take sums of fourth powers, overflow."""

MOST_LANDMARKS = 3072
"""At most; each is a sample."""

PART, MIXED = 8192, 256
"""Samples that the features are chosen on at most, and how many numbers x is mixed into for that."""

LARGEST_REGRESSION = 4 * MOST_NUMBERS
"""Of any matrix of the regression: half a gigabyte. There are no landmarks above a quarter of it."""


@dataclass(frozen=True)
class Regression:
    """φ(y) @ `weights` (m + p, n); with `back` (r, n) they are (m + p, r), and it comes after them."""

    features: Features
    weights: Array
    back: Array | None = None

    def __call__(self, y: Array) -> Array:
        """(rows, m) → (rows, n)."""
        found = self.features(y) @ self.weights
        return np.asarray(found if self.back is None else found @ self.back)

    def to(self, change: Callable[[Array], Array]) -> Regression:
        """The same with rows (…, n) in other coordinates."""
        if self.back is None:
            return replace(self, weights=change(self.weights))
        return replace(self, back=change(self.back))


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
        found = self.mean + self.regression(y)
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
        regression = regression.to(lambda rows: rows * units)
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
    values, vectors = scipy.linalg.eigh(gram, overwrite_a=True, check_finite=False)
    del gram
    values, turned = np.maximum(values, 0.0), vectors.T @ cross
    del cross
    shares = _shares(chunks, (count, mean, total), values, turned)

    def residuals() -> Iterable[Array]:
        for y, x in chunks():
            inner = (phi(y) - center) @ vectors
            yield x - np.clip(x - shares.left_out(inner, x - mean, count), *ends)

    factor = root(residuals, mean.size)
    weights, back = vectors @ shares.weights, shares.back
    shift = center @ weights
    return Prior(mean - (shift if back is None else shift @ back), factor, Regression(phi, weights, back), ends)


@dataclass(frozen=True)
class _Shares:
    """A regression on features along their eigenvectors: x = features @ `weights` (p, r) [@ `back` (r, n)].

    `directions` (k, n) are those fitted with strengths of their own, and `shrunk` (p, k) one over the eigenvalues with
    them; `others` (p) is the same of all other directions, 0 where nothing is fitted in them.
    """

    weights: Array
    back: Array | None
    directions: Array
    shrunk: Array
    others: Array

    def left_out(self, inner: Array, x: Array, count: int) -> Array:
        """x (rows, n) less what a regression says that has not seen the sample."""
        fitted = inner @ self.weights
        left = x - (fitted if self.back is None else fitted @ self.back)
        squares = np.square(inner)
        own, rest = squares @ self.shrunk, squares @ self.others
        along = left @ self.directions.T
        left = (left - along @ self.directions) / np.maximum(1 - rest - 1 / count, 1 / count)[:, None]
        return np.asarray(left + along / np.maximum(1 - own - 1 / count, 1 / count) @ self.directions)


def _shares(chunks: Chunks, seen: tuple[int, Array, float], values: Array, turned: Array) -> _Shares:
    """The regression on features with eigenvalues `values` (p), from VᵀΦᵀX (p, n); `seen` has N, the mean and ‖X‖²."""
    count, mean, total = seen
    strength = common(values, turned, total, count)
    basis = directions(values, turned, strength)
    totals = np.zeros(len(basis))
    for _, x in chunks():
        totals += np.sum(np.square((x - mean) @ basis.T), axis=0)
    along, (p, n) = turned @ basis.T, turned.shape
    strengths = single(values, along, totals, count, strength)
    rest, others = turned - along @ basis, 1 / (values + strength)
    squares = np.sum(np.square(rest), axis=1)
    if len(basis) == n or is_idle(values, squares, max(total - float(totals.sum()), 0.0), count, strength):
        others = np.zeros(p)
    kept = np.isfinite(strengths)
    basis, shrunk = basis[kept], 1 / (values[:, None] + strengths[kept])
    own = along[:, kept] * shrunk
    if others.any() or len(basis) * (p + n) >= p * n:
        return _Shares(own @ basis + rest * others[:, None], None, basis, shrunk, others)
    return _Shares(own, basis, basis, shrunk, others)


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
    most = max(0, min(landmarks, count, MOST_NUMBERS // n - m))
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
