"""Bring values from outside an image to the nearest one that the type can hold and f can reach.

The inverse of tanh has no answer for 1.2, nor for the 1.0 that a saturated tanh rounds to. Such a y is
moved to the nearest number in the image, whose preimage is finite, and the verification counts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.facts import Branch, Elementwise
from onnx_invert.rules.interval import End


@dataclass(frozen=True)
class Probe:
    """Where values are clamped: the tensor before it, and the ends that it is held between.

    `hole` is the smallest magnitude that is let through, where 0 is not in the image.
    """

    node: str
    tensor: str
    low: NDArray[np.floating] | None
    high: NDArray[np.floating] | None
    hole: float | None

    def outside(self, values: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which of `values` are moved."""
        found = np.zeros(values.shape, dtype=bool)
        if self.low is not None:
            found |= values < self.low
        if self.high is not None:
            found |= values > self.high
        if self.hole is not None:
            found |= np.abs(values) < self.hole
        return found

    def count(self, values: NDArray[np.floating]) -> int:
        """How many of `values` are moved."""
        return int(np.count_nonzero(self.outside(values)))


def reachable(
    fact: Elementwise, branch: Branch, dtype: np.dtype[np.floating]
) -> tuple[NDArray[np.floating] | None, NDArray[np.floating] | None]:
    """The least and the greatest y in `dtype` whose x on `branch` is finite in `dtype`; None for no bound."""
    if branch.domain.hole is not None:
        return None, None
    top = _largest(dtype)
    ends = [
        _inside(np.asarray(branch.domain.low, dtype=float), branch.domain.low_open, dtype, up=True),
        _inside(np.asarray(branch.domain.high, dtype=float), branch.domain.high_open, dtype, up=False),
    ]
    with np.errstate(all="ignore"):
        values = [fact.forward(np.clip(end.astype(np.float64), -top, top)) for end in ends]
    low, high = np.minimum(*values), np.maximum(*values)
    low = np.maximum(low, branch.image.low)
    high = np.minimum(high, branch.image.high)
    low_y = _held_at(low, branch.image.low, branch.image.low_open, dtype, up=True)
    high_y = _held_at(high, branch.image.high, branch.image.high_open, dtype, up=False)
    # An end this far out is no end: f runs on like x itself, and infinity may come back as infinity.
    top /= 2
    free = top if np.isinf(fact.steepness) else top / 2**40
    return (
        None if np.all(low_y <= -free) else low_y,
        None if np.all(high_y >= free) else high_y,
    )


def _largest(dtype: np.dtype[np.floating]) -> float:
    """The largest x that may come back: below the type's largest by what rounding can add.

    That is |y| · eps where x grows like exp(y), and |y| is then at most 710. Half precision is computed in
    float32, which has room.
    """
    limits = _limits(dtype)
    return float(limits.max) * (1 - 2**10 * float(limits.eps)) if dtype.itemsize > 2 else float(limits.max)


def _held_at(
    value: NDArray[np.float64], end: End, is_open: bool, dtype: np.dtype[np.floating], *, up: bool
) -> NDArray[np.floating]:
    """The last y: beside an open end of the image, what a closed one rounds to (f returns that), else inside."""
    at_end = value == end
    inner = _inside(value, is_open and bool(np.any(at_end)), dtype, up=up)
    if is_open:
        return inner
    with np.errstate(over="ignore"):
        rounded = value.astype(dtype)
    return np.where(at_end & np.isfinite(rounded), rounded, inner).astype(dtype)


def _least_magnitude(fact: Elementwise, branch: Branch, dtype: np.dtype[np.floating]) -> float | None:
    """The smallest |y| whose x is finite in `dtype`, where the image has no 0; else None."""
    if branch.image.hole is None:
        return None
    y = np.abs(fact.forward(np.asarray(_largest(dtype))))
    return max(smallest(dtype), float(np.max(_inside(y, False, dtype, up=True))))


def smallest(dtype: np.dtype[np.floating]) -> float:
    """The least positive number that counts as other than 0.

    The smallest normal one, because many runtimes take anything below it for 0; but half precision, whose
    range is short, is computed in float32, where its subnormal numbers are normal.
    """
    limits = _limits(dtype)
    return float(limits.smallest_subnormal if dtype == np.float16 else limits.tiny)


def _limits(dtype: np.dtype[np.floating]) -> Any:
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]  # numpy's does not know bfloat16


def _inside(
    end: NDArray[np.float64], is_open: bool, dtype: np.dtype[np.floating], *, up: bool
) -> NDArray[np.floating]:
    """The nearest number of `dtype` on the inner side of `end`; `smallest` beside an open 0."""
    top = float(_limits(dtype).max)
    held = np.clip(end, -top, top)
    rounded = held.astype(dtype)
    wide = rounded.astype(np.float64)
    beyond = wide < held if up else wide > held
    with np.errstate(over="ignore"):
        stepped = np.nextafter(rounded, np.asarray(np.inf if up else -np.inf, dtype=dtype))
    least = np.asarray(smallest(dtype) if up else -smallest(dtype), dtype)
    stepped = np.where(rounded == 0, least, stepped)
    return np.where(beyond | ((wide == end) & is_open), stepped, rounded).astype(dtype)


def clamp(e: Emitter, y: ir.Value, fact: Elementwise, branch: Branch, node: str) -> tuple[ir.Value, Probe | None]:
    """Emit the clamping of y into the image of `branch`, if it has an end."""
    dtype = np.dtype(e.dtype.numpy())
    low, high = reachable(fact, branch, dtype)
    hole = _least_magnitude(fact, branch, dtype)
    if low is None and high is None and hole is None:
        return y, None
    probe = Probe(node, y.name or "", low, high, hole)
    if hole is not None:
        # |y| is held at the smallest number, and y = 0 moved to it: sign(y) is 0 there alone.
        sign = e.op("Sign", y)
        at_hole = e.op("Sub", e.scalar(1.0), e.op("Abs", sign))
        y = e.op("Mul", e.op("Add", sign, at_hole), e.op("Max", e.op("Abs", y), hole))
    if low is not None:
        y = e.op("Max", y, _end(e, low, "low"))
    if high is not None:
        y = e.op("Min", y, _end(e, high, "high"))
    return y, probe


def hold_in_domain(e: Emitter, x: ir.Value, fact: Elementwise) -> ir.Value:
    """Keep a recovered x where f is defined: tanh rounds to 1, where artanh is infinite."""
    dtype = np.dtype(e.dtype.numpy())
    domain = fact.domain
    if np.all(np.isfinite(domain.low)):
        x = e.op(
            "Max", x, _end(e, _inside(np.asarray(domain.low, dtype=float), domain.low_open, dtype, up=True), "low")
        )
    if np.all(np.isfinite(domain.high)):
        end = _inside(np.asarray(domain.high, dtype=float), domain.high_open, dtype, up=False)
        x = e.op("Min", x, _end(e, end, "high"))
    return x


def largest(dtype: np.dtype[np.floating]) -> float:
    """The largest finite number of a floating-point type."""
    return float(_limits(dtype).max)


def _end(e: Emitter, end: NDArray[np.floating], name: str) -> ir.Value:
    return e.scalar(float(end)) if end.ndim == 0 else e.constant(end, name)
