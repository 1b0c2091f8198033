"""The equations that are solved: F(v) = t, v the coordinates of the unknown, and their derivatives at a point.

start = h0 + v B           the front: prior and first affine layers in one; or v itself, in units where x has bounds
start = h0 + σ v + v PᵀP   a prior of many numbers: B is symmetric, and only P is there
start = clip(start)        where x has bounds
F(v)  = f(start) / scale   the rest of the model, each output in units of its own spread
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton.box import Box
from onnx_invert.build.rows import joined, rows, seeded_rows, seeded_tensor, split, tensor, zeros
from onnx_invert.build.tape import Tape, Width, advance
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.batch import Batch
from onnx_invert.plan.layout import Layout
from onnx_invert.plan.program import Program
from onnx_invert.rules.differential import second
from onnx_invert.rules.rounding import has_kink


@dataclass(frozen=True)
class Coordinates:
    """start = origin + v @ basis; with bounds then held in [low, high] and taken through the front, @ weight + shift.

    All are tensors of the graph around. `size` is r, the length of v; `origin` (N, k) or (1, k), None for 0; `basis`
    (r, k), None for the identity; `weight` (k, l) and `shift` (1, l) come after the bounds. `moves` (1, k) is 0 where
    both bounds are the same number, and 1 elsewhere, None if they nowhere are. With `least` σ above 0
    the basis is σ I + PᵀP instead, r = k: `basis` is P and `turned` Pᵀ. With a `box` each number of start is one of
    v in a `unit` (1, r), and v stays within the box, which `low` and `high` then only round to.
    """

    size: int
    origin: ir.Value | None = None
    basis: ir.Value | None = None
    low: ir.Value | None = None
    high: ir.Value | None = None
    moves: ir.Value | None = None
    weight: ir.Value | None = None
    shift: ir.Value | None = None
    least: float = 0.0
    turned: ir.Value | None = None
    unit: ir.Value | None = None
    box: Box | None = None

    def free(self, e: Emitter, v: ir.Value) -> ir.Value:
        """Before the bounds."""
        value = self._along(e, v)
        return value if self.origin is None else e.op("Add", value, self.origin)

    def held(self, e: Emitter, v: ir.Value) -> ir.Value:
        """Within the bounds."""
        value = self.free(e, v)
        if self.low is not None and self.high is not None:
            value = e.op("Min", e.op("Max", value, self.low), self.high)
        return value

    def decode(self, e: Emitter, v: ir.Value) -> ir.Value:
        """start."""
        value = self.held(e, v)
        if self.weight is not None and self.shift is not None:
            value = e.op("Add", e.op("MatMul", value, self.weight), self.shift)
        return value

    def inside(self, e: Emitter, v: ir.Value) -> ir.Value | None:
        """1 where a number is within the bounds, ends included, and may move; None if they hold nothing, or hold v."""
        if self.low is None or self.high is None or self.box is not None:
            return None
        value = self.free(e, v)
        beyond = e.op("Or", e.op("Less", value, self.low), e.op("Greater", value, self.high))
        inside = e.op("Sub", e.scalar(1.0), e.cast(beyond))
        return inside if self.moves is None else e.op("Mul", inside, self.moves)

    def push(self, e: Emitter, tangent: ir.Value, inside: ir.Value | None) -> ir.Value:
        """Tangents of v to those of start."""
        value = self._along(e, tangent)
        if inside is not None:
            value = e.op("Mul", value, inside)
        return value if self.weight is None else e.op("MatMul", value, self.weight)

    def pull(self, e: Emitter, cotangent: ir.Value, inside: ir.Value | None) -> ir.Value:
        """Cotangents of start to those of v."""
        value = cotangent
        if self.weight is not None:
            value = e.op("MatMul", value, e.op("Transpose", second(e, self.weight), perm=[1, 0]))
        if inside is not None:
            value = e.op("Mul", value, inside)
        if self.basis is None or self.turned is not None:
            return self._along(e, value)  # symmetric
        return e.op("MatMul", value, e.op("Transpose", second(e, self.basis), perm=[1, 0]))

    def _along(self, e: Emitter, v: ir.Value) -> ir.Value:
        """v @ basis, (…, r) → (…, k)."""
        if self.basis is None:
            return v if self.unit is None else e.op("Mul", v, self.unit)
        if self.turned is None:
            return e.op("MatMul", v, self.basis)
        inner = e.op("MatMul", e.op("MatMul", v, self.turned), self.basis)
        return e.op("Add", inner, e.op("Mul", v, self.least))


@dataclass(frozen=True)
class Objective:
    """F, to be emitted in any body. `values` maps the model's tensors to those of the graph around (given inputs,
    what does not depend on the unknown, weights); `scale` (m) is 1 / spread; `batch` says where samples lie;
    `kinks` are the spreads of the tensors that a function has a kink of, where it can be rounded off."""

    program: Program
    layouts: Mapping[ir.Value, Layout]
    values: Mapping[ir.Value, ir.Value]
    coordinates: Coordinates
    scale: ir.Value
    batch: Batch
    kinks: Mapping[ir.Value, float] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """m."""
        return sum(self.layouts[value].size for value in self.program.wanted)

    @property
    def starts(self) -> list[int]:
        """The sizes of the tensors that v decodes to."""
        return [self.layouts[value].size for value in self.program.unknowns]

    def at(self, e: Emitter, v: ir.Value, seeds: int, width: ir.Value | None = None) -> Local:
        """Evaluate and linearise at v (N, r), with kinks rounded off by `width` (N, 1) times their tensor's spread."""
        tensors = self._tensors(e, self.coordinates.decode(e, v))
        tape = Tape.record(e, self.program, tensors, seeds, self._width(width))
        return Local(self, v, self._scaled(e, tape.values), self.coordinates.inside(e, v), tape)

    def value(self, e: Emitter, v: ir.Value, width: ir.Value | None = None) -> ir.Value:
        """F(v) (N, m) alone."""
        found = self._tensors(e, self.coordinates.decode(e, v))
        for step in self.program.steps:
            advance(e, step, found, self._width(width))
        return self._scaled(e, found)

    @property
    def rounds(self) -> bool:
        """True if there is a kink that can be rounded off."""
        return any(has_kink(step.node) and step.node.inputs[0] in self.kinks for step in self.program.steps)

    def _width(self, width: ir.Value | None) -> Width | None:
        return None if width is None else partial(self._beside, width)

    def _beside(self, width: ir.Value, e: Emitter, value: ir.Value) -> ir.Value | None:
        """`width` in units of a tensor of the model, and with its axes; None where a sample has several rows of it."""
        layout = self.batch.layout(value)
        if value not in self.kinks or not self.batch.is_known(value) or layout.rows != 1:
            return None
        own = e.op("Mul", width, self.kinks[value])
        if layout.is_matrix:
            return own
        return e.op("Reshape", own, e.ints([*([-1] if layout.batched else []), *[1] * len(layout.sizes)]))

    def _tensors(self, e: Emitter, start: ir.Value) -> dict[ir.Value, ir.Value]:
        found = dict(self.values)
        for value, part in zip(self.program.unknowns, split(e, start, self.starts), strict=True):
            found[value] = tensor(e, self.layouts[value], part)
        return found

    def _scaled(self, e: Emitter, found: Mapping[ir.Value, ir.Value]) -> ir.Value:
        parts = [rows(e, self.layouts[value], found[value]) for value in self.program.wanted]
        return e.op("Mul", joined(e, parts), self.scale)


@dataclass(frozen=True)
class Local:
    """F and its derivative at v: `value` (N, m), products with J (N, m, r) in both directions, J itself."""

    objective: Objective
    v: ir.Value
    value: ir.Value
    inside: ir.Value | None
    tape: Tape

    def push(self, e: Emitter, tangent: ir.Value) -> ir.Value:
        """J ẇ: (S, N, r) → (S, N, m)."""
        o, seeds = self.objective, self.tape.seeds
        start = o.coordinates.push(e, tangent, self.inside)
        parts = split(e, start, o.starts)
        tangents = {
            value: seeded_tensor(e, o.layouts[value], part, seeds)
            for value, part in zip(o.program.unknowns, parts, strict=True)
        }
        found = self.tape.push(e, tangents)
        return e.op("Mul", self._rows(e, found, o.program.wanted), o.scale)

    def pull(self, e: Emitter, cotangent: ir.Value) -> ir.Value:
        """Jᵀ ȳ: (S, N, m) → (S, N, r)."""
        return self._pull(e, e.op("Mul", cotangent, self.objective.scale))

    def _pull(self, e: Emitter, scaled: ir.Value) -> ir.Value:
        """The same of cotangents in y's own units."""
        o, seeds = self.objective, self.tape.seeds
        sizes = [o.layouts[value].size for value in o.program.wanted]
        cotangents = {
            value: seeded_tensor(e, o.layouts[value], part, seeds)
            for value, part in zip(o.program.wanted, split(e, scaled, sizes), strict=True)
        }
        start = self._rows(e, self.tape.pull(e, cotangents), o.program.unknowns)
        return o.coordinates.pull(e, start, self.inside)

    def _rows(self, e: Emitter, found: Mapping[ir.Value, ir.Value], wanted: Sequence[ir.Value]) -> ir.Value:
        o, seeds = self.objective, self.tape.seeds
        return joined(
            e,
            [
                seeded_rows(e, o.layouts[value], found[value], seeds)
                if value in found
                else zeros(e, self.v, before=(seeds,), after=(o.layouts[value].size,))
                for value in wanted
            ],
        )

    def jacobian(self, e: Emitter) -> ir.Value:
        """J (N, m, r), from whichever side has fewer numbers."""
        o = self.objective
        m, r = o.outputs, o.coordinates.size
        if m <= r:
            seeds = self._repeated(e, e.op("Mul", e.constant(np.eye(m)[:, None, :], "unit"), o.scale))
            return e.op("Transpose", self._pull(e, seeds), perm=[1, 0, 2])
        seeds = self._repeated(e, e.constant(np.eye(r)[:, None, :], "unit"))
        return e.op("Transpose", self.push(e, seeds), perm=[1, 2, 0])

    def _repeated(self, e: Emitter, seeds: ir.Value) -> ir.Value:
        """Seeds (S, 1, k) for every sample, (S, N, k)."""
        with e.scope(e.scope_name, ir.DataType.INT64):
            count = e.op("Slice", e.op("Shape", self.v), e.ints([0]), e.ints([1]), e.ints([0]))
            shape = e.op("Concat", e.ints([1]), count, e.ints([1]), axis=0)
        return e.op("Expand", seeds, shape)
