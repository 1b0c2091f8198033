"""The ends of the domain that a root is searched in.

φ is never asked at an end: it may be infinite there, or jump, and rounding may carry x beyond. It is taken to lie
below y at the lower end and above it at the upper one (rising), so that a y that it does not reach leads to an end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.steps import Domain

NEAR = 8.0
"""In units in the last place: an x as near to an end as this was led there by a y that φ does not reach, or equals
the end to rounding."""


@dataclass(frozen=True)
class Ends:
    """The ends as constants, None where there is none; the length between, 0 where there are no two ends; and how far
    from each counts as there."""

    low: ir.Value | None = None
    high: ir.Value | None = None
    length: ir.Value | None = None
    near: tuple[ir.Value | None, ir.Value | None] = (None, None)

    @staticmethod
    def of(e: Emitter, domain: Domain) -> Ends:
        """As constants of the emitter's type."""
        low, high = (None if end is None else e.constant(end, "end") for end in (domain.low, domain.high))
        near = (_near(e, domain.low), _near(e, domain.high))
        length = None
        if domain.low is not None and domain.high is not None:
            whole = np.asarray(domain.high) - np.asarray(domain.low)
            length = e.constant(np.where(np.isfinite(whole), whole, 0.0), "length")
        return Ends(low, high, length, near)

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
        """`value` of a rising function at x; −1 at the lower end, 1 at the upper one."""
        if self.low is not None:
            value = b.op("Where", b.op("LessOrEqual", x, self.low), b.scalar(-1.0), value)
        if self.high is not None:
            value = b.op("Where", b.op("GreaterOrEqual", x, self.high), b.scalar(1.0), value)
        return value

    def reached(self, b: Emitter, x: ir.Value) -> ir.Value | None:
        """1 where x lies at an end; None where there is none."""
        found = None
        for end, near in zip((self.low, self.high), self.near, strict=True):
            if end is None or near is None:
                continue
            close = b.op("LessOrEqual", b.op("Abs", b.op("Sub", x, end)), near)
            found = close if found is None else b.op("Or", found, close)
        return None if found is None else b.op("Cast", found, to=int(b.dtype))


def _near(e: Emitter, end: NDArray[np.floating] | None) -> ir.Value | None:
    """How far from an end counts as there; 0 where it is infinite: only other elements have one."""
    if end is None:
        return None
    limits = np.finfo(e.dtype.numpy())
    width = NEAR * (float(limits.eps) * np.abs(end) + float(limits.tiny))
    return e.constant(np.where(np.isfinite(end), width, 0.0), "near")
