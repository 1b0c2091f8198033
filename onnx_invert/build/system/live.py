"""Which elements have a volume where given masks set others to 0: those that no mask on their way has made 0.

The tensors of the model are followed a second time, from the known outputs on, as tensors of ones; a product with a
given tensor multiplies them by its being other than 0, and what moves elements moves them. Beside them go marks, at
the sizes of the plan, of which elements of the given tensors each depends on: elements with one mark are 0 together,
so that a matrix on such a group acts on all of it or on nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_invert.build.system.pieces import Mask, Piece
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.concrete import Concrete
from onnx_invert.plan.samples import Samples
from onnx_invert.plan.steps import Block, Place, Undo
from onnx_invert.rules.dependence import flow, places
from onnx_invert.rules.facts import Paired
from onnx_invert.rules.moving import Labels, moves
from onnx_invert.rules.static import UnsizedError

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation

_UNKNOWN = -1
_ALONE = frozenset({"Cast", "Identity", "Not"})
"""Functions of one element: what is 0 together stays so."""


def _any(e: Emitter, truths: ir.Value, axes: Sequence[int]) -> ir.Value:
    """Whether one is true along `axes`, which stay with size 1."""
    if not axes:
        return truths
    count = e.op("ReduceSum", e.cast(truths), e.ints(axes), keepdims=1)
    return e.op("Greater", count, e.scalar(0.5))


@dataclass
class Live:
    """`given` are the inputs that the inverse is given, whose elements may be 0; `samples` says where samples lie.

    `lost` are, by tensors of the model, −∞ in the elements that a given factor which is no mask makes 0, else 0.
    """

    concrete: Concrete
    given: Sequence[ir.Value]
    samples: Samples
    shadow: Realisation | None = None
    lost: list[tuple[ir.Value, ir.Value, Mask]] = field(default_factory=list)
    _marks: dict[ir.Value, Labels] = field(default_factory=dict)
    _pairs: dict[tuple[int, int], int] = field(default_factory=dict)
    _next: int = 1

    def start(self, r: Realisation, known: Sequence[ir.Value]) -> None:
        """All elements of the known outputs count."""
        self.shadow = r.inside(r.e, "live", {})
        for value in known:
            self._marks[value] = np.zeros(self.concrete.shapes.get(value.name or "", ()), np.int64)
            with r.typed(value):
                ones = r.e.op("Expand", r.e.scalar(1.0), r.e.op("Shape", r.ports[value]))
            self.shadow.put(value, Piece(ones))

    def of(self, value: ir.Value, mask: Mask) -> ir.Value | None:
        """1 for the elements of a tensor that count, 0 for others; None where that is not known of all in `mask`."""
        marks = self._marks.get(value)
        if marks is None or np.any(marks[np.broadcast_to(mask, marks.shape)] == _UNKNOWN) or self.shadow is None:
            return None
        return self.shadow.read(value)

    def together(self, value: ir.Value, axis: int) -> bool:
        """Whether the elements along an axis count all, or not at all."""
        marks = self._marks[value]
        return bool(np.all(marks == marks.take([0], axis)))

    def place(self, step: Place) -> None:
        """Elements that are moved stay what they are."""
        x = step.node.inputs[step.operand]
        twin = self.concrete.nodes.get(step.node.name or "")
        if x is None or twin is None or self.shadow is None:
            return
        shape = self.concrete.shapes[x.name or ""]
        sources = places(twin, step.operand, shape)
        if sources is None:
            return
        marks = self._marks.setdefault(x, np.full(shape, _UNKNOWN, np.int64))
        flat, mask = marks.reshape(-1), step.mask.reshape(-1)
        for output, source in zip(step.node.outputs, sources, strict=True):
            found = self._marks.get(output)
            if found is not None:
                come = source.reshape(-1)
                there = np.flatnonzero((come > 0) & mask[come - 1] & (found.reshape(-1) != _UNKNOWN))
                flat[come[there] - 1] = found.reshape(-1)[there]
        self.shadow.move(step)

    def undo(self, step: Undo) -> None:
        """What an operand counts as, from what the output does; less where it was multiplied by a given tensor."""
        x, y = step.node.inputs[step.operand], step.node.outputs[0]
        if x is None or y not in self._marks or self.shadow is None:
            return
        shape = self.concrete.shapes[x.name or ""]
        before = self._marks[y]
        if before.shape != shape or np.any(before[step.mask] == _UNKNOWN):
            return
        with self.shadow.typed(x):
            value, marks = self._undone(step, x, y, before)
        known = self._marks.setdefault(x, np.full(shape, _UNKNOWN, np.int64))
        known[step.mask] = marks[step.mask]
        self.shadow.put(x, Piece(value) if step.mask.all() else Piece(value, mask=step.mask))

    def _undone(self, step: Undo, x: ir.Value, y: ir.Value, before: Labels) -> tuple[ir.Value, Labels]:
        """What counts of x, and the marks of its elements, in the emitter's type; `before` are the marks of y."""
        assert self.shadow is not None
        e = self.shadow.e
        value = e.converted(self.shadow.read(y), e.dtype)
        marks = np.where(step.mask, before, _UNKNOWN)
        for fact in (stage.fact for stage in step.stages):
            other = step.node.inputs[fact.other] if isinstance(fact, Paired) and step.node.op_type == "Mul" else None
            if other is None or other in self.shadow.dependent:
                continue
            factor = self.shadow.read(other)
            none = e.op("Equal", factor, e.scalar(0.0))
            counts = e.op("Not", none)
            if self._is_given(other):
                # A mask holds 0 and 1 alone. A factor that is 0 elsewhere leaves x where it likes, which has a volume.
                strange = e.op("Not", e.op("Or", none, e.op("Equal", factor, e.scalar(1.0))))
                some = _any(e, strange, self._apart(x, other))
                lost = e.op("And", none, some)
                counts = e.op("Or", counts, lost)
                self.lost.append((x, e.op("Where", lost, e.scalar(-np.inf), e.scalar(0.0)), step.mask))
            value = e.op("Mul", value, e.cast(counts))
            marks = np.where(step.mask, self._both(before, self._of_given(other, before.shape)), _UNKNOWN)
        return value, marks

    def _apart(self, x: ir.Value, factor: ir.Value) -> list[int]:
        """The axes of a factor of x along which samples do not lie."""
        rank, along = len(factor.shape or ()), self.samples.along(x)
        axis = -1 if along is None or along.count > 1 else along.axis - len(x.shape or ()) + rank
        return [other for other in range(rank) if other != axis]

    def _is_given(self, value: ir.Value) -> bool:
        """Whether a factor is an input of the inverse as it comes, its elements moved at most."""
        while value not in self.given:
            node = value.producer()
            if node is None or not (moves(node) or node.op_type == "Identity") or node.inputs[0] is None:
                return False
            value = node.inputs[0]
        return True

    def block(self, step: Block) -> None:
        """A block that is solved element by element."""
        before = self._marks.get(step.y)
        if before is None or before.shape != step.mask.shape or self.shadow is None:
            return
        known = self._marks.setdefault(step.x, np.full(before.shape, _UNKNOWN, np.int64))
        known[step.mask] = before[step.mask]
        value = self.shadow.read(step.y)
        if step.x.dtype is not None:
            value = self.shadow.e.converted(value, step.x.dtype)
        self.shadow.put(step.x, Piece(value) if step.mask.all() else Piece(value, mask=step.mask))

    def _both(self, one: Labels, other: Labels) -> Labels:
        """A mark for every pair of marks; that of both where they are the same, or one is 0: no mask yet."""
        found = np.empty_like(one)
        for index, (a, b) in enumerate(zip(one.reshape(-1).tolist(), other.reshape(-1).tolist(), strict=True)):
            if a in {0, b}:
                found.flat[index] = b
            else:
                found.flat[index] = self._pairs.setdefault((a, b), -2 - len(self._pairs))
        return found

    def _of_given(self, value: ir.Value, shape: Sequence[int]) -> Labels:
        marks = self._given_marks.get(value.name or "")
        if marks is None:
            size = int(np.prod(self.concrete.shapes.get(value.name or "", ())))
            marks = self._fresh(np.zeros(self.concrete.shapes.get(value.name or "", ()), np.int64), size)
        return np.array(np.broadcast_to(marks, shape))

    def _fresh(self, like: Labels, count: int) -> Labels:
        first = self._next
        self._next += count
        return np.arange(first, first + count, dtype=np.int64).reshape(like.shape)

    @cached_property
    def _given_marks(self) -> dict[str, Labels]:
        """For every tensor made of the given ones which elements are 0 together: those that were one element."""
        found: dict[str, Labels] = {}
        for value in self.given:
            shape = self.concrete.shapes.get(value.name or "")
            if shape is not None:
                found[value.name or ""] = self._fresh(np.zeros(shape, np.int64), int(np.prod(shape)))
        for node in self.concrete.nodes.values():
            parts = [None if value is None else found.get(value.name or "") for value in node.inputs]
            if all(part is None for part in parts):
                continue
            shapes = [self.concrete.shapes.get(output.name or "") for output in node.outputs]
            if any(shape is None for shape in shapes):
                continue
            carried = None
            try:
                if moves(node):
                    carried = flow(node, parts)
                elif node.op_type in _ALONE and parts[0] is not None:
                    carried = [parts[0] + self._next]
                    self._next += int(carried[0].max()) + 1
            except UnsizedError:
                continue
            for index, (output, shape) in enumerate(zip(node.outputs, shapes, strict=True)):
                fresh = self._fresh(np.zeros(shape or (), np.int64), int(np.prod(shape or ())))
                # A constant among them may be 0 while its neighbour is not.
                marks = fresh if carried is None else np.where(carried[index] > 0, carried[index], fresh)
                found[output.name or ""] = marks
        return found
