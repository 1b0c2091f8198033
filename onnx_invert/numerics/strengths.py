"""The strength of a ridge for each direction of x apart: y tells much of some, and of others next to nothing.

Of features Φ = U √Λ Vᵀ (N, p), centred, and unknowns X (N, n), centred, ridge regression of strength λ leaves

    R(λ) = ‖X‖² − Σⱼ (ωⱼ + 2λ) / (ωⱼ + λ)² ‖vⱼᵀ ΦᵀX‖²,    GCV(λ) = R(λ) / (N − 1 − Σⱼ ωⱼ / (ωⱼ + λ))²

ω being the eigenvalues Λ. The λ of least GCV is the common one. The directions Q (k, n) are the principal ones of what
is fitted with it, and each has a strength of its own: the λ with the least

    N log GCV(λ of X qᵀ) + log² (λ / common)

N log GCV is −2 log of a likelihood, but for a constant, and the other term that of a prior: a strength is within e of
the common one, unless the data say otherwise. On few samples it is next to the common one, on thousands it is free. A
direction in which the mean alone, λ = ∞, has a value less by `EVIDENCE` is not fitted; what is beyond Q is one more
such direction, with the common strength or none.

Where nearly all freedom N − 1 − Σ is used up, GCV is the quotient of two small numbers, and the least of several is
chance: `SPARE` √N of it count as used up.
Source: G. Golub, M. Heath & G. Wahba, Generalized cross-validation, Technometrics 21, 1979; L. Breiman & J. Friedman,
Predicting multivariate responses in multiple linear regression, J. R. Stat. Soc. B 59, 1997, for directions of x.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnx_invert.numerics.kernel import LEAST

Array = NDArray[np.float64]

GRID = LEAST * np.geomspace(1.0, 100 / LEAST, 91)
"""Strengths that are tried, relative to the largest eigenvalue."""

MOST_DIRECTIONS = 256
"""That have a strength of their own; what is fitted in all others has the common one."""

EVIDENCE = 10.0
"""That nothing is to be fitted in a direction, on the scale of −2 log of a likelihood."""

SPARE = 0.5
"""Of √N: degrees of freedom that no regression may use."""

EXACT = 1e-14
"""Of what there is, what rounding leaves over in place of nothing."""


def common(values: Array, turned: Array, total: float, count: int) -> float:
    """The strength for all directions: `turned` is VᵀΦᵀX (p, n), `total` ‖X‖², `count` N."""
    squares = np.sum(np.square(turned), axis=1)[:, None]
    strengths, scores = _scores(values, squares, np.array([total]), count)
    return float(strengths[np.argmin(scores[:, 0])])


def single(values: Array, along: Array, totals: Array, count: int, start: float) -> Array:
    """Those (k) of directions, ∞ where the mean is as good: `along` is VᵀΦᵀXQᵀ (p, k), `totals` (k) the ‖X qᵀ‖²,
    `start` the common one."""
    strengths, scores = _scores(values, np.square(along), totals, count)
    scores = count * scores + np.square(np.log(strengths / start))[:, None]
    return np.where(_is_idle(scores.min(axis=0), totals, count), np.inf, strengths[np.argmin(scores, axis=0)])


def is_idle(values: Array, squares: Array, total: float, count: int, strength: float) -> bool:
    """True if the mean is as good as a regression of this strength on what has ‖vⱼᵀ ΦᵀX‖² = `squares` (p)."""
    _, scores = _scores(values, squares[:, None], np.array([total]), count, np.array([strength]))
    return bool(_is_idle(count * scores[0], np.array([total]), count)[0])


def _is_idle(scores: Array, totals: Array, count: int) -> Array:
    freedom = count - 1 - SPARE * np.sqrt(count)
    alone = np.log(np.maximum(totals, np.finfo(float).tiny)) - 2 * np.log(max(freedom, np.finfo(float).tiny))
    return np.asarray(count * alone < scores - EVIDENCE)


def _scores(
    values: Array, squares: Array, totals: Array, count: int, strengths: Array | None = None
) -> tuple[Array, Array]:
    """The strengths (g), and log GCV (g, k) of each for the columns of `squares` (p, k)."""
    if strengths is None:
        strengths = max(float(values.max(initial=0.0)), np.finfo(float).tiny) * GRID
    shrunk = values + strengths[:, None]
    residual = totals - ((values + 2 * strengths[:, None]) / np.square(shrunk)) @ squares
    residual = np.maximum(residual, np.maximum(EXACT * totals, np.finfo(float).tiny))
    freedom = (count - 1 - SPARE * np.sqrt(count) - np.sum(values / shrunk, axis=1))[:, None]
    logs = np.log(residual) - 2 * np.log(np.maximum(freedom, np.finfo(float).tiny))
    return strengths, np.where(freedom > 0, logs, np.inf)


def directions(values: Array, turned: Array, strength: float) -> Array:
    """Q (k, n), orthonormal: the first ones of what is fitted, all of them where they are no more than
    `MOST_DIRECTIONS`."""
    p, n = turned.shape
    fitted = turned * (np.sqrt(values) / (values + strength))[:, None]
    most = min(MOST_DIRECTIONS, p, n)
    if n <= p:
        found = scipy.linalg.eigh(fitted.T @ fitted, subset_by_index=(n - most, n - 1), check_finite=False)[1]
        return np.asarray(found[:, ::-1].T)
    found = scipy.linalg.eigh(fitted @ fitted.T, subset_by_index=(p - most, p - 1), check_finite=False)[1]
    # Small ones are rounded in a product with itself, and no longer orthogonal.
    return np.asarray(scipy.linalg.qr(fitted.T @ found[:, ::-1], mode="economic", check_finite=False)[0].T)
