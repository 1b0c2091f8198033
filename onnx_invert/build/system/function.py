"""φ of a block whose elements follow each from its own: once for each trial of x, and what needs no x beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_invert.build.system.pieces import Piece
from onnx_invert.build.system.selection import Selection
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.steps import Root

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation

SMALL = 64
"""Numbers up to which constants are compared by what they hold."""

Function = Callable[[Emitter, ir.Value], ir.Value]


def function_of(r: Realisation, step: Root, selection: Selection | None = None) -> Function:
    """φ as nodes of an emitter, from x to y, both in the model's own shapes, or cut down to some lanes.

    What a fill hides from x (`step.unseen`), and all that follows from it alone, runs here, outside of any loop.
    """
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
            for output, made in zip(node.outputs, before.evaluate(node), strict=True):
                before.put(output, Piece(made))

    replaced = {} if selection is None else selection.replaced(before, left)

    def function(e: Emitter, x: ir.Value) -> ir.Value:
        inside = before.inside(e, step.name, replaced)
        inside.put(step.x, Piece(x))
        twins: dict[object, list[ir.Value]] = {}
        for node in left:
            what = _what(inside, node)
            if what not in twins or r.noise is not None:
                twins[what] = inside.evaluate(node) if selection is None else selection.evaluate(inside, node)
            for output, made in zip(node.outputs, twins[what], strict=True):
                inside.put(output, Piece(made))
        return inside.read(step.y)

    return function


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
