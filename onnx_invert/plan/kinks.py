"""Where a function of each element is tried more closely: at its kinks and jumps, and at the constants that it holds.

A kink lies where a comparison, an index or a piece of a function (Relu, Clip, Max …) changes; it is halved down to
from two neighbouring points of a grid. What is smooth and narrow has no kink: it mostly lies at a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.rules.static import constant

Floats = NDArray[np.float64]
Marks = NDArray[np.int64]

BENDS = frozenset(
    {
        *(
            "Abs",
            "Celu",
            "Clip",
            "Elu",
            "HardSigmoid",
            "HardSwish",
            "LeakyRelu",
            "Max",
            "Min",
            "PRelu",
            "Relu",
            "Selu",
        ),
        *("Shrink", "ThresholdedRelu"),
    }
)
"""Functions in pieces; what they are bent at shows in how their output compares with their operands, and with 0."""

HALVINGS = 10

MOST_KINKS = 8
"""So many kinks of an element are looked at more closely."""

MOST_CONSTANTS = 24

AROUND = (0.0, 1e-6, 1e-4, 1e-2, 0.1, 0.5)
"""How far from a place y is tried, beside its distance from 0, or 1."""


def watched(nodes: Sequence[ir.Node], inner: frozenset[str]) -> list[str]:
    """The tensors, of `inner` ones and their operands, that tell on which piece x lies."""
    found: dict[str, None] = {}
    for node in nodes:
        for output in node.outputs:
            if output.dtype is not None and not output.dtype.is_floating_point():
                found[output.name or ""] = None
        if node.op_type in BENDS | {"Floor", "Ceil", "Round", "Sign"}:
            moving = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name in inner]
            found |= {v.name or "": None for v in moving}
    return list(found)


def piece(nodes: Sequence[ir.Node], made: Mapping[str, NDArray[np.generic]], shape: tuple[int, ...]) -> Marks:
    """A number for every element that differs, as good as always, between one piece and another."""
    total = np.zeros(shape, np.int64)
    for node in nodes:
        for output in node.outputs:
            array = made.get(output.name or "")
            if array is None:
                continue
            if array.dtype.kind in "biu":
                total = total * 31 + _spread(array.astype(np.int64), shape)
            elif node.op_type in {"Floor", "Ceil", "Round", "Sign"}:
                with np.errstate(invalid="ignore"):
                    total = total * 31 + _spread(np.nan_to_num(array.astype(np.float64)).astype(np.int64), shape)
            elif node.op_type in BENDS:
                for value in node.inputs:
                    operand = made.get(value.name or "") if value is not None else None
                    if operand is not None:
                        sides = np.sign(operand.astype(np.float64)) + 3 * (operand == array)
                        total = total * 31 + _spread(np.nan_to_num(sides).astype(np.int64), shape)
    return total


def _spread(array: Marks, shape: tuple[int, ...]) -> Marks:
    """In the shape of x: summed over further axes; for all elements where the shapes have nothing in common."""
    if array.shape[: len(shape)] == shape:
        weights = np.arange(1, array.size // max(int(np.prod(shape)), 1) + 1)
        return np.asarray((array.reshape(*shape, -1) * weights).sum(axis=-1))
    try:
        return np.asarray(np.broadcast_to(array, shape))
    except ValueError:
        return np.full(shape, int(array.sum()))


def constants(nodes: Sequence[ir.Node], *, few: bool) -> Floats:
    """The numbers that the nodes hold, with both signs; some of them where there are many."""
    found: list[Floats] = []
    for node in nodes:
        for place in range(len(node.inputs)):
            array = constant(node, place)
            if array is not None and array.dtype.kind == "f" and array.size:
                found.append(np.ravel(array).astype(np.float64))
    if not found:
        return np.zeros(0)
    numbers = np.unique(np.abs(np.concatenate(found)))
    numbers = numbers[(numbers > 0) & (numbers < 1e6)]
    most = MOST_CONSTANTS // 4 if few else MOST_CONSTANTS
    if numbers.size > most:
        numbers = numbers[np.linspace(0, numbers.size - 1, most).astype(int)]
    return np.concatenate([-numbers, numbers])


def around(places: Floats) -> Floats:
    """Points at places, and beside them, near and not so near."""
    size = np.maximum(np.abs(places), 1.0)
    return np.unique(np.concatenate([places + sign * step * size for step in AROUND for sign in (-1, 1)]))


def kinks(
    pieces: Callable[[Sequence[Floats]], list[Marks | None]], grid: Floats, shape: tuple[int, ...], *, few: bool
) -> list[Floats]:
    """Points at, and just beside, the kinks of every element, each an x.

    `pieces` says on which piece the elements of some x lie.
    """
    at_grid = pieces([np.full(shape, point) for point in grid])
    if any(found is None for found in at_grid):
        return []
    changes = np.diff(np.stack([np.ravel(found) for found in at_grid if found is not None]), axis=0) != 0
    order = np.cumsum(changes, axis=0)
    count = min(MOST_KINKS // 4 if few else MOST_KINKS, int(order.max(initial=0)))
    low, high = [], []
    for number in range(1, count + 1):
        here = changes & (order == number)
        index = np.where(here.any(axis=0), np.argmax(here, axis=0), 0)
        low.append(grid[index].reshape(shape))
        high.append(grid[index + 1].reshape(shape))
    if not count:
        return []
    start = pieces(low)
    for _ in range(HALVINGS // 2 if few else HALVINGS):
        middle = [a / 2 + b / 2 for a, b in zip(low, high, strict=True)]
        found = pieces(middle)
        for number in range(count):
            first, now = start[number], found[number]
            if first is None or now is None:
                return []
            same = now == first
            low[number] = np.where(same, middle[number], low[number])
            high[number] = np.where(same, high[number], middle[number])
    points = []
    for a, b in zip(low, high, strict=True):
        width = np.maximum(b - a, 1e-6 * np.maximum(np.abs(a), np.abs(b)))
        points += [a - 3 * width, a, b, b + 3 * width]
    return points
