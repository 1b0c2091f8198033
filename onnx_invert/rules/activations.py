"""Activation functions: elementwise, monotone, most of them with a bounded image."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules import expressions as ex
from onnx_invert.rules.broadcast import expanded, not_finite
from onnx_invert.rules.facts import Array, Branch, Chain, Elementwise, NoInverse
from onnx_invert.rules.interval import (
    NON_NEGATIVE,
    NON_POSITIVE,
    POSITIVE,
    REALS,
    Interval,
    between,
)
from onnx_invert.rules.node import FLOATS, NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


def _one_minus(e: Emitter, value: ir.Value) -> ir.Value:
    return e.op("Sub", e.scalar(1.0), value)


def below_zero(e: Emitter, x: ir.Value, negative: ir.Value, positive: ir.Value) -> ir.Value:
    """`negative` where x < 0, `positive` elsewhere."""
    return e.op("Where", ex.less(e, x, 0.0), negative, positive)


def _erf(v: Array) -> Array:
    from scipy.special import erf

    return np.asarray(erf(v))


rules.unary(
    "Tanh",
    "x = artanh(y), image (−1, 1)",
    inverse=ex.atanh,
    forward=np.tanh,
    derivative=lambda e, x, y: _one_minus(e, e.op("Mul", y, y)),
    image=between(-1, 1),
)
rules.unary(
    "Sigmoid",
    "x = log(y / (1 − y)), image (0, 1)",
    inverse=ex.logit,
    forward=lambda v: 1 / (1 + np.exp(-v)),
    derivative=lambda e, x, y: e.op("Mul", y, _one_minus(e, y)),
    image=between(0, 1),
)
rules.unary(
    "Softplus",
    "x = log(exp(y) − 1), image (0, ∞)",
    inverse=ex.softplus_inverse,
    forward=lambda v: np.logaddexp(0, v),
    derivative=lambda e, x, y: e.op("Sigmoid", x),
    image=POSITIVE,
)
rules.unary(
    "Softsign",
    "x = y / (1 − |y|), image (−1, 1)",
    inverse=lambda e, y: e.op("Div", y, _one_minus(e, e.op("Abs", y))),
    forward=lambda v: np.where(np.isinf(v), np.sign(v), v / (1 + np.abs(v))),
    derivative=lambda e, x, y: ex.power(e, _one_minus(e, e.op("Abs", y)), 2.0),
    image=between(-1, 1),
)
rules.unary(
    "Erf",
    "x = erfinv(y), image (−1, 1)",
    inverse=ex.erfinv,
    forward=_erf,
    derivative=lambda e, x, y: e.op("Mul", e.op("Exp", e.op("Neg", e.op("Mul", x, x))), 2 / np.sqrt(np.pi)),
    image=between(-1, 1),
    since=9,
)


@rules.rule("LeakyRelu")
def leaky_relu(node: NodeView) -> Chain | NoInverse:
    """x = y for y ≥ 0, y / alpha below.

    Domain:    all reals
    Guarantee: bijection for alpha > 0; for alpha ≤ 0 no y is negative and x ≥ 0 is taken: a right inverse
    Latent:    for alpha ≤ 0 the negative part of x
    Source:    ONNX LeakyRelu-6, -16
    """
    alpha = node.number("alpha", 0.01)
    if not np.isfinite(alpha):
        return NoInverse(f"its alpha is {alpha}")

    def slope(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
        return below_zero(e, x, e.scalar(alpha), e.scalar(1.0))

    def forward(v: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return np.where(v < 0, alpha * v, v)

    branches: tuple[Branch, ...]
    if alpha > 0:
        branches = (Branch(REALS, REALS, lambda e, y: _steeper(e, y, 1 / alpha)),)
    else:
        branches = (Branch(NON_NEGATIVE, NON_NEGATIVE, lambda e, y: y, "x ≥ 0"),)
        if alpha < 0:
            branches += (Branch(NON_POSITIVE, NON_NEGATIVE, lambda e, y: e.op("Div", y, float(alpha)), "x ≤ 0"),)
    return (Elementwise(forward, slope, branches, REALS, _steepness(np.asarray(alpha))),)


def _steeper(e: Emitter, y: ir.Value, slope: float) -> ir.Value:
    """y for y ≥ 0, slope · y below. LeakyRelu's attribute is a float32, so in float64 it is composed."""
    if e.dtype != ir.DataType.DOUBLE:
        return e.op("LeakyRelu", y, alpha=slope)
    return e.op("Add", e.op("Max", y, 0.0), e.op("Mul", e.op("Min", y, 0.0), slope))


@rules.rule("PRelu")
def prelu(node: NodeView) -> Chain | NoInverse:
    """x = y for y ≥ 0, y / slope below, a slope per element.

    Domain:    all reals
    Guarantee: bijection where every slope > 0; elements with slope ≤ 0 take x ≥ 0: a right inverse
    Refuses:   a slope that is not constant; x as the slope
    Source:    ONNX PRelu-7, -9, -16
    """
    if node.unknown != 0:
        return NoInverse("the recovered tensor is its slope; where the other operand is positive it has no effect")
    slope = node.constant(1)
    if slope is None:
        return NoInverse("its slope is not constant")
    repeat = expanded(node, slope.shape)
    if isinstance(repeat, NoInverse):
        return repeat
    slopes = np.asarray(slope, dtype=np.float64)
    if not np.all(np.isfinite(slopes)):
        return not_finite(slopes, "its slope")
    good = slopes > 0
    low = np.where(good, -np.inf, 0.0)
    piece = REALS if good.all() else Interval(low if good.any() else 0.0, np.inf, low_open=False)
    factor = np.where(good, 1 / np.where(good, slopes, 1.0), 0.0)

    def inverse(e: Emitter, y: ir.Value) -> ir.Value:
        negative = e.op("Mul", e.op("Min", y, e.scalar(0.0)), e.constant(factor, "inverse_slope"))
        return e.op("Add", e.op("Max", y, e.scalar(0.0)), negative)

    def derivative(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
        return below_zero(e, x, e.constant(slopes, "slope"), e.scalar(1.0))

    def forward(v: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return np.where(v < 0, slopes * v, v)

    label = "" if good.all() else "x ≥ 0 where the slope is not positive"
    branch = Branch(piece, piece, inverse, label)
    return (*repeat, Elementwise(forward, derivative, (branch,), REALS, _steepness(slopes)))


@rules.rule("Clip")
def clip(node: NodeView) -> Chain | NoInverse:
    """x = y, of all x with that y the one within the bounds.

    Domain:    all reals
    Guarantee: right inverse onto [low, high]; bijection where every x lies between the bounds
    Refuses:   bounds that are not constant, or leave nothing between them; x as a bound; whole numbers
    Source:    ONNX Clip-6, -11, -12, -13
    """
    if node.unknown != 0:
        return NoInverse("the recovered tensor is one of its bounds, which takes effect beyond it alone")
    x = node.node.inputs[0]
    if x is None or x.dtype not in FLOATS:
        return NoInverse("it bounds whole numbers")
    ends = []
    for place, name, free in ((1, "min", -np.inf), (2, "max", np.inf)):
        given = node.operand(place) is not None
        value = node.constant(place) if given else node.number(name, free)
        if value is None:
            return NoInverse("everything beyond its bounds becomes the bound, and they are not constant")
        ends.append(float(np.asarray(value, np.float64).reshape(())))
    low, high = ends
    if not low < high:
        return NoInverse(f"nothing lies between its bounds {low:g} and {high:g}: it is constant")
    piece = Interval(low, high, low_open=bool(np.isneginf(low)), high_open=bool(np.isposinf(high)))
    label = "" if piece.is_reals else "x between its bounds"

    def inverse(e: Emitter, y: ir.Value) -> ir.Value:
        return e.op("Identity", y)

    def derivative(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
        return e.cast(e.op("Equal", x, y))

    branch = Branch(piece, piece, inverse, label)
    return (Elementwise(lambda v: np.clip(v, low, high), derivative, (branch,), REALS, 1.0),)


def _steepness(slopes: Array) -> float:
    """sup|f′| / inf|f′| of a function with slope 1 on one side and these on the other, where positive."""
    positive = slopes[slopes > 0]
    ends = np.append(positive, 1.0)
    return float(ends.max() / ends.min())


def _exponential_unit(alpha: float, gamma: float, width: float) -> Chain | NoInverse:
    """y = gamma·x for x ≥ 0, gamma·alpha·(exp(x / width) − 1) below: Elu, Selu and Celu.

    x = max(y, 0)/gamma + width · log(1 + min(y, 0)/(gamma·alpha)), image (−gamma·alpha, ∞)
    """
    depth = gamma * alpha
    if not (alpha > 0 and gamma > 0 and width > 0):
        return NoInverse(
            f"with alpha {alpha:g}"
            + (f" and gamma {gamma:g}" if gamma != 1 else "")
            + " it is not one-to-one: its two sides overlap"
        )

    def inverse(e: Emitter, y: ir.Value) -> ir.Value:
        right = e.op("Max", y, e.scalar(0.0))
        left = ex.log1p_quotient(e, e.op("Min", y, e.scalar(0.0)), depth)
        if gamma != 1:
            right = e.op("Mul", right, 1 / gamma)
        if width != 1:
            left = e.op("Mul", left, width)
        return e.op("Add", right, left)

    def derivative(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
        left = e.op("Mul", e.op("Add", y, depth), 1 / width)
        return below_zero(e, x, left, e.scalar(gamma))

    def forward(v: Array) -> Array:
        return np.where(v < 0, depth * np.expm1(np.minimum(v, 0) / width), gamma * v)

    return (Elementwise(forward, derivative, (Branch(REALS, between(-depth, np.inf), inverse),)),)


@rules.rule("Elu")
def elu(node: NodeView) -> Chain | NoInverse:
    """x = y for y ≥ 0, log1p(y / alpha) below, image (−alpha, ∞).

    Refuses:   alpha ≤ 0
    Source:    ONNX Elu-6, -22
    """
    return _exponential_unit(node.number("alpha", 1.0), 1.0, 1.0)


@rules.rule("Selu")
def selu(node: NodeView) -> Chain | NoInverse:
    """x = y / gamma for y ≥ 0, log1p(y / (alpha·gamma)) below, image (−alpha·gamma, ∞).

    Refuses:   alpha ≤ 0 or gamma ≤ 0
    Source:    ONNX Selu-6, -22
    """
    alpha = node.number("alpha", 1.67326319217681884765625)
    return _exponential_unit(alpha, node.number("gamma", 1.05070102214813232421875), 1.0)


@rules.rule("Celu", since=12)
def celu(node: NodeView) -> Chain | NoInverse:
    """x = y for y ≥ 0, alpha·log1p(y / alpha) below, image (−alpha, ∞).

    Refuses:   alpha ≤ 0
    Source:    ONNX Celu-12
    """
    alpha = node.number("alpha", 1.0)
    return _exponential_unit(alpha, 1.0, alpha)
