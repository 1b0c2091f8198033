"""The four ways to hold a factored matrix A (K, M): each knows A⁺ and a basis of the column space.

All are float64. None decides which of them is fit for a matrix: `factorization.factorize` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, blas, lapack, qr, solve_triangular, svd

from onnx_invert.numerics.gram import complement
from onnx_invert.numerics.tolerance import HEADROOM, gram_accuracy

Array = NDArray[np.float64]


class Factors(Protocol):
    """What a factorisation is asked."""

    def pinv(self, needed: float) -> Array:
        """A⁺ (M, K), a new array. `needed` is the eps that its relative error should stay below."""

    def column_basis(self) -> Array:
        """Independent columns (K, rank) that span the column space of A."""


@dataclass(frozen=True, eq=False)
class Lu:
    """P L U = Aᵀ, A square and regular. Relative error of the inverse: eps64 · condition."""

    packed: Array
    pivots: NDArray[np.int32]

    @classmethod
    def of(cls, a: Array) -> Lu:
        """Overwrites `a`; raises LinAlgError where a pivot is zero."""
        packed, pivots, info = lapack.dgetrf(a.T, overwrite_a=1)
        if info > 0:
            raise LinAlgError("zero pivot")
        return cls(packed, pivots)

    def pinv(self, needed: float) -> Array:
        """By LAPACK's getri."""
        lwork = int(lapack.dgetri_lwork(len(self.pivots))[0])
        inverse, _ = lapack.dgetri(self.packed, self.pivots, lwork=lwork)
        return np.asarray(inverse.T, dtype=np.float64)

    def column_basis(self) -> Array:
        """All of it: A is regular."""
        return np.eye(len(self.pivots))


@dataclass(frozen=True, eq=False)
class Cholesky:
    """RᵀR = G + N D Nᵀ, with G the Gram matrix of the smaller side and N (n, d) its dropped directions.

    D lifts the dropped eigenvalues to the smallest retained one, and `a` has the dropped directions
    taken out, so

        A⁺ = (RᵀR)⁻¹ Aᵀ  (K ≥ M)    or    Aᵀ (RᵀR)⁻¹  (K < M).

    Relative error: eps64 · condition². Where that is not good enough and nothing was dropped, a step of
    Newton–Schulz, X + (I - X A) X, makes it eps64 · condition; N itself is no better than eps64 · condition².
    Source: Golub & Van Loan, Matrix Computations, 5.3; Ben-Israel & Greville, Generalized Inverses, 7.7.
    """

    a: Array
    upper: Array
    dropped: Array
    condition: float

    @classmethod
    def of(cls, a: Array, gram: Array, eigenvalues: Array, dropped: Array, image: Array) -> Cholesky:
        """`image` is A N (K ≥ M) or Nᵀ A (K < M).

        Overwrites `a` and the upper triangle of `gram`; raises LinAlgError where that is not positive.
        """
        count = dropped.shape[1]
        retained = eigenvalues[count:]
        if count:
            gram += (dropped * (retained[0] - eigenvalues[:count])) @ dropped.T
            if a.shape[0] >= a.shape[1]:
                a -= image @ dropped.T
            else:
                a -= dropped @ image
        upper, info = lapack.dpotrf(gram, lower=0, clean=0, overwrite_a=1)
        if info:
            raise LinAlgError("the Gram matrix is not positive definite")
        return cls(a, upper, dropped, float(np.sqrt(retained[-1] / retained[0])))

    def pinv(self, needed: float) -> Array:
        """By the inverse of RᵀR, times Aᵀ: faster than two triangular solves for as many columns as A has."""
        tall = self.a.shape[0] >= self.a.shape[1]
        inverse, _ = lapack.dpotri(self.upper, lower=0)
        # A is in C order, so that A.T is what BLAS reads without a copy.
        x = np.asarray(blas.dsymm(1.0, inverse, self.a.T, side=0 if tall else 1, lower=0))
        if not self.dropped.size and gram_accuracy(self.condition) > HEADROOM * needed:
            residual = x @ self.a if tall else self.a @ x
            np.negative(residual, out=residual)
            residual.flat[:: len(residual) + 1] += 1.0
            x += residual @ x if tall else x @ residual
        return x

    def column_basis(self) -> Array:
        """The directions that were not dropped (K < M), or what A makes of them (K ≥ M)."""
        if self.a.shape[0] < self.a.shape[1]:
            return complement(self.dropped).T
        return self.a @ complement(self.dropped).T if self.dropped.size else self.a


@dataclass(frozen=True, eq=False)
class Qr:
    """Q R = A (K ≥ M) or Aᵀ (K < M), A of full rank. Relative error of A⁺: eps64 · condition."""

    q: Array
    r: Array
    tall: bool

    @classmethod
    def of(cls, a: Array) -> Qr:
        """Overwrites `a`."""
        tall = a.shape[0] >= a.shape[1]
        q, r = qr(a if tall else a.T, mode="economic", overwrite_a=True, check_finite=False)
        return cls(q, r, tall)

    def pinv(self, needed: float) -> Array:
        """R⁻¹ Qᵀ, or its transpose."""
        x = solve_triangular(self.r, self.q.T, check_finite=False)
        return np.asarray(x if self.tall else x.T, dtype=np.float64)

    def column_basis(self) -> Array:
        """Q, or all of it where A is wide."""
        return self.q if self.tall else np.eye(len(self.r))


@dataclass(frozen=True, eq=False)
class Svd:
    """U S Vᵀ = A, only the retained singular values. Right for every matrix, and the slowest."""

    u: Array
    s: Array
    vt: Array

    def pinv(self, needed: float) -> Array:
        """V S⁻¹ Uᵀ."""
        return (self.vt.T / self.s) @ self.u.T

    def column_basis(self) -> Array:
        """U."""
        return self.u


def decompose(a: Array) -> tuple[Array, Array, Array]:
    """The thin u, s, vᵀ of A. gesdd, and gesvd where its iteration does not converge."""
    try:
        u, s, vt = svd(a, full_matrices=False, check_finite=False)
    except LinAlgError:
        u, s, vt = svd(a, full_matrices=False, check_finite=False, lapack_driver="gesvd")
    return u, s, vt
