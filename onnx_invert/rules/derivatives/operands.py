"""Derivatives of elementwise functions of several operands, broadcast against each other: Clip, Max, Where, Pow.

Any of the operands may be unknown. Where two of them are equal, Max and Min follow the first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.derivatives.pointwise import filled, number
from onnx_invert.rules.differential import At, Broadcast, Differential, Point, flat, ones_like, weighted
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


def by_slope(node: NodeView, slope: Callable[[Point], ir.Value], *, full: bool = False) -> At | NoInverse:
    """∂y = slope · ∂x for the unknown operand, broadcast to y. `full` says that the slope has y's own shape."""
    broadcast = Broadcast.of(node, node.x)
    if isinstance(broadcast, NoInverse):
        return broadcast

    def at(p: Point) -> ir.Value:
        weight = p.held(slope(p))
        if broadcast.axes and not full:
            weight = p.e.op("Mul", ones_like(p.e, p.outputs[0]), weight)
        return weight

    return lambda p: weighted(broadcast, at(p))


@rules.derivative("PRelu")
def prelu(node: NodeView) -> At | NoInverse:
    """∂y/∂x = 1 for x ≥ 0, the slope below, whatever its sign; ∂y/∂slope = min(x, 0).

    Source:    ONNX PRelu-7, -9, -16
    """
    if node.unknown == 1:
        return by_slope(node, lambda p: p.e.op("Min", p.input(0), 0.0), full=True)
    return by_slope(
        node,
        lambda p: p.bent(p.e.op("Where", p.e.op("Less", p.input(0), 0.0), p.input(1), p.e.scalar(1.0))),
        full=True,
    )


@rules.derivative("Clip")
def clip(node: NodeView) -> At | NoInverse:
    """∂y/∂x = 1 where y = x, else 0; ∂y/∂min = 1 where y > x, ∂y/∂max = 1 where y < x.

    Source:    ONNX Clip-6 (bounds as attributes), -11, -12, -13
    """
    comparison = ("Equal", "Greater", "Less")[node.unknown]
    return by_slope(node, lambda p: number(p.e, p.e.op(comparison, p.outputs[0], p.input(0))), full=True)


def _first_equal(node: NodeView) -> At | NoInverse:
    """∂y/∂x = 1 where x is the first operand equal to y, else 0."""

    def slope(p: Point) -> ir.Value:
        e, y = p.e, p.outputs[0]
        chosen = e.op("Equal", y, p.input(node.unknown))
        for before in range(node.unknown):
            chosen = e.op("And", chosen, e.op("Not", e.op("Equal", y, p.input(before))))
        return number(e, chosen)

    return by_slope(node, slope, full=True)


for _name in ("Max", "Min"):
    rules.derivative(_name)(_first_equal)


@rules.derivative("Where")
def where(node: NodeView) -> At | NoInverse:
    """∂y = ∂a where the condition holds, ∂b elsewhere."""

    broadcast = Broadcast.of(node, node.x)
    if isinstance(broadcast, NoInverse):
        return broadcast

    def at(p: Point) -> Differential:
        condition = p.input(0)
        # Chosen, not multiplied by 0: what is infinite on the other side is nothing to this one.
        zero = p.e.op("Mul", ones_like(p.e, p.outputs[0]), 0.0) if broadcast.axes else p.e.scalar(0.0)

        def chosen(e: Emitter, t: ir.Value) -> ir.Value:
            sides = (t, zero) if node.unknown == 1 else (zero, t)
            return e.op("Where", condition, *sides)

        return Differential(
            lambda e, t: chosen(e, broadcast.lift(e, t)), lambda e, c: broadcast.reduce(e, chosen(e, c))
        )

    return at


@rules.derivative("Mod")
def mod(node: NodeView) -> At | NoInverse:
    """∂y = ∂a − q ∂b, q = (a − y) / b, the whole quotient, of y = a − q b."""
    if node.unknown == 0:
        return by_slope(node, lambda p: p.e.scalar(1.0))

    def slope(p: Point) -> ir.Value:
        e = p.e
        return e.op("Neg", e.op("Round", e.op("Div", e.op("Sub", p.input(0), p.outputs[0]), p.input(1))))

    return by_slope(node, slope, full=True)


@rules.derivative("Pow")
def power(node: NodeView) -> At | NoInverse:
    """∂(x ** p) = p · x ** (p − 1) ∂x + y · log(x) ∂p.

    Domain:    x ≤ 0 adds nothing to ∂p; at x = 0 and p < 1 neither to ∂x, where the tangent is vertical, nor at x < 0
               where p is no whole number: y is no number there, and what another branch replaces it by goes on
    Source:    ONNX Pow-7, -12, -13, -15
    """
    if node.unknown == 1:
        return by_slope(node, _logarithmic, full=True)
    exponent = node.constant(1)
    if exponent is None:
        return by_slope(node, lambda p: _lowered(p, _as_number(p.e, node.operand(1), p.input(1))), full=True)
    values = np.unique(np.asarray(exponent, dtype=np.float64))
    if values.size != 1:
        powers = np.asarray(exponent, dtype=np.float64)
        return by_slope(node, lambda p: _lowered(p, p.e.constant(powers, "exponent")), full=True)
    value = float(values[0])
    if value == 0:
        return flat
    return by_slope(node, lambda p: _monomial(p.e, p.input(0), p.outputs[0], value))


def _monomial(e: Emitter, x: ir.Value, y: ir.Value, p: float) -> ir.Value:
    """p · x ** (p − 1), by Mul where that serves (Pow fails in some runtimes)."""
    if p == 1:
        return e.scalar(1.0)
    if p == 2:
        return e.op("Add", x, x)
    if p == 3:
        return e.op("Mul", e.op("Mul", x, x), 3.0)
    if not float(p).is_integer():
        outside = e.op("Less", x, 0.0)
        x, y = e.op("Max", x, 0.0), e.op("Where", outside, e.scalar(0.0), y)
    if p < 1:
        return e.op("Mul", e.op("Div", y, filled(e, x)), p)
    return e.op("Mul", e.op("Pow", x, e.scalar(p - 1)), p)


def _lowered(p: Point, exponent: ir.Value) -> ir.Value:
    """p · x ** (p − 1), element by element; 0 where x = 0 and p < 1, and where x < 0 and p is no whole number."""
    e, x = p.e, p.input(0)
    steep = e.op("And", e.op("Equal", x, 0.0), e.op("Less", exponent, 1.0))
    broken = e.op("Not", e.op("Equal", e.op("Floor", exponent), exponent))
    steep = e.op("Or", steep, e.op("And", e.op("Less", x, 0.0), broken))
    base = e.op("Where", steep, e.scalar(1.0), x)
    slope = e.op("Mul", e.op("Pow", base, e.op("Sub", exponent, 1.0)), exponent)
    return e.op("Where", steep, e.scalar(0.0), slope)


def _as_number(e: Emitter, declared: ir.Value | None, exponent: ir.Value) -> ir.Value:
    """The exponent in the type of x; it may be an integer."""
    return exponent if declared is not None and declared.dtype == e.dtype else e.cast(exponent)


def _logarithmic(p: Point) -> ir.Value:
    """y · log(x) for x > 0, else 0."""
    e, x = p.e, p.input(0)
    held = e.op("Where", e.op("Greater", x, 0.0), x, e.scalar(1.0))
    return e.op("Mul", p.outputs[0], e.op("Log", held))
