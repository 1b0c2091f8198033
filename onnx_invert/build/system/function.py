"""φ of a block whose elements follow each from its own: once for each trial of x, and what needs no x beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_invert.build.system.pieces import Piece
from onnx_invert.build.system.selection import Made, Selection
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.steps import Edge, Root

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation

SMALL = 64
"""Numbers up to which constants are compared by what they hold."""


@dataclass(frozen=True)
class Phi:
    """φ as nodes of an emitter, from x to y, both in the model's own shapes, or cut down to some lanes.

    `left` are the nodes that need x; all else of the block was run in `before`, and `replaced` are operands cut down.
    """

    step: Root
    selection: Selection | None
    before: Realisation
    left: tuple[ir.Node, ...]
    replaced: Mapping[Edge, ir.Value]
    made: Made

    @staticmethod
    def of(r: Realisation, step: Root, selection: Selection | None = None) -> Phi:
        """What a fill hides from x (`step.unseen`), and all that follows from it, runs here, outside of any loop."""
        r.settle(step.nodes, step.x)
        before = r.inside(r.e, step.name, {})
        moving = {step.x}
        left = []
        for node in step.nodes:
            if node in step.unseen:
                source = node.inputs[1]
                assert source is not None
                before.put(node.outputs[0], Piece(r.read(source)))
            elif any(value in moving and (node, place) not in r.replaced for place, value in enumerate(node.inputs)):
                moving.update(node.outputs)
                left.append(node)
            else:
                for output, value in zip(node.outputs, before.evaluate(node), strict=True):
                    before.put(output, Piece(value))
        made: Made = {}
        replaced = {} if selection is None else selection.replaced(before, left, made)
        return Phi(step, selection, before, tuple(left), replaced, made)

    def __call__(self, e: Emitter, x: ir.Value) -> ir.Value:
        """y at x."""
        return self.trial(e, x).read(self.step.y)

    def trial(self, e: Emitter, x: ir.Value) -> Realisation:
        """Everything at x."""
        inside = self.inside(e, x)
        twins: Twins = {}
        for node in self.left:
            self.run(inside, node, twins)
        return inside

    def part(self, value: ir.Value, like: Edge) -> ir.Value:
        """A known tensor, cut down as the operand `like` is."""
        at = None if self.selection is None else self.selection.cut.lanes.taken.get(like)
        if self.selection is None or at is None:
            return self.before.read(value)
        return self.selection.part(self.before, value, at, self.made)

    def dims(self, value: ir.Value) -> Sequence[int | str | None]:
        """The sizes of a tensor that moves with x, as it is here."""
        if self.selection is not None:
            return self.selection.cut.lanes.dims(value, self.selection.width)
        return [dim if isinstance(dim, int) else dim.value for dim in value.shape or ()]

    def inside(self, e: Emitter, x: ir.Value, told: Mapping[Edge, ir.Value] | None = None) -> Realisation:
        """Where the nodes are run on `x`, with further operands replaced."""
        inside = self.before.inside(e, self.step.name, {**self.replaced, **(told or {})})
        inside.put(self.step.x, Piece(x))
        return inside

    def run(self, inside: Realisation, node: ir.Node, twins: Twins) -> None:
        """Run a node there, once for all that make the same."""
        what = _what(inside, node)
        if what not in twins or inside.noise is not None:
            selection = self.selection
            outside = self.before.e
            twins[what] = (
                inside.evaluate(node, outside) if selection is None else selection.evaluate(inside, node, outside)
            )
        for output, made in zip(node.outputs, twins[what], strict=True):
            inside.put(output, Piece(made))


Twins = dict[object, list[ir.Value]]
"""What nodes made, by what they make."""


def _what(r: Realisation, node: ir.Node) -> object:
    """The same for nodes that make the same: those of a spline's tables often do."""
    operands = tuple(_same(r.operand(node, place)) for place in range(len(node.inputs)))
    attributes = tuple((name, str(attribute.value)) for name, attribute in sorted(node.attributes.items()))
    return node.domain, node.op_type, attributes, operands, len(node.outputs)


def _same(value: ir.Value | None) -> object:
    """A small constant is what it holds, whatever its name."""
    tensor = None if value is None else value.const_value
    if tensor is None or tensor.size > SMALL:
        return value
    array = tensor.numpy()
    return tensor.dtype, array.shape, array.tobytes()
