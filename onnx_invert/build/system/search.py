"""What every way to a root takes: the function, where it is looked at, and when there is no more to gain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_invert.graph.emit import Emitter

Function = Callable[[Emitter, ir.Value], ir.Value]
Shape = Sequence[int | str]


@dataclass(frozen=True)
class Search:
    """For x in `shape` with function(x) = 0, element by element.

    `live` is 1 where an element counts. Where |function(x)| is not above `noise`, what rounding makes of 0, no x is
    better. With `unroll` steps are written one after the other, fewer of them, instead of a Loop.
    """

    function: Function
    live: ir.Value
    shape: Shape
    noise: ir.Value | None = None
    unroll: bool = False
