"""log|det ∂x/∂y| of an inverse, sample by sample, gathered step by step.

Every step solves an equation for the elements that it finds, given what was found before: in that order the
Jacobian of all equations is triangular, and its determinant the product of the steps' own derivatives. Moving
elements changes nothing but the sign.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_invert.build.system.coupled import Rows, Torn, identity, jacobian, outside
from onnx_invert.build.system.determinant import LARGEST, log_det, log_det_by_pivots
from onnx_invert.build.system.live import Live
from onnx_invert.build.system.pieces import Mask
from onnx_invert.build.system.shapes import size
from onnx_invert.build.tape import Tape
from onnx_invert.errors import Blocker, NotInvertibleError
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.program import Program, part
from onnx_invert.plan.samples import Along, Samples
from onnx_invert.plan.stages import Stage
from onnx_invert.plan.steps import Block, Coupled, Place, Root, Scale, Solve, Sweep, Tear, Undo
from onnx_invert.rules import RuleSet
from onnx_invert.rules.facts import Convert, Diagonal, Elementwise, Matrix, Paired, Rearrangement, Repeat

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation

NAME = "log_det"

MOST_PIVOTS = 256
"""Rows up to which a determinant is computed row by row."""


class LogDet:
    """Sums log|∂y/∂x| over the steps; `samples` says where samples lie; `live`, where given tensors multiply what is
    recovered, which elements they leave a volume."""

    def __init__(self, rules: RuleSet, opset: int, samples: Samples, live: Live | None = None) -> None:
        self._rules, self._opset, self._samples, self._live = rules, opset, samples, live
        self._terms: list[ir.Value] = []
        self._dtype = ir.DataType.FLOAT

    def start(self, r: Realisation, known: Sequence[ir.Value]) -> None:
        """Before the first step; `known` are the outputs that the inverse takes. The sum is of the emitter's type."""
        self._dtype = r.e.dtype
        if self._live is not None:
            self._live.start(r, known)

    def placed(self, step: Place) -> None:
        """Elements were moved."""
        if self._live is not None:
            self._live.place(step)

    def undone(self, step: Undo) -> None:
        """A node is about to be undone."""
        if self._live is not None:
            self._live.undo(step)

    def lost(self, r: Realisation) -> None:
        """What was undone last may have lost elements: the determinant is infinite then."""
        for x, logs, mask in self._live.lost if self._live is not None else ():
            with r.typed(x):
                self._sum(r, r.e.op("Expand", logs, r.e.op("Shape", r.read(x))), x, mask, None)
        if self._live is not None:
            self._live.lost.clear()

    def of_stage(self, r: Realisation, stage: Stage, x: ir.Value, y: ir.Value, like: ir.Value, mask: Mask) -> None:
        """A fact that was undone: `x` and `y` are its ends in the graph, `like` the tensor of the model with the
        elements `mask` that were found."""
        e, fact = r.e, stage.fact
        match fact:
            case Rearrangement() | Convert():
                return
            case Repeat() if fact.count == 1 and fact.weights is None:
                return
            case Diagonal():
                slope = e.constant(np.log(np.abs(np.where(fact.scale == 0, 1.0, fact.scale))), "log_scale")
                self._sum(r, e.op("Expand", slope, e.op("Shape", x)), like, mask, stage)
            case Elementwise():
                self._sum(r, e.op("Log", e.op("Abs", fact.derivative(e, x, y))), like, mask, stage)
            case Paired():
                other = stage.nodes[0].inputs[fact.other]
                assert other is not None
                slope = e.op("Log", e.op("Abs", fact.derivative(e, x, r.read(other))))
                self._sum(r, e.op("Expand", slope, e.op("Shape", x)), like, mask, stage)
            case Matrix() if fact.lengths[0] == fact.lengths[1] and fact.weight.ndim == 2:
                if self._live is not None and not self._on_groups(stage, like):
                    what = "it mixes elements some of which a given mask may set to 0, and others not"
                    raise _refusal(stage.nodes[0], f"{what}: its log-determinant is not defined")
                size = fact.lengths[0]
                log = float(np.linalg.slogdet(fact.weight.astype(np.float64))[1]) + size * math.log(abs(fact.factor))
                spread = e.op("Expand", e.scalar(log / size), e.op("Shape", r.read(like)))
                self._sum(r, spread, like, np.ones(mask.shape, bool), stage)
            case _:
                raise _refusal(stage.nodes[0], "its log-determinant is not defined: it has no square matrix")

    def of_block(self, r: Realisation, step: Root | Scale | Sweep | Solve) -> None:
        """A block solved element by element: the derivative of yᵢ by xᵢ, all else as it was found."""
        if self._live is not None:
            self._live.block(step)
        if isinstance(step, Solve) or (isinstance(step, Sweep) and step.rounds is None):
            self._of_whole(r, step)
            return
        frozen = step.frozen if isinstance(step, Sweep) else ()
        e = r.e
        with e.scope(f"log_det/{step.name}", step.x.dtype or e.dtype):
            values = outside(r, step)
            values[step.x] = r.read(step.x)
            program = self._program(step.nodes, step.x, step.y, set(frozen))
            pushed = self._pushed(e, program, values, _tangent(e, values[step.x], 1.0))
            slope = e.op("Squeeze", pushed, e.ints([0]))
            self._sum(r, e.op("Log", e.op("Abs", slope)), step.x, step.mask, None)
        r.root.copied.extend(step.nodes)

    def _of_whole(self, r: Realisation, step: Sweep | Solve) -> None:
        """The Jacobian of a residual block, column by column by its derivative, and its determinant by elimination:
        of what depends on one another alone, a matrix for every other place."""
        e, node = r.e, step.nodes[-1]
        along = self._along(step.x)
        own = step.own
        sizes = None if own is None else [(step.x.shape or ())[axis] for axis in own]
        if own is None or sizes is None or along.axis in own or not all(isinstance(size, int) for size in sizes):
            raise _refusal(
                node, "the samples of its Jacobian do not lie along an axis of their own, or are of any size"
            )
        rows = Rows.of(step.x, own)
        most = LARGEST if isinstance(step, Sweep) else MOST_PIVOTS
        if rows.size > most:
            what = (
                f"the Jacobian of a residual block of {rows.size} numbers a sample is no product; {most} are the most"
            )
            raise _refusal(node, what)
        with e.scope(f"log_det/{step.name}", step.x.dtype or e.dtype):
            x = r.read(step.x)
            values = {**outside(r, step), step.x: x}
            program = step.program if isinstance(step, Solve) else self._program(step.nodes, step.x, step.y, set())
            _, matrix = jacobian(e, program, rows, values)
            there = self._counted(r, step)
            if there is not None:
                # The block of what counts, and 1 on the diagonal for what does not.
                here = rows.flat(e, e.op("Expand", there, e.op("Shape", x)))
                pair = e.op("Mul", e.op("Unsqueeze", here, e.ints([2])), e.op("Unsqueeze", here, e.ints([1])))
                gone = e.op("Unsqueeze", e.op("Sub", e.scalar(1.0), here), e.ints([2]))
                gone = e.op("Mul", gone, identity(e, rows.size))
                matrix = e.op("Add", e.op("Where", e.op("Equal", pair, 0.0), e.scalar(0.0), matrix), gone)
            eliminate = log_det if isinstance(step, Sweep) else log_det_by_pivots
            logs = eliminate(e, matrix, rows.size, unroll=r.unroll is not None)
            self._reduce(r, rows.spread(e, logs, x), step.x)
        r.root.copied.extend(step.nodes)

    def _counted(self, r: Realisation, step: Block) -> ir.Value | None:
        """1 for the elements of a block's x that count, 0 for others; None where all do."""
        e = r.e
        found = None if step.mask.all() else e.cast(r.mask_of(step.mask))
        if self._live is not None:
            counts = self._live.of(step.x, step.mask)
            if counts is None:
                raise _refusal(step.nodes[-1], f"which elements of {step.x.name!r} a given mask leaves is not known")
            found = counts if found is None else e.op("Mul", found, counts)
        return found

    def of_tear(self, r: Realisation, step: Tear, s: ir.Value) -> None:
        """det ∂y/∂x = det F_x · det φ′ (the matrix determinant lemma), φ′ = I + H_x F_x⁻¹ F_s. The steps inside have
        told det F_x; F_x is diagonal, and so is φ′."""
        e = r.e
        with e.scope(f"log_det/{step.name}", step.x.dtype or e.dtype):
            values = outside(r, step)
            values |= {step.x: r.read(step.x), step.s: s}
            frozen = set(step.frozen)
            ones = {v: _tangent(e, values[v], 1.0) for v in (step.x, step.s)}
            by_x = self._pushed(e, self._program(step.nodes, step.x, step.y, frozen), values, ones[step.x])
            by_s = self._pushed(e, self._program(step.nodes, step.s, step.y, set()), values, ones[step.s])
            moved = e.op("Div", by_s, by_x)
            there = self._counted(r, step)
            if there is not None:
                moved = e.op("Where", e.op("Equal", there, e.scalar(0.0)), e.scalar(0.0), moved)
            head = self._program(step.head, step.x, step.s, set())
            slope = e.op("Add", self._pushed(e, head, values, moved), 1.0)
            slope = e.op("Squeeze", slope, e.ints([0]))
            self._reduce(r, e.op("Log", e.op("Abs", slope)), step.s)
        r.root.copied.extend(step.nodes)

    def of_coupled(self, r: Realisation, step: Coupled, torn: Torn, s: Sequence[ir.Value]) -> None:
        """The same with all of s together: φ′ is a matrix for every sample."""
        e = r.e
        if self._along(step.x) != Along(0):
            raise _refusal(step.nodes[-1], "the samples of its Jacobian do not lie along the first axis")
        with e.scope(f"log_det/{step.name}", step.x.dtype or e.dtype):
            slope = torn.slope(e, r.read(step.x), s, self._counted(r, step))
            logs = log_det_by_pivots(e, slope, torn.outputs, unroll=r.unroll is not None)
            self._terms.append(e.converted(e.op("Squeeze", logs, e.ints([1])), self._dtype))
        r.root.copied.extend(step.nodes)

    def total(self, r: Realisation, like: ir.Value) -> ir.Value:
        """log|det ∂x/∂y|, one number a sample, as many as the model's tensor `like` has."""
        e = r.e
        axis = self._along(like).axis
        with e.scope(e.scope_name, ir.DataType.INT64):
            shape = e.op("Slice", e.op("Shape", r.read(like)), e.ints([axis]), e.ints([axis + 1]), e.ints([0]))
        value = e.op("Expand", e.scalar(0.0), shape)
        for term in self._terms:
            value = e.op("Sub", value, term)
        return value

    def _pushed(
        self, e: Emitter, program: Program, values: dict[ir.Value, ir.Value], tangent: ir.Value, seeds: int = 1
    ) -> ir.Value:
        """The tangents (seeds, *shape) of what a program makes, from those of its unknown."""
        (x,), (y,) = program.unknowns, program.wanted
        pushed = Tape.record(e, program, values, seeds).push(e, {x: tangent})
        if y not in pushed:
            raise _refusal(program.steps[-1].node, "it has no derivative by what it is solved for")
        return pushed[y]

    def _program(
        self, nodes: Sequence[ir.Node], x: ir.Value, y: ir.Value, frozen: Collection[tuple[ir.Node, int]]
    ) -> Program:
        """The nodes between, each differentiated by what depends on x elsewhere than at the frozen operands."""
        found = part(self._rules, self._opset, nodes, (x,), (y,), frozen)
        if isinstance(found, Blocker):
            raise NotInvertibleError([replace(found, remedy="leave out --log-det")])
        return found

    def _sum(self, r: Realisation, logs: ir.Value, like: ir.Value, mask: Mask, stage: Stage | None) -> None:
        """Add the sum over the elements of `mask` in every sample."""
        e = r.e
        if self._live is not None:
            counts = self._live.of(like, mask)
            if counts is None:
                node = stage.nodes[0] if stage is not None else like.producer()
                what = f"which elements of {like.name!r} a given mask leaves is not known"
                raise NotInvertibleError(
                    [Blocker(node.name or "" if node else "", node.op_type if node else "", what)]
                )
            # Where no volume is, a logarithm may be infinite.
            logs = e.op("Where", e.op("Equal", counts, e.scalar(0.0)), e.scalar(0.0), logs)
        if not mask.all():
            logs = e.op("Where", r.mask_of(mask), logs, e.scalar(0.0))
        self._reduce(r, logs, like)

    def _reduce(self, r: Realisation, logs: ir.Value, like: ir.Value) -> None:
        """Add the sum over every sample of a tensor."""
        e = r.e
        # Steps of halves and of float32 may stand in one inverse.
        logs = e.converted(logs, self._dtype)
        with e.scope(e.scope_name, self._dtype):
            self._terms.append(self._summed(r, logs, like))

    def _summed(self, r: Realisation, logs: ir.Value, like: ir.Value) -> ir.Value:
        e, along = r.e, self._along(like)
        others = [a for a in range(len(like.shape or ())) if a != along.axis]
        term = e.op("ReduceSum", logs, e.ints(others), keepdims=0) if others else logs
        if along.count == 1:
            return term
        if along.fixed:
            parts = e.op("Reshape", term, e.ints([along.count, -1] if along.strided else [-1, along.count]))
        else:
            parts = _rows(e, term, size(r, self._samples.batch, like), strided=along.strided)
        return e.op("ReduceSum", parts, e.ints([0 if along.strided else 1]), keepdims=0)

    def _on_groups(self, stage: Stage, like: ir.Value) -> bool:
        """Whether a matrix acts on elements that are all there, or all not."""
        axis = {"Conv": 1, "MatMul": -1, "Gemm": -1}.get(stage.nodes[0].op_type)
        known = self._live is not None and self._live.of(like, np.ones((), bool)) is not None
        return known and axis is not None and stage.operand == 0 and self._live.together(like, axis)  # type: ignore[union-attr]

    def _along(self, value: ir.Value) -> Along:
        """Where the samples of a tensor are."""
        found = self._samples.along(value)
        if found is None:
            maker = value.producer()
            what = f"the samples of its tensor {value.name!r} lie along no axis"
            raise NotInvertibleError(
                [Blocker(maker.name or "" if maker else "", maker.op_type if maker else "input", what)]
            )
        return found


def _rows(e: Emitter, value: ir.Value, samples: ir.Value, *, strided: bool = False) -> ir.Value:
    """The numbers (n,) of `samples` (1,) samples, one sample after the other, as (N, n / N); `strided`, one number of
    each sample after the other, as (n / N, N)."""
    with e.scope(e.scope_name, ir.DataType.INT64):
        one = e.ints([1])
        size = e.op("Max", e.op("Div", e.op("Shape", value), e.op("Max", samples, one)), one)
        shape = e.op("Concat", *((size, samples) if strided else (samples, size)), axis=0)
    # Of no samples Reshape reads 0 as the size that stands there already.
    return e.op("Reshape", e.op("Unsqueeze", value, e.ints([0])) if strided else value, shape)


def _tangent(e: Emitter, x: ir.Value, size: float) -> ir.Value:
    """The same tangent (1, *x) for every element."""
    return e.op("Unsqueeze", e.op("Expand", e.scalar(size), e.op("Shape", x)), e.ints([0]))


def _refusal(node: ir.Node, reason: str) -> NotInvertibleError:
    return NotInvertibleError([Blocker(node.name or "", node.op_type, reason, "leave out --log-det")])
