"""Derivatives of functions of one element: y = f(x), ∂y = f′(x) ∂x. Here f′ is stated.

Forms are chosen that keep their digits where f saturates, where its inverse rule can do with fewer; at a vertical
tangent (√x at 0, arcsin at ±1) 0 is taken, so that 0 · ∞ arises nowhere; at a kink the slope of one side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules import expressions as ex
from onnx_invert.rules.differential import At, flat, scaling
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

Slope = Callable[[Emitter, ir.Value, ir.Value], ir.Value]
"""Emits f′(x) from x and y = f(x)."""


def number(e: Emitter, truth: ir.Value) -> ir.Value:
    """1 where true, else 0."""
    return e.cast(truth)


def filled(e: Emitter, value: ir.Value) -> ir.Value:
    """The value with 1 in place of 0, to be divided by."""
    return e.op("Add", value, number(e, e.op("Equal", value, 0.0)))


def _over(e: Emitter, value: ir.Value) -> ir.Value:
    return e.op("Div", e.scalar(1.0), value)


def _one_minus(e: Emitter, value: ir.Value) -> ir.Value:
    return e.op("Sub", e.scalar(1.0), value)


def _root_over(e: Emitter, q: ir.Value) -> ir.Value:
    """1 / √q for q > 0, else 0."""
    return e.op("Div", e.op("Sqrt", e.op("Max", q, 0.0)), filled(e, q))


def _bell(e: Emitter, x: ir.Value) -> ir.Value:
    """σ′(x) = w / (1 + w)², w = exp(−|x|): y · (1 − y) has no digits left where y is near 1."""
    w = e.op("Exp", e.op("Neg", e.op("Abs", x)))
    above = e.op("Add", w, 1.0)
    return e.op("Div", w, e.op("Mul", above, above))


def _circle(e: Emitter, x: ir.Value) -> ir.Value:
    """1 − x², to the last digit near ±1."""
    return e.op("Mul", _one_minus(e, x), e.op("Add", x, 1.0))


def _acosh(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
    return e.op("Mul", _root_over(e, e.op("Sub", x, 1.0)), _root_over(e, e.op("Add", x, 1.0)))


def _softsign(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
    above = e.op("Add", e.op("Abs", x), 1.0)
    return _over(e, e.op("Mul", above, above))


def _erf(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
    return e.op("Mul", e.op("Exp", e.op("Neg", e.op("Mul", x, x))), float(2 / np.sqrt(np.pi)))


def _mish(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
    """t + 4·x·w·(w + 1) / (n + 2)², t = n / (n + 2), n = w·(w + 2), w = exp(x); from x = 20 on it is 1 to rounding."""
    held = e.op("Min", x, 20.0)
    w = e.op("Exp", held)
    n = e.op("Mul", w, e.op("Add", w, 2.0))
    below = e.op("Add", n, 2.0)
    rise = e.op("Div", e.op("Mul", w, e.op("Add", w, 1.0)), e.op("Mul", below, below))
    return e.op("Add", e.op("Div", n, below), e.op("Mul", e.op("Mul", held, 4.0), rise))


def _hard_swish(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
    """h + x/6 where 0 < h < 1, h = min(max(x/6 + 1/2, 0), 1)."""
    sixth = e.op("Mul", x, float(np.float64(1) / 6))
    h = e.op("Min", e.op("Max", e.op("Add", sixth, 0.5), 0.0), 1.0)
    return e.op("Add", h, e.op("Where", _strictly_between(e, h, 0.0, 1.0), sixth, e.scalar(0.0)))


def _strictly_between(e: Emitter, value: ir.Value, low: float, high: float) -> ir.Value:
    return e.op("And", e.op("Greater", value, low), e.op("Less", value, high))


SLOPES: dict[str, tuple[str, Slope]] = {
    "Abs": ("sign(x), 0 at 0", lambda e, x, y: e.op("Sign", x)),
    "Exp": ("y", lambda e, x, y: y),
    "Log": ("1 / x, 1 at 0", lambda e, x, y: _over(e, filled(e, x))),
    "Sqrt": ("1 / (2√x), 0 for x ≤ 0", lambda e, x, y: e.op("Mul", _root_over(e, x), 0.5)),
    "Reciprocal": ("−y²", lambda e, x, y: e.op("Neg", e.op("Mul", y, y))),
    "Sin": ("cos(x)", lambda e, x, y: e.op("Cos", x)),
    "Cos": ("−sin(x)", lambda e, x, y: e.op("Neg", e.op("Sin", x))),
    "Tan": ("1 + y²", lambda e, x, y: e.op("Add", e.op("Mul", y, y), 1.0)),
    "Asin": ("1 / √(1 − x²), 0 from ±1 on", lambda e, x, y: _root_over(e, _circle(e, x))),
    "Acos": ("−1 / √(1 − x²), 0 from ±1 on", lambda e, x, y: e.op("Neg", _root_over(e, _circle(e, x)))),
    "Atan": ("1 / (1 + x²)", lambda e, x, y: _over(e, e.op("Add", e.op("Mul", x, x), 1.0))),
    "Sinh": ("cosh(x)", lambda e, x, y: ex.cosh(e, x)),
    "Cosh": ("sinh(x)", lambda e, x, y: ex.sinh(e, x)),
    "Tanh": ("1 / cosh²(x) = 4 σ′(2x)", lambda e, x, y: e.op("Mul", _bell(e, e.op("Add", x, x)), 4.0)),
    "Asinh": ("1 / cosh(y) = 1 / √(1 + x²)", lambda e, x, y: _over(e, ex.cosh(e, y))),
    "Acosh": ("1 / √((x − 1)(x + 1)), 0 at 1", _acosh),
    "Atanh": ("1 / (1 − x²)", lambda e, x, y: _over(e, _circle(e, x))),
    "Sigmoid": ("exp(−|x|) / (1 + exp(−|x|))²", lambda e, x, y: _bell(e, x)),
    "Softplus": ("σ(x)", lambda e, x, y: e.op("Sigmoid", x)),
    "Softsign": ("1 / (1 + |x|)²", _softsign),
    "Erf": ("2/√π · exp(−x²)", _erf),
    "Mish": ("∂(x · tanh(log(1 + exp x)))", _mish),
    "HardSwish": ("x/3 + 1/2 for −3 < x < 3; 0 before, 1 after", _hard_swish),
}
"""f′ of the functions without attributes: its equation, and what emits it."""


def _by(slope: Slope) -> At:
    return lambda p: scaling(p.held(slope(p.e, p.input(0), p.outputs[0])))


def _bent(slope: Slope) -> At:
    """The same for a function with a kink, which a solver may round off."""
    return lambda p: scaling(p.bent(slope(p.e, p.input(0), p.outputs[0])))


def _plain(op_type: str, equation: str, slope: Slope) -> None:
    def rule(node: NodeView) -> At | NoInverse:
        return _by(slope)

    rule.__doc__ = f"{equation}."
    rules.derivative(op_type)(rule)


for _name, (_equation, _slope) in SLOPES.items():
    _plain(_name, _equation, _slope)


def _jumps(node: NodeView) -> At | NoInverse:
    """0: constant between its jumps."""
    return flat


for _name in ("Sign", "Floor", "Ceil", "Round", "Hardmax", "EyeLike"):
    rules.derivative(_name)(_jumps)


def _below_zero(e: Emitter, x: ir.Value, negative: ir.Value, positive: float = 1.0) -> ir.Value:
    return e.op("Where", e.op("Less", x, 0.0), negative, e.scalar(positive))


@rules.derivative("Relu")
def relu(node: NodeView) -> At | NoInverse:
    """1 where x ≥ 0, else 0."""
    # From the right at 0: a solver that begins at x = 0 could not leave it otherwise.
    return _bent(lambda e, x, y: number(e, e.op("Not", e.op("Less", x, 0.0))))


@rules.derivative("LeakyRelu")
def leaky_relu(node: NodeView) -> At | NoInverse:
    """1 for x ≥ 0, alpha below, whatever its sign."""
    alpha = node.number("alpha", 0.01)
    return _bent(lambda e, x, y: _below_zero(e, x, e.scalar(alpha)))


def _exponential(alpha: float, gamma: float, width: float) -> At:
    """gamma for x ≥ 0, gamma·alpha/width · exp(x / width) below."""

    def slope(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
        left = e.op("Min", x, 0.0)
        if width != 1:
            left = e.op("Mul", left, 1 / width)
        return _below_zero(e, x, e.op("Mul", e.op("Exp", left), gamma * alpha / width), gamma)

    return _by(slope)


@rules.derivative("Elu")
def elu(node: NodeView) -> At | NoInverse:
    """1 for x ≥ 0, alpha · exp(x) below."""
    return _exponential(node.number("alpha", 1.0), 1.0, 1.0)


@rules.derivative("Selu")
def selu(node: NodeView) -> At | NoInverse:
    """gamma for x ≥ 0, gamma · alpha · exp(x) below."""
    alpha = node.number("alpha", 1.67326319217681884765625)
    return _exponential(alpha, node.number("gamma", 1.05070102214813232421875), 1.0)


@rules.derivative("Celu")
def celu(node: NodeView) -> At | NoInverse:
    """1 for x ≥ 0, exp(x / alpha) below."""
    alpha = node.number("alpha", 1.0)
    return NoInverse("its alpha is 0") if alpha == 0 else _exponential(alpha, 1.0, alpha)


@rules.derivative("ThresholdedRelu")
def thresholded_relu(node: NodeView) -> At | NoInverse:
    """1 where x > alpha, else 0."""
    alpha = node.number("alpha", 1.0)
    return _by(lambda e, x, y: number(e, e.op("Greater", x, alpha)))


@rules.derivative("Shrink")
def shrink(node: NodeView) -> At | NoInverse:
    """1 where |x| > lambd, else 0."""
    lambd = node.number("lambd", 0.5)
    if lambd < 0:
        return NoInverse(f"its lambd is {lambd:g}: it is not defined by one case for each x")
    return _by(lambda e, x, y: number(e, e.op("Greater", e.op("Abs", x), lambd)))


@rules.derivative("HardSigmoid")
def hard_sigmoid(node: NodeView) -> At | NoInverse:
    """alpha where 0 < y < 1, else 0."""
    alpha = node.number("alpha", 0.2)
    return _by(lambda e, x, y: e.op("Mul", number(e, _strictly_between(e, y, 0.0, 1.0)), alpha))


@rules.derivative("Swish")
def swish(node: NodeView) -> At | NoInverse:
    """σ(αx) + αx · σ′(αx), of y = x · σ(αx)."""
    alpha = node.number("alpha", 1.0)

    def slope(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
        u = e.op("Mul", x, alpha)
        return e.op("Add", e.op("Sigmoid", u), e.op("Mul", u, _bell(e, u)))

    return _by(slope)


@rules.derivative("Gelu")
def gelu(node: NodeView) -> At | NoInverse:
    """Φ(x) + x φ(x), of y = x Φ(x); σ(2u) + 2x u′ σ′(2u), of y = x σ(2u), for approximate = "tanh".

    Φ(x) is y / x, so no error function is needed; u = √(2/π) · (x + 0.044715 x³).
    Source:    ONNX Gelu-20
    """
    attribute = node.node.attributes.get("approximate")

    def exact(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
        at_zero = number(e, e.op("Equal", x, 0.0))
        share = e.op("Add", e.op("Div", y, e.op("Add", x, at_zero)), e.op("Mul", at_zero, 0.5))
        density = e.op("Exp", e.op("Mul", e.op("Mul", x, x), -0.5))
        return e.op("Add", share, e.op("Mul", e.op("Mul", x, density), float(1 / np.sqrt(2 * np.pi))))

    def approximate(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
        # Beyond ±40, σ′ is 0 to rounding, also in float64; x is held there so that its square stays finite.
        held = e.op("Max", e.op("Min", x, 40.0), -40.0)
        square = e.op("Mul", held, held)
        root = float(2 * np.sqrt(2 / np.pi))
        twice = e.op("Mul", e.op("Mul", held, e.op("Add", e.op("Mul", square, 0.044715), 1.0)), root)
        rise = e.op("Mul", e.op("Add", e.op("Mul", square, 3 * 0.044715), 1.0), root)
        return e.op("Add", e.op("Sigmoid", twice), e.op("Mul", e.op("Mul", held, rise), _bell(e, twice)))

    return _by(approximate if attribute is not None and attribute.as_string() == "tanh" else exact)
