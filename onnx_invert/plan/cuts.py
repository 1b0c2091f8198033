"""Where a block may begin: the tensors through which all that is unknown in a known one comes."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnx_invert.plan.system import System
from onnx_invert.rules.dependence import ELEMENTWISE
from onnx_invert.rules.moving import moves

_STEPS = 8
"""Nodes that `facing` follows at most."""


def cuts(system: System, y: ir.Value) -> Iterator[tuple[ir.Value, list[ir.Node]]]:
    """The tensors through which all that is unknown in `y` comes, nearest first, with the nodes between."""
    position = system.position
    last = y.producer()
    if last is None or last not in position:
        return
    nodes: list[ir.Node] = []
    frontier: dict[ir.Value, None] = {}
    heap: list[tuple[int, int, ir.Value]] = []

    def enter(node: ir.Node) -> None:
        nodes.append(node)
        for place, value in enumerate(node.inputs):
            if value is None or value in frontier or (node, place) in system.frozen or system.is_known(value):
                continue
            maker = value.producer()
            frontier[value] = None
            heapq.heappush(heap, (-position.get(maker, -1) if maker is not None else 1, len(frontier), value))

    enter(last)
    seen: set[ir.Node] = {last}
    while heap:
        if len(heap) == 1:
            yield heap[0][2], sorted(nodes, key=lambda node: position[node])
        _, _, value = heapq.heappop(heap)
        maker = value.producer()
        if maker is None or maker not in position:
            return
        if maker not in seen:
            seen.add(maker)
            enter(maker)


def is_chain(system: System, x: ir.Value, nodes: Sequence[ir.Node]) -> bool:
    """Whether the nodes follow one another, each with one unknown operand: then each is refused for its own reason."""
    inside = {x, *(output for node in nodes for output in node.outputs)}
    edges = sum(
        value in inside and (node, place) not in system.frozen
        for node in nodes
        for place, value in enumerate(node.inputs)
    )
    return edges <= len(nodes)


def facing(system: System, x: ir.Value, y: ir.Value) -> tuple[ir.Value, list[ir.Node]]:
    """The nearest known tensor from y on that has the sizes of x, with the nodes between; y itself if none has.

    Only what takes y on element by element, or moves its elements, is followed.
    """
    shapes = system.concrete.shapes
    value, nodes = y, list[ir.Node]()
    for _ in range(_STEPS):
        if shapes.get(value.name or "") == shapes.get(x.name or ""):
            return value, nodes
        users = (node for node, place in value.uses() if (node, place) not in system.frozen)
        node = next((n for n in users if n in system.position and _carries(system, n, value)), None)
        if node is None:
            break
        value = node.outputs[0]
        nodes.append(node)
    return y, []


def _carries(system: System, node: ir.Node, value: ir.Value) -> bool:
    """Whether a node with one output, which is known, has no other unknown operand than `value`."""
    twin = system.concrete.bare(node) or node
    others = [v for v in node.inputs if v is not None and v is not value]
    plain = len(node.outputs) == 1 and (moves(twin) or node.op_type in ELEMENTWISE)
    return plain and system.is_known(node.outputs[0]) and all(v not in system.unknowns for v in others)
