"""What a regression of x on y is linear in: y itself, and inverse multiquadrics around some of the data's y.

    u = (y − ȳ) / (√m · std y) T / s,    φ(u) = [u, 1 / √(1 + ‖u − cⱼ‖²)],  j = 1 … p

The landmarks c are p of the data's own u: ridge regression on φ is Nyström's approximation to kernel ridge
regression. T is I at first, then a multiple of

    √G,    G = Σᵢ Jᵢ Jᵢᵀ,    Jᵢ = ∂x̂ / ∂z at sample i, z = (y − ȳ) / (√m · std y),

so that two y are far apart where x̂, the regression itself, moves a lot from one to the other: what in y tells little
of x weighs little, in any direction. T is taken anew as long as that predicts a held-out fifth better, and the
bandwidth s is the one of `BANDWIDTHS` that does so best; both are tried with few landmarks on a part of the data, x
mixed into fewer numbers (ridge.py, `Sketch`).
Source: C. Williams & M. Seeger, Using the Nyström method to speed up kernel machines, NIPS 2000; C. Micchelli,
Interpolation of scattered data, Constructive Approximation 2, 1986; A. Radhakrishnan, D. Beaglehole, P. Pandit &
M. Belkin, Mechanism for feature learning in neural networks and backpropagation-free machine learning models,
Science 383, 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]

BANDWIDTHS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.8)
"""Values of s that are tried. Two samples are √2 · √m · std y apart on average."""

LEAST = float(np.finfo(np.float32).eps)
"""Of the ridge, relative to the largest eigenvalue. Below it the weights grow so large that what the features are
rounded by in float32 shows in x."""

STRENGTHS = LEAST * np.logspace(0, 8, 17)
"""Of the ridge with which bandwidths are tried, relative to the largest eigenvalue."""

TRIED = 512
"""Landmarks that they are tried with, and samples at which the regression's slopes are taken."""

FOLD = 5
"""One sample in so many is held out."""

ROUNDS = 3
"""Times T is taken anew at most."""

WIDEST = 256
"""Numbers of y up to which there is a T: above it T costs more time than the regression."""


@dataclass(frozen=True)
class Features:
    """φ; `center` (m), `scale` (m) with s √m in the scale, `landmarks` (m, p); T is `turn` (m, m), None for I."""

    center: Array
    scale: Array
    landmarks: Array
    turn: Array | None = None

    @property
    def size(self) -> int:
        """m + p."""
        return int(np.sum(self.landmarks.shape))

    def within(self, y: Array) -> Array:
        """u: (rows, m) → (rows, m)."""
        u: Array = (y - self.center) / self.scale
        return u if self.turn is None else np.asarray(u @ self.turn)

    def __call__(self, y: Array) -> Array:
        """(rows, m) → (rows, m + p)."""
        u = self.within(y)
        return np.hstack([u, 1 / np.sqrt(1 + self.apart(u))])

    def apart(self, u: Array) -> Array:
        """‖u − cⱼ‖² (rows, p)."""
        squares = np.sum(np.square(u), axis=1)[:, None] + np.sum(np.square(self.landmarks), axis=0)
        return np.asarray(np.maximum(squares - 2 * (u @ self.landmarks), 0.0))


@dataclass(frozen=True)
class _Trial:
    """φ, the least squared error of ridge regression on it where it has not seen the samples, and its weights."""

    features: Features
    bandwidth: float
    error: float
    weights: Array


def features(y: Array, x: Array, center: Array, scale: Array, count: int) -> Features:
    """φ with `count` landmarks at most, of the rows y (N, m); x (N, k) is what they are to tell of."""
    order = np.random.default_rng(len(y)).permutation(len(y))
    held = np.zeros(len(y), bool)
    held[order[::FOLD]] = True
    root = np.sqrt(max(center.size, 1))
    if not count or held.sum() <= 1:
        return _around(y[order[:count]], center, scale * root, None)
    rest = order[~held[order]][:TRIED]
    chosen = rest[:count]

    def attempt(bandwidth: float, turn: Array | None) -> _Trial:
        phi = _around(y[chosen], center, scale * (bandwidth * root), turn)
        return _Trial(phi, bandwidth, *_error(phi(y[~held]), x[~held], phi(y[held]), x[held]))

    best = min((attempt(s, None) for s in BANDWIDTHS), key=lambda trial: trial.error)
    for _ in range(ROUNDS if center.size <= WIDEST else 0):
        turn = _turn(best, y[rest])
        if turn is None:
            break
        near = [s for s in BANDWIDTHS if 1 / 1.5 < s / best.bandwidth < 1.5]
        better = min((attempt(s, turn) for s in near), key=lambda trial: trial.error)
        if better.error >= best.error:
            break
        best = better
    return _around(y[order[:count]], center, best.features.scale, best.features.turn)


def _around(y: Array, center: Array, scale: Array, turn: Array | None) -> Features:
    phi = Features(center, scale, np.zeros((center.size, 0)), turn)
    return replace(phi, landmarks=phi.within(y).T.reshape(center.size, len(y)))


def _turn(trial: _Trial, y: Array) -> Array | None:
    """√G of a regression, from its slopes at y (rows, m), by which u stay as long in the mean; None if it has none."""
    phi, m = trial.features, trial.features.center.size
    u, landmarks = phi.within(y), phi.landmarks.T
    pull = -((1 + phi.apart(u)) ** -1.5)
    total = np.zeros((m, m))
    for row, weight in zip(u, pull, strict=True):
        slope = trial.weights[:m] + (weight[:, None] * (row - landmarks)).T @ trial.weights[m:]
        total += slope @ slope.T
    if phi.turn is not None:
        total = phi.turn @ total @ phi.turn
    values, vectors = scipy.linalg.eigh(total, check_finite=False)
    turn = np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
    straight = (y - phi.center) / phi.scale
    turned = np.sum(np.square(straight @ turn))
    return turn * np.sqrt(np.sum(np.square(straight)) / turned) if turned > 0 else None


def _error(inner: Array, x: Array, held: Array, wanted: Array) -> tuple[float, Array]:
    """The least squared error of ridge regression, over its strengths, less a constant; and the weights then."""
    center, mean = inner.mean(axis=0), x.mean(axis=0)
    inner = inner - center
    values, vectors = scipy.linalg.eigh(inner.T @ inner, check_finite=False)
    if not values[-1] > np.finfo(float).tiny / LEAST:  # these samples are all the same
        return 0.0, np.zeros((inner.shape[1], x.shape[1]))
    turned, along = vectors.T @ (inner.T @ (x - mean)), (held - center) @ vectors
    # ‖along (turned / shrunk) − (wanted − mean)‖² as a quadratic form: one product for all strengths.
    square, cross = along.T @ along, along.T @ (wanted - mean)
    product, both = turned @ turned.T * square, np.sum(cross * turned, axis=1)
    shares = 1 / (np.maximum(values, 0.0) + STRENGTHS[:, None] * float(values[-1]))
    errors = np.sum((shares @ product) * shares, axis=1) - 2 * (shares @ both)
    best = int(np.argmin(errors))
    return float(errors[best]), vectors @ (shares[best][:, None] * turned)
