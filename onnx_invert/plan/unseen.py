"""Which fills of a block are seen by nobody, so that what they fill need not wait for x.

A spline that works on the elements within its interval alone reads (graph/unpack.py)

    T = Where(m, p, 0),  …,  y = Where(m, h(T, x), t)

and m is told by x: so would be T, and the softmax and the running sum of it, though p is long known. If T reaches y by
nothing but the second Where, each of its elements only where m has that very element of T's, then what stands in T
where m is false is seen nowhere, and p may stand there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.carry import carried
from onnx_invert.plan.in_place import InPlace
from onnx_invert.plan.system import System
from onnx_invert.rules.moving import Labels

_LAYOUT = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Expand", "Identity", "Flatten", "Transpose"})


def unseen_fills(block: InPlace) -> frozenset[ir.Node]:
    """The Where nodes that may be replaced by their second operand, a tensor that does not depend on x."""
    system, nodes = block.system, block.nodes
    inner = {block.x, *(output for node in nodes for output in node.outputs)}
    choices: dict[ir.Value, list[ir.Node]] = {}
    for node in nodes:
        condition = node.inputs[0] if node.op_type == "Where" else None
        if condition in inner:
            assert condition is not None
            choices.setdefault(_source(condition, inner), []).append(node)
    found = set()
    for mask, group in choices.items():
        filled = [node for node in group if _is_filled(system, node, inner)]
        shape = system.concrete.shapes.get(mask.name or "")
        if not filled or shape is None:
            continue
        ids = np.arange(1, int(np.prod(shape)) + 1).reshape(shape)
        rows = {node: _carried(system, {mask: ids}, node.inputs[0], nodes) for node in group}
        for node in filled:
            if any(_hides(block, node, last, rows) for last in group if last not in filled):
                found.add(node)
    return frozenset(found)


def _is_filled(system: System, node: ir.Node, inner: set[ir.Value]) -> bool:
    """Whether what a Where takes is known, and as large as what it gives."""
    taken, fill = node.inputs[1], node.inputs[2]
    if taken is None or fill is None or taken in inner or fill in inner:
        return False
    shapes = [system.concrete.shapes.get(value.name or "") for value in (taken, node.outputs[0])]
    return shapes[0] is not None and shapes[0] == shapes[1]


def _source(value: ir.Value, inner: set[ir.Value]) -> ir.Value:
    """The tensor of the block whose elements a tensor has, in another layout."""
    while True:
        maker = value.producer()
        if maker is None or maker.op_type not in _LAYOUT or maker.inputs[0] not in inner:
            return value
        assert maker.inputs[0] is not None
        value = maker.inputs[0]


def _hides(block: InPlace, node: ir.Node, last: ir.Node, rows: dict[ir.Node, Labels | None]) -> bool:
    """Whether the output of `node` comes to y by the second operand of `last` alone, in the places of its own rows."""
    system, nodes = block.system, block.nodes
    filled, kept = node.outputs[0], last.inputs[1]
    shape = system.concrete.shapes.get(filled.name or "")
    whole = system.concrete.shapes.get(last.outputs[0].name or "")
    mine, own = rows[node], rows[last]
    if kept is None or shape is None or whole is None or mine is None or own is None:
        return False
    try:
        start = {filled: np.array(np.broadcast_to(mine, shape))}
        own = np.broadcast_to(own, whole)
    except ValueError:
        return False
    if carried(system, start, block.y, nodes, frozen=[(last, 1)]) is not None:
        return False
    found = carried(system, start, kept, nodes)
    if found is None:
        return False  # it comes nowhere: nothing is gained
    try:
        found = np.broadcast_to(found, whole)
    except ValueError:
        return False
    return bool(np.all((found == own) | (found == 0)))


def _carried(
    system: System, start: dict[ir.Value, Labels], end: ir.Value | None, nodes: Sequence[ir.Node]
) -> Labels | None:
    if end in start:
        assert end is not None
        return start[end]
    return None if end is None else carried(system, start, end, nodes)
