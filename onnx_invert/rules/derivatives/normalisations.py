"""Derivatives of what divides by a size of its input: layer norm and its relatives, softmax.

With x̂ = (x − mean) / σ over some axes, ∂x̂ = (∂x − mean ∂x − x̂ · mean(x̂ · ∂x)) / σ: a symmetric map, its own adjoint.
BatchNormalization at inference is a scale per channel; rules/linear.py says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.derivatives.operands import by_slope
from onnx_invert.rules.derivatives.pointwise import filled
from onnx_invert.rules.differential import At, Differential, Point, composed, ones_like, scaling, static, targets
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import NodeView, Shape
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


@dataclass(frozen=True)
class Group:
    """What is normalised together: the numbers along `axes`, counted from the end. `share` is 1 / their number."""

    axes: Sequence[int]
    share: ir.Value

    @staticmethod
    def of(e: Emitter, x: ir.Value, shape: Shape, axes: Sequence[int]) -> Group:
        """The axes of x; a size that is known only at run time is counted there."""
        sizes = [shape[axis] for axis in axes]
        if all(isinstance(size, int) for size in sizes):
            return Group(axes, e.scalar(1 / math.prod(int(size) for size in sizes)))
        return Group(axes, e.op("Div", e.scalar(1.0), _sum(e, ones_like(e, x), axes)))

    def mean(self, e: Emitter, t: ir.Value) -> ir.Value:
        """The mean, with axes of size 1 left."""
        return e.op("Mul", _sum(e, t, self.axes), self.share)

    def centred(self, e: Emitter, t: ir.Value) -> ir.Value:
        """t − mean t."""
        return e.op("Sub", t, self.mean(e, t))


def _sum(e: Emitter, t: ir.Value, axes: Sequence[int]) -> ir.Value:
    return e.op("ReduceSum", t, e.ints(axes), keepdims=1)


def _from_end(axes: Sequence[int], rank: int) -> list[int]:
    """Counted from the end: they are the same with an axis of seeds in front."""
    return [axis % rank - rank for axis in axes]


@dataclass(frozen=True)
class Standard:
    """x̂ and 1 / σ at the point."""

    group: Group
    x: ir.Value
    inverse: ir.Value
    centred: bool

    @staticmethod
    def of(e: Emitter, group: Group, x: ir.Value, epsilon: float, *, centred: bool = True) -> Standard:
        """σ² = mean(x²) + epsilon, of the centred x; or of x as it is."""
        if centred:
            x = group.centred(e, x)
        variance = e.op("Add", group.mean(e, e.op("Mul", x, x)), epsilon)
        inverse = e.op("Div", e.scalar(1.0), e.op("Sqrt", variance))
        return Standard(group, e.op("Mul", x, inverse), inverse, centred)

    def differential(self) -> Differential:
        """∂x̂ = (∂x − mean ∂x − x̂ · mean(x̂ · ∂x)) / σ."""
        return Differential(self._apply, self._apply)

    def _apply(self, e: Emitter, t: ir.Value) -> ir.Value:
        along = e.op("Mul", self.x, self.group.mean(e, e.op("Mul", t, self.x)))
        rest = self.group.centred(e, t) if self.centred else t
        return e.op("Mul", e.op("Sub", rest, along), self.inverse)


def _standardised(node: NodeView, axes: Sequence[int], epsilon: float, *, centred: bool = True) -> At | NoInverse:
    """y = x̂ · scale + bias with operands that broadcast to x; any of the three may be unknown."""
    if node.output:
        return NoInverse("its mean or its scale is an output that is used")
    shapes = static(node, node.x, node.y)
    if isinstance(shapes, NoInverse):
        return shapes
    y = shapes[1]
    axes = _from_end(axes, len(y))

    def standard(p: Point) -> Standard:
        x = p.input(0)
        return Standard.of(p.e, Group.of(p.e, x, y, axes), x, epsilon, centred=centred)

    if node.unknown == 1:
        return by_slope(node, lambda p: standard(p).x, full=True)
    if node.unknown == 2:
        return by_slope(node, lambda p: p.e.scalar(1.0))
    return lambda p: _scaled(standard(p).differential(), p.inputs[1] if len(p.inputs) > 1 else None)


def _scaled(differential: Differential, scale: ir.Value | None) -> Differential:
    return differential if scale is None else composed(differential, scaling(scale))


@rules.derivative("LayerNormalization")
def layer_normalization(node: NodeView) -> At | NoInverse:
    """∂y = scale · (∂x − mean ∂x − x̂ · mean(x̂ · ∂x)) / σ + x̂ · ∂scale + ∂bias, over the axes from `axis` on.

    Refuses:   its mean or inverse deviation as outputs
    Source:    ONNX LayerNormalization-17
    """
    return _standardised(node, _last_axes(node), node.number("epsilon", 1e-5))


@rules.derivative("RMSNormalization")
def rms_normalization(node: NodeView) -> At | NoInverse:
    """∂y = scale · (∂x − x̂ · mean(x̂ · ∂x)) / σ + x̂ · ∂scale, x̂ = x / σ, over the axes from `axis` on.

    Source:    ONNX RMSNormalization-23
    """
    return _standardised(node, _last_axes(node), node.number("epsilon", 1e-5), centred=False)


def _last_axes(node: NodeView) -> range:
    shape = node.shape(node.y) or ()
    return range(node.integer("axis", -1) % max(len(shape), 1), len(shape))


@rules.derivative("MeanVarianceNormalization")
def mean_variance_normalization(node: NodeView) -> At | NoInverse:
    """∂y = (∂x − mean ∂x − y · mean(y · ∂x)) / σ.

    Source:    ONNX MeanVarianceNormalization-9, -13
    """
    attribute = node.node.attributes.get("axes")
    axes = [0, 2, 3] if attribute is None else list(attribute.as_ints())
    # The operator adds 1e-9 to σ itself: that matters only where σ is 0, as this does.
    return _standardised(node, axes, 1e-18)


@rules.derivative("InstanceNormalization")
def instance_normalization(node: NodeView) -> At | NoInverse:
    """∂y = scale · (∂x − mean ∂x − x̂ · mean(x̂ · ∂x)) / σ, over the image.

    Refuses:   scale or bias unknown
    Source:    ONNX InstanceNormalization-1, -6, -22
    """
    return _by_channels(node, None)


@rules.derivative("GroupNormalization")
def group_normalization(node: NodeView) -> At | NoInverse:
    """∂y = scale · (∂x − mean ∂x − x̂ · mean(x̂ · ∂x)) / σ, over groups of channels.

    The scale is one per group up to opset 20, one per channel from 21 on.

    Refuses:   scale or bias unknown
    Source:    ONNX GroupNormalization-18, -21
    """
    return _by_channels(node, node.integer("num_groups", 1))


def _by_channels(node: NodeView, groups: int | None) -> At | NoInverse:
    """Images (N, C, …), normalised by channel or by group of channels, then scaled."""
    if node.unknown:
        return NoInverse("its scale or its bias depends on what is unknown")
    shapes = static(node, node.x)
    if isinstance(shapes, NoInverse):
        return shapes
    shape = shapes[0]
    epsilon, ones = node.number("epsilon", 1e-5), [1] * (len(shape) - 2)
    if groups is None:
        axes = list(range(2 - len(shape), 0))

        def at(p: Point) -> Differential:
            group = Group.of(p.e, p.input(0), shape, axes)
            standard = Standard.of(p.e, group, p.input(0), epsilon)
            return _scaled(standard.differential(), p.e.op("Reshape", p.input(1), p.e.ints([-1, *ones])))

        return at
    rest = [dim for dim in shape[1:] if isinstance(dim, str)]
    inner = math.prod(int(dim) for dim in shape[1:]) // groups if not rest else rest[0]
    split: Shape = (shape[0], groups, inner)
    for each in (shape, split):
        if isinstance(refusal := targets(1, each), NoInverse):
            return refusal

    def grouped(p: Point) -> Differential:
        e = p.e
        x = e.op("Reshape", p.input(0), e.ints(_target(1, split)[1:]))
        inside = Standard.of(e, Group.of(e, x, split, [-1]), x, epsilon).differential()
        there, back = _target(p.seeds, split), _target(p.seeds, shape)
        dealt = Differential(
            lambda e, t: e.op("Reshape", t, e.ints(there)), lambda e, c: e.op("Reshape", c, e.ints(back))
        )
        gathered = Differential(dealt.pull, dealt.push)
        if node.opset < 21:
            scale = e.op("Reshape", p.input(1), e.ints([-1, 1]))
            return composed(dealt, inside, scaling(scale), gathered)
        scale = e.op("Reshape", p.input(1), e.ints([-1, *ones]))
        return composed(dealt, inside, gathered, scaling(scale))

    return grouped


def _target(seeds: int, shape: Shape) -> list[int]:
    target = targets(seeds, shape)
    assert not isinstance(target, NoInverse)
    return target


@rules.derivative("LpNormalization")
def lp_normalization(node: NodeView) -> At | NoInverse:
    """∂y = (∂x − y · Σ g ∂x) / n, n the norm of x and g its gradient: y, or the signs of x where p = 1.

    Domain:    n ≠ 0
    Source:    ONNX LpNormalization-1, -22
    """
    shapes = static(node, node.x)
    if isinstance(shapes, NoInverse):
        return shapes
    axes = _from_end([node.integer("axis", -1)], len(shapes[0]))
    absolute = node.integer("p", 2) == 1

    def at(p: Point) -> Differential:
        e, x, y = p.e, p.input(0), p.outputs[0]
        size = _sum(e, e.op("Abs", x), axes) if absolute else e.op("Sqrt", _sum(e, e.op("Mul", x, x), axes))
        inverse = e.op("Div", e.scalar(1.0), filled(e, size))
        gradient = e.op("Sign", x) if absolute else y
        return composed(_less_along(y, gradient, axes), scaling(inverse))

    return at


def _less_along(y: ir.Value, g: ir.Value, axes: Sequence[int]) -> Differential:
    """t − y · Σ g t, with the adjoint c − g · Σ y c."""

    def less(e: Emitter, t: ir.Value, direction: ir.Value, weight: ir.Value) -> ir.Value:
        return e.op("Sub", t, e.op("Mul", direction, _sum(e, e.op("Mul", t, weight), axes)))

    return Differential(lambda e, t: less(e, t, y, g), lambda e, c: less(e, c, g, y))


def _softmax_axes(node: NodeView) -> list[int] | NoInverse:
    """One axis; until opset 12 all from `axis` on."""
    shapes = static(node, node.x)
    if isinstance(shapes, NoInverse):
        return shapes
    rank = len(shapes[0])
    if node.opset < 13:
        return _from_end(range(node.integer("axis", 1) % max(rank, 1), rank), rank)
    return _from_end([node.integer("axis", -1)], rank)


@rules.derivative("Softmax")
def softmax(node: NodeView) -> At | NoInverse:
    """∂y = y · (∂x − Σ y ∂x).

    Source:    ONNX Softmax-1, -11, -13
    """
    axes = _softmax_axes(node)
    if isinstance(axes, NoInverse):
        return axes

    def at(p: Point) -> Differential:
        y = p.outputs[0]

        def both(e: Emitter, t: ir.Value) -> ir.Value:
            weighted = e.op("Mul", t, y)
            return e.op("Sub", weighted, e.op("Mul", y, _sum(e, weighted, axes)))

        return Differential(both, both)

    return at


@rules.derivative("LogSoftmax")
def log_softmax(node: NodeView) -> At | NoInverse:
    """∂y = ∂x − Σ exp(y) ∂x.

    Source:    ONNX LogSoftmax-1, -11, -13
    """
    axes = _softmax_axes(node)
    if isinstance(axes, NoInverse):
        return axes

    def at(p: Point) -> Differential:
        share = p.e.op("Exp", p.outputs[0])
        return Differential(
            lambda e, t: e.op("Sub", t, _sum(e, e.op("Mul", t, share), axes)),
            lambda e, c: e.op("Sub", c, e.op("Mul", share, _sum(e, c, axes))),
        )

    return at


@rules.derivative("LRN")
def lrn(node: NodeView) -> At | NoInverse:
    """∂y = s^−β · ∂x − β y / s · ∂s, s = bias + α / size · Σ x² over channels nearby, ∂s = 2 α / size · Σ x ∂x.

    Refuses:   channels known only at run time
    Source:    ONNX LRN-1, -13
    """
    shapes = static(node, node.x)
    if isinstance(shapes, NoInverse):
        return shapes
    shape = shapes[0]
    channels = shape[1]
    if isinstance(channels, str):
        return NoInverse(
            f"its number of channels {channels!r} is known only at run time", "give it a fixed size with --shape"
        )
    if isinstance(refusal := targets(1, shape), NoInverse):
        return refusal
    places = [dim for dim in shape[2:] if isinstance(dim, str)]
    rows: Shape = (shape[0], channels, places[0] if places else math.prod(int(dim) for dim in shape[2:]))
    size, alpha, beta = node.integer("size", 1), node.number("alpha", 1e-4), node.number("beta", 0.75)
    ahead = np.arange(channels) - np.arange(channels)[:, None]
    near = np.asarray((ahead >= -((size - 1) // 2)) & (ahead <= size // 2), dtype=np.float64) * alpha / size

    def nearby(e: Emitter, t: ir.Value, matrix: ir.Value, seeds: int | None) -> ir.Value:
        cut = 1 if seeds is None else 0
        sums = e.op("MatMul", matrix, e.op("Reshape", t, e.ints(_target(seeds or 1, rows)[cut:])))
        return e.op("Reshape", sums, e.ints(_target(seeds or 1, shape)[cut:]))

    def at(p: Point) -> Differential:
        e, x, y = p.e, p.input(0), p.outputs[0]
        s = e.op("Add", nearby(e, e.op("Mul", x, x), e.constant(near, "near"), None), node.number("bias", 1.0))
        power, ratio = e.op("Pow", s, -beta), e.op("Mul", e.op("Div", y, s), 2 * beta)

        def push(e: Emitter, t: ir.Value) -> ir.Value:
            change = nearby(e, e.op("Mul", t, x), e.constant(near, "near"), p.seeds)
            return e.op("Sub", e.op("Mul", t, power), e.op("Mul", change, ratio))

        def pull(e: Emitter, c: ir.Value) -> ir.Value:
            change = nearby(e, e.op("Mul", c, ratio), e.constant(near.T, "near"), p.seeds)
            return e.op("Sub", e.op("Mul", c, power), e.op("Mul", change, x))

        return Differential(push, pull)

    return at
