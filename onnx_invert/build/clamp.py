"""Bring values from outside an image to the nearest one that the type can hold and f can reach.

The inverse of tanh has no answer for 1.2, nor for the 1.0 that a saturated tanh rounds to. Such a y is
moved to the nearest number in the image, whose preimage is finite, and the verification counts them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.facts import Branch, Elementwise


@dataclass(frozen=True)
class Probe:
    """Where values are clamped: the tensor before it, and the ends that it is held between."""

    node: str
    tensor: str
    low: NDArray[np.floating] | None
    high: NDArray[np.floating] | None
    hole: float | None

    def count(self, values: NDArray[np.floating]) -> int:
        """How many of `values` are moved."""
        outside = np.zeros(values.shape, dtype=bool)
        if self.low is not None:
            outside |= values < self.low
        if self.high is not None:
            outside |= values > self.high
        if self.hole is not None:
            outside |= values == self.hole
        return int(np.count_nonzero(outside))


def reachable(
    fact: Elementwise, branch: Branch, dtype: np.dtype[np.floating]
) -> tuple[NDArray[np.floating] | None, NDArray[np.floating] | None]:
    """The least and the greatest y in `dtype` whose x on `branch` is finite in `dtype`; None for no bound."""
    limits = np.finfo(dtype)
    top = float(limits.max)
    ends = [
        _inside(np.asarray(branch.domain.low, dtype=float), branch.domain.low_open, dtype, up=True),
        _inside(np.asarray(branch.domain.high, dtype=float), branch.domain.high_open, dtype, up=False),
    ]
    with np.errstate(all="ignore"):
        values = [fact.forward(end.astype(np.float64)) for end in ends]
    low, high = np.minimum(*values), np.maximum(*values)
    low = np.maximum(low, branch.image.low)
    high = np.minimum(high, branch.image.high)
    low_y = _inside(low, branch.image.low_open & bool(np.any(low == branch.image.low)), dtype, up=True)
    high_y = _inside(high, branch.image.high_open & bool(np.any(high == branch.image.high)), dtype, up=False)
    free = top if np.isinf(fact.steepness) else top / 2**40
    return (
        None if np.all(low_y <= -free) else low_y,
        None if np.all(high_y >= free) else high_y,
    )


def _inside(
    end: NDArray[np.float64], is_open: bool, dtype: np.dtype[np.floating], *, up: bool
) -> NDArray[np.floating]:
    """The nearest number of `dtype` on the inner side of `end`; the smallest normal one beside 0."""
    limits = np.finfo(dtype)
    held = np.clip(end, -float(limits.max), float(limits.max))
    rounded = held.astype(dtype)
    direction = np.asarray(np.inf if up else -np.inf, dtype=dtype)
    beyond = rounded.astype(np.float64) < held if up else rounded.astype(np.float64) > held
    at_end = (rounded.astype(np.float64) == end) & is_open
    stepped = np.nextafter(rounded, direction)
    tiny = np.asarray(limits.tiny if up else -limits.tiny, dtype=dtype)
    stepped = np.where(rounded == 0, tiny, stepped)
    return np.where(beyond | at_end, stepped, rounded).astype(dtype)


def clamp(e: Emitter, y: ir.Value, fact: Elementwise, branch: Branch, node: str) -> tuple[ir.Value, Probe | None]:
    """Emit the clamping of y into the image of `branch`, if it has an end."""
    low, high = reachable(fact, branch, np.dtype(e.dtype.numpy()))
    hole = branch.image.hole
    if low is None and high is None and hole is None:
        return y, None
    probe = Probe(node, y.name or "", low, high, hole)
    if hole is not None:
        # y = 0 is moved to the smallest normal number: sign(y) is 0 there alone.
        tiny = float(np.finfo(e.dtype.numpy()).tiny)
        at_hole = e.op("Sub", e.scalar(1.0), e.op("Abs", e.op("Sign", y)))
        y = e.op("Add", y, e.op("Mul", at_hole, tiny))
    if low is not None:
        y = e.op("Max", y, e.constant(low, "low"))
    if high is not None:
        y = e.op("Min", y, e.constant(high, "high"))
    return y, probe
