"""What a regression of x on y is linear in: y itself, and inverse multiquadrics around some of the data's y.

    u = (y − ȳ) / (s √m · std y),    φ(u) = [u, 1 / √(1 + ‖u − cⱼ‖²)],  j = 1 … p

The landmarks c are p of the data's own u: ridge regression on φ is Nyström's approximation to kernel ridge
regression. The bandwidth s is the one of `BANDWIDTHS` that predicts a held-out fifth best, tried with few landmarks
on a part of the data, x mixed into fewer numbers (ridge.py, `Sketch`).
Source: C. Williams & M. Seeger, Using the Nyström method to speed up kernel machines, NIPS 2000; C. Micchelli,
Interpolation of scattered data, Constructive Approximation 2, 1986.
"""

from __future__ import annotations

from dataclasses import dataclass

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
"""Landmarks that they are tried with."""

FOLD = 5
"""One sample in so many is held out."""


@dataclass(frozen=True)
class Features:
    """φ; `center`, `scale` (m) with s √m in the scale, `landmarks` (m, p)."""

    center: Array
    scale: Array
    landmarks: Array

    @property
    def size(self) -> int:
        """m + p."""
        return int(np.sum(self.landmarks.shape))

    def __call__(self, y: Array) -> Array:
        """(rows, m) → (rows, m + p)."""
        u = (y - self.center) / self.scale
        apart = np.sum(np.square(u), axis=1)[:, None] - 2 * (u @ self.landmarks)
        apart += np.sum(np.square(self.landmarks), axis=0)
        return np.hstack([u, 1 / np.sqrt(1 + np.maximum(apart, 0.0))])


def features(y: Array, x: Array, center: Array, scale: Array, count: int) -> Features:
    """φ with `count` landmarks at most, of the rows y (N, m); x (N, k) is what they are to tell of."""
    order = np.random.default_rng(len(y)).permutation(len(y))
    held = np.zeros(len(y), bool)
    held[order[::FOLD]] = True
    root = np.sqrt(max(center.size, 1))
    bandwidth = 1.0
    if count and held.sum() > 1:
        chosen = order[~held[order]][: min(count, TRIED)]
        errors = []
        for s in BANDWIDTHS:
            trial = _around(y[chosen], center, scale * (s * root))
            errors.append(_error(trial(y[~held]), x[~held], trial(y[held]), x[held]))
        bandwidth = BANDWIDTHS[int(np.argmin(errors))]
    return _around(y[order[:count]], center, scale * (bandwidth * root))


def _around(y: Array, center: Array, scale: Array) -> Features:
    return Features(center, scale, ((y - center) / scale).T.reshape(center.size, len(y)))


def _error(inner: Array, x: Array, held: Array, wanted: Array) -> float:
    """The least squared error of ridge regression, over its strengths, where it has not seen the samples."""
    center, mean = inner.mean(axis=0), x.mean(axis=0)
    inner = inner - center
    values, vectors = scipy.linalg.eigh(inner.T @ inner, check_finite=False)
    if not values[-1] > np.finfo(float).tiny / LEAST:  # these samples are all the same
        return 0.0
    turned, along = vectors.T @ (inner.T @ (x - mean)), (held - center) @ vectors
    # ‖along (turned / shrunk) − (wanted − mean)‖² as a quadratic form: one product for all strengths.
    square, cross = along.T @ along, along.T @ (wanted - mean)
    product, both = turned @ turned.T * square, np.sum(cross * turned, axis=1)
    shares = 1 / (np.maximum(values, 0.0) + STRENGTHS[:, None] * float(values[-1]))
    return float(np.min(np.sum((shares @ product) * shares, axis=1) - 2 * (shares @ both)))
