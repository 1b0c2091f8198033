"""Derivatives of what picks element by element: GatherElements, GatherND, TopK, ReverseSequence, and of scattering."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.derivatives.picks import Indices, adjoint, fixed, flat_picking, not_constant, picking
from onnx_invert.rules.derivatives.pointwise import number
from onnx_invert.rules.differential import At, Differential, Point, static
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import Dim, NodeView, Shape
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


def _fixed_shapes(node: NodeView, *values: ir.Value) -> tuple[Shape, ...] | NoInverse:
    """Shapes without a size that is known only at run time."""
    shapes = static(node, *values)
    if isinstance(shapes, NoInverse):
        return shapes
    for shape in shapes:
        for axis in range(len(shape)):
            if isinstance(refusal := fixed(node, shape, axis), NoInverse):
                return refusal
    return shapes


def _numbered(shape: Shape) -> Indices:
    return np.arange(math.prod(int(dim) for dim in shape)).reshape([int(dim) for dim in shape])


def _wrapped(indices: NDArray[np.generic], sizes: Sequence[Dim]) -> Indices:
    """Indices counted from the end, counted from the start."""
    return np.asarray(indices.astype(np.int64) % np.asarray([int(size) for size in sizes]))


def gather_nd_places(shape: Shape, indices: NDArray[np.generic], batch: int) -> Indices:
    """Which elements GatherND takes, in row-major order."""
    depth = indices.shape[-1]
    lead = [int(size) for size in shape[:batch]]
    source = _numbered(shape).reshape(-1, *(int(size) for size in shape[batch:]))
    rows = _wrapped(indices, shape[batch : batch + depth]).reshape(source.shape[0], *indices.shape[batch:])
    taken = np.stack([part[tuple(np.moveaxis(row, -1, 0))] for part, row in zip(source, rows, strict=True)])
    return taken.reshape(*lead, *taken.shape[1:])


@rules.derivative("GatherND")
def gather_nd(node: NodeView) -> At | NoInverse:
    """∂y holds ∂x at the same places.

    Refuses:   indices or sizes known only at run time
    Source:    ONNX GatherND-11, -12 (batch_dims), -13
    """
    shapes, indices = _fixed_shapes(node, node.x, node.y), node.constant(1)
    if indices is None:
        return not_constant("its indices are")
    if isinstance(shapes, NoInverse):
        return shapes
    places = gather_nd_places(shapes[0], indices, node.integer("batch_dims", 0))
    return lambda p: flat_picking(shapes[0], shapes[1], places)


def _scattered(node: NodeView, places: Indices) -> At | NoInverse:
    """y is x with `updates` at `places`, put there or added to what is there."""
    attribute = node.node.attributes.get("reduction")
    reduction = "none" if attribute is None else attribute.as_string()
    if reduction not in {"none", "add"}:
        return NoInverse(f"its reduction is {reduction!r}", "only none and add are differentiated")
    shapes = _fixed_shapes(node, node.x, node.y)
    if isinstance(shapes, NoInverse):
        return shapes
    x, y = shapes
    order = places.reshape(-1)
    if node.unknown == 0:
        kept = _numbered(x).reshape(-1)
        if reduction == "none":
            kept[order] = -1
        return lambda p: flat_picking(x, y, kept)
    if reduction == "add":
        return lambda p: adjoint(flat_picking(y, x, order))
    placed = np.full(_numbered(y).size, -1)
    placed[order] = np.arange(order.size)
    return lambda p: flat_picking(x, y, placed)


@rules.derivative("ScatterND")
def scatter_nd(node: NodeView) -> At | NoInverse:
    """∂y is ∂x with ∂updates at the same places, instead of what is there or added to it.

    Refuses:   indices or sizes known only at run time; the reductions mul, min, max
    Source:    ONNX ScatterND-11, -13, -16, -18
    """
    shapes, indices = _fixed_shapes(node, node.y), node.constant(1)
    if indices is None:
        return not_constant("its indices are")
    if isinstance(shapes, NoInverse):
        return shapes
    return _scattered(node, gather_nd_places(shapes[0], indices, 0))


def elements_places(shape: Shape, indices: NDArray[np.generic], axis: int) -> Indices:
    """Which elements GatherElements takes, in row-major order."""
    grid: list[Indices] = [np.asarray(places) for places in np.indices(indices.shape)]
    grid[axis] = indices.astype(np.int64) % int(shape[axis])
    return np.asarray(_numbered(shape)[tuple(grid)])


@rules.derivative("ScatterElements")
def scatter_elements(node: NodeView) -> At | NoInverse:
    """∂y is ∂x with ∂updates at the same places, instead of what is there or added to it.

    Refuses:   indices or sizes known only at run time; the reductions mul, min, max
    Source:    ONNX ScatterElements-11, -13, -16, -18
    """
    shapes, indices = _fixed_shapes(node, node.y), node.constant(1)
    if indices is None:
        return not_constant("its indices are")
    if isinstance(shapes, NoInverse):
        return shapes
    return _scattered(node, elements_places(shapes[0], indices, node.integer("axis", 0) % len(shapes[0])))


@rules.derivative("ReverseSequence")
def reverse_sequence(node: NodeView) -> At | NoInverse:
    """∂y is ∂x, each sequence's first elements in the other order.

    Refuses:   lengths known only at run time; lengths that differ, where a size is
    Source:    ONNX ReverseSequence-10
    """
    shapes, lengths = static(node, node.x), node.constant(1)
    if isinstance(shapes, NoInverse):
        return shapes
    if lengths is None:
        return not_constant("its lengths are")
    shape = shapes[0]
    time, batch = node.integer("time_axis", 0) % len(shape), node.integer("batch_axis", 1) % len(shape)
    size = fixed(node, shape, time)
    if isinstance(size, NoInverse):
        return size

    def order(length: int) -> Indices:
        return np.asarray([*reversed(range(length)), *range(length, size)], dtype=np.int64)

    if np.all(lengths == lengths[0]):
        return lambda p: picking(len(shape), time, order(int(lengths[0])), size)
    whole = _fixed_shapes(node, node.x)
    if isinstance(whole, NoInverse):
        return whole
    numbers = np.moveaxis(_numbered(shape), (batch, time), (0, 1))
    turned = np.stack([row[order(int(length))] for row, length in zip(numbers, lengths, strict=True)])
    return lambda p: flat_picking(shape, shape, np.moveaxis(turned, (0, 1), (batch, time)))


def _looked_up(node: NodeView, axis: int, indices: Callable[[Point], ir.Value]) -> At | NoInverse:
    """y holds, in each row along `axis`, the elements of x at indices that stand beside it in y's shape.

    As a product with a 0/1 matrix (k, n) for each row, made at run time.
    """
    shapes = static(node, node.x)
    if isinstance(shapes, NoInverse):
        return shapes
    rank = len(shapes[0])
    axis %= rank
    size = fixed(node, shapes[0], axis)
    if isinstance(size, NoInverse):
        return size
    perm = [*(i for i in range(rank) if i != axis), axis]
    back = [int(i) for i in np.argsort(perm)]

    def ordered(e: Emitter, value: ir.Value, perm: list[int]) -> ir.Value:
        return value if perm == sorted(perm) else e.op("Transpose", value, perm=perm)

    def at(p: Point) -> Differential:
        e = p.e
        with e.scope(e.scope_name, ir.DataType.INT64):
            places = e.cast(indices(p), ir.DataType.INT64)
            places = e.op("Where", e.op("Less", places, 0), e.op("Add", places, size), places)
            places = e.op("Unsqueeze", ordered(e, places, perm), e.ints([-1]))
            hit = e.op("Equal", places, e.ints(range(size)))
        matrix = number(e, hit)

        def product(e: Emitter, t: ir.Value, left: ir.Value) -> ir.Value:
            t = e.op("Unsqueeze", ordered(e, t, [0, *(i + 1 for i in perm)]), e.ints([-1]))
            y = e.op("Squeeze", e.op("MatMul", left, t), e.ints([-1]))
            return ordered(e, y, [0, *(i + 1 for i in back)])

        turned = [*range(rank - 1), rank, rank - 1]
        return Differential(
            lambda e, t: product(e, t, matrix), lambda e, c: product(e, c, e.op("Transpose", matrix, perm=turned))
        )

    return at


@rules.derivative("TopK")
def top_k(node: NodeView) -> At | NoInverse:
    """∂values is ∂x at the indices of the values.

    Source:    ONNX TopK-1, -10, -11, -24
    """
    return _looked_up(node, node.integer("axis", -1), lambda p: p.outputs[1])


@rules.derivative("GatherElements")
def gather_elements(node: NodeView) -> At | NoInverse:
    """∂y holds ∂x at the same places.

    Refuses:   indices known only at run time that do not cover x's other axes
    Source:    ONNX GatherElements-11, -13
    """
    shapes = static(node, node.x, node.y)
    if isinstance(shapes, NoInverse):
        return shapes
    x, y = shapes
    axis, indices = node.integer("axis", 0) % len(x), node.constant(1)
    whole = _fixed_shapes(node, node.x, node.y)
    if indices is not None and not isinstance(whole, NoInverse):
        places = elements_places(x, indices, axis)
        return lambda p: flat_picking(x, y, places)
    others = [(a, b) for i, (a, b) in enumerate(zip(x, y, strict=True)) if i != axis]
    if any(a != b and isinstance(a, int) and isinstance(b, int) for a, b in others):
        return not_constant("its indices are")
    return _looked_up(node, axis, lambda p: p.input(1))
