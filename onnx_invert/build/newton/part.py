"""Some of the samples, taken out of the batch and put back."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_invert.graph.emit import Emitter


@dataclass(frozen=True)
class Part:
    """Samples where `chosen` (N, 1) is true, and sample 0, so that there is one in any batch of some.

    `rows` (K) are their indices; `place` (N) says of each sample of the batch where among them it is, and anything of
    one that is not among them.
    """

    chosen: ir.Value
    rows: ir.Value
    place: ir.Value

    @staticmethod
    def of(e: Emitter, chosen: ir.Value) -> Part:
        """Those of a mask (N, 1)."""
        chosen.dtype = ir.DataType.BOOL
        with e.scope(e.scope_name, ir.DataType.INT64):
            everyone = e.op("Squeeze", e.cast(chosen, ir.DataType.INT64), e.ints([1]))
            found = e.op("Squeeze", e.op("NonZero", everyone), e.ints([0]))
            first = e.op("Slice", e.op("Mul", everyone, e.count(0)), e.ints([0]), e.ints([1]), e.ints([0]))
            rows = e.op("Concat", found, first, axis=0)
            # How many of them come before it, its own not counted.
            place = e.op("Max", e.op("Sub", e.op("CumSum", everyone, e.count(0)), e.count(1)), e.count(0))
        return Part(chosen, rows, place)

    def take(self, e: Emitter, value: ir.Value) -> ir.Value:
        """(N, k) → (K, k)."""
        return e.op("Gather", value, self.rows, axis=0)

    def put(self, e: Emitter, found: ir.Value, value: ir.Value) -> ir.Value:
        """`value` (N, k) with what was `found` (K, k) for the chosen samples."""
        return e.op("Where", self.chosen, e.op("Gather", found, self.place, axis=0), value)
