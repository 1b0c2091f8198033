"""What of a node bears on how knowledge spreads through it: read off once, since a node is tried several times."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.plan.alike import kind_of
from onnx_invert.plan.concrete import Concrete
from onnx_invert.plan.elements import Elements
from onnx_invert.plan.stages import is_drawn
from onnx_invert.rules.dependence import ELEMENTWISE, switched_off
from onnx_invert.rules.moving import CARRIED, holds_data, moves
from onnx_invert.rules.static import constant

_NONE: frozenset[ir.Value] = frozenset()


@dataclass(slots=True, eq=False)
class Relation:
    """A node as an equation between the tensors that it takes and makes.

    `open` are its operands that may be unknown, with their places; `outputs` what it makes, and `tensors` both, with
    those that are frozen. `apart` says that the elements of its outputs may be known one by one, `moves` that it moves
    elements at the sizes of the plan; nodes of one `kind` move them alike. Which elements of its outputs are known
    follows for a `carrying` node from where those of its operands go; for a `joining` one all that meet there have to
    be, but where a constant makes it 0 (`zero`); for a `summing` one all of a row. `repeated` are the operands that it
    takes more than once.

    The rest is noted as knowledge spreads: the places without which nothing of it follows (`needs`), and what was
    known when it was run (`ran`), or undone for an operand (`placed`), the last time.
    """

    node: ir.Node
    open: tuple[tuple[int, ir.Value], ...]
    outputs: tuple[ir.Value, ...]
    tensors: tuple[ir.Value, ...]
    drawn: bool
    elementwise: bool
    apart: bool
    moves: bool
    carrying: bool
    joining: bool
    summing: bool
    zero: Elements | None
    kind: int | None
    repeated: frozenset[ir.Value]
    needs: tuple[int, ...] | None = None
    ran: list[Elements | None] | None = None
    placed: dict[int, list[Elements | None]] = field(default_factory=dict)

    @staticmethod
    def of(node: ir.Node, concrete: Concrete, frozen: frozenset[tuple[ir.Node, int]]) -> Relation:
        """Read off a node; its `frozen` operands are taken for known."""
        op, inputs, outputs = node.op_type, node.inputs, node.outputs
        twin = concrete.bare(node)
        placed = [
            (place, value) for place, value in enumerate(inputs) if value is not None and value.const_value is None
        ]
        values = [value for _, value in placed]
        free = tuple([entry for entry in placed if (node, entry[0]) not in frozen] if frozen else placed)
        elementwise = op in ELEMENTWISE
        apart = moves(node)
        moving = apart if twin is None or twin is node else moves(twin)
        shapes = concrete.shapes
        plain = twin is not None and twin.domain in {"", "ai.onnx"}
        plain = plain and all(value is None or value.name in shapes for value in (*inputs, *outputs))
        kind = kind_of(node, twin, shapes) if plain and moving and twin is not None else None
        joining = plain and elementwise and not moving
        zero = _zero(twin) if joining and twin is not None else None
        return Relation(
            node,
            free,
            tuple(outputs),
            (*[value for value in outputs if value.const_value is None], *values),
            is_drawn(node),
            elementwise,
            elementwise or apart,
            moving,
            plain and moving and op in CARRIED and all(holds_data(node, place) for place, _ in free),
            joining,
            plain and op == "MatMul" and [p for p, _ in free] == [0] and twin is not None and _sums(twin),
            None if zero is None else concrete.pool.of(zero),
            None if kind is None else concrete.kinds.setdefault(kind, len(concrete.kinds)),
            _NONE if len(values) < 2 else frozenset([value for _, value in free if inputs.count(value) > 1]),
        )


def _sums(twin: ir.Node) -> bool:
    """Whether every element of a product follows from all of a row of its first operand."""
    weight = constant(twin, 1)
    dense = weight is not None and weight.ndim == 2 and np.count_nonzero(weight) == weight.size
    return dense and constant(twin, 0) is None


def _zero(twin: ir.Node) -> NDArray[np.bool_] | None:
    """Where a constant makes elements of a product 0 whatever else there is."""
    if twin.op_type != "Mul":
        return None
    arrays = [constant(twin, place) for place in range(len(twin.inputs))]
    zeros = [array == 0 for array in arrays if array is not None and np.count_nonzero(array) < array.size]
    if not zeros or switched_off(twin):
        return None
    return np.asarray(zeros[0] if len(zeros) == 1 else np.logical_or(*zeros))
