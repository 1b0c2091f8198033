"""Derivatives of sums and products: Add, Sub, Sum, Mean, Mul, Div, MatMul, Gemm. Any operand may be unknown."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.derivatives.operands import by_slope
from onnx_invert.rules.differential import (
    At,
    Broadcast,
    Differential,
    Point,
    flat,
    ones_like,
    repeated_axes,
    second,
    static,
    weighted,
)
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


def _sum(node: NodeView, factor: float) -> At | NoInverse:
    """∂y/∂x = factor, summed over what was broadcast."""
    broadcast = Broadcast.of(node, node.x)
    if isinstance(broadcast, NoInverse):
        return broadcast

    def scaled(e: Emitter, t: ir.Value) -> ir.Value:
        if factor == 1:
            return t
        return e.op("Neg", t) if factor == -1 else e.op("Mul", t, factor)

    def at(p: Point) -> Differential:
        if not broadcast.is_static:
            return weighted(broadcast, scaled(p.e, ones_like(p.e, p.outputs[0])))
        return Differential(
            lambda e, t: broadcast.expand(e, scaled(e, t)), lambda e, c: scaled(e, broadcast.reduce(e, c))
        )

    return at


@rules.derivative("Add")
def add(node: NodeView) -> At | NoInverse:
    """∂(a + b) = ∂a + ∂b."""
    return _sum(node, 1.0)


@rules.derivative("Sub")
def sub(node: NodeView) -> At | NoInverse:
    """∂(a − b) = ∂a − ∂b."""
    return _sum(node, 1.0 if node.unknown == 0 else -1.0)


@rules.derivative("Sum")
def add_up(node: NodeView) -> At | NoInverse:
    """∂(a + b + …) = ∂a + ∂b + …."""
    return _sum(node, 1.0)


@rules.derivative("Mean")
def mean(node: NodeView) -> At | NoInverse:
    """∂((a + b + …) / k) = (∂a + ∂b + …) / k for k operands."""
    return _sum(node, 1 / len(node.node.inputs))


@rules.derivative("Expand")
def expand(node: NodeView) -> At | NoInverse:
    """∂y is ∂x, repeated: as for a sum with zeros of y's shape."""
    return _sum(node, 1.0)


@rules.derivative("Mul")
def mul(node: NodeView) -> At | NoInverse:
    """∂(a · b) = b · ∂a + a · ∂b."""
    other = node.operand(1 - node.unknown)
    full = other is not None and node.shape(other) == node.shape(node.y)
    return by_slope(node, lambda p: p.input(1 - node.unknown), full=full)


@rules.derivative("Div")
def div(node: NodeView) -> At | NoInverse:
    """∂(a / b) = ∂a / b − y / b · ∂b."""
    if node.unknown == 0:
        return by_slope(node, lambda p: p.e.op("Div", p.e.scalar(1.0), p.input(1)))
    return by_slope(node, lambda p: p.e.op("Neg", p.e.op("Div", p.outputs[0], p.input(1))), full=True)


@rules.derivative("MatMul")
def matmul(node: NodeView) -> At | NoInverse:
    """∂(A B) = ∂A B + A ∂B, batched like numpy.matmul; a vector is a matrix of one row on the left, one column on
    the right.

    Shapes:    A (…, N, K), B (…, K, M) → y (…, N, M)
    Source:    ONNX MatMul-1, -9, -13
    """
    a, b = node.operand(0), node.operand(1)
    if a is None or b is None:
        return NoInverse("one of its two operands is missing")
    shapes = static(node, a, b, node.y)
    if isinstance(shapes, NoInverse):
        return shapes
    ranks = len(shapes[0]), len(shapes[1])
    left = node.unknown == 0
    # The axes, counted from the end, that make matrices of A, of B and of y.
    row, column = [-2] if ranks[0] == 1 else [], [-1] if ranks[1] == 1 else []
    own, others = (row, column) if left else (column, row)
    batches = [shape[:-2] for shape in shapes[:2]]
    y_batch = shapes[2][: max(len(batch) for batch in batches)]
    mine = batches[node.unknown]
    axes = repeated_axes(mine, y_batch)
    if isinstance(axes, NoInverse):
        return axes
    broadcast = Broadcast((*mine, 0, 0), (*y_batch, 0, 0), tuple(axes))

    def at(p: Point) -> Differential:
        other = _unsqueezed(p.e, p.input(1 - node.unknown), others)
        rank = max(ranks[1 - node.unknown], 2)

        def push(e: Emitter, t: ir.Value) -> ir.Value:
            t = broadcast.lift(e, _unsqueezed(e, t, own))
            y = e.op("MatMul", t, other) if left else e.op("MatMul", other, t)
            return _squeezed(e, y, [*row, *column])

        def pull(e: Emitter, c: ir.Value) -> ir.Value:
            c = _unsqueezed(e, c, [*row, *column])
            turned = e.op("Transpose", second(e, other), perm=[*range(rank - 2), rank - 1, rank - 2])
            x = e.op("MatMul", c, turned) if left else e.op("MatMul", turned, c)
            return _squeezed(e, broadcast.reduce(e, x), own)

        return Differential(push, pull)

    return at


def _unsqueezed(e: Emitter, value: ir.Value, axes: list[int]) -> ir.Value:
    return e.op("Unsqueeze", value, e.ints(axes)) if axes else value


def _squeezed(e: Emitter, value: ir.Value, axes: list[int]) -> ir.Value:
    return e.op("Squeeze", value, e.ints(axes)) if axes else value


@rules.derivative("Gemm")
def gemm(node: NodeView) -> At | NoInverse:
    """∂(α op(A) op(B) + β C) = α ∂op(A) op(B) + α op(A) ∂op(B) + β ∂C.

    Shapes:    op(A) (N, K), op(B) (K, M), C broadcast to (N, M)
    Source:    ONNX Gemm-7, -9, -11, -13
    """
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    if node.unknown == 2:
        return flat if beta == 0 else _sum(node, beta)
    flips = [bool(node.integer("transA", 0)), bool(node.integer("transB", 0))]
    left = node.unknown == 0
    flip, other_flip = flips[node.unknown], flips[1 - node.unknown]

    def turned(e: Emitter, value: ir.Value, flip: bool, perm: Sequence[int]) -> ir.Value:
        return e.op("Transpose", value, perm=perm) if flip else value

    def scaled(e: Emitter, value: ir.Value) -> ir.Value:
        return value if alpha == 1 else e.op("Mul", value, alpha)

    def at(p: Point) -> Differential:
        other = p.input(1 - node.unknown)

        def push(e: Emitter, t: ir.Value) -> ir.Value:
            t, w = turned(e, t, flip, [0, 2, 1]), turned(e, other, other_flip, [1, 0])
            return scaled(e, e.op("MatMul", t, w) if left else e.op("MatMul", w, t))

        def pull(e: Emitter, c: ir.Value) -> ir.Value:
            w = turned(e, second(e, other), not other_flip, [1, 0])
            x = e.op("MatMul", c, w) if left else e.op("MatMul", w, c)
            return scaled(e, turned(e, x, flip, [0, 2, 1]))

        return Differential(push, pull)

    return at
