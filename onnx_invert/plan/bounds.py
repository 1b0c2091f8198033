"""Between which ends the recovered inputs lie, as far as roots on a domain tell: samples are drawn there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.plan.concrete import Concrete
from onnx_invert.plan.steps import Root, Step
from onnx_invert.rules.dependence import places
from onnx_invert.rules.moving import holds_data, moves
from onnx_invert.rules.static import UnsizedError, constant

Ends = tuple[NDArray[np.float64], NDArray[np.float64]]

_STEPS = 64
"""Nodes that are followed back from a root to an input."""


def bounds_of(recovered: Sequence[ir.Value], steps: Iterable[Step], concrete: Concrete) -> dict[str, Ends]:
    """The least and the greatest of each recovered input, in its shape with size 1 along the axes whose size is not
    fixed; infinite where nothing is known. Inputs of which nothing is known are left out."""
    found: dict[ir.Value, Ends] = {}
    for step in steps:
        if not isinstance(step, Root) or step.domain.is_reals or step.domain.period is not None:
            continue
        told = _at_input(step, recovered, concrete)
        if told is None:
            continue
        value, low, high = told
        if value in found:
            low, high = np.maximum(low, found[value][0]), np.minimum(high, found[value][1])
        found[value] = low, high
    return {value.name or "": _shared(value, ends) for value, ends in found.items()}


def _at_input(
    step: Root, recovered: Sequence[ir.Value], concrete: Concrete
) -> tuple[ir.Value, NDArray[np.float64], NDArray[np.float64]] | None:
    """The ends of a root carried back to a recovered input, if nothing but moves, scales and shifts lie between."""
    value, shape = step.x, concrete.shapes.get(step.x.name or "")
    if shape is None:
        return None
    low, high = (
        np.where(step.mask, side if end is None else np.asarray(end, np.float64), side)
        for side, end in ((-np.inf, step.domain.low), (np.inf, step.domain.high))
    )
    ends: Ends = low, high
    for _ in range(_STEPS):
        if value in recovered:
            return value, ends[0], ends[1]
        node = value.producer()
        twin = None if node is None else concrete.nodes.get(node.name or "")
        if node is None or twin is None:
            return None
        if (undone := _undone(node, twin, ends)) is not None:
            value, ends = undone
            if concrete.shapes.get(value.name or "") != shape:
                return None
            continue
        if not moves(twin):
            return None
        data = [
            place for place in range(len(node.inputs)) if holds_data(twin, place) and node.inputs[place] is not None
        ]
        source = node.inputs[data[0]] if len(data) == 1 else None
        sizes = None if source is None else concrete.shapes.get(source.name or "")
        if source is None or sizes is None:
            return None
        try:
            sources = places(twin, data[0], sizes)
        except UnsizedError:
            return None
        if sources is None:
            return None
        numbers = sources[list(node.outputs).index(value)].reshape(-1)
        moved = [np.full(int(np.prod(sizes)) + 1, side) for side in (-np.inf, np.inf)]
        for whole, end in zip(moved, ends, strict=True):
            whole[numbers] = end.reshape(-1)
        value, ends, shape = source, (moved[0][1:].reshape(sizes), moved[1][1:].reshape(sizes)), sizes
    return None


def _undone(node: ir.Node, twin: ir.Node, ends: Ends) -> tuple[ir.Value, Ends] | None:
    """The operand of a shift or a scale by constants, and its ends; None of any other node."""
    op, (low, high) = node.op_type, ends
    numbers = [constant(twin, place) for place in range(min(len(node.inputs), 2))]
    place = 1 if len(numbers) == 2 and numbers[0] is not None else 0
    c = np.asarray(numbers[1 - place], np.float64) if len(numbers) == 2 and numbers[1 - place] is not None else None
    operand = node.inputs[place]
    if operand is None or numbers[place] is not None:
        return None
    if op == "Neg":
        return operand, (-high, -low)
    if c is None or not np.all(np.isfinite(c)):
        return None
    if op == "Sub" and place == 1:
        return operand, (c - high, c - low)
    if op in {"Add", "Sub"}:
        shift = c if op == "Add" else -c
        return operand, (low - shift, high - shift)
    if (op != "Mul" and (op != "Div" or place == 1)) or np.any(c == 0):
        return None
    low, high = (low / c, high / c) if op == "Mul" else (low * c, high * c)
    return operand, (np.minimum(low, high), np.maximum(low, high))


def _shared(value: ir.Value, ends: Ends) -> Ends:
    """Ends that are the same along the axes whose size is not fixed, said once."""
    low, high = ends
    for axis, dim in enumerate(value.shape or ()):
        if not isinstance(dim, int):
            low, high = low.max(axis=axis, keepdims=True), high.min(axis=axis, keepdims=True)
    return low, high
