"""Coordinates of a vector x (K): those that x @ W fixes, and those that it loses.

    W = U S Vᵀ (SVD), A (K, r) orthonormal on the directions of the r largest singular values, N (K, K − r) on the rest

    t = x A = y T,  T = V S⁻¹ Uᵀ A          z = x N          x = t Aᵀ + z Nᵀ

N needs no product of its own size. A is turned until its first r rows S = A₁ are symmetric and positive
(polar factor). Then the block reflector I − Y (I + S)⁻¹ Yᵀ, Y = A + E₁, is orthogonal with −A in its first
columns, N in the others, and with C = (I + S)⁻¹ A₂ᵀ

    z = x₂ − (x₁ + t) C          x₁ = t S − z A₂,  x₂ = z + (x₁ + t) C

at r (K − r) products a vector instead of K (K − r). Every factor has norm at most 1: only T carries W's condition.
Source: R. Schreiber & B. Parlett, Block reflectors: theory and computation, SIAM J. Numer. Anal. 25, 1988.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnx_invert.numerics import tolerance
from onnx_invert.numerics.gram import complement

Array = NDArray[np.float64]

SMALL = 1 << 15
"""Numbers of N up to which it is multiplied out: one product is then faster than three."""


GRAM_TRUST = 1e-8
"""λ_min / λ_max of W Wᵀ from which it serves instead of a singular value decomposition: a condition up to 1e4."""


@dataclass(frozen=True, eq=False)
class Reflector:
    """S (r, r), A₂ (K − r, r), C (r, K − r) and T (M, r) of the equations above."""

    top: Array
    bottom: Array
    blend: Array
    project: Array


@dataclass(frozen=True, eq=False)
class Coordinates:
    """How x comes back from y = x @ W and z. Shapes: `pinv` (M, K), `null` (K, K − rank).

    `condition` is that of undoing the retained directions. `dropped` counts directions that W keeps, but too
    faintly to be undone within the condition that was asked for: they are among the latent ones. One of `null`
    and `reflector` is there, neither where nothing is lost.
    """

    rank: int
    dropped: int
    condition: float
    pinv: Array | None
    null: Array | None
    reflector: Reflector | None


def coordinates(weight: NDArray[np.generic], cap: float | None = None) -> Coordinates:
    """The coordinates for a matrix W (K, M); directions fainter than 1 / `cap` of the strongest count as lost.

    Raises:
        ValueError: W is not finite.
    """
    work = np.asarray(weight, dtype=np.float64)
    if not np.isfinite(work).all():
        raise ValueError(f"{int(np.sum(~np.isfinite(work)))} of its {work.size} numbers are not finite")
    size = work.shape[0]
    u, s, inverse = _singular(work)
    largest = float(s[0]) if s.size else 0.0
    noise = max(
        tolerance.rank_threshold(weight.dtype, float(np.linalg.norm(s))), tolerance.svd_error(work.shape) * largest
    )
    full = int(np.count_nonzero(s > noise))
    rank = full if cap is None else int(np.count_nonzero(s > max(noise, largest / cap)))
    if rank == 0:
        return Coordinates(0, full, 1.0, None, np.eye(size), None)
    basis, inverse = u[:, :rank], inverse[:, :rank]
    condition = largest / float(s[rank - 1])
    pinv = inverse @ basis.T
    lost = size - rank
    if lost == 0:
        return Coordinates(rank, full - rank, condition, pinv, None, None)
    apart = rank * lost + inverse.size
    if size * lost <= SMALL or 2 * apart > size * lost:
        return Coordinates(rank, full - rank, condition, pinv, complement(basis).T, None)
    left, stretch, right = scipy.linalg.svd(basis[:rank], check_finite=False)
    turn = right.T @ left.T
    turned = basis @ turn
    top = (left * stretch) @ left.T
    blend = (left / (1 + stretch)) @ left.T @ turned[rank:].T
    return Coordinates(rank, full - rank, condition, None, None, Reflector(top, turned[rank:], blend, inverse @ turn))


def _singular(work: Array) -> tuple[Array, Array, Array]:
    """U (K, k), the singular values in falling order, and V S⁻¹ (M, k); k = min(K, M)."""
    rows, columns = work.shape
    if rows >= columns:
        q, r = scipy.linalg.qr(work, mode="economic", check_finite=False)
        u, s, vt = scipy.linalg.svd(r, check_finite=False)
        return q @ u, s, vt.T / np.where(s > 0, s, 1.0)
    values, vectors = scipy.linalg.eigh(work @ work.T, check_finite=False)
    if values[0] > GRAM_TRUST * values[-1]:
        u, s = vectors[:, ::-1], np.sqrt(values[::-1])
        inverse = (work.T @ u) / np.square(s)
        # Squaring W cost half of the digits; one Newton step, P (2 I − W P), squares what is wrong.
        return u, s, inverse @ (2 * np.eye(rows) - u.T @ (work @ inverse))
    u, s, vt = scipy.linalg.svd(work, full_matrices=False, check_finite=False)
    return u, s, vt.T / np.where(s > 0, s, 1.0)
