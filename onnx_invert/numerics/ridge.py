"""The best linear estimate of x from h, learnt from sums over rows: no row is kept.

    x̂ = x̄ + (h − h̄) W,  W = (Hᵀ H + α I)⁻¹ Hᵀ X          H, X the rows less their means

The eigenvectors of Hᵀ H = V Λ Vᵀ give W for every α at once, and with it generalised cross-validation

    GCV(α) = ‖X − H W‖² / (N − 1 − Σ λ / (λ + α))²

whose least value chooses α. Vectors wider than a limit are mixed into fewer numbers first (`Sketch`).
Source: G. Golub, M. Heath & G. Wahba, Generalized cross-validation as a method for choosing a good ridge parameter,
Technometrics 21, 1979.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray

Array = NDArray[np.float64]

STRENGTHS = np.logspace(-12, 4, 33)
"""Values of α that are tried, relative to the mean of the eigenvalues."""

SPREAD = 8
"""Places that a sketch adds each number to, with random signs."""


class Sketch:
    """A random projection of rows (N, d) to (N, size): each number is added to `SPREAD` of them, with random signs.

    It keeps ‖h‖² in the mean, with a relative standard deviation of √(2 / size) at most. What is linear in the
    sketch is linear in h: an estimate from it is no better than the best one from h.
    Source: J. Nelson & H. Nguyen, OSNAP: faster numerical linear algebra algorithms via sparser subspace embeddings,
    FOCS 2013.
    """

    def __init__(self, width: int, size: int, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, width])
        blocks = size // SPREAD
        rows = np.repeat(np.arange(width), SPREAD)
        # One place in each of SPREAD blocks, so that no two of a number's places coincide.
        columns = rng.integers(0, blocks, (width, SPREAD)) + blocks * np.arange(SPREAD)
        signs = rng.choice([-1.0, 1.0], rows.size) / np.sqrt(SPREAD)
        self._matrix = scipy.sparse.csr_array((signs, (rows, columns.reshape(-1))), shape=(width, blocks * SPREAD))

    def __call__(self, rows: NDArray[Any]) -> Array:
        """The projected rows."""
        return np.asarray(rows @ self._matrix)


@dataclass(frozen=True)
class Estimate:
    """x̂ = `target` + (h − `centre`) @ `weight`; `alpha` is the ridge in units of Hᵀ H."""

    centre: Array
    target: Array
    weight: Array
    alpha: float

    def __call__(self, h: NDArray[Any]) -> Array:
        """x̂ of rows h."""
        return self.target + (h - self.centre) @ self.weight


class Moments:
    """Sums over rows of h (N, d) and x (N, p): 8 · d · (d + p) bytes, however many rows there are."""

    def __init__(self, h: int, x: int) -> None:
        self.rows = 0
        # Sums are taken of what lies beyond the first rows' means, or large means would cost their digits.
        self._origin: tuple[Array, Array] | None = None
        self._h, self._x = np.zeros(h), np.zeros(x)
        self._hh, self._hx, self._xx = np.zeros((h, h)), np.zeros((h, x)), 0.0

    def add(self, h: NDArray[Any], x: NDArray[Any]) -> None:
        """Take rows in."""
        if not len(h):
            return
        h, x = h.astype(np.float64, copy=False), x.astype(np.float64, copy=False)
        if self._origin is None:
            self._origin = h.mean(axis=0), x.mean(axis=0)
        h, x = h - self._origin[0], x - self._origin[1]
        self.rows += len(h)
        self._h += h.sum(axis=0)
        self._x += x.sum(axis=0)
        self._hh += h.T @ h
        self._hx += h.T @ x
        self._xx += float(np.sum(np.square(x)))

    def estimate(self) -> Estimate:
        """The ridge regression whose strength has the least generalised cross-validation."""
        assert self._origin is not None
        n, mean_h, mean_x = self.rows, self._h / self.rows, self._x / self.rows
        cross = self._hx - n * np.outer(mean_h, mean_x)
        gram = self._hh - n * np.outer(mean_h, mean_h)
        total = max(self._xx - n * float(mean_x @ mean_x), 0.0)
        centre, target = self._origin[0] + mean_h, self._origin[1] + mean_x
        values, vectors = scipy.linalg.eigh(gram, overwrite_a=True, check_finite=False)
        live = values > len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
        if not live.any():
            return Estimate(centre, target, np.zeros(cross.shape), 0.0)
        values, vectors = values[live], vectors[:, live]
        turned = vectors.T @ cross
        power = np.sum(np.square(turned), axis=1)
        best, chosen = np.inf, 0.0
        for alpha in STRENGTHS * float(values.mean()):
            shrunk = values / (values + alpha)
            left = n - 1 - float(np.sum(shrunk))
            if left <= 0:
                continue
            # Rounding leaves this share of the total, in place of nothing.
            residual = max(total - float(np.sum(power / values * shrunk * (2 - shrunk))), 1e-14 * total)
            score = residual / left**2
            if score < best:
                best, chosen = score, float(alpha)
        return Estimate(centre, target, vectors @ (turned / (values + chosen)[:, None]), chosen)
