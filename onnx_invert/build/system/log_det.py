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

from onnx_invert.build.system.determinant import LARGEST, log_det, units
from onnx_invert.build.system.live import Live
from onnx_invert.build.system.pieces import Mask
from onnx_invert.build.tape import Tape
from onnx_invert.errors import Blocker, NotInvertibleError
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.program import Program, part
from onnx_invert.plan.samples import Along, Samples
from onnx_invert.plan.stages import Stage
from onnx_invert.plan.steps import Block, Place, Root, Scale, Sweep, Tear, Undo
from onnx_invert.rules import RuleSet
from onnx_invert.rules.facts import Convert, Diagonal, Elementwise, Matrix, Paired, Rearrangement, Repeat

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation

NAME = "log_det"


class LogDet:
    """Sums log|∂y/∂x| over the steps; `samples` says where samples lie; `live`, where given tensors multiply what is
    recovered, which elements they leave a volume."""

    def __init__(self, rules: RuleSet, opset: int, samples: Samples, live: Live | None = None) -> None:
        self._rules, self._opset, self._samples, self._live = rules, opset, samples, live
        self._terms: list[ir.Value] = []

    def start(self, r: Realisation, known: Sequence[ir.Value]) -> None:
        """Before the first step; `known` are the outputs that the inverse takes."""
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

    def of_block(self, r: Realisation, step: Root | Scale | Sweep) -> None:
        """A block solved element by element: the derivative of yᵢ by xᵢ, all else as it was found."""
        if isinstance(step, Sweep) and step.rounds is None:
            self._of_contraction(r, step)
            return
        if self._live is not None:
            self._live.block(step)
        frozen = step.frozen if isinstance(step, Sweep) else ()
        e = r.e
        with e.scope(f"log_det/{step.name}", step.x.dtype or e.dtype):
            values = self._outside(r, step)
            values[step.x] = r.read(step.x)
            program = self._program(step.nodes, step.x, step.y, set(frozen))
            pushed = self._pushed(e, program, values, _tangent(e, values[step.x], 1.0))
            slope = e.op("Squeeze", pushed, e.ints([0]))
            self._sum(r, e.op("Log", e.op("Abs", slope)), step.x, step.mask, None)
        r.root.copied.extend(step.nodes)

    def _of_contraction(self, r: Realisation, step: Sweep) -> None:
        """The Jacobian of a residual block, column by column by its derivative, and its determinant by elimination."""
        self._refuse_masks(step)
        e = r.e
        mask = step.mask[0] if step.mask.ndim else step.mask
        size = int(mask.sum())
        fixed = all(isinstance(dim, int) for dim in (step.x.shape or ())[1:])
        if not step.by_sample or not fixed or self._along(step.x) != Along(0):
            raise _refusal(step.nodes[-1], "the samples of its Jacobian do not lie along the first axis")
        if size > LARGEST:
            what = f"the Jacobian of a residual block of {size} numbers a sample is no product; {LARGEST} are the most"
            raise _refusal(step.nodes[-1], what)
        with e.scope(f"log_det/{step.name}", step.x.dtype or e.dtype):
            values = self._outside(r, step)
            values[step.x] = r.read(step.x)
            count = e.op("Unsqueeze", e.op("Mul", values[step.x], 0.0), e.ints([0]))
            tangents = e.op("Add", count, e.constant(units(mask), "units"))
            program = self._program(step.nodes, step.x, step.y, set())
            columns = self._pushed(e, program, values, tangents, size)
            columns = e.op("Reshape", columns, e.ints([size, -1, mask.size]))
            if size < mask.size:
                columns = e.op("Gather", columns, e.ints([int(i) for i in np.flatnonzero(mask)]), axis=2)
            jacobian = e.op("Transpose", columns, perm=[1, 2, 0])
            self._terms.append(e.op("Squeeze", log_det(e, jacobian, size), e.ints([1])))
        r.root.copied.extend(step.nodes)

    def of_tear(self, r: Realisation, step: Tear, s: ir.Value) -> None:
        """det ∂y/∂x = det F_x · det φ′ (the matrix determinant lemma), φ′ = I + H_x F_x⁻¹ F_s. The steps inside have
        told det F_x; F_x is diagonal, and so is φ′."""
        self._refuse_masks(step)
        e = r.e
        with e.scope(f"log_det/{step.name}", step.x.dtype or e.dtype):
            values = self._outside(r, step)
            values |= {step.x: r.read(step.x), step.s: s}
            frozen = set(step.frozen)
            ones = {v: _tangent(e, values[v], 1.0) for v in (step.x, step.s)}
            by_x = self._pushed(e, self._program(step.nodes, step.x, step.y, frozen), values, ones[step.x])
            by_s = self._pushed(e, self._program(step.nodes, step.s, step.y, set()), values, ones[step.s])
            moved = e.op("Div", by_s, by_x)
            head = self._program(step.head, step.x, step.s, set())
            slope = e.op("Add", self._pushed(e, head, values, moved), 1.0)
            slope = e.op("Squeeze", slope, e.ints([0]))
            self._sum(r, e.op("Log", e.op("Abs", slope)), step.s, np.ones((), bool), None)
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

    def _outside(self, r: Realisation, step: Block) -> dict[ir.Value, ir.Value]:
        """What a block takes from outside, but for x."""
        inside = {step.x, *(output for node in step.nodes for output in node.outputs)}
        return {v: r.read(v) for node in step.nodes for v in node.inputs if v is not None and v not in inside}

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
        along = self._along(like)
        others = [a for a in range(len(like.shape or ())) if a != along.axis]
        term = e.op("ReduceSum", logs, e.ints(others), keepdims=0) if others else logs
        if along.count > 1:
            parts = e.op("Reshape", term, e.ints([along.count, -1] if along.strided else [-1, along.count]))
            term = e.op("ReduceSum", parts, e.ints([0 if along.strided else 1]), keepdims=0)
        self._terms.append(term)

    def _on_groups(self, stage: Stage, like: ir.Value) -> bool:
        """Whether a matrix acts on elements that are all there, or all not."""
        axis = {"Conv": 1, "MatMul": -1, "Gemm": -1}.get(stage.nodes[0].op_type)
        known = self._live is not None and self._live.of(like, np.ones((), bool)) is not None
        return known and axis is not None and stage.operand == 0 and self._live.together(like, axis)  # type: ignore[union-attr]

    def _refuse_masks(self, step: Block) -> None:
        if self._live is not None:
            what = "a given mask sets elements of its block to 0: the log-determinant of the others is not known"
            raise _refusal(step.nodes[-1], what)

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


def _tangent(e: Emitter, x: ir.Value, size: float) -> ir.Value:
    """The same tangent (1, *x) for every element."""
    return e.op("Unsqueeze", e.op("Expand", e.scalar(size), e.op("Shape", x)), e.ints([0]))


def _refusal(node: ir.Node, reason: str) -> NotInvertibleError:
    return NotInvertibleError([Blocker(node.name or "", node.op_type, reason, "leave out --log-det")])
