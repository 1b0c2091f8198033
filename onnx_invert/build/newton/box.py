"""Bounds of x as a box of v: steps end within it, and at a face the residual says whether v stays there.

Without a prior v = (x − origin) / width, and each number of x has its own number of v. A step is taken in those that
are free, and projected:

    v ← P(v + d),    d_i = 0  where v_i is at a face and the residual falls beyond it (gradient projection)

A number at a face is free again as soon as the residual falls inwards: what is held from outside, by x = P(v), has no
derivative beyond a face, and would not come back.
Source: D. Bertsekas, Projected Newton methods for optimization problems with simple constraints, SIAM J. Control
Optim. 20, 1982.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Box:
    """The ends of v, tensors of the graph around: `low` and `high` (1, r), far away where there is none."""

    low: ir.Value
    high: ir.Value

    def hold(self, e: Emitter, v: ir.Value) -> ir.Value:
        """P(v), (N, r)."""
        return e.op("Min", e.op("Max", v, self.low), self.high)

    def free(self, e: Emitter, v: ir.Value, fall: ir.Value) -> ir.Value:
        """1 where v may move and 0 where a face holds it (N, r); along `fall` (N, r) the residual falls."""
        below = e.op("And", e.op("Not", e.op("Greater", v, self.low)), e.op("Less", fall, 0.0))
        above = e.op("And", e.op("Not", e.op("Less", v, self.high)), e.op("Greater", fall, 0.0))
        return e.op("Sub", e.scalar(1.0), e.cast(e.op("Or", below, above)))


def inwards(low: Array, high: Array, dtype: np.dtype[np.floating]) -> tuple[Array, Array]:
    """The least and the greatest numbers of a type within the ends; the nearest ones where it has none between."""
    ends = []
    for end, towards, beyond in ((low, np.inf, np.less), (high, -np.inf, np.greater)):
        near = end.astype(dtype)
        ends.append(np.where(beyond(near.astype(np.float64), end), np.nextafter(near, dtype.type(towards)), near))
    least, most = (end.astype(np.float64) for end in ends)
    crossed = least > most
    least, most = np.where(crossed, low.astype(dtype), least), np.where(crossed, high.astype(dtype), most)
    # An end that is infinite is the last number there is: not every runtime has infinite constants.
    last = float(np.finfo(dtype).max)
    return np.clip(least, -last, last), np.clip(most, -last, last)
