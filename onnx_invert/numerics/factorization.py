"""One factorisation of a constant matrix: its rank, condition, pseudo-inverse and null space."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.linalg import LinAlgError

from onnx_invert.numerics import tolerance
from onnx_invert.numerics.factors import Cholesky, Factors, Lu, Qr, Svd, decompose
from onnx_invert.numerics.gram import Tridiagonal, complement, gram, tridiagonalize

Array = NDArray[np.float64]
Method = Literal["lu", "cholesky", "qr", "svd"]


@dataclass(frozen=True, eq=False)
class Factorization:
    """One factorisation of a (K, M) matrix shared by everything asked of it.

    `threshold` is absolute, in the units of the matrix: singular values at or below it count as zero. It is
    the larger of `tolerance.rank_threshold` and `tolerance.svd_error`, which say why. `condition` is
    sigma_max over the smallest retained singular value, to 1%, and infinite for rank 0. `method` is what
    served.

    Holds float64 factors: K·M numbers, and n² more for "cholesky" and "qr", n = min(K, M); "svd" holds
    rank·(K + M). Each call of `pinv` and `null_space` computes its answer again from them.
    """

    shape: tuple[int, int]
    rank: int
    threshold: float
    condition: float
    sigma_max: float
    method: Method
    _factors: Factors = field(repr=False)
    _exponent: int = field(repr=False)  # the factors are those of the matrix times 2^-exponent

    def pinv(self, dtype: DTypeLike) -> NDArray[Any]:
        """The Moore–Penrose inverse (M, K) of the matrix without its dropped singular values, C-contiguous.

        Computed in float64 and rounded once. Raises OverflowError where an entry is too large for `dtype`.
        """
        x = self._factors.pinv(tolerance.eps(dtype))
        with np.errstate(over="ignore", under="ignore"):
            _scale(x, -self._exponent)
            rounded = x.astype(dtype, order="C", copy=False)
        if not np.isfinite(rounded).all():
            raise OverflowError(
                f"the pseudo-inverse of a matrix {self.shape} does not fit {np.dtype(dtype)}: "
                f"its smallest retained singular value is {self.sigma_max / self.condition:.3g}"
            )
        return rounded

    def null_space(self) -> Array:
        """Orthonormal rows x (K - rank, K) with x @ A = 0, in float64: the left null space.

        x @ A is zero up to the dropped singular values, at most `threshold`.
        """
        return np.ascontiguousarray(complement(self._factors.column_basis()))


def factorize(a: NDArray[Any], *, dtype: DTypeLike | None = None) -> Factorization:
    """Factorise a matrix (K, M) by the cheapest method that is sure of its rank and accurate enough.

    `dtype` is the type that the weights were stored in, where `a` has been converted since; it sets the rank
    threshold and the accuracy. All arithmetic is float64. A side of length 0 gives rank 0.

    The smaller Gram matrix decides the rank, where it can prove it (`_by_gram`). Then: square and regular,
    LU; condition² · eps64 well below eps(dtype), Cholesky of the Gram matrix; full rank, QR; anything else,
    and any doubt about the rank, the singular value decomposition.

    Raises ValueError for anything but two dimensions and for NaN or infinity, TypeError for complex weights.
    """
    a = np.asarray(a)
    if a.ndim != 2:
        raise ValueError(f"expected a matrix (K, M), got an array of shape {a.shape}")
    shape = (a.shape[0], a.shape[1])
    weights = np.dtype(a.dtype if dtype is None else dtype)
    tolerance.eps(a.dtype)  # refuses complex numbers and objects before they are converted
    work, exponent = _scaled(a)
    if exponent is None:
        nothing = Svd(np.empty((shape[0], 0)), np.empty(0), np.empty((0, shape[1])))
        return Factorization(shape, 0, 0.0, math.inf, 0.0, "svd", nothing, 0)
    served = _by_gram(work, weights)
    if served is None:
        work, _ = _scaled(a)  # what was tried first may have overwritten it
        served = _by_svd(work, weights)
    return Factorization(
        shape=shape,
        rank=served.rank,
        threshold=_ldexp(served.threshold, exponent),
        condition=served.sigma_max / served.sigma_min if served.rank else math.inf,
        sigma_max=_ldexp(served.sigma_max, exponent),
        method=served.method,
        _factors=served.factors,
        _exponent=exponent,
    )


@dataclass(frozen=True, eq=False)
class _Served:
    """Which method served the scaled matrix, and the singular values that it retained."""

    method: Method
    factors: Factors
    rank: int
    threshold: float
    sigma_max: float
    sigma_min: float


def _by_gram(work: Array, weights: np.dtype[Any]) -> _Served | None:
    """None where a Gram matrix cannot tell the rank or is not accurate enough. Overwrites `work`.

    Eigenvalues that are known, and above the threshold, are retained singular values. The others prove
    nothing: the square of a float32 threshold is near their error. Their `count` eigenvectors V do
    (Courant–Fischer): the `count` smallest singular values are at most ‖A V‖₂ for any orthonormal V, however
    inexact as eigenvectors. So where ‖A V‖_F is below the threshold, the rank is neither more nor less than
    what is retained.
    """
    shape = (work.shape[0], work.shape[1])
    reduced = tridiagonalize(gram(work))
    values = reduced.eigenvalues
    size, largest = len(values), float(values[-1])
    known = tolerance.GRAM_TRUST * tolerance.gram_error(shape) * largest
    threshold = _threshold(shape, weights, math.sqrt(float(values.sum())), math.sqrt(largest))
    count = int(np.searchsorted(values, max(known, (threshold * tolerance.RANK_DOUBT) ** 2)))
    if count == size:
        return None
    least = float(values[count])
    condition = math.sqrt(largest / least)
    try:
        method, factors = _serve(work, reduced, count, condition, threshold=threshold, weights=weights) or (None, None)
    except LinAlgError:
        return None
    if method is None or factors is None:
        return None
    return _Served(method, factors, size - count, threshold, math.sqrt(largest), math.sqrt(least))


def _serve(
    work: Array,
    reduced: Tridiagonal,
    count: int,
    condition: float,
    *,
    threshold: float,
    weights: np.dtype[Any],
) -> tuple[Method, Factors] | None:
    """The cheapest factors for a matrix of which all but the `count` smallest singular values are retained.

    None where those are not proven to be below the threshold.
    """
    values = reduced.eigenvalues
    if count == 0 and work.shape[0] == work.shape[1]:
        return "lu", Lu.of(work)
    error = tolerance.gram_accuracy(condition) * (tolerance.DROPPED_ERROR if count else 1.0)
    if error > tolerance.HEADROOM * tolerance.eps(weights):
        return ("qr", Qr.of(work)) if count == 0 else None
    if count and values[count - 1] * tolerance.GRAM_GAP**2 > values[count]:
        return None
    dropped = reduced.lowest_eigenvectors(count) if count else np.empty((len(values), 0))
    image = work @ dropped if work.shape[0] >= work.shape[1] else dropped.T @ work
    if np.linalg.norm(image) * tolerance.RANK_DOUBT > threshold:
        return None
    return "cholesky", Cholesky.of(work, reduced.packed, values, dropped, image)


def _by_svd(work: Array, weights: np.dtype[Any]) -> _Served:
    u, s, vt = decompose(work)
    sigma_max = float(s[0])
    shape = (work.shape[0], work.shape[1])
    threshold = _threshold(shape, weights, math.sqrt(float(s @ s)), sigma_max)
    rank = int(np.count_nonzero(s > threshold))
    factors = Svd(u[:, :rank], s[:rank], vt[:rank])
    return _Served("svd", factors, rank, threshold, sigma_max, float(s[rank - 1]) if rank else 0.0)


def _threshold(shape: tuple[int, int], weights: np.dtype[Any], frobenius: float, sigma_max: float) -> float:
    return max(tolerance.rank_threshold(weights, frobenius), tolerance.svd_error(shape) * sigma_max)


def _scaled(a: NDArray[Any]) -> tuple[Array, int | None]:
    """A float64 copy, times a power of two that brings its largest entry into [1/2, 1), and the exponent.

    Products of entries then neither overflow nor vanish. No exponent for zeros and empty matrices.
    """
    work = a.astype(np.float64, order="C")
    if work.size == 0:
        return work, None
    largest = max(float(work.max()), -float(work.min()))
    if not math.isfinite(largest):
        bad = np.argwhere(~np.isfinite(work))
        row, column = bad[0]
        raise ValueError(
            f"the matrix {work.shape} is not finite: {len(bad)} of {work.size} entries, "
            f"the first is {work[row, column]} at row {row}, column {column}"
        )
    if largest == 0.0:
        return work, None
    exponent = math.frexp(largest)[1]
    _scale(work, -exponent)
    return work, exponent


def _scale(x: Array, exponent: int) -> None:
    """Multiply by 2^exponent in place; in two steps where 2^exponent alone would overflow."""
    half = exponent // 2 if abs(exponent) > 1000 else 0
    if half:
        x *= 2.0**half
    if exponent != half:
        x *= 2.0 ** (exponent - half)


def _ldexp(x: float, exponent: int) -> float:
    try:
        return math.ldexp(x, exponent)
    except OverflowError:
        return math.inf
