"""Derivatives of reductions over axes: y = Σ x, max x, log Σ exp x, …; ∂y = Σ slope · ∂x.

Axes are an attribute up to some opset and an operand after it; none are all axes, unless noop_with_empty_axes says so.
Only ReduceSum is emitted: the others changed their signature on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.derivatives.pointwise import filled, number
from onnx_invert.rules.differential import At, Differential, Point, ones_like, static
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import NodeView, Shape
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


@dataclass(frozen=True)
class Reduction:
    """x of shape `x` is summed over `axes`, which stay as sizes of 1 with `keepdims`."""

    x: Shape
    axes: tuple[int, ...]
    keepdims: bool

    @staticmethod
    def of(node: NodeView) -> Reduction | NoInverse:
        """As the node's axes say."""
        shapes = static(node, node.x)
        if isinstance(shapes, NoInverse):
            return shapes
        axes = node.ints("axes", 1)
        if axes is None and node.operand(1) is not None:
            return NoInverse("its axes are known only at run time", "use constants")
        if not axes:
            axes = () if node.integer("noop_with_empty_axes", 0) else tuple(range(len(shapes[0])))
        rank = len(shapes[0])
        return Reduction(shapes[0], tuple(sorted(axis % rank for axis in axes)), bool(node.integer("keepdims", 1)))

    @property
    def count(self) -> int | None:
        """How many numbers each sum has, where that is known beforehand."""
        sizes = [size for axis in self.axes if isinstance(size := self.x[axis], int)]
        return math.prod(sizes) if len(sizes) == len(self.axes) else None

    def total(self, e: Emitter, t: ir.Value, seeds: int = 1, *, keepdims: bool | None = None) -> ir.Value:
        """The sum, of a tensor with so many axes in front."""
        if not self.axes:
            return t
        kept = self.keepdims if keepdims is None else keepdims
        return e.op("ReduceSum", t, e.ints([axis + seeds for axis in self.axes]), keepdims=int(kept))

    def restored(self, e: Emitter, c: ir.Value, seeds: int = 1) -> ir.Value:
        """With the axes that were summed over again, of size 1."""
        if self.keepdims or not self.axes:
            return c
        return e.op("Unsqueeze", c, e.ints([axis + seeds for axis in self.axes]))

    def repeated(self, e: Emitter, c: ir.Value) -> ir.Value:
        """(S, *y) → (S, *x), where the sizes are known beforehand."""
        sizes = [int(dim) if axis in self.axes else 1 for axis, dim in enumerate(self.x)]
        c = self.restored(e, c)
        return e.op("Expand", c, e.ints([1, *sizes])) if any(size != 1 for size in sizes) else c


def _weighted(node: NodeView, slope: Callable[[Point, Reduction], ir.Value]) -> At | NoInverse:
    """∂y = Σ slope · ∂x; the slope has x's own shape."""
    reduction = Reduction.of(node)
    if isinstance(reduction, NoInverse):
        return reduction

    def at(p: Point) -> Differential:
        weight = slope(p, reduction)
        return Differential(
            lambda e, t: reduction.total(e, e.op("Mul", t, weight)),
            lambda e, c: e.op("Mul", reduction.restored(e, c), weight),
        )

    return at


def _alike(node: NodeView, *, mean: bool) -> At | NoInverse:
    """∂y = Σ ∂x, or their mean."""
    reduction = Reduction.of(node)
    if isinstance(reduction, NoInverse):
        return reduction
    count = reduction.count
    if count is None:
        return _weighted(node, _share if mean else lambda p, r: ones_like(p.e, p.input(0)))

    def scaled(e: Emitter, t: ir.Value) -> ir.Value:
        return e.op("Mul", t, 1 / count) if mean and count > 1 else t

    return lambda p: Differential(
        lambda e, t: scaled(e, reduction.total(e, t)), lambda e, c: reduction.repeated(e, scaled(e, c))
    )


def _share(p: Point, reduction: Reduction) -> ir.Value:
    """1 / k, k counted at run time."""
    ones = ones_like(p.e, p.input(0))
    return p.e.op("Div", ones, reduction.total(p.e, ones, 0, keepdims=True))


@rules.derivative("ReduceSum")
def reduce_sum(node: NodeView) -> At | NoInverse:
    """∂y = Σ ∂x.

    Source:    ONNX ReduceSum-1, -11, -13
    """
    return _alike(node, mean=False)


@rules.derivative("ReduceMean")
def reduce_mean(node: NodeView) -> At | NoInverse:
    """∂y = Σ ∂x / k over k numbers.

    Source:    ONNX ReduceMean-1, -11, -13, -18
    """
    return _alike(node, mean=True)


def _extreme(node: NodeView) -> At | NoInverse:
    """∂y is the mean of ∂x over the elements equal to y."""

    def slope(p: Point, reduction: Reduction) -> ir.Value:
        e = p.e
        hits = number(e, e.op("Equal", p.input(0), reduction.restored(e, p.outputs[0], 0)))
        return e.op("Div", hits, reduction.total(e, hits, 0, keepdims=True))

    return _weighted(node, slope)


for _name in ("ReduceMax", "ReduceMin"):
    rules.derivative(_name)(_extreme)


@rules.derivative("ReduceProd")
def reduce_prod(node: NodeView) -> At | NoInverse:
    """∂y = Σ (product of the others) ∂x.

    That is y / x without a zero. With one it is 0 but at the zero itself, where it is ± exp Σ log |x| over the others;
    with two it is 0.
    """

    def slope(p: Point, reduction: Reduction) -> ir.Value:
        e, x = p.e, p.input(0)
        zero = number(e, e.op("Equal", x, 0.0))
        safe = e.op("Add", x, zero)
        count = reduction.total(e, zero, 0, keepdims=True)
        logarithms = reduction.total(e, e.op("Log", e.op("Abs", safe)), 0, keepdims=True)
        negative = reduction.total(e, number(e, e.op("Less", x, 0.0)), 0, keepdims=True)
        half = e.op("Mul", negative, 0.5)
        odd = e.op("Sub", negative, e.op("Mul", e.op("Floor", half), 2.0))
        sign = e.op("Sub", e.scalar(1.0), e.op("Mul", odd, 2.0))
        others = e.op("Mul", e.op("Mul", e.op("Exp", logarithms), sign), zero)
        alone = e.op("Where", e.op("Equal", count, 1.0), others, e.scalar(0.0))
        # Without a zero, count is 0 and y / x the product of the others; with one, y is 0.
        return e.op("Add", e.op("Div", reduction.restored(e, p.outputs[0], 0), safe), alone)

    return _weighted(node, slope)


@rules.derivative("ReduceL1")
def reduce_l1(node: NodeView) -> At | NoInverse:
    """∂y = Σ sign(x) ∂x."""
    return _weighted(node, lambda p, r: p.e.op("Sign", p.input(0)))


@rules.derivative("ReduceL2")
def reduce_l2(node: NodeView) -> At | NoInverse:
    """∂y = Σ x / y ∂x, 0 where y is 0."""
    return _weighted(node, lambda p, r: p.e.op("Div", p.input(0), filled(p.e, r.restored(p.e, p.outputs[0], 0))))


@rules.derivative("ReduceSumSquare")
def reduce_sum_square(node: NodeView) -> At | NoInverse:
    """∂y = Σ 2x ∂x."""
    return _weighted(node, lambda p, r: p.e.op("Add", p.input(0), p.input(0)))


@rules.derivative("ReduceLogSum")
def reduce_log_sum(node: NodeView) -> At | NoInverse:
    """∂y = Σ ∂x / Σ x."""

    def slope(p: Point, reduction: Reduction) -> ir.Value:
        return p.e.op("Div", ones_like(p.e, p.input(0)), reduction.total(p.e, p.input(0), 0, keepdims=True))

    return _weighted(node, slope)


@rules.derivative("ReduceLogSumExp")
def reduce_log_sum_exp(node: NodeView) -> At | NoInverse:
    """∂y = Σ exp(x − y) ∂x."""
    return _weighted(node, lambda p, r: p.e.op("Exp", p.e.op("Sub", p.input(0), r.restored(p.e, p.outputs[0], 0))))
