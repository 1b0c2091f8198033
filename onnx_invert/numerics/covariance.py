"""The covariance of rows that come in chunks, shrunk so that no direction is ruled out, as a root A with AᵀA = Σ.

    S = Σ xᵀx / N of rows x (N, n),    Σ = (1 − δ) S + δ μ I,    μ = tr S / n,    δ ≥ 1 / (N + 1)

δ is by Ledoit and Wolf's formula, but at least the weight of one sample more: of two samples, or of two that repeat,
the formula finds no chance in S and gives 0.

Up to `LARGEST` numbers S is formed and factored. Above it no n × n matrix is: the r largest eigenvalues and their
vectors V (r, n) come from a randomised subspace iteration, in which every pass over the rows adds up products with
at most `MOST_NUMBERS` numbers; the other eigenvalues are replaced by their mean, as in probabilistic principal
component analysis. Then

    Σ = σ² I + Vᵀ (D² − σ² I) V,    A = σ I + Vᵀ (D − σ I) V = σ I + PᵀP

‖S‖², which the shrinkage needs, is what the subspace has of it, and the rest estimated by normal probes (Hutch++).
Source: O. Ledoit & M. Wolf, A well-conditioned estimator for large-dimensional covariance matrices, J. Multivariate
Anal. 88, 2004; N. Halko, P.-G. Martinsson & J. Tropp, Finding structure with randomness, SIAM Review 53, 2011,
algorithms 4.4 and 5.3; M. Tipping & C. Bishop, Probabilistic principal component analysis, J. R. Stat. Soc. B 61,
1999; R. Meyer, C. Musco, C. Musco & D. Woodruff, Hutch++, SOSA 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = Callable[[], Iterable[Array]]
"""Called once a pass: chunks (rows, n), centred."""

LARGEST = 4096
"""n up to which the whole covariance is formed: 128 MB."""

RANK = 256
"""Eigenvectors at most that are found of a larger one."""

OVERSAMPLED = 16
"""Directions beyond the wanted ones: the last of a subspace are the least accurate."""

POWERS = 2
"""Times the subspace is multiplied by S again: with each the eigenvalues beyond it weigh less, by their square."""

MOST_NUMBERS = 1 << 24
"""Of any matrix that is held: 128 MB."""


@dataclass(frozen=True)
class Root:
    """A with AᵀA = Σ: `rows` (r, n); or, where `least` σ is above 0, σ I + rowsᵀ rows (n, n), which is not formed.

    Rows of A / `units` (n) are orthogonal, of A itself where there are none.
    """

    rows: Array
    least: float = 0.0
    units: Array | None = None

    @property
    def size(self) -> int:
        """How long w is, for x = w A."""
        return self.rows.shape[1] if self.least else len(self.rows)

    def after(self, w: Array) -> Array:
        """w A: (…, size) → (…, n)."""
        return self.least * w + (w @ self.rows.T) @ self.rows if self.least else w @ self.rows

    def before(self, matrix: Array) -> Array:
        """A `matrix`: (n, k) → (size, k)."""
        return self.least * matrix + self.rows.T @ (self.rows @ matrix) if self.least else self.rows @ matrix

    def back(self, x: Array) -> Array:
        """w of x = w A: (…, n) → (…, size)."""
        rows = self.rows if self.units is None else self.rows / self.units
        x = x if self.units is None else x / self.units
        squares = np.sum(np.square(rows), axis=1)
        along = x @ rows.T
        if not self.least:
            return np.asarray(along / squares)
        return np.asarray(x / self.least - (along / (self.least * (self.least + squares))) @ self.rows)


def root(rows: Rows, n: int) -> Root:
    """The root of the shrunk covariance of `rows`, of n numbers each."""
    return _whole(rows, n) if n <= LARGEST else _low_rank(rows, n)


def in_units(found: Root, units: Array) -> Root:
    """The root for numbers that are `units` (n) times those it was found for, up to `LARGEST` of them."""
    assert not found.least
    return Root(found.rows * units, units=units)


def _whole(rows: Rows, n: int) -> Root:
    matrix, fourth, count = np.zeros((n, n)), 0.0, 0
    for x in rows():
        matrix += x.T @ x
        fourth += _fourth(x)
        count += len(x)
    matrix /= count
    average = float(np.trace(matrix)) / n
    shrinkage = _shrinkage(float(np.sum(np.square(matrix))), fourth / count, average, n, count)
    values, vectors = scipy.linalg.eigh(matrix)
    values = (1 - shrinkage) * np.maximum(values, 0.0) + shrinkage * average
    kept = values > values.max(initial=0.0) * n * np.finfo(float).eps
    return Root(np.asarray(np.sqrt(values[kept])[:, None] * _signed(vectors[:, kept].T)))


def _low_rank(rows: Rows, n: int) -> Root:
    total, fourth, count = 0.0, 0.0, 0
    for x in rows():
        total += float(np.sum(np.square(x)))
        fourth += _fourth(x)
        count += len(x)
    rng = np.random.default_rng(n)
    size = max(1, min(RANK + OVERSAMPLED, count, n, MOST_NUMBERS // n))
    basis = rng.standard_normal((n, size))
    for _ in range(1 + POWERS):
        basis = scipy.linalg.qr(_times(rows, basis), mode="economic", overwrite_a=True, check_finite=False)[0]
    # ‖S‖² is ‖S Q‖² and, of what the basis Q leaves over, the mean of ‖S g‖² for normal g.
    probes = rng.standard_normal((n, OVERSAMPLED))
    probes -= basis @ (basis.T @ probes)
    reached = _times(rows, np.hstack([basis, probes])) / count
    squares = np.sum(np.square(reached), axis=0)
    square = float(squares[:size].sum() + squares[size:].mean())
    values, vectors = scipy.linalg.eigh(basis.T @ reached[:, :size])
    del reached
    kept = slice(-min(RANK, size), None)
    values, vectors = np.maximum(values[kept], 0.0), vectors[:, kept]
    total /= count
    rest, average = max(total - float(values.sum()), 0.0), total / n
    shrinkage = _shrinkage(square, fourth / count, average, n, count)
    least = (1 - shrinkage) * rest / (n - len(values)) + shrinkage * average if n > len(values) else 0.0
    deviations, sigma = np.sqrt((1 - shrinkage) * values + shrinkage * average), float(np.sqrt(least))
    ends = np.sqrt(np.maximum(deviations - sigma, 0.0)) if sigma else deviations
    return Root(_signed((basis @ (vectors * ends)).T), sigma)


def signs(rows: Array) -> Array:
    """±1 for each row (r, n) of those that are singular vectors: it makes the entry of largest size positive.

    Otherwise the sign is left to the rounding of whoever finds them, and that to the number of threads.
    """
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(largest < 0, -1.0, 1.0)


def _signed(rows: Array) -> Array:
    return rows * signs(rows)[:, None]


def _times(rows: Rows, matrix: Array) -> Array:
    """N S `matrix` (n, k), in one pass."""
    product = np.zeros_like(matrix)
    for x in rows():
        product += x.T @ (x @ matrix)
    return product


def _fourth(x: Array) -> float:
    """Σ ‖x‖⁴."""
    return float(np.sum(np.square(np.sum(np.square(x), axis=1))))


def _shrinkage(square: float, fourth: float, average: float, n: int, count: int) -> float:
    """δ, from ‖S‖², the mean of ‖x‖⁴, μ, n and N: how far S is from μ I, and how much of that is chance."""
    apart = max(square - n * average**2, np.finfo(float).tiny)
    return min(1.0, max(max(fourth - square, 0.0) / count / apart, 1 / (count + 1)))
