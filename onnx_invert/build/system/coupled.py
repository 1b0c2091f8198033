"""Blocks whose numbers determine one another: all of x, or the few numbers s that tear a block open.

Newton's method: the iteration is the second phase of build/newton, Levenberg–Marquardt steps with the Jacobian held,
taken sample by sample where the residual falls, from x = y on (a flow's layers are near the identity). Where the
Jacobian is regular everywhere, as the plan has proven or tried, ‖F(x) − y‖ has no other minimum than 0. A sample that
stalls far from a solution starts again, with both phases. plan/square.py has the equations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_invert.build.clamp import Probe
from onnx_invert.build.newton import dense
from onnx_invert.build.newton.iteration import Restarts, Settings, State, initial, length
from onnx_invert.build.newton.iteration import step as iteration
from onnx_invert.build.newton.loop import iterate
from onnx_invert.build.system.pieces import Piece
from onnx_invert.build.tape import Tape
from onnx_invert.graph.emit import Emitter
from onnx_invert.numerics.tolerance import eps
from onnx_invert.plan.mixing import sample_shape, sample_size
from onnx_invert.plan.program import Program
from onnx_invert.plan.steps import Block, Coupled, Edge, Solve

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation

ITERATIONS = 300
"""At most; a sample near the identity takes six to ten."""

WRITTEN_OUT = 16
"""The same without a loop."""

ROUND_OFF, NEAR, SOLVED = 2.0, 8.0, 64.0
"""Residuals in units of eps, and of the larger of y and x: nothing is left to gain; little is; a sample need not start
again."""

PATIENCE, SLOW = 3, 0.1
"""Steps without progress until a sample stands still; what such a step counts for where it is not solved yet. From
far away steps are short: as long as the Jacobian is regular they lead there."""

STARTS = (0.0, 0.1, 1.0)
"""How far from y a sample that stalls starts again, in standard deviations of normal numbers."""


@dataclass(frozen=True)
class Rows:
    """Tensors as rows: what is solved for together, along the axes `own`, in a row of `size` numbers (R, size)."""

    own: tuple[int, ...]
    rank: int
    sizes: tuple[int, ...]

    @staticmethod
    def of(value: ir.Value, own: Sequence[int]) -> Rows:
        """Those of a tensor of the model, the sizes of whose own axes are fixed."""
        dims = list(value.shape or ())
        sizes = tuple(dim for axis in own if isinstance(dim := dims[axis], int))
        return Rows(tuple(own), len(dims), sizes)

    @property
    def size(self) -> int:
        """Of a row."""
        return int(np.prod(self.sizes))

    @property
    def others(self) -> list[int]:
        """The axes along which rows lie."""
        return [axis for axis in range(self.rank) if axis not in self.own]

    def flat(self, e: Emitter, value: ir.Value, seeds: int = 0) -> ir.Value:
        """(R, size) of a tensor; with `seeds` (S, R, size) of so many of them."""
        first = 1 if seeds else 0
        order = [*self.others, *self.own]
        if order != sorted(order):
            value = e.op("Transpose", value, perm=[*range(first), *(axis + first for axis in order)])
        return e.op("Reshape", value, e.ints([*([seeds] if seeds else []), -1, self.size]))

    def shaped(self, e: Emitter, rows: ir.Value, like: ir.Value) -> ir.Value:
        """The tensor of rows, as large as `like`."""
        order = [*self.others, *self.own]
        with e.scope(e.scope_name, ir.DataType.INT64):
            shape = e.op("Gather", e.op("Shape", like), e.ints(order), axis=0) if order != sorted(order) else None
            shape = e.op("Shape", like) if shape is None else shape
        value = e.op("Reshape", rows, shape)
        return value if order == sorted(order) else e.op("Transpose", value, perm=[int(a) for a in np.argsort(order)])

    def spread(self, e: Emitter, column: ir.Value, like: ir.Value) -> ir.Value:
        """A number for each row (R, 1) as a tensor like `like` whose own axes are of size 1."""
        with e.scope(e.scope_name, ir.DataType.INT64):
            sizes = e.op("Gather", e.op("Shape", like), e.ints(self.others), axis=0)
        value = e.op("Reshape", column, sizes)
        return e.op("Unsqueeze", value, e.ints(list(self.own))) if self.own else value

    def units(self, e: Emitter) -> ir.Value:
        """A tangent for every number of a row, for all rows at once: (size, …), of size 1 along the other axes."""
        sizes = iter(self.sizes)
        shape = [next(sizes) if axis in self.own else 1 for axis in range(self.rank)]
        return e.op("Reshape", identity(e, self.size), e.ints([self.size, *shape]))


def identity(e: Emitter, size: int) -> ir.Value:
    """(size, size), made of its indices where it is large."""
    if size <= 64:
        return e.constant(np.eye(size), "identity")
    index = np.arange(size, dtype=np.float64)
    return e.cast(e.op("Equal", e.constant(index[:, None], "i"), e.constant(index[None], "j")))


@dataclass(frozen=True)
class _Size:
    size: int
    box: None = None


@dataclass(frozen=True)
class Local:
    """Equations at a point: their value (R, m), and the Jacobian (R, m, m)."""

    value: ir.Value
    matrix: ir.Value

    def jacobian(self, e: Emitter) -> ir.Value:
        """(R, m, m)."""
        return self.matrix


@dataclass(frozen=True)
class Whole:
    """F(x) for rows of x."""

    r: Realisation
    step: Solve
    rows: Rows
    values: dict[ir.Value, ir.Value]
    like: ir.Value

    @property
    def outputs(self) -> int:
        """The equations of a row."""
        return self.rows.size

    @property
    def coordinates(self) -> _Size:
        """The unknowns of a row."""
        return _Size(self.rows.size)

    def at(self, e: Emitter, v: ir.Value, seeds: int, width: ir.Value | None = None) -> Local:
        """F and ∂F/∂x at v (R, n)."""
        x = self.rows.shaped(e, v, self.like)
        made, matrix = jacobian(e, self.step.program, self.rows, {**self.values, self.step.x: x})
        return Local(self.rows.flat(e, made) if self.r.noise is None else self.value(e, v), matrix)

    def value(self, e: Emitter, v: ir.Value, width: ir.Value | None = None) -> ir.Value:
        """F at v (R, n) alone."""
        inside = self.r.inside(e, self.step.name, {})
        inside.put(self.step.x, Piece(self.rows.shaped(e, v, self.like)))
        return self.rows.flat(e, _run(inside, self.step.nodes, self.step.y))


def jacobian(e: Emitter, program: Program, rows: Rows, values: dict[ir.Value, ir.Value]) -> tuple[ir.Value, ir.Value]:
    """What a program makes of the x that `values` have, and its derivative by each row of x (R, n, n)."""
    size = rows.size
    (x,), (y,) = program.unknowns, program.wanted
    tape = Tape.record(e, program, values, size)
    zero = e.op("Unsqueeze", e.op("Mul", values[x], 0.0), e.ints([0]))
    pushed = tape.push(e, {x: e.op("Add", zero, rows.units(e))})[y]
    return tape.values[y], e.op("Transpose", rows.flat(e, pushed, size), perm=[1, 2, 0])


@dataclass(frozen=True)
class Torn:
    """φ(s) = s − H(G(y, s)) for rows of s, one a sample, and φ′ = I + H_x F_x⁻¹ F_s."""

    r: Realisation
    step: Coupled
    values: dict[ir.Value, ir.Value]

    @property
    def sizes(self) -> list[int]:
        """Of each tensor of s, a sample."""
        return [sample_size(s) for s in self.step.s]

    @property
    def outputs(self) -> int:
        """The equations of a sample."""
        return sum(self.sizes)

    @property
    def coordinates(self) -> _Size:
        """The unknowns of a sample."""
        return _Size(self.outputs)

    def split(self, e: Emitter, v: ir.Value) -> list[ir.Value]:
        """The tensors of s from rows (N, m)."""
        found, start = [], 0
        for s, size in zip(self.step.s, self.sizes, strict=True):
            part = e.op("Slice", v, e.ints([start]), e.ints([start + size]), e.ints([1]))
            found.append(e.op("Reshape", part, e.ints([-1, *(sample_shape(s) or ())])))
            start += size
        return found

    def joined(self, e: Emitter, parts: Sequence[ir.Value], seeds: int = 0) -> ir.Value:
        """Rows (N, m) of the tensors of s; with `seeds` (S, N, m) of so many of them."""
        before = [seeds] if seeds else []
        flat = [
            e.op("Reshape", part, e.ints([*before, -1, size])) for part, size in zip(parts, self.sizes, strict=True)
        ]
        return flat[0] if len(flat) == 1 else e.op("Concat", *flat, axis=1 + len(before))

    def given(self, e: Emitter, s: Sequence[ir.Value], *, last: bool = False) -> ir.Value:
        """G(y, s); the `last` time with the log-determinant of F by x, if it is asked for."""
        held: dict[Edge, ir.Value] = {}
        for value, made in zip(self.step.s, s, strict=True):
            held |= {edge: made for edge in self.step.frozen if edge[0].inputs[edge[1]] is value}
        inside = self.r.inside(e, self.step.name, held)
        if last:
            inside.log_det = self.r.log_det
        inside.run(self.step.inner)
        return inside.read(self.step.x)

    def head(self, e: Emitter, x: ir.Value) -> ir.Value:
        """H(x) as rows (N, m)."""
        inside = self.r.inside(e, self.step.name, {})
        inside.put(self.step.x, Piece(x))
        for node in self.step.head.nodes:
            for output, made in zip(node.outputs, inside.evaluate(node), strict=True):
                inside.put(output, Piece(made))
        return self.joined(e, [inside.read(s) for s in self.step.s])

    def at(self, e: Emitter, v: ir.Value, seeds: int, width: ir.Value | None = None) -> Local:
        """φ and φ′ at v (N, m)."""
        s = self.split(e, v)
        x = self.given(e, s)
        return Local(e.op("Sub", v, self.head(e, x)), self.slope(e, x, s))

    def value(self, e: Emitter, v: ir.Value, width: ir.Value | None = None) -> ir.Value:
        """φ at v (N, m) alone."""
        return e.op("Sub", v, self.head(e, self.given(e, self.split(e, v))))

    def slope(self, e: Emitter, x: ir.Value, s: Sequence[ir.Value], there: ir.Value | None = None) -> ir.Value:
        """φ′ (N, m, m) where x = G(y, s); of the elements of x alone that are not 0 in `there`."""
        step, m = self.step, self.outputs
        values = {**self.values, step.x: x, **dict(zip(step.s, s, strict=True))}
        # The first tangent is that of all of x, which F takes number by number; then one for every number of s.
        wide = [e.op("Unsqueeze", e.op("Mul", value, 0.0), e.ints([0])) for value in (x, *s)]
        rank = len(step.x.shape or ())
        first = e.constant(np.eye(m + 1)[:, :1].reshape(-1, *[1] * rank), "first")
        tangents = {step.x: e.op("Add", wide[0], first)}
        start = 0
        for value, zero, size in zip(step.s, wide[1:], self.sizes, strict=True):
            units = np.eye(m + 1)[:, 1 + start : 1 + start + size]
            shape = sample_shape(value) or ()
            tangents[value] = e.op("Add", zero, e.constant(units.reshape(m + 1, 1, *shape), "units"))
            start += size
        pushed = Tape.record(e, step.tail, values, m + 1).push(e, tangents)[step.y]
        by_x = e.op("Slice", pushed, e.ints([0]), e.ints([1]), e.ints([0]))
        by_s = e.op("Slice", pushed, e.ints([1]), e.ints([m + 1]), e.ints([0]))
        moved = e.op("Div", by_s, by_x)
        if there is not None:
            moved = e.op("Where", e.op("Equal", there, e.scalar(0.0)), e.scalar(0.0), moved)
        found = Tape.record(e, step.head, values, m).push(e, {step.x: moved})
        rows = self.joined(e, [found[value] for value in step.s], m)
        return e.op("Add", e.op("Transpose", rows, perm=[1, 2, 0]), identity(e, m))


def solve_whole(r: Realisation, step: Solve) -> ir.Value:
    """x with F(x) = y."""
    e = r.e
    with e.scope(f"solve/{step.name}", step.x.dtype or e.dtype):
        y = r.read(step.y)
        r.settle(step.nodes, step.x)
        rows = Rows.of(step.x, step.own)
        equations = Whole(r, step, rows, outside(r, step), y)
        target = rows.flat(e, y)
        v = _iterated(r, step, equations, target, target)
        r.root.copied.extend(step.nodes)
        return rows.shaped(e, v, y)


def solve_coupled(r: Realisation, step: Coupled) -> tuple[ir.Value, Torn, list[ir.Value]]:
    """x and s with y = F(x, s), s = H(x)."""
    e = r.e
    with e.scope(f"solve/{step.name}", step.x.dtype or e.dtype):
        y = r.read(step.y)
        r.settle(step.nodes, step.x)
        equations = Torn(r, step, outside(r, step))
        centre = equations.head(e, y)
        v = _iterated(r, step, equations, e.op("Mul", centre, 0.0), centre)
        s = equations.split(e, v)
        r.root.copied.extend(step.nodes)
        return equations.given(e, s, last=True), equations, s


def _iterated(
    r: Realisation, step: Solve | Coupled, equations: Whole | Torn, target: ir.Value, begin: ir.Value
) -> ir.Value:
    """v (R, m) where the equations are `target`, from `begin` on; what is not solved is counted."""
    e = r.e
    numbers = e.dtype.numpy()
    m = equations.outputs
    unit = eps(numbers)
    huge = float(np.finfo(numbers).max) / 16
    rng = np.random.default_rng(m)
    offsets = np.stack([scale * rng.standard_normal(m) for scale in STARTS])
    restarts = Restarts(offsets, np.zeros(len(STARTS), bool), begin)
    settings = Settings(ITERATIONS, SOLVED * unit, ROUND_OFF * unit, NEAR * unit, PATIENCE, restarts, huge)
    least = float(np.finfo(numbers).tiny) / unit**2
    scale = e.op("Max", length(e, begin), least)
    unroll = r.unroll is not None
    error = length(e, e.op("Sub", target, equations.value(e, begin)))
    first = initial(e, target, m, settings, (begin, error))
    direction = dense.direction(equations)
    samples = e.unique("rows")

    def body(b: Emitter, values: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        state = State(*values)
        norm = b.op("Max", scale, length(b, state.best))
        after, busy = iteration(b, equations, direction, target, norm, state, settings)
        unsolved = b.op("Greater", after.best_error, b.op("Mul", norm, settings.solved))
        slow = b.op("Add", state.stall, b.op("Mul", b.op("Sub", after.stall, state.stall), SLOW))
        slow = b.op("Where", b.op("Greater", after.stall, state.stall), slow, after.stall)
        return replace(after, stall=b.op("Where", unsolved, slow, after.stall)).flat(), busy

    shapes = State.shapes(samples, m, rounding=False)
    most = WRITTEN_OUT if unroll else ITERATIONS
    found = State(*iterate(e, first.flat(), shapes, body, most=most, unroll=unroll))
    if r.outer is None:
        rough = e.op("Mul", e.op("Max", scale, length(e, found.best)), unit**0.5)
        missed = e.cast(e.op("Greater", found.best_error, rough))
        r.probes.append(Probe(step.name, missed.name or "", None, np.asarray(0.5), None))
    return found.best


def outside(r: Realisation, step: Block) -> dict[ir.Value, ir.Value]:
    """What a block takes from outside, but for x."""
    inside = {step.x, *(output for node in step.nodes for output in node.outputs)}
    return {v: r.read(v) for node in step.nodes for v in node.inputs if v is not None and v not in inside}


def _run(inside: Realisation, nodes: Sequence[ir.Node], wanted: ir.Value) -> ir.Value:
    for node in nodes:
        for output, made in zip(node.outputs, inside.evaluate(node), strict=True):
            inside.put(output, Piece(made))
    return inside.read(wanted)
