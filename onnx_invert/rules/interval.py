"""Boxes of real numbers: the domain and image of elementwise functions.

An `Interval` holds for every element of a tensor: one pair of ends for all of them, or arrays of ends
that broadcast against the tensor's last axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

End = float | NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Interval:
    """All v with low < v < high (or ≤ where the end is closed), without the point `hole`."""

    low: End = -np.inf
    high: End = np.inf
    low_open: bool = True
    high_open: bool = True
    hole: float | None = None

    @property
    def is_reals(self) -> bool:
        """True if nothing is left out."""
        return bool(np.all(np.isneginf(self.low)) and np.all(np.isposinf(self.high)) and self.hole is None)

    @property
    def is_uniform(self) -> bool:
        """True if every element has the same ends."""
        return _same(self.low) and _same(self.high)

    def covers(self, other: Interval) -> bool:
        """True if every value of `other` lies in this interval, for every element."""
        low_ok = (np.asarray(self.low) < other.low) | (
            (np.asarray(self.low) == other.low) & (other.low_open or not self.low_open)
        )
        high_ok = (np.asarray(self.high) > other.high) | (
            (np.asarray(self.high) == other.high) & (other.high_open or not self.high_open)
        )
        ends_ok = (np.isneginf(self.low) | low_ok) & (np.isposinf(self.high) | high_ok)
        return bool(np.all(ends_ok)) and (self.hole is None or not other.holds(self.hole))

    def holds(self, value: float) -> bool:
        """True if `value` lies inside for at least one element."""
        low_ok = (np.asarray(self.low) < value) | ((not self.low_open) & (np.asarray(self.low) == value))
        high_ok = (np.asarray(self.high) > value) | ((not self.high_open) & (np.asarray(self.high) == value))
        return bool(np.any(low_ok & high_ok)) and self.hole != value

    def meet(self, other: Interval) -> Interval:
        """The intersection; a tie between an open and a closed end is open."""
        low = np.maximum(self.low, other.low)
        high = np.minimum(self.high, other.high)
        low_open = (self.low_open and bool(np.any(low == self.low))) or (
            other.low_open and bool(np.any(low == other.low))
        )
        high_open = (self.high_open and bool(np.any(high == self.high))) or (
            other.high_open and bool(np.any(high == other.high))
        )
        holes = [h for h in (self.hole, other.hole) if h is not None and np.any((low <= h) & (h <= high))]
        hole = holes[0] if holes else None
        return Interval(_plain(low), _plain(high), low_open, high_open, hole)

    def through(self, function: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Interval:
        """The image under a function that is strictly monotone on this interval, from its ends."""
        with np.errstate(all="ignore"):
            low = function(np.asarray(self.low, dtype=np.float64))
            high = function(np.asarray(self.high, dtype=np.float64))
            hole = None if self.hole is None else float(function(np.asarray(self.hole)).reshape(-1)[0])
        swap = low > high
        opens = (self.low_open, self.high_open)
        if np.all(swap):
            low, high, opens = high, low, opens[::-1]
        elif np.any(swap):
            low, high = np.where(swap, high, low), np.where(swap, low, high)
            # Some elements rise and some fall: only an end closed on both sides is closed after it.
            opens = (any(opens), any(opens))
        return Interval(_plain(low), _plain(high), opens[0], opens[1], hole)

    def __str__(self) -> str:
        if self.is_reals:
            return "all reals"
        if not self.is_uniform:
            return "an interval per element"
        low, high = float(np.min(self.low)) + 0.0, float(np.min(self.high)) + 0.0  # + 0.0: no sign on a zero
        hole = "" if self.hole is None else f" without {self.hole:g}"
        return f"{'(' if self.low_open else '['}{low:g}, {high:g}{')' if self.high_open else ']'}{hole}"


def _same(end: End) -> bool:
    flat = np.asarray(end).reshape(-1)
    return bool(np.all(flat == flat[0]))


def _plain(end: NDArray[np.float64]) -> End:
    return float(end) if end.ndim == 0 else end


REALS = Interval()
POSITIVE = Interval(0.0, np.inf)
NON_NEGATIVE = Interval(0.0, np.inf, low_open=False)
NON_POSITIVE = Interval(-np.inf, 0.0, high_open=False)
NEGATIVE = Interval(-np.inf, 0.0)
NON_ZERO = Interval(hole=0.0)


def between(low: End, high: End) -> Interval:
    """The open interval (low, high)."""
    return Interval(low, high)


def closed(low: End, high: End) -> Interval:
    """The interval [low, high], open at infinite ends."""
    return Interval(low, high, bool(np.any(np.isinf(low))), bool(np.any(np.isinf(high))))
