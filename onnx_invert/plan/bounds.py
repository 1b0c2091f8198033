"""Between which ends the recovered inputs lie, as far as roots on a domain tell: samples are drawn there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.numerics.tolerance import eps
from onnx_invert.plan.concrete import Concrete
from onnx_invert.plan.steps import Root, Step
from onnx_invert.rules import RuleSet
from onnx_invert.rules.dependence import places
from onnx_invert.rules.facts import Diagonal, NoInverse
from onnx_invert.rules.moving import holds_data, moves
from onnx_invert.rules.node import NodeView
from onnx_invert.rules.static import UnsizedError

Ends = tuple[NDArray[np.float64], NDArray[np.float64]]

_STEPS = 64
"""Nodes that are followed back from a root to inputs."""

_ROUNDINGS = 8
"""Units of the last place of y and of the shift by which ends are drawn in: a product, a sum, what a batch
normalisation is made of, and the number that is drawn are rounded, and a value beyond an end may have no inverse."""


def bounds_of(
    recovered: Sequence[ir.Value], steps: Iterable[Step], concrete: Concrete, rules: RuleSet, opset: int
) -> dict[str, Ends]:
    """The least and the greatest of each recovered input, in its shape with size 1 along the axes whose size is not
    fixed; infinite where nothing is known. Inputs of which nothing is known are left out."""
    found: dict[ir.Value, Ends] = {}
    for step in steps:
        if not isinstance(step, Root) or step.domain.is_reals or step.domain.period is not None:
            continue
        for value, ends in _at_inputs(step, recovered, concrete, rules, opset):
            low, high = found.get(value, ends)
            found[value] = np.maximum(low, ends[0]), np.minimum(high, ends[1])
    return {value.name or "": _shared(value, ends) for value, ends in found.items()}


def _at_inputs(
    step: Root, recovered: Sequence[ir.Value], concrete: Concrete, rules: RuleSet, opset: int
) -> Iterator[tuple[ir.Value, Ends]]:
    """The ends of a root carried back to recovered inputs, through moves, constant factors and constant summands."""
    shape = concrete.shapes.get(step.x.name or "")
    if shape is None:
        return
    low, high = (
        np.where(step.mask, side if end is None else np.asarray(end, np.float64), side)
        for side, end in ((-np.inf, step.domain.low), (np.inf, step.domain.high))
    )
    waiting: list[tuple[ir.Value, Ends]] = [(step.x, (low, high))]
    for _ in range(_STEPS):
        if not waiting:
            return
        value, ends = waiting.pop()
        if value in recovered:
            yield value, ends
            continue
        node = value.producer()
        twin = None if node is None else concrete.nodes.get(node.name or "")
        if node is None or twin is None:
            continue
        if moves(twin):
            waiting.extend(_moved_back(node, twin, value, ends, concrete))
        elif (behind := _scaled_back(node, twin, ends, rules, opset)) is not None:
            waiting.append(behind)


def _moved_back(
    node: ir.Node, twin: ir.Node, value: ir.Value, ends: Ends, concrete: Concrete
) -> Iterator[tuple[ir.Value, Ends]]:
    """The ends of the elements of each operand that a node moves to `value`."""
    for place, source in enumerate(node.inputs):
        sizes = None if source is None else concrete.shapes.get(source.name or "")
        if source is None or sizes is None or source.const_value is not None or not holds_data(twin, place):
            continue
        try:
            sources = places(twin, place, sizes)
        except UnsizedError:
            continue
        if sources is None:
            continue
        numbers = sources[list(node.outputs).index(value)].reshape(-1)
        low, high = (np.full(int(np.prod(sizes)) + 1, side) for side in (-np.inf, np.inf))
        # An element that is repeated keeps the narrowest of its ends.
        np.maximum.at(low, numbers, ends[0].reshape(-1))
        np.minimum.at(high, numbers, ends[1].reshape(-1))
        yield source, (low[1:].reshape(sizes), high[1:].reshape(sizes))


def _scaled_back(node: ir.Node, twin: ir.Node, ends: Ends, rules: RuleSet, opset: int) -> tuple[ir.Value, Ends] | None:
    """x = (y − shift) / scale, a little within what rounding makes of that; None if the node does anything else.

    Where the scale is 0, y says nothing of x.
    """
    unknown = [place for place, value in enumerate(twin.inputs) if value is not None and value.const_value is None]
    if len(unknown) != 1:
        return None
    x = node.inputs[unknown[0]]
    chain = rules.apply(NodeView(twin, unknown[0], opset))
    if x is None or x.dtype is None or isinstance(chain, NoInverse):
        return None
    for fact in reversed(chain):
        if not isinstance(fact, Diagonal):
            return None
        ends = _undone(fact, ends, eps(x.dtype.numpy()))
    return x, ends


def _undone(fact: Diagonal, ends: Ends, unit: float) -> Ends:
    """x between the ends of y = scale · x + shift, y rounded to `unit`."""
    scale, shift = fact.scale, fact.shift
    exact = (np.abs(scale) == 1) & (shift == 0)
    with np.errstate(all="ignore"):
        first, last = (
            np.where(np.isfinite(end) & ~exact, side * _ROUNDINGS * unit * (np.abs(end) + np.abs(shift)), 0) + end
            for end, side in zip(ends, (1, -1), strict=True)
        )
        middle = first / 2 + last / 2
        first, last = np.where(first > last, middle, first), np.where(first > last, middle, last)
        first, last = (first - shift) / scale, (last - shift) / scale
        low, high = np.where(scale < 0, last, first), np.where(scale < 0, first, last)
    return np.where(scale == 0, -np.inf, low), np.where(scale == 0, np.inf, high)


def narrowed(one: Ends, other: Ends) -> Ends:
    """Within both; within the first alone where they have nothing in common."""
    low, high = np.maximum(one[0], other[0]), np.minimum(one[1], other[1])
    return np.where(low <= high, low, one[0]), np.where(low <= high, high, one[1])


def _shared(value: ir.Value, ends: Ends) -> Ends:
    """Ends that are the same along the axes whose size is not fixed, said once."""
    low, high = ends
    for axis, dim in enumerate(value.shape or ()):
        if not isinstance(dim, int):
            low, high = low.max(axis=axis, keepdims=True), high.min(axis=axis, keepdims=True)
    return low, high
