"""The map that every operation on indices is: y holds x at given indices along an axis, and 0 at the index −1.

Its adjoint is such a map too where no element is picked twice; a sum of them, or a product with a 0/1 matrix,
where some are. By Slice, Pad with zeros, Gather, Concat and MatMul alone.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.differential import Differential, composed, targets
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import Dim, NodeView, Shape

Indices = NDArray[np.int64]

END = 2**62
"""An end that lies behind every axis."""


def pick(e: Emitter, t: ir.Value, rank: int, axis: int, indices: Indices, size: int) -> ir.Value:
    """t at `indices` along an axis of `size`, 0 where they are −1; by Slice and Pad where they are consecutive."""
    inside = np.flatnonzero(indices >= 0)
    if inside.size == 0 or np.any(np.diff(indices[inside]) != 1) or np.any(np.diff(inside) != 1):
        if inside.size < indices.size:
            t = padded(e, t, rank, {axis: (0, 1)})
        return e.op("Gather", t, e.ints([int(i) for i in np.where(indices < 0, size, indices)]), axis=axis)
    start, stop = int(indices[inside[0]]), int(indices[inside[-1]]) + 1
    if (start, stop) != (0, size):
        t = e.op("Slice", t, e.ints([start]), e.ints([stop]), e.ints([axis]))
    return padded(e, t, rank, {axis: (int(inside[0]), int(indices.size - 1 - inside[-1]))})


def padded(e: Emitter, t: ir.Value, rank: int, widths: dict[int, tuple[int, int]]) -> ir.Value:
    """Zeros before and after, by axis."""
    pads = [widths.get(axis, (0, 0))[side] for side in (0, 1) for axis in range(rank)]
    return e.op("Pad", t, e.ints(pads)) if any(pads) else t


def trimmed(e: Emitter, t: ir.Value, widths: dict[int, tuple[int, int]]) -> ir.Value:
    """Without so many before and after, by axis."""
    axes = [axis for axis, width in widths.items() if any(width)]
    if not axes:
        return t
    starts = [widths[axis][0] for axis in axes]
    ends = [-widths[axis][1] or END for axis in axes]
    return e.op("Slice", t, e.ints(starts), e.ints(ends), e.ints(axes))


def along(e: Emitter, t: ir.Value, rank: int, axis: int, matrix: ir.Value) -> ir.Value:
    """t times a matrix (n, m) along an axis of size n."""
    if axis == rank - 1:
        return e.op("MatMul", t, matrix)
    perm = [*(i for i in range(rank) if i != axis), axis]
    product = e.op("MatMul", e.op("Transpose", t, perm=perm), matrix)
    return e.op("Transpose", product, perm=[int(i) for i in np.argsort(perm)])


def picking(rank: int, axis: int, indices: Indices, size: int) -> Differential:
    """y (of the same rank) holds x at `indices` along `axis`, −1 for 0. Both count without the axis of seeds."""
    rank, axis = rank + 1, axis + 1
    layers = _layers(indices, size)

    def pull(e: Emitter, c: ir.Value) -> ir.Value:
        if len(layers) > 4:
            matrix = np.zeros((indices.size, size))
            chosen = np.flatnonzero(indices >= 0)
            matrix[chosen, indices[chosen]] = 1
            return along(e, c, rank, axis, e.constant(matrix, "picked"))
        x = pick(e, c, rank, axis, layers[0], indices.size)
        for layer in layers[1:]:
            x = e.op("Add", x, pick(e, c, rank, axis, layer, indices.size))
        return x

    return Differential(lambda e, t: pick(e, t, rank, axis, indices, size), pull)


def _layers(indices: Indices, size: int) -> list[Indices]:
    """For each element of x where it went, −1 for nowhere; one array per time that an element is picked."""
    places = np.flatnonzero(indices >= 0)
    order = places[np.argsort(indices[places], kind="stable")]
    found = indices[order]
    turn = np.arange(found.size) - np.searchsorted(found, found)
    layers = [np.full(size, -1) for _ in range(int(turn.max(initial=0)) + 1)]
    for number, layer in enumerate(layers):
        layer[found[turn == number]] = order[turn == number]
    return layers


def flat_picking(x: Shape, y: Shape, indices: Indices) -> Differential:
    """y holds elements of x, both of fixed shape: `indices` says which of x's in row-major order, −1 for 0."""
    sizes = [int(dim) for dim in x], [int(dim) for dim in y]
    inner = picking(1, 0, indices.reshape(-1), math.prod(sizes[0]))

    def reshaped(source: list[int], target: list[int]) -> Differential:
        return Differential(
            lambda e, t: e.op("Reshape", t, e.ints([-1, *target])),
            lambda e, c: e.op("Reshape", c, e.ints([-1, *source])),
        )

    flattened = [math.prod(sizes[0])], [math.prod(sizes[1])]
    return composed(reshaped(sizes[0], flattened[0]), inner, reshaped(flattened[1], sizes[1]))


def adjoint(differential: Differential) -> Differential:
    """The map whose push is the other's pull."""
    return Differential(differential.pull, differential.push)


def fixed(node: NodeView, shape: Shape, axis: int) -> int | NoInverse:
    """The size of an axis, or the refusal where it is known only at run time."""
    size: Dim = shape[axis]
    if isinstance(size, str):
        return NoInverse(
            f"the size {size!r} of axis {axis}, on which it works, is known only at run time",
            f"give {size!r} a fixed size with --shape",
        )
    return size


def not_constant(what: str) -> NoInverse:
    """The refusal of indices that are computed at run time."""
    return NoInverse(f"{what} known only at run time", "compute them from constants")


def trimming(rank: int, widths: dict[int, tuple[int, int]]) -> Differential:
    """y is x without so many before and after, by axis; sizes need not be known."""
    widths = {axis + 1: width for axis, width in widths.items()}
    return Differential(lambda e, t: trimmed(e, t, widths), lambda e, c: padded(e, c, rank + 1, widths))


def reshaping(seeds: int, x: Shape, y: Shape) -> Differential:
    """y is x in another shape; each may have one size that is known only at run time (see `targets`)."""
    back, there = targets(seeds, x), targets(seeds, y)
    assert not isinstance(back, NoInverse)
    assert not isinstance(there, NoInverse)
    return Differential(lambda e, t: e.op("Reshape", t, e.ints(there)), lambda e, c: e.op("Reshape", c, e.ints(back)))
