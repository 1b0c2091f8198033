"""What a round trip measured, and when it holds: errors, tolerances, samples lost to rounding.

The tolerance of a sample is c · eps · κ, κ its own measured amplification of rounding (verify.py). A promise
holds if rounding explains the error of every sample, and leaves at least two digits of nine samples in ten.
The others are counted as lost: where tanh has saturated, say, float32 does not hold x any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Batch = dict[str, Array]

SAFETY = 32.0
"""c: rounding adds up over the sums inside a product and over both directions, and κ is a random sample."""

NOISE = 16.0
"""η in units of eps: well above what rounding does by itself, small enough to stay linear."""

TWO_DIGITS = 1e-2
"""A sample with a larger error than this is lost to rounding, even where its condition explains it."""

MOST_LOST = 0.1
"""The share of samples that may be lost to rounding before the inverse is called no inverse."""


@dataclass(frozen=True)
class Trip:
    """The relative errors of one round trip, one number a sample, and what each is held to.

    `amplification` is κ per sample, NaN where it was not measured, as it decides nothing; `tolerances` are c · eps ·
    κ, or the tolerance that was asked for (`strict`).
    """

    errors: NDArray[np.float64]
    amplification: NDArray[np.float64]
    tolerances: NDArray[np.float64]
    promised: bool
    strict: bool = False

    @property
    def median(self) -> float:
        """The median error; NaN without samples."""
        return float(np.median(self.errors)) if self.errors.size else float("nan")

    @property
    def worst(self) -> float:
        """The largest error; infinite where a result is not finite."""
        return float(np.max(self.errors)) if self.errors.size else float("nan")

    @property
    def tolerance(self) -> float:
        """The largest tolerance of a sample."""
        return float(np.max(self.tolerances)) if self.tolerances.size else float("nan")

    @property
    def broken(self) -> int:
        """How many samples rounding does not explain, or did not come back finite."""
        return int(np.count_nonzero(~self._explained))

    @property
    def lost(self) -> int:
        """How many samples rounding does explain, but of which it leaves less than two digits."""
        return 0 if self.strict else int(np.count_nonzero(self._explained & (self.errors > TWO_DIGITS)))

    @property
    def unsolved(self) -> int:
        """How many samples are broken or lost: those that a solver did not solve."""
        return self.broken + self.lost

    @property
    def holds(self) -> bool:
        """True if no sample is broken and few are lost. No samples: nothing was shown."""
        return bool(self.errors.size) and self.broken == 0 and self.lost <= MOST_LOST * self.errors.size

    @property
    def _explained(self) -> NDArray[np.bool_]:
        return (self.errors <= self.tolerances) & np.isfinite(self.errors)


@dataclass(frozen=True)
class RoundTrip:
    """What was measured. `solver` says that the inverse solves equations, so that single samples may stay unsolved;
    `clamped` counts values outside an image, per node; `skipped` samples on which
    f itself is not finite; `source` says where the samples came from."""

    samples: int
    source: str
    x: Trip
    y: Trip
    drawn: Trip | None
    clamped: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    solver: bool = False

    @property
    def unsolved(self) -> int:
        """The samples of a solver that do not keep what was promised; 0 for a closed form."""
        return max((trip.unsolved for trip in self.promised), default=0) if self.solver else 0

    @property
    def only_x_fails(self) -> bool:
        """True of a solver that reproduces all y but a few, some by other x than they came from."""
        count = self.y.errors.size
        return count > 0 and self.y.unsolved <= MOST_LOST * count and self.y.unsolved < self.x.unsolved

    @property
    def only_drawn_fails(self) -> bool:
        """True if every y that some x gives is reproduced, and its x, and other y are not."""
        return self.drawn is not None and not self.drawn.holds and self.x.holds and self.y.holds

    @property
    def promised(self) -> list[Trip]:
        """The trips that the guarantee promises."""
        return [trip for trip in (self.x, self.y, self.drawn) if trip is not None and trip.promised]

    @property
    def passed(self) -> bool:
        """True if every promised trip holds; of a solver, if it solves all but a few samples."""
        if self.solver:
            return all(trip.errors.size and trip.unsolved <= MOST_LOST * trip.errors.size for trip in self.promised)
        return all(trip.holds for trip in self.promised)

    @property
    def tolerance(self) -> float:
        """The largest tolerance that a sample of a promised trip was held to."""
        return max((trip.tolerance for trip in self.promised), default=float("nan"))

    @property
    def needed(self) -> float:
        """The tolerance that would have passed."""
        return max((trip.worst for trip in self.promised), default=float("nan"))


def compare(
    got: Sequence[Batch],
    true: Sequence[Batch],
    shaken: Sequence[Sequence[Batch]],
    names: Sequence[str],
    counts: Sequence[int],
    *,
    eps: float,
    promised: bool,
    rtol: float | None,
    at_end: NDArray[np.bool_] | None = None,
) -> Trip:
    """The trip that `got` made of `true`, with κ from how far the noisy `shaken` are from `got`.

    With several tensors each is held to its own tolerance: a large one must not hide a small one that is wrong.
    `counts` is the number of samples in each batch; κ is the largest over the draws of noise, and without any not
    known. It is infinite for samples `at_end`: f(x) was rounded to the end of an image or beyond, where noise shows
    nothing.
    """
    worst: Trip | None = None
    for name in names:
        errors = relative(name, got, true, true, counts)
        spreads = [relative(name, draw, got, true, counts) / (NOISE * eps) for draw in shaken]
        amplification = np.maximum.reduce([np.full(errors.shape, 1.0 if spreads else np.nan), *spreads])
        if at_end is not None:
            amplification = np.where(at_end, np.inf, amplification)
        tolerances = SAFETY * eps * amplification if rtol is None else np.full(errors.shape, rtol)
        trip = Trip(errors, amplification, tolerances, promised, strict=rtol is not None)
        worst = trip if worst is None else _worse(worst, trip)
    assert worst is not None
    return worst


def _worse(one: Trip, other: Trip) -> Trip:
    """Of two tensors, for every sample the one that is nearer to breaking its tolerance, or further beyond."""
    with np.errstate(invalid="ignore", divide="ignore"):
        first, second = one.errors / one.tolerances, other.errors / other.tolerances
    alike = (second == first) | (np.isnan(second) & np.isnan(first))
    pick = (second > first) | (alike & (other.errors > one.errors)) | ~np.isfinite(other.errors)
    return Trip(
        np.where(pick, other.errors, one.errors),
        np.where(pick, other.amplification, one.amplification),
        np.where(pick, other.tolerances, one.tolerances),
        one.promised,
        strict=one.strict,
    )


def may_hold(errors: NDArray[np.float64]) -> bool:
    """True unless so many errors leave less than two digits that no tolerance makes a promise hold."""
    return bool(np.count_nonzero(~(errors <= TWO_DIGITS)) <= MOST_LOST * errors.size)


def relative(
    name: str, got: Sequence[Batch], true: Sequence[Batch], scale: Sequence[Batch], counts: Sequence[int]
) -> NDArray[np.float64]:
    """‖got − true‖ / ‖scale‖ per sample, of the tensor `name`; infinite where a result is not finite.

    A sample whose norm vanishes beside the others' is measured against a thousandth of their median.
    """
    differences, sizes = [], []
    for a, b, c, rows in zip(got, true, scale, counts, strict=True):
        with np.errstate(over="ignore", invalid="ignore"):
            delta = by_sample(a[name], rows).astype(np.float64) - by_sample(b[name], rows)
            differences.append(_norms(delta))
            sizes.append(_norms(by_sample(c[name], rows).astype(np.float64)))
    difference, norm = np.concatenate(differences), np.concatenate(sizes)
    floor = 1e-3 * float(np.median(norm)) if norm.size else 0.0
    norm = np.maximum(norm, floor if floor > 0 else 1.0)
    with np.errstate(over="ignore", invalid="ignore"):
        error = difference / norm
    return np.where(np.isfinite(error), error, np.inf)


def _norms(rows: Array) -> NDArray[np.float64]:
    """The norm of each row, whatever its magnitude: squares of 1e-170 or 1e200 are no float64."""
    top = np.max(np.abs(rows), axis=1, initial=0.0)
    unit = np.where((top > 0) & np.isfinite(top), top, 1.0)
    return np.asarray(unit * np.sqrt(np.sum(np.square(rows / unit[:, None]), axis=1)))


def by_sample(array: Array, rows: int) -> Array:
    """One row per sample, also where the batch was merged with another axis, or is not the first."""
    if rows and array.size % rows == 0:
        return np.asarray(array.reshape(rows, -1))
    return np.repeat(array.reshape(1, -1), rows, axis=0)


def round_up(value: float) -> str:
    """Two digits, rounded up, so that the tolerance that is printed would really pass."""
    if not np.isfinite(value) or value <= 0:
        return f"{value:g}"
    exponent = int(np.floor(np.log10(value))) - 1
    return f"{np.ceil(value / 10.0**exponent * (1 - 1e-12)) * 10.0**exponent:.2g}"
