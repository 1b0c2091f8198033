"""Proofs that I + D K is regular for every diagonal D between two ends: what x + A h(B x + b) needs to be one-to-one.

The Jacobian of φ(s) = s + K h(s) is I + K D, D the slopes of h, and det(I + K D) = det(I + D K). If no D within
[low, high] makes it singular, then φ is a bijection: the set of its Jacobians is compact, so that their inverses are
bounded (Hadamard and Lévy; for h with kinks the same holds of Clarke's Jacobian, which is such a matrix too).
Three conditions are tried, each enough by itself:

    field of values   λ_min((K + Kᵀ)/2) > −1/max D, D ≥ 0: (I + D K) v = 0 says vᵀD⁻¹v = −vᵀK v
    dominance         the comparison matrix, min|1 + dᵢ kᵢᵢ| on the diagonal and −max|dᵢ kᵢⱼ| beside it, is an
                      M-matrix: then I + D K is an H-matrix. This takes in triangular K
    vertices          det(I + D K) is linear in each dᵢ, so that its extremes lie at the corners of the box

Sources: J. Hadamard, Sur les transformations ponctuelles, 1906; A. Berman & R. Plemmons, Nonnegative Matrices in the
Mathematical Sciences, 1994, chapter 6; R. van den Berg et al., Sylvester normalizing flows, 2018, for triangular K.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST_CORNERS = 12
"""Numbers up to which all 2^m corners are tried."""

ROUNDING = 1e-5
"""K comes from float32 weights: what is not away from singular by this share of its size does not count."""


def proven(k: Array, low: Array, high: Array) -> str:
    """The condition that holds of K (m, m) and the slopes `low` ≤ dᵢ ≤ `high` (m); "" where none does."""
    slack = ROUNDING * (1 + float(np.max(np.maximum(np.abs(low), np.abs(high)))) * float(np.linalg.norm(k, 2)))
    if np.all(low >= 0) and _by_field_of_values(k, float(np.max(high)), slack):
        return "the symmetric part of its matrix is above −1 / the steepest slope"
    if _by_dominance(k, low, high, slack):
        return "its Jacobian is an H-matrix for all slopes"
    if len(k) <= MOST_CORNERS and _at_corners(k, low, high, slack):
        return "its determinant has one sign at all ends of the slopes"
    return ""


def _by_field_of_values(k: Array, steepest: float, slack: float) -> bool:
    return steepest == 0 or float(np.linalg.eigvalsh((k + k.T) / 2)[0]) > -(1 - slack) / steepest


def _by_dominance(k: Array, low: Array, high: Array, slack: float) -> bool:
    ends = np.stack([1 + low * np.diag(k), 1 + high * np.diag(k)])
    if np.any(ends[0] * ends[1] <= 0):
        return False
    steepest = np.maximum(np.abs(low), np.abs(high))
    compared = -steepest[:, None] * np.abs(k)
    np.fill_diagonal(compared, np.min(np.abs(ends), axis=0) - slack)
    # A matrix with no positive entry beside the diagonal is a regular M-matrix if it takes some positive v to a
    # positive one; v is the solution for 1.
    try:
        v = np.linalg.solve(compared, np.ones(len(k)))
    except np.linalg.LinAlgError:
        return False
    return bool(np.all(np.isfinite(v)) and np.all(v > 0) and np.all(compared @ v > 0.5))


def _at_corners(k: Array, low: Array, high: Array, slack: float) -> bool:
    m = len(k)
    corners = (np.arange(2**m)[:, None] >> np.arange(m)) & 1
    slopes = np.where(corners, high, low)
    jacobians = np.eye(m) + slopes[:, :, None] * k
    signs, _ = np.linalg.slogdet(jacobians)
    least = np.linalg.svd(jacobians, compute_uv=False)[:, -1]
    return bool(np.all(signs == signs[0]) and signs[0] != 0 and np.all(least > slack))
