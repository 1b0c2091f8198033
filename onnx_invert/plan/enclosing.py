"""Bounds of a block's tensors where x runs through cells, whatever the known tensors are.

What is known when the inverse runs, a scale that a network computes, is bounded by what makes it: exp(…) is positive,
a softmax lies within (0, 1), a weight is what it is. An input may be any number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.concrete import Concrete
from onnx_invert.plan.steps import Edge
from onnx_invert.rules.dependence import places
from onnx_invert.rules.enclosures.enclosure import Enclosure, anything, exactly
from onnx_invert.rules.enclosures.operators import OPERATORS
from onnx_invert.rules.moving import holds_data, moves
from onnx_invert.rules.static import UnsizedError

LARGEST = 1 << 22
"""Bounds of more numbers than this are taken together."""


class Enclosing:
    """Nodes at sizes that are all known, from a tensor that runs through cells to one that follows from it."""

    def __init__(self, concrete: Concrete, nodes: Sequence[ir.Node], frozen: frozenset[Edge] = frozenset()) -> None:
        self._concrete = concrete
        self._nodes = [concrete.nodes.get(node.name or "") for node in nodes]
        self._held = {(node.name or "", place) for node, place in frozen}

    def __call__(self, x: ir.Value, cells: Enclosure, y: ir.Value) -> Enclosure | None:
        """Bounds of y; None where they could not be had."""
        found: dict[str, Enclosure] = {x.name or "": cells}
        for node in self._nodes:
            if node is None:
                return None
            operands: list[Enclosure | None] = []
            for place, value in enumerate(node.inputs):
                if value is None:
                    operands.append(None)
                elif (node.name or "", place) in self._held:
                    operands.append(anything(self._rank(value), moves=False))
                else:
                    operands.append(found.get(value.name or "") or self._range(value))
            for output, made in zip(node.outputs, self._made(node, operands), strict=True):
                found[output.name or ""] = made
        return found.get(y.name or "")

    def range(self, value: ir.Value) -> Enclosure:
        """Bounds of a tensor that does not follow from what is recovered by a block."""
        twin = next((o for n in self._nodes if n is not None for o in n.inputs if o and o.name == value.name), value)
        return self._range(twin)

    def _range(self, value: ir.Value) -> Enclosure:
        ranges = self._concrete.ranges
        waiting = [value]
        while waiting:
            top = waiting[-1]
            name = top.name or ""
            if name in ranges:
                waiting.pop()
                continue
            node = top.producer()
            if top.const_value is not None:
                ranges[name] = _constant(top)
            elif node is None or not _is_told(node):
                ranges[name] = anything(self._rank(top), moves=False)
            else:
                missing = [v for v in node.inputs if v is not None and (v.name or "") not in ranges]
                if missing:
                    waiting.extend(missing)
                    continue
                operands = [None if v is None else ranges[v.name or ""] for v in node.inputs]
                for output, made in zip(node.outputs, self._made(node, operands), strict=True):
                    ranges[output.name or ""] = made
        return ranges[value.name or ""]

    def _made(self, node: ir.Node, operands: Sequence[Enclosure | None]) -> list[Enclosure]:
        ranks = [self._rank(output) for output in node.outputs]
        moving = any(operand is not None and operand.moves for operand in operands)
        nothing = [anything(rank, moves=moving) for rank in ranks]
        if node.domain not in {"", "ai.onnx"}:
            return nothing
        if moves(node):
            return self._moved(node, operands) or nothing
        operator = OPERATORS.get(node.op_type)
        if operator is None:
            return nothing
        rank = max([ranks[0], *(o.low.ndim - 1 for o in operands if o is not None)])
        made = operator(node, [None if o is None else o.ranked(rank) for o in operands])
        if made is None or made.low.ndim != ranks[0] + 1:
            return nothing
        return [made, *nothing[1:]]

    def _moved(self, node: ir.Node, operands: Sequence[Enclosure | None]) -> list[Enclosure] | None:
        """The bounds moved as the node moves elements; those of an element that none of them tells, None."""
        shapes = [self._concrete.shapes.get(output.name or "") for output in node.outputs]
        if any(shape is None for shape in shapes):
            return None
        found: list[Enclosure | None] = [None for _ in node.outputs]
        covered = [np.zeros(shape or (), bool) for shape in shapes]
        for place, (value, operand) in enumerate(zip(node.inputs, operands, strict=True)):
            shape = self._concrete.shapes.get(value.name or "") if value is not None else None
            if operand is None or shape is None or not holds_data(node, place):
                continue
            try:
                sources = places(node, place, shape)
            except UnsizedError:
                return None
            if sources is None:
                return None
            for index, source in enumerate(sources):
                if not np.any(source > 0):
                    continue
                covered[index] |= source > 0
                part = _taken(operand, shape, source)
                found[index] = part if found[index] is None else _beside(found[index], part, source > 0)
        if any(part is None for part in found) or not all(cover.all() for cover in covered):
            return None
        return [part for part in found if part is not None]

    def _rank(self, value: ir.Value) -> int:
        return len(self._concrete.shapes.get(value.name or "", value.shape or ()))


def _constant(value: ir.Value) -> Enclosure:
    assert value.const_value is not None
    array = value.const_value.numpy()
    if array.dtype.kind in "OSU":
        return anything(array.ndim, moves=False)
    if array.size > LARGEST:
        values = np.asarray([array.min(), array.max()], np.float64).reshape(2, *[1] * (array.ndim + 1))
        return Enclosure(values[0], values[1])
    return exactly(array)


def _is_told(node: ir.Node) -> bool:
    """Whether something follows from a node's operands, for which they have to be looked at."""
    return node.domain in {"", "ai.onnx"} and (node.op_type in OPERATORS or moves(node))


def _taken(part: Enclosure, shape: Sequence[int], source: np.ndarray) -> Enclosure:
    """Elements of a tensor of `shape` by their numbers, 0 for those of others."""
    index = np.maximum(source.reshape(-1) - 1, 0)

    def taken(array: np.ndarray) -> np.ndarray:
        if array.size == array.shape[0]:
            return array.reshape(-1, *[1] * source.ndim)
        whole = np.broadcast_to(array, (array.shape[0], *shape)).reshape(array.shape[0], -1)
        return whole[:, index].reshape(-1, *source.shape)

    return part.mapped(taken)


def _beside(one: Enclosure | None, other: Enclosure, where: np.ndarray) -> Enclosure:
    """`other` in the elements `where`."""
    assert one is not None
    moving = one.moves or other.moves
    low, high = (np.where(where, b, a) for a, b in zip(one.value, other.value, strict=True))
    if not moving:
        return Enclosure(low, high)
    fall, rise = (np.where(where, b, a) for a, b in zip(one.slope, other.slope, strict=True))
    return Enclosure(low, high, fall, rise, np.where(where, other.jumps, one.jumps))
