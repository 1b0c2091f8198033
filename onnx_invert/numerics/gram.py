"""Eigenvalues, and a few eigenvectors, of a Gram matrix from one tridiagonalisation.

Singular values from here have an absolute error of about sqrt(eps64) · sigma_max in the worst case; whoever
asks decides with `tolerance.gram_error` whether that is good enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, blas, eigh_tridiagonal, lapack

from onnx_invert.numerics.tolerance import ORTHOGONAL

Array = NDArray[np.float64]

_BLOCK = 256


def gram(a: Array) -> Array:
    """The smaller of AᵀA (K ≥ M) and AAᵀ (K < M), in Fortran order for LAPACK. `a` is in C order.

    By scipy's BLAS, like everything after it: numpy brings a BLAS of its own, and the idle threads of the one
    go on spinning for a while, on the processors that the other then needs.
    """
    tall = a.shape[0] >= a.shape[1]
    product = np.asarray(blas.dsyrk(1.0, a.T, trans=0 if tall else 1))
    for start in range(0, len(product), _BLOCK):  # the lower triangle from the upper, a few columns at a time
        stop = start + _BLOCK
        block = product[start:stop, start:stop]
        block += np.triu(block, 1).T
        product[stop:, start:stop] = product[start:stop, stop:].T
    return product


@dataclass(frozen=True, eq=False)
class Tridiagonal:
    """G = Q T Qᵀ, with Q as the reflectors that LAPACK's sytrd leaves below the diagonal of G."""

    packed: Array
    diagonal: Array
    off_diagonal: Array
    tau: Array
    eigenvalues: Array  # ascending

    def lowest_eigenvectors(self, count: int) -> Array:
        """Orthonormal basis (n, count) of the eigenvectors of the `count` smallest eigenvalues.

        Raises LinAlgError where the vectors that LAPACK returns are not a basis.
        """
        _, vectors = eigh_tridiagonal(
            self.diagonal, self.off_diagonal, select="i", select_range=(0, count - 1), check_finite=False
        )
        reflectors = np.asfortranarray(self.packed[1:, :-1])
        lower = np.asfortranarray(vectors[1:])
        vectors[1:] = _apply_reflectors(reflectors, self.tau, lower)
        defect = vectors.T @ vectors - np.eye(count)
        if np.linalg.norm(defect) > ORTHOGONAL:
            raise LinAlgError("the eigenvectors of a cluster came back far from orthogonal")
        basis = vectors - 0.5 * (vectors @ defect)  # squares the defect
        return np.asarray(basis, dtype=np.float64)


def tridiagonalize(matrix: Array) -> Tridiagonal:
    """Overwrites the lower triangle of `matrix` (Fortran order); its diagonal and upper triangle are kept."""
    n = matrix.shape[0]
    if n == 1:
        return Tridiagonal(matrix, matrix[0].copy(), np.empty(0), np.empty(0), matrix[0].copy())
    kept = np.diagonal(matrix).copy()
    lwork = int(lapack.dsytrd_lwork(n, lower=1)[0])
    packed, diagonal, off_diagonal, tau, _ = lapack.dsytrd(matrix, lower=1, lwork=lwork, overwrite_a=1)
    np.fill_diagonal(packed, kept)
    eigenvalues = eigh_tridiagonal(
        diagonal, off_diagonal, eigvals_only=True, check_finite=False, lapack_driver="sterf"
    )
    return Tridiagonal(packed, diagonal, off_diagonal, tau, eigenvalues)


def complement(basis: Array) -> Array:
    """Orthonormal rows (K - r, K) orthogonal to the r independent columns of `basis` (K, r)."""
    size, rank = basis.shape
    if rank in (0, size):
        return np.eye(size)[rank:]
    packed = np.array(basis, order="F")
    lwork = int(lapack.dgeqrf_lwork(size, rank)[0])
    packed, tau, _, _ = lapack.dgeqrf(packed, lwork=lwork, overwrite_a=1)
    last = np.zeros((size, size - rank), order="F")
    np.fill_diagonal(last[rank:], 1.0)
    return _apply_reflectors(packed, tau, last).T


def _apply_reflectors(packed: Array, tau: Array, columns: Array) -> Array:
    """Q @ columns for the Q whose reflectors are packed below the diagonal; overwrites `columns`."""
    _, work, _ = lapack.dormqr("L", "N", packed, tau, columns, -1)
    product, _, _ = lapack.dormqr("L", "N", packed, tau, columns, int(work[0]), overwrite_c=1)
    return np.asarray(product, dtype=np.float64)
