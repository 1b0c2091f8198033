"""Whether a part of a model takes the rows of packed tensors one by one, each in the same way, however many they are.

A packed tensor has its rows along one axis, n of them, and n is known only when the model runs. The part is given
twice, at two numbers of rows, with everything folded that follows from sizes. It takes rows one by one if in both

    row k of every output follows from the rows k of the operands alone (by labels), and
    no constant tells the rows apart: it is the same whatever n is, or the same row repeated n times.

Then what it makes of n rows is, row by row, what it makes of any other number of rows among which those are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.rules.dependence import ELEMENTWISE, flow
from onnx_invert.rules.moving import MOVES, SAME, Labels
from onnx_invert.rules.static import UnsizedError

Array = NDArray[np.generic]
WHOLE = 2**31 - 1
"""An end from which on a slice is taken to ask for everything."""

_EVEN = SAME | {
    *("Transpose", "Expand", "Slice", "Split", "Concat", "Gather", "GatherElements", "GatherND", "Pad"),
    *("ScatterND", "ScatterElements"),
}
"""Operations that move elements in every row alike, if their indices pass `_constants_fit`."""


def row_by_row(
    parts: Sequence[ir.Graph], counts: Sequence[int], packed: Mapping[str, int], wanted: Mapping[str, int]
) -> bool:
    """Whether all of a part is, and its outputs `wanted` have their rows along the axes that are said.

    `parts` are the part at the numbers of rows `counts`; `packed` names its packed inputs with the axes of their rows.
    """
    twins = [{node.name: node for node in part} for part in parts]
    axes = dict(packed)
    for node in parts[0]:
        pair = [twin.get(node.name) for twin in twins]
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        places = {place: axes[v.name or ""] for place, v in enumerate(node.inputs) if v is not None and v.name in axes}
        if not places or any(twin is None for twin in pair):
            return False  # something else than a constant, made of sizes alone
        made = _through([twin for twin in pair if twin is not None], counts, places)
        if made is None:
            return False
        axes.update((output.name or "", axis) for output, axis in zip(node.outputs, made, strict=True))
    return all(axes.get(name) == axis for name, axis in wanted.items())


def _through(pair: Sequence[ir.Node], counts: Sequence[int], places: Mapping[int, int]) -> list[int] | None:
    """The axes of the rows in a node's outputs; None if it does more than take them one by one."""
    node = pair[0]
    if node.op_type in MOVES and node.op_type not in _EVEN:
        return None
    found: list[list[int]] = []
    for twin, count in zip(pair, counts, strict=True):
        labels: list[Labels | None] = [None] * len(twin.inputs)
        for place, axis in places.items():
            value = twin.inputs[place]
            shape = () if value is None or value.shape is None else tuple(value.shape)
            if len(shape) <= axis or shape[axis] != count or not all(isinstance(dim, int) for dim in shape):
                return None
            labels[place] = _numbered(shape, axis)  # type: ignore[arg-type]
        try:
            made = flow(twin, labels)
        except UnsizedError:
            return None
        found.append([_axis(label, count) for label in made])
    # A single row lies along every axis of size 1: the larger number of rows tells which.
    axes = found[int(np.argmax(counts))]
    return None if min(axes) < 0 or not _constants_fit(pair, counts, places, axes[0]) else axes


def _numbered(shape: Sequence[int], axis: int) -> Labels:
    line = np.arange(1, shape[axis] + 1, dtype=np.int64)
    return np.array(np.broadcast_to(line.reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape))


def _axis(labels: Labels, count: int) -> int:
    """The axis along which row k holds label k and no other; −1 if there is none."""
    for axis, size in enumerate(labels.shape):
        if size == count and np.all((labels == 0) | (labels == _numbered(labels.shape, axis))):
            return axis
    return -1


def _constants_fit(pair: Sequence[ir.Node], counts: Sequence[int], places: Mapping[int, int], axis: int) -> bool:
    """Whether no constant operand tells the rows apart, or depends on how many there are."""
    op = pair[0].op_type
    if op == "Slice":
        return _slices_fit(pair, counts, places.get(0))
    for place in range(len(pair[0].inputs)):
        values = [twin.inputs[place] for twin in pair]
        if place in places or values[0] is None:
            continue
        arrays = [None if v is None or v.const_value is None else v.const_value.numpy() for v in values]
        if all(array is None for array in arrays):
            continue  # known, whatever it is: it broadcasts at both sizes
        if any(array is None for array in arrays):
            return False
        known = [array for array in arrays if array is not None]
        if not _constant_fits(op, place, known, counts, pair[0], axis):
            return False
    return True


def _constant_fits(
    op: str, place: int, arrays: Sequence[Array], counts: Sequence[int], node: ir.Node, axis: int
) -> bool:
    same = np.array_equal(arrays[0], arrays[1], equal_nan=arrays[0].dtype.kind == "f")
    if (op, place) in {("ScatterND", 1), ("GatherND", 1)}:
        return axis == 0 and all(_grid(a, n) for a, n in zip(arrays, counts, strict=True)) and _rows_alike(
            [a[..., 1:] for a in arrays], counts, 0
        )  # fmt: skip
    if (op, place) in {("ScatterElements", 1), ("GatherElements", 1)}:
        return _rows_alike(arrays, counts, axis)
    if same:
        return True
    if (op, place) in {("Reshape", 1), ("Expand", 1)}:
        return len(arrays[0]) == len(arrays[1]) and all(
            i == axis for i, (a, b) in enumerate(zip(*arrays, strict=True)) if a != b
        )
    if op in ELEMENTWISE or op in {"Concat", "ScatterND", "ScatterElements"}:
        rank = len(node.outputs[0].shape or ())
        return all(a.ndim == rank or op == "ScatterND" for a in arrays) and _rows_alike(arrays, counts, axis)
    return False


def _grid(indices: Array, count: int) -> bool:
    """Whether entry k of indices (n, …, r) points into row k."""
    if indices.ndim < 2 or indices.shape[0] != count:
        return False
    rows = np.arange(count).reshape(-1, *[1] * (indices.ndim - 2))
    return bool(np.all(indices[..., 0] == rows))


def _rows_alike(arrays: Sequence[Array], counts: Sequence[int], axis: int) -> bool:
    """Whether each is one row, the same in both, repeated."""
    rows = []
    for array, count in zip(arrays, counts, strict=True):
        if array.ndim <= axis or array.shape[axis] != count:
            return False
        row = array.take([0], axis)
        if not np.array_equal(np.broadcast_to(row, array.shape), array, equal_nan=array.dtype.kind == "f"):
            return False
        rows.append(row)
    return bool(np.array_equal(rows[0], rows[1], equal_nan=rows[0].dtype.kind == "f"))


def _slices_fit(pair: Sequence[ir.Node], counts: Sequence[int], rows: int | None) -> bool:
    """Whether a Slice takes all rows, and elsewhere elements that do not depend on how many rows there are."""
    elsewhere = []
    for node, count in zip(pair, counts, strict=True):
        operands = [v.const_value.numpy().reshape(-1) if v is not None and v.const_value is not None else None
                    for v in node.inputs[1:]]  # fmt: skip
        if rows is None or len(operands) < 2 or operands[0] is None or operands[1] is None:
            return False
        starts, ends = operands[0], operands[1]
        axes = operands[2] if len(operands) > 2 and operands[2] is not None else np.arange(len(starts))
        steps = operands[3] if len(operands) > 3 and operands[3] is not None else np.ones(len(starts), np.int64)
        rank = len(node.outputs[0].shape or ())
        parts = []
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if int(axis) % rank != rows:
                parts.append((start, end, axis, step))
            elif not (start == 0 and step == 1 and (end == count or end >= WHOLE)):
                return False
        elsewhere.append(parts)
    return elsewhere[0] == elsewhere[1]
