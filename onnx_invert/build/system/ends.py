"""The ends of the domain that a root is searched in.

φ is never asked at an end: it may be infinite there, or jump, and rounding may carry x beyond. It is taken to lie
below y at the lower end and above it at the upper one (rising), so that a y that it does not reach leads to an end;
and further from y than anywhere else, so that no end is taken for a root, nor for the better side of a bracket.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.build.system.selection import Selection
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.steps import Domain

SHORT = 16.0
"""A domain no longer than this is searched from end to end, a longer one from around y."""


@dataclass(frozen=True)
class Ends:
    """The ends as constants, None where there is none; and the length between, 0 where it is none to begin with."""

    low: ir.Value | None = None
    high: ir.Value | None = None
    length: ir.Value | None = None
    short: bool = False
    """Whether some element is searched for from end to end."""

    @staticmethod
    def of(e: Emitter, domain: Domain, selection: Selection | None = None) -> Ends:
        """As constants of the emitter's type, cut down to a selection of the elements if there is one."""

        def held(array: NDArray[np.floating]) -> ir.Value:
            return e.constant(array, "end") if selection is None else selection.constant(e, array)

        low, high = (None if end is None else held(end) for end in (domain.low, domain.high))
        length, short = None, False
        if domain.low is not None and domain.high is not None:
            whole = np.asarray(domain.high) - np.asarray(domain.low)
            length, short = held(np.where(whole <= SHORT, whole, 0.0)), bool(np.any(whole <= SHORT))
        return Ends(low, high, length, short)

    @property
    def there(self) -> bool:
        """True if there is an end."""
        return self.low is not None or self.high is not None

    def hold(self, b: Emitter, x: ir.Value) -> ir.Value:
        """x within the domain."""
        if self.low is not None:
            x = b.op("Max", x, self.low)
        return x if self.high is None else b.op("Min", x, self.high)

    def settled(self, b: Emitter, x: ir.Value, value: ir.Value) -> ir.Value:
        """`value` of a rising function at x; far below 0 at the lower end, far above at the upper one."""
        far = float(np.finfo(b.dtype.numpy()).max)
        if self.low is not None:
            value = b.op("Where", b.op("Not", b.op("Greater", x, self.low)), b.scalar(-far), value)
        if self.high is not None:
            value = b.op("Where", b.op("Not", b.op("Less", x, self.high)), b.scalar(far), value)
        return value

    def kept(self, b: Emitter, one: ir.Value, other: ir.Value) -> ir.Value | None:
        """Whether a bracket still has an end of the domain for one of its own; None where there is none."""
        found = None
        if self.low is not None:
            found = b.op("Not", b.op("Greater", b.op("Min", one, other), self.low))
        if self.high is not None:
            above = b.op("Not", b.op("Less", b.op("Max", one, other), self.high))
            found = above if found is None else b.op("Or", found, above)
        return found
