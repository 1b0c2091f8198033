"""Every tolerance of the package `numerics`, with its reason.

u is half of eps, the error of one rounding; sigma are singular values, lambda = sigma² the
eigenvalues of a Gram matrix (AᵀA or AAᵀ, the smaller); everything is computed in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

EPS64 = float(np.finfo(np.float64).eps)

GRAM_TRUST = 100.0
"""An eigenvalue of a Gram matrix counts as known when it is this many times its own error
(`gram_error`): then sigma is known to 0.5%, which the stated condition (to 1%) needs."""

RANK_DOUBT = 1.01
"""Closer than this factor to the threshold, a singular value is not judged by way of a Gram matrix
but from a singular value decomposition. It is above the 0.5% of `GRAM_TRUST`."""

GRAM_GAP = 2.0
"""The dropped singular values stand at least this factor below the retained ones where dropped
directions are taken from a Gram matrix: their error, eps·cond² / (1 - 1/gap²), stays near eps·cond²."""

DROPPED_ERROR = 100.0
"""Dropped directions from a Gram matrix are off by up to this many eps·cond²: LAPACK's stemr leaves residuals
of tens of eps where eigenvalues cluster (38 seen for a product of rank 128, 256 x 256; 0.2 to 5 elsewhere)."""

ORTHOGONAL = EPS64**0.5
"""Vectors this close to orthogonal (Frobenius norm of VᵀV - I) are orthogonal to eps64 after one correction,
which squares the defect. LAPACK's are closer by far, except where it has failed on a cluster."""

HEADROOM = 0.1
"""'Well below' one rounding: an error of this many eps is allowed before the result is rounded."""


def eps(dtype: DTypeLike) -> float:
    """Distance from 1 to the next number of `dtype`; float64's for integers, which are exact in it.

    Knows float16, bfloat16 (of ml_dtypes), float32, float64; raises TypeError for anything else.
    """
    kind = np.dtype(dtype)
    if kind.name == "bfloat16":
        return 2.0**-7
    if kind in (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)):
        return float(np.finfo(kind).eps)
    if np.issubdtype(kind, np.integer):
        return EPS64
    raise TypeError(f"a matrix of {kind} has no tolerance: expected float16, bfloat16, float32 or float64")


def rank_threshold(dtype: DTypeLike, frobenius: float) -> float:
    """Singular values at or below eps(dtype) · ‖A‖_F count as zero.

    `dtype` is the type that the weights were stored in, not the one they are computed in. Storing A moves
    every entry by at most u of itself, hence (Weyl) every singular value by at most

        ‖E‖₂ ≤ ‖E‖_F ≤ u ‖A‖_F,

    so a column that is a copy, a dead unit or a product of thinner matrices leaves singular values no
    larger than that. The factor 2 from u to eps is margin. Entries below the normal range of `dtype` lose
    more than u of themselves; ‖A‖_F covers that while most of the matrix is inside the range.

    numpy.linalg.matrix_rank cuts at max(K, M) · eps(dtype) · sigma_max, at least √max(K, M) times higher: it
    covers the arithmetic of a decomposition in `dtype`. Here that is done in float64 and costs `svd_error`.
    """
    return eps(dtype) * frobenius


def svd_error(shape: tuple[int, int]) -> float:
    """Error of a computed singular value relative to the largest.

    LAPACK leaves up to this where exact arithmetic leaves zero. It decides the rank of float64 weights and
    of integers; up to a million rows or columns it is nothing beside the threshold of a narrower type.
    """
    return max(shape) * EPS64


def gram_error(shape: tuple[int, int]) -> float:
    """Error of an eigenvalue of a Gram matrix relative to the largest.

    Forming the matrix sums max(K, M) products; its eigenvalues take a few roundings more, which 16 covers
    where the matrix is small.
    """
    return (max(shape) + 16) * EPS64


def gram_accuracy(condition: float) -> float:
    """Relative error of a pseudo-inverse from a Gram matrix: the condition enters squared."""
    return EPS64 * condition**2
