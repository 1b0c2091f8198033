"""The lanes of one sweep: operands cut down to them, and what was found put back where it belongs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_invert.build.system import forms
from onnx_invert.build.tape import again
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.batch_rules import Place
from onnx_invert.plan.lanes import Cut, written
from onnx_invert.plan.steps import Edge
from onnx_invert.rules.node import FLOATS

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation


Made = dict[tuple[ir.Value, Place], ir.Value]
"""Lanes of tensors, by where they are."""


@dataclass(frozen=True)
class Selection:
    """`index` (width,) are the lanes, `places` (D,) where each lane is among them, `found` (D,) which they are."""

    cut: Cut
    index: ir.Value
    places: ir.Value
    found: ir.Value

    @staticmethod
    def of(e: Emitter, cut: Cut, count: ir.Value) -> Selection:
        """Those of the sweep `count`, a number that counts from 0."""

        def row(table: ir.Value) -> ir.Value:
            found = e.op("Gather", table, count, axis=0)
            found.shape = None if table.shape is None else ir.Shape(list(table.shape)[1:])
            return found

        with e.scope(e.scope_name, ir.DataType.INT64):
            index, places = (row(e.constant(array, "lanes")) for array in (cut.rounds.lanes, cut.rounds.places))
        with e.scope(e.scope_name, ir.DataType.BOOL):
            return Selection(cut, index, places, row(e.truths(cut.rounds.found)))

    @property
    def width(self) -> int:
        """How many lanes there are."""
        return int(self.cut.rounds.lanes.shape[1])

    @property
    def place(self) -> Place:
        """Where the lanes are in x and in y."""
        return Place(self.cut.rounds.axis)

    def pick(self, e: Emitter, value: ir.Value, place: Place, like: ir.Value) -> ir.Value:
        """The lanes of a tensor that has all of them, in the shape of the model's `like`."""
        axis = place.axis
        if place.outer == place.inner == 1:
            return self._gather(e, value, axis)
        dims = list(like.shape or ())
        rest = [dim for dim in dims[axis + 1 :] if isinstance(dim, int)]
        # Of no samples −1 would not tell how many numbers there are.
        fixed = isinstance(dims[axis], int)
        lead, outer = [0] * axis, place.outer if fixed else -1
        size = place.outer * self.width * place.inner if fixed else -1
        apart = _like(value, e.op("Reshape", value, e.ints([*lead, outer, self.cut.lanes.count, place.inner, *rest])))
        return _like(value, e.op("Reshape", self._gather(e, apart, axis + 1), e.ints([*lead, size, *rest])))

    def _gather(self, e: Emitter, value: ir.Value, axis: int) -> ir.Value:
        return _like(value, e.op("Gather", value, self.index, axis=axis))

    def constant(self, e: Emitter, array: np.ndarray) -> ir.Value:
        """A constant in x's shape, or of size 1 along axes on which it is the same, cut down."""
        made = e.constant(array, "part")
        axis = self.cut.rounds.axis - self._rank + array.ndim
        return self._gather(e, made, axis) if axis >= 0 and array.shape[axis] > 1 else made

    @property
    def _rank(self) -> int:
        return len(self.cut.rounds.shape)

    def spread(self, e: Emitter, part: ir.Value, whole: ir.Value) -> ir.Value:
        """`whole` with the lanes that were found in `part`."""
        axis, rank = self.cut.rounds.axis, self._rank
        if self.width > 1:
            part = e.op("Gather", part, self.places, axis=axis)
        column = [1] * axis + [-1] + [1] * (rank - axis - 1)
        found = e.op("Reshape", self.found, e.ints(column))
        found.dtype = ir.DataType.BOOL
        return e.op("Where", found, part, whole)

    def replaced(self, r: Realisation, nodes: list[ir.Node], made: Made) -> dict[Edge, ir.Value]:
        """What the nodes of the block take instead, made here: operands cut down, sizes written anew."""
        lanes = self.cut.lanes
        found: dict[Edge, ir.Value] = {}
        for node in nodes:
            for place in range(len(node.inputs)):
                if (node, place) in lanes.taken:
                    found[node, place] = self._operand(r, node, place, made)
            if node.op_type in {"Reshape", "Expand"}:
                found[node, 1] = r.e.ints(self._sizes(node))
        return found

    def _operand(self, r: Realisation, node: ir.Node, place: int, made: Made) -> ir.Value:
        value = node.inputs[place]
        assert value is not None
        return self.part(r, value, self.cut.lanes.taken[node, place], made, r.replaced.get((node, place)))

    def part(
        self, r: Realisation, value: ir.Value, at: Place, made: Made, instead: ir.Value | None = None
    ) -> ir.Value:
        """The lanes of a tensor: picked from it, or from what it is made of where that is made in this sweep.

        `made` keeps what was made; what is taken `instead` of the tensor is picked from.
        """
        maker = value.producer()
        if instead is not None or maker is None or not self._runs_ahead(r, maker, value, at):
            operand = r.read(value) if instead is None else instead
            if (operand, at) not in made:
                made[operand, at] = self.pick(r.e, operand, at, value)
            return made[operand, at]
        if maker in self.cut.lanes.passed:
            return self._operand(r, maker, 1, made)
        if (value, at) not in made:
            taken = self.cut.lanes.taken
            inputs = [
                self._operand(r, maker, index, made) if (maker, index) in taken else r.operand(maker, index)
                for index in range(len(maker.inputs))
            ]
            if maker.op_type in {"Reshape", "Expand"}:
                inputs[1] = r.e.ints(self._sizes(maker))
            r.root.copied.append(maker)
            (made[value, at],) = again(r.e, maker, inputs)
            made[value, at].shape = ir.Shape(self.cut.lanes.dims(value, self.width))
        return made[value, at]

    def _runs_ahead(self, r: Realisation, maker: ir.Node, value: ir.Value, at: Place) -> bool:
        """Whether the lanes of a tensor are made from lanes. What is made outside of the sweeps is made once."""
        lanes = self.cut.lanes
        return maker in lanes.ahead and lanes.moving.get(value) == at and r.noise is None and r.is_made_here(value)

    def _sizes(self, node: ir.Node) -> list[int]:
        output = node.outputs[0]
        dims = self.cut.lanes.dims(output, self.width)
        if node.op_type == "Reshape":
            sizes = written(node, dims)
            assert sizes is not None
            return sizes
        # An Expand keeps the lanes, and what is not fixed, as they come.
        kept = self.cut.lanes.moving[output].axis
        return [dim if isinstance(dim, int) and axis != kept else 1 for axis, dim in enumerate(dims)]

    def evaluate(self, r: Realisation, node: ir.Node, outside: Emitter | None = None) -> list[ir.Value]:
        """Run a node of the block on the lanes; its outputs. Noise and `outside` as in `Realisation.evaluate`."""
        sizes = [None if value is None else self._dims(r, node, place) for place, value in enumerate(node.inputs)]
        made = forms.rewritten(r, node, sizes, outside) or r.copy(node)
        for output, value in zip(node.outputs, made, strict=True):
            value.shape = ir.Shape(self.cut.lanes.dims(output, self.width))
        if r.noise is None:
            return made
        shaken = []
        for output, value in zip(node.outputs, made, strict=True):
            if output in r.dependent and output.dtype in FLOATS:
                with r.noise.typed(output):
                    moved = r.noise.shake(value, value)
                moved.shape = value.shape
                shaken.append(moved)
            else:
                shaken.append(value)
        return shaken

    def _dims(self, r: Realisation, node: ir.Node, place: int) -> list[int | str | None]:
        """The sizes of what a node of the block takes at a place."""
        lanes, value = self.cut.lanes, node.inputs[place]
        assert value is not None
        if (node, place) in lanes.taken:
            return lanes.narrowed(value, lanes.taken[node, place], self.width)
        whole = value not in lanes.moving or (node, place) in r.replaced
        return forms.dims(value) if whole else lanes.dims(value, self.width)


def _like(value: ir.Value, made: ir.Value) -> ir.Value:
    """`made`, of the type that `value` has."""
    made.type = value.type
    return made
