"""Derivatives of what moves, repeats or drops elements: linear maps, whose adjoint moves back and adds up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.derivatives.picks import along, fixed, reshaping
from onnx_invert.rules.differential import At, Differential, Point, composed, flat, scaling, static, targets
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import FLOATS, NodeView, Shape
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


def _same(p: Point) -> Differential:
    return Differential(lambda e, t: t, lambda e, c: c)


@rules.derivative("Identity")
def identity(node: NodeView) -> At | NoInverse:
    """∂y = ∂x."""
    return _same


@rules.derivative("Dropout")
def dropout(node: NodeView) -> At | NoInverse:
    """∂y = ∂x at inference.

    Refuses:   training mode
    """
    training = node.constant(2)
    if node.operand(2) is not None and (training is None or bool(np.any(training))):
        return NoInverse("it is in training mode: what it drops is drawn anew", "export the model for inference")
    return _same if node.output == 0 and node.unknown == 0 else flat


@rules.derivative("Cast")
def cast(node: NodeView) -> At | NoInverse:
    """∂y = ∂x between types of the same width; 0 to whole numbers and truth values."""
    return _converted(node, ir.DataType(node.integer("to", 0)))


@rules.derivative("CastLike")
def cast_like(node: NodeView) -> At | NoInverse:
    """∂y = ∂x between types of the same width; 0 to whole numbers and truth values, and from the pattern."""
    if node.unknown == 1:
        return flat
    pattern = node.operand(1)
    return _converted(node, (None if pattern is None else pattern.dtype) or node.dtype)


def _converted(node: NodeView, target: ir.DataType) -> At | NoInverse:
    if target not in FLOATS:
        return flat
    if target != node.dtype:
        return NoInverse(f"it changes {node.dtype.name.lower()} to {target.name.lower()}", "use one type throughout")
    return _same


def _reshaped(node: NodeView) -> At | NoInverse:
    """∂y is ∂x in y's shape."""
    if node.unknown != 0:
        return flat
    shapes = node.shape(node.x), node.shape(node.y)

    def at(p: Point) -> Differential:
        back, there = (
            _target(p, shape, value) for shape, value in zip(shapes, (p.input(0), p.outputs[0]), strict=True)
        )
        return Differential(lambda e, t: e.op("Reshape", t, there), lambda e, c: e.op("Reshape", c, back))

    return at


def _target(p: Point, shape: Shape | None, value: ir.Value) -> ir.Value:
    """The shape (S, *shape) for a Reshape: a constant, or read at run time where two sizes are known only then."""
    sizes = None if shape is None else targets(p.seeds, shape)
    if sizes is not None and not isinstance(sizes, NoInverse):
        return p.e.ints(sizes)
    with p.e.scope(p.e.scope_name, ir.DataType.INT64):
        return p.e.op("Concat", p.e.ints([p.seeds]), p.e.op("Shape", value), axis=0)


for _name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
    rules.derivative(_name)(_reshaped)


@rules.derivative("Transpose")
def transpose(node: NodeView) -> At | NoInverse:
    """∂y is ∂x with its axes permuted."""
    shapes = static(node, node.x)
    if isinstance(shapes, NoInverse):
        return shapes
    attribute = node.node.attributes.get("perm")
    perm = list(attribute.as_ints()) if attribute is not None else list(reversed(range(len(shapes[0]))))
    there = [0, *(axis + 1 for axis in perm)]
    back = [int(axis) for axis in np.argsort(there)]
    return lambda p: Differential(
        lambda e, t: e.op("Transpose", t, perm=there), lambda e, c: e.op("Transpose", c, perm=back)
    )


@rules.derivative("Tile")
def tile(node: NodeView) -> At | NoInverse:
    """∂y is ∂x, repeated; back, the repetitions are added up.

    Refuses:   repeats known only at run time
    Source:    ONNX Tile-6, -13
    """
    shapes, repeats = static(node, node.x), node.constant(1)
    if isinstance(shapes, NoInverse):
        return shapes
    if repeats is None:
        return NoInverse("its repeats are known only at run time", "compute them from constants")
    counts = [int(count) for count in repeats]
    split: Shape = tuple(part for count, dim in zip(counts, shapes[0], strict=True) for part in (count, dim))
    if isinstance(refusal := targets(1, split), NoInverse):
        return refusal
    axes = [2 * axis + 1 for axis in range(len(counts))]

    def at(p: Point) -> Differential:
        parts = targets(p.seeds, split)
        assert not isinstance(parts, NoInverse)
        return Differential(
            lambda e, t: e.op("Tile", t, e.ints([1, *counts])),
            lambda e, c: e.op("ReduceSum", e.op("Reshape", c, e.ints(parts)), e.ints(axes), keepdims=0),
        )

    return at


def _dealt(node: NodeView, x: Shape, blocks: Shape, perm: Sequence[int], y: Shape) -> At | NoInverse:
    """y is x as `blocks`, with the axes of those permuted."""
    dealt = tuple(blocks[axis] for axis in perm)
    for shape in (x, blocks, y):
        if isinstance(refusal := targets(1, shape), NoInverse):
            return refusal
    there = [0, *(axis + 1 for axis in perm)]
    back = [int(axis) for axis in np.argsort(there)]
    moved = Differential(lambda e, t: e.op("Transpose", t, perm=there), lambda e, c: e.op("Transpose", c, perm=back))
    return lambda p: composed(reshaping(p.seeds, x, blocks), moved, reshaping(p.seeds, dealt, y))


def _image(node: NodeView) -> tuple[Shape, int] | NoInverse:
    """The shape (N, C, H, W) and the side b of a block."""
    shapes = static(node, node.x)
    if isinstance(shapes, NoInverse):
        return shapes
    for axis in (1, 2, 3):
        if isinstance(refusal := fixed(node, shapes[0], axis), NoInverse):
            return refusal
    return shapes[0], node.integer("blocksize", 1)


@rules.derivative("DepthToSpace")
def depth_to_space(node: NodeView) -> At | NoInverse:
    """∂y is ∂x with its depth dealt out over blocks, in the order of its mode.

    Shapes:    x (N, b·b·C, H, W) → y (N, C, b·H, b·W)
    Source:    ONNX DepthToSpace-1, -11, -13
    """
    found = _image(node)
    if isinstance(found, NoInverse):
        return found
    (n, *sizes), b = found
    depth, h, w = (int(size) for size in sizes)
    c = depth // (b * b)
    attribute = node.node.attributes.get("mode")
    columns_first = attribute is not None and attribute.as_string() == "CRD"
    blocks, perm = (
        ((n, c, b, b, h, w), (0, 1, 4, 2, 5, 3)) if columns_first else ((n, b, b, c, h, w), (0, 3, 4, 1, 5, 2))
    )
    return _dealt(node, found[0], blocks, perm, (n, c, h * b, w * b))


@rules.derivative("SpaceToDepth")
def space_to_depth(node: NodeView) -> At | NoInverse:
    """∂y is ∂x with its blocks stacked into the depth.

    Shapes:    x (N, C, b·H, b·W) → y (N, b·b·C, H, W)
    Source:    ONNX SpaceToDepth-1, -13
    """
    found = _image(node)
    if isinstance(found, NoInverse):
        return found
    (n, *sizes), b = found
    c, height, width = (int(size) for size in sizes)
    h, w = height // b, width // b
    return _dealt(node, found[0], (n, c, h, b, w, b), (0, 3, 5, 1, 2, 4), (n, b * b * c, h, w))


@rules.derivative("CumSum")
def cum_sum(node: NodeView) -> At | NoInverse:
    """∂y is ∂x times a triangular matrix of ones along the axis.

    Refuses:   an axis known only at run time, or whose size is
    Source:    ONNX CumSum-11, -14
    """
    shapes, axis_operand = static(node, node.x), node.constant(1)
    if isinstance(shapes, NoInverse):
        return shapes
    if axis_operand is None:
        return NoInverse("its axis is known only at run time", "use a constant")
    rank = len(shapes[0])
    axis = int(axis_operand.reshape(-1)[0]) % rank
    size = fixed(node, shapes[0], axis)
    if isinstance(size, NoInverse):
        return size
    matrix = np.triu(np.ones((size, size)), node.integer("exclusive", 0))
    if node.integer("reverse", 0):
        matrix = matrix.T

    def at(p: Point) -> Differential:
        def times(e: Emitter, t: ir.Value, w: np.ndarray) -> ir.Value:
            return along(e, t, rank + 1, axis + 1, e.constant(w, "sums"))

        return Differential(lambda e, t: times(e, t, matrix), lambda e, c: times(e, c, matrix.T))

    return at


@rules.derivative("Trilu")
def trilu(node: NodeView) -> At | NoInverse:
    """∂y is ∂x on one side of a diagonal, 0 on the other.

    Refuses:   a diagonal, or sizes of the matrix, known only at run time
    Source:    ONNX Trilu-14
    """
    shapes, diagonal = static(node, node.x), node.constant(1)
    if isinstance(shapes, NoInverse):
        return shapes
    if diagonal is None and node.operand(1) is not None:
        return NoInverse("its diagonal is known only at run time", "use a constant")
    sizes = [fixed(node, shapes[0], len(shapes[0]) + axis) for axis in (-2, -1)]
    for size in sizes:
        if isinstance(size, NoInverse):
            return size
    ones = np.ones([size for size in sizes if isinstance(size, int)])
    k = 0 if diagonal is None else int(diagonal.reshape(-1)[0])
    mask = np.triu(ones, k) if node.integer("upper", 1) else np.tril(ones, k)
    return lambda p: scaling(p.e.constant(mask, "kept"))
