"""Derivatives of sums and products: Add, Sub, Mul, Div, MatMul, Gemm. Any of the operands may be unknown."""

from __future__ import annotations

import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.differential import (
    At,
    Broadcast,
    Differential,
    Point,
    ones_like,
    repeated_axes,
    static,
    weighted,
)
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


def _sum(node: NodeView, sign: float) -> At | NoInverse:
    """∂y/∂x = ±1, summed over what was broadcast."""
    broadcast = Broadcast.of(node, node.x)
    if isinstance(broadcast, NoInverse):
        return broadcast

    def at(p: Point) -> Differential:
        if not broadcast.is_static:
            ones = ones_like(p.e, p.outputs[0])
            return weighted(broadcast, p.e.op("Mul", ones, sign) if sign != 1 else ones)

        def push(e: Emitter, t: ir.Value) -> ir.Value:
            t = broadcast.expand(e, t)
            return t if sign == 1 else e.op("Neg", t)

        def pull(e: Emitter, c: ir.Value) -> ir.Value:
            c = broadcast.reduce(e, c)
            return c if sign == 1 else e.op("Neg", c)

        return Differential(push, pull)

    return at


@rules.derivative("Add")
def add(node: NodeView) -> At | NoInverse:
    """∂(a + b) = ∂a + ∂b."""
    return _sum(node, 1.0)


@rules.derivative("Sub")
def sub(node: NodeView) -> At | NoInverse:
    """∂(a − b) = ∂a − ∂b."""
    return _sum(node, 1.0 if node.unknown == 0 else -1.0)


@rules.derivative("Mul")
def mul(node: NodeView) -> At | NoInverse:
    """∂(a · b) = b · ∂a + a · ∂b."""
    broadcast = Broadcast.of(node, node.x)
    if isinstance(broadcast, NoInverse):
        return broadcast
    if broadcast.axes and node.shape(node.operand(1 - node.unknown) or node.x) != broadcast.y:
        return _two_way(broadcast, lambda p: p.input(1 - node.unknown))
    return lambda p: weighted(broadcast, p.input(1 - node.unknown))


@rules.derivative("Div")
def div(node: NodeView) -> At | NoInverse:
    """∂(a / b) = ∂a / b − y / b · ∂b."""
    broadcast = Broadcast.of(node, node.x)
    if isinstance(broadcast, NoInverse):
        return broadcast
    if node.unknown == 0:
        return _two_way(broadcast, lambda p: p.e.op("Div", p.e.scalar(1.0), p.input(1)))
    return lambda p: weighted(broadcast, p.e.op("Neg", p.e.op("Div", p.outputs[0], p.input(1))))


def _two_way(broadcast: Broadcast, slope) -> At:  # type: ignore[no-untyped-def]
    """`weighted`, for a slope that may itself be broadcast to y: it is made full first where x is broadcast too."""

    def at(p: Point) -> Differential:
        weight = slope(p)
        if broadcast.axes:
            weight = p.e.op("Mul", ones_like(p.e, p.outputs[0]), weight)
        return weighted(broadcast, weight)

    return at


@rules.derivative("MatMul")
def matmul(node: NodeView) -> At | NoInverse:
    """∂(A B) = ∂A B + A ∂B, batched like numpy.matmul.

    Refuses:   vectors whose partner has batch axes
    Source:    ONNX MatMul-1, -9, -13
    """
    shapes = static(node, node.node.inputs[0], node.node.inputs[1], node.y)  # type: ignore[arg-type]
    if isinstance(shapes, NoInverse):
        return shapes
    a, b, y = shapes
    if len(a) == 1 or len(b) == 1:
        return _with_vector(node, len(a), len(b))
    left = node.unknown == 0
    own = a if left else b
    batch = repeated_axes(own[:-2], y[:-2])
    if isinstance(batch, NoInverse):
        return batch
    broadcast = Broadcast((*own[:-2], *own[-2:]), (*y[:-2], *own[-2:]), tuple(batch))

    def at(p: Point) -> Differential:
        other = p.input(1 if left else 0)
        rank = len(b if left else a)
        perm = [*range(rank - 2), rank - 1, rank - 2]

        def push(e: Emitter, t: ir.Value) -> ir.Value:
            t = broadcast.lift(e, t)
            return e.op("MatMul", t, other) if left else e.op("MatMul", other, t)

        def pull(e: Emitter, c: ir.Value) -> ir.Value:
            turned = e.op("Transpose", other, perm=perm)
            c = e.op("MatMul", c, turned) if left else e.op("MatMul", turned, c)
            return broadcast.reduce(e, c)

        return Differential(push, pull)

    return at


def _with_vector(node: NodeView, a: int, b: int) -> At | NoInverse:
    """One operand is a vector: numpy.matmul gives it an axis of size one and takes that away again."""
    left = node.unknown == 0
    if (a == 1 and b > 2) or (b == 1 and a > 2 and not left):
        return NoInverse("it multiplies a vector by a stack of matrices", "write the vector as a matrix")

    def at(p: Point) -> Differential:
        other = p.input(1 if left else 0)

        def as_matrix(e: Emitter) -> ir.Value:
            """The other operand as a matrix (K, M) on the right, or (N, K) on the left."""
            if left:
                return e.op("Unsqueeze", other, e.ints([1])) if b == 1 else other
            return e.op("Unsqueeze", other, e.ints([0])) if a == 1 else other

        def push(e: Emitter, t: ir.Value) -> ir.Value:
            if left:
                y = e.op("MatMul", t, as_matrix(e))
                return e.op("Squeeze", y, e.ints([-1])) if b == 1 else y
            if b == 1:
                t = e.op("Unsqueeze", t, e.ints([2]))
            y = e.op("MatMul", as_matrix(e), t)
            drop = ([1] if a == 1 else []) + ([2] if b == 1 else [])
            return e.op("Squeeze", y, e.ints(drop)) if drop else y

        def pull(e: Emitter, c: ir.Value) -> ir.Value:
            turned = e.op("Transpose", as_matrix(e), perm=[1, 0])
            if left:
                c = e.op("Unsqueeze", c, e.ints([-1])) if b == 1 else c
                return e.op("MatMul", c, turned)
            for axis, vector in ((1, a == 1), (2, b == 1)):
                if vector:
                    c = e.op("Unsqueeze", c, e.ints([axis]))
            x = e.op("MatMul", turned, c)
            return e.op("Squeeze", x, e.ints([2])) if b == 1 else x

        return Differential(push, pull)

    return at


@rules.derivative("Gemm")
def gemm(node: NodeView) -> At | NoInverse:
    """∂(α op(A) op(B) + β C) = α ∂op(A) op(B) + α op(A) ∂op(B) + β ∂C."""
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    if node.unknown == 2:
        broadcast = Broadcast.of(node, node.x)
        if isinstance(broadcast, NoInverse):
            return broadcast
        return lambda p: weighted(broadcast, p.e.op("Mul", ones_like(p.e, p.outputs[0]), beta))
    flips = [bool(node.integer("transA", 0)), bool(node.integer("transB", 0))]
    left = node.unknown == 0

    def turned(e: Emitter, value: ir.Value, flip: bool, rank: int) -> ir.Value:
        return e.op("Transpose", value, perm=[1, 0] if rank == 2 else [0, 2, 1]) if flip else value

    def scaled(e: Emitter, value: ir.Value) -> ir.Value:
        return value if alpha == 1 else e.op("Mul", value, alpha)

    def at(p: Point) -> Differential:
        other = p.input(1 if left else 0)
        flip, other_flip = flips[node.unknown], flips[1 - node.unknown]

        def push(e: Emitter, t: ir.Value) -> ir.Value:
            t = turned(e, t, flip, 3)
            w = turned(e, other, other_flip, 2)
            return scaled(e, e.op("MatMul", t, w) if left else e.op("MatMul", w, t))

        def pull(e: Emitter, c: ir.Value) -> ir.Value:
            w = turned(e, other, not other_flip, 2)
            c = e.op("MatMul", c, w) if left else e.op("MatMul", w, c)
            return scaled(e, turned(e, c, flip, 3))

        return Differential(push, pull)

    return at
