"""Projection on to the set f(x) = y along a metric C, within bounds: what makes a proposal a point of the fibre.

    x ← x₀ + δ,  δ of least δᵀ C⁻¹ δ  with  r + J (x₀ + δ − x) = 0,    r = (f(x) − y) / units
    δ = −C Jᵀ (J C Jᵀ + λ s I)⁻¹ (r + J (x₀ − x)),    s = tr(J C Jᵀ) / m

First x₀ is the start and λ falls to nothing; then x₀ = x for the last digits, λ rising where ‖r‖ does not fall
(Levenberg–Marquardt). Elements that the step
would carry beyond a bound are held there, and the others take over what they leave (active set). If f is affine, x is
drawn from N(μ, C) and no bound is met, one step gives a draw of N(μ, C) given f(x) = y: Matheron's rule.
Source: J.-P. Chilès & P. Delfiner, Geostatistics, 2012, 7.3; E. Zappa, M. Holmes-Cerf & J. Goodman, Monte Carlo on
manifolds, Comm. Pure Appl. Math. 71, 2018, for projecting proposals by Newton's method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Map = Callable[[Array], Array]
Box = tuple[Array, Array]

LEAST, FIRST, DOWN, UP = 1e-12, 1e-2, 0.1, 8.0
"""λ at the start, and after the first step that failed; its factor after a step that was taken or was not."""

ANCHORED = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4, 1e-6, LEAST, LEAST)
"""λ of the steps from the start, x = x₀ + δ: they look for the point of the fibre that is nearest to it."""

STEPS = 60
"""Steps at most. Where f is smooth and the start is near, four suffice."""

PATIENCE = 8
"""Steps in a row without a smaller residual after which a sample is left: λ is above 10⁴ then."""

SWEEPS = 12
"""Times that elements are held at their bounds within one step."""


@dataclass(frozen=True)
class Metric:
    """C = AᵀA + diag(rest), one for every sample or one for all. Shapes: factor (1 or N, r, n), rest (1 or N, n)."""

    factor: Array
    rest: Array

    def times(self, rows: Array) -> Array:
        """V C for V (N, m, n)."""
        if len(self.factor) > 1:
            along = (rows @ self.factor.swapaxes(1, 2)) @ self.factor
        else:  # one product of two matrices, not one for every sample
            (factor,) = self.factor
            along = ((rows.reshape(-1, rows.shape[2]) @ factor.T) @ factor).reshape(rows.shape)
        return np.asarray(rows * self.rest[:, None] + along)

    def of(self, index: NDArray[np.intp]) -> Metric:
        """For some of the samples."""
        return Metric(*(part if len(part) == 1 else part[index] for part in (self.factor, self.rest)))


@dataclass(frozen=True)
class Projection:
    """x (N, n), the largest |f(x) − y| in units, and the steps that were taken, for every sample."""

    x: Array
    error: Array
    steps: NDArray[np.int64]


def identity(n: int) -> Metric:
    """C = I: the nearest point of the fibre."""
    return Metric(np.zeros((1, 0, n)), np.ones((1, n)))


def project(
    f: Map,
    jacobian: Map,
    start: Array,
    y: Array,
    metric: Metric,
    *,
    units: Array,
    floor: float,
    box: Box | None = None,
    rounded: Map = np.asarray,
) -> Projection:
    """Carry every row of `start` (N, n) to f(x) = y, as far as it goes.

    `f` maps (N, n) to (N, m), `jacobian` to (N, m, n); y and `units` are (m). A sample is left alone once its error is
    below `floor`. `rounded` gives x the precision in which it is returned, so that the residual is that of what is.
    """
    start = rounded(start if box is None else np.clip(start, *box))
    state = _State(f, y, units, rounded, start)
    for alpha in ANCHORED:
        rows = state.open(floor, STEPS)
        if not rows.size:
            break
        j, anchor = jacobian(state.x[rows]) / units[:, None], start[rows]
        left = state.residual[rows] + np.einsum("nij,nj->ni", j, anchor - state.x[rows])
        step = _step(j, left, anchor, metric.of(rows), np.full(rows.size, alpha), box)
        state.take(rows, anchor + step, box, always=True)
    damping = np.full(len(start), LEAST)
    for _ in range(STEPS):
        rows = state.open(floor, PATIENCE)
        if not rows.size:
            break
        j, x = jacobian(state.x[rows]) / units[:, None], state.x[rows]
        step = _step(j, state.residual[rows], x, metric.of(rows), damping[rows], box)
        better = state.take(rows, x + step, box, always=False)
        grown = np.maximum(damping[rows] * UP, FIRST)
        damping[rows] = np.where(better, np.maximum(damping[rows] * DOWN, LEAST), grown)
    finite = np.isfinite(state.length)
    return Projection(state.x, np.where(finite, state.worst, np.inf), state.taken)


class _State:
    """x of every sample, with f(x) − y in units and the steps that led there."""

    def __init__(self, f: Map, y: Array, units: Array, rounded: Map, start: Array) -> None:
        self._f, self._y, self._units, self._rounded = f, y, units, rounded
        self.x = start.copy()
        self.residual = (f(self.x) - y) / units
        self.length = _length(self.residual)
        self.taken, self._idle = np.zeros(len(start), np.int64), np.zeros(len(start), np.int64)

    @property
    def worst(self) -> Array:
        """The largest residual of every sample."""
        return np.asarray(np.max(np.abs(self.residual), axis=1, initial=0.0))

    def open(self, floor: float, patience: int) -> NDArray[np.intp]:
        """The samples that are not there yet, nor given up."""
        return np.flatnonzero((self.worst > floor) & (self._idle < patience) & np.isfinite(self.length))

    def take(self, rows: NDArray[np.intp], x: Array, box: Box | None, *, always: bool) -> NDArray[np.bool_]:
        """Move samples to x where the residual falls, or wherever it is finite."""
        x = self._rounded(x if box is None else np.clip(x, *box))
        left = (self._f(x) - self._y) / self._units
        length = _length(left)
        better = np.isfinite(length) & (always | (length < self.length[rows]))
        good = rows[better]
        self.x[good], self.residual[good], self.length[good] = x[better], left[better], length[better]
        self.taken[good] += 1
        self._idle[rows] = np.where(better, 0, self._idle[rows] + 1)
        return np.asarray(better)


def _length(residual: Array) -> Array:
    """‖r‖ of every sample; what is no number is infinitely long."""
    length = np.sqrt(np.sum(np.square(residual), axis=1))
    return np.asarray(np.where(np.isnan(length), np.inf, length))


def _step(j: Array, residual: Array, x: Array, metric: Metric, damping: Array, box: Box | None) -> Array:
    """δ of the equations above: (N, n)."""
    held, step = np.zeros(x.shape, bool), np.zeros(x.shape)
    rows = np.arange(len(x))
    for _ in range(SWEEPS):
        fixed, forced, slope, some = held[rows], np.where(held[rows], step[rows], 0.0), j[rows], metric.of(rows)
        free = np.where(fixed[:, None], 0.0, slope)
        spread = np.where(fixed[:, None], 0.0, some.times(free))
        gram = free @ spread.swapaxes(1, 2)
        diagonal = np.einsum("nii->ni", gram)
        # Where nothing free moves an output, its row is zeros: it is left as it is.
        diagonal += (damping[rows] * diagonal.mean(axis=1) + np.finfo(float).tiny ** 0.5)[:, None]
        left = residual[rows] + (slope @ forced[..., None])[..., 0]
        weights = _solve(gram, left)
        step[rows] = forced - (weights[:, None] @ spread)[:, 0]
        if box is None:
            break
        low, high = box
        ends = x[rows] + step[rows]
        over = ~fixed & ((ends > high) | (ends < low))
        held[rows] |= over
        step[rows] = np.where(over, np.where(ends > high, high, low) - x[rows], step[rows])
        rows = rows[over.any(axis=1)]
        if not rows.size:
            break
    return step


def _solve(gram: Array, right: Array) -> Array:
    """gram⁻¹ right, sample by sample; least squares where one of them is singular."""
    try:
        return np.asarray(np.linalg.solve(gram, right[..., None])[..., 0])
    except np.linalg.LinAlgError:
        whole = np.where(np.isfinite(gram).all(axis=(1, 2)), gram.T, 0.0).T
        return np.stack([np.linalg.lstsq(g, r, rcond=None)[0] for g, r in zip(whole, right, strict=True)])
