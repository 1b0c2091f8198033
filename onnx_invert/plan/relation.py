"""What of a node bears on how knowledge spreads through it: read off once, since a node is tried several times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.concrete import Concrete
from onnx_invert.plan.stages import is_drawn
from onnx_invert.rules.dependence import ELEMENTWISE
from onnx_invert.rules.moving import CARRIED, holds_data, moves
from onnx_invert.rules.static import constant


@dataclass(frozen=True, slots=True)
class Relation:
    """A node as an equation between the tensors that it takes and makes.

    `open` are its operands that may be unknown, with their places; `outputs` what it makes, and
    `tensors` both, with those that are frozen. `twin` is the node at
    the sizes of the plan, None if it is constant there. `apart` says that the elements of its outputs may be known
    one by one, `moves` that the twin moves elements. Which elements of its outputs are known follows for a `carrying`
    node from where those of its operands go; for a `joining` one all that meet there have to be. `repeated` are the
    operands that it takes more than once.
    """

    node: ir.Node
    open: tuple[tuple[int, ir.Value], ...]
    outputs: tuple[ir.Value, ...]
    tensors: tuple[ir.Value, ...]
    twin: ir.Node | None
    drawn: bool
    elementwise: bool
    apart: bool
    moves: bool
    carrying: bool
    joining: bool
    repeated: frozenset[ir.Value]

    @staticmethod
    def of(node: ir.Node, concrete: Concrete, frozen: frozenset[tuple[ir.Node, int]]) -> Relation:
        """Read off a node; its `frozen` operands are taken for known."""
        op, inputs = node.op_type, node.inputs
        twin = concrete.nodes.get(node.name or "")
        free = tuple(
            (place, value)
            for place, value in enumerate(inputs)
            if value is not None and value.const_value is None and (node, place) not in frozen
        )
        elementwise = op in ELEMENTWISE
        moving = moves(node if twin is None else twin)
        named = [value.name for value in (*inputs, *node.outputs) if value is not None]
        plain = twin is not None and twin.domain in {"", "ai.onnx"} and all(name in concrete.shapes for name in named)
        data = all(holds_data(node, place) for place, _ in free)
        return Relation(
            node,
            free,
            tuple(node.outputs),
            tuple(value for value in (*node.outputs, *inputs) if value is not None and value.const_value is None),
            twin,
            is_drawn(node),
            elementwise,
            elementwise or moves(node),
            moving,
            plain and moving and op in CARRIED and data,
            plain and elementwise and not moving and twin is not None and not _with_zero(twin),
            frozenset(value for _, value in free if inputs.count(value) > 1),
        )


def _with_zero(node: ir.Node) -> bool:
    """Whether a constant makes elements of a product 0 whatever else there is."""
    if node.op_type != "Mul":
        return False
    arrays = [constant(node, place) for place in range(len(node.inputs))]
    return any(array is not None and np.count_nonzero(array) < array.size for array in arrays)
