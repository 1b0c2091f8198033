"""What functions of one element lose: the flat side of ReLU, the fold of GELU, what rounding takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.completion import Completed, Completion, remainder
from onnx_invert.rules.expressions import less
from onnx_invert.rules.facts import UNKNOWN_RANK, Convert, NoInverse
from onnx_invert.rules.node import FLOATS, NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

Unary = Callable[[Emitter, ir.Value], ir.Value]

STEPS = 7
"""Newton steps on the branch x ≥ 0 of GELU and its like. There 1/2 ≤ f′ ≤ 1.2 and |f″| ≤ 1, and the start is off by
less than 0.35: every step squares the error, and the fifth is below the rounding of float64."""


@rules.completion("Relu")
def relu(node: NodeView) -> Completion | NoInverse:
    """z = min(x, 0), the negative part; x = z where z < 0, else y. Surplus: one number a number.

    z decides, not y: where y was 0, what later layers give back is 0 to rounding only.
    """

    def give(e: Emitter, y: ir.Value, z: ir.Value) -> ir.Value:
        return e.op("Where", less(e, z, 0.0), z, e.op("Max", y, 0.0))

    return (Completed("negative part", lambda e, x, y: e.op("Min", x, 0.0), give),)


@rules.completion("Abs")
def absolute(node: NodeView) -> Completion | NoInverse:
    """z = min(x, 0), whose sign is that of x; x = −y where z < 0, else y. Surplus: one number a number."""

    def give(e: Emitter, y: ir.Value, z: ir.Value) -> ir.Value:
        return e.op("Where", less(e, z, 0.0), e.op("Neg", y), y)

    return (Completed("sign", lambda e, x, y: e.op("Min", x, 0.0), give),)


@rules.completion("Clip")
def clip(node: NodeView) -> Completion | NoInverse:
    """z = x − y, what lies beyond the bounds; x = y + z. Surplus: one number a number."""
    if node.unknown != 0:
        return NoInverse("the recovered tensor is one of its bounds")
    return (remainder(latent="beyond the bounds"),)


@rules.completion("ThresholdedRelu")
def thresholded(node: NodeView) -> Completion | NoInverse:
    """z = x − y, what the threshold takes; x = y + z. Surplus: one number a number."""
    return (remainder(latent="below the threshold"),)


@rules.completion("HardSigmoid")
def hard_sigmoid(node: NodeView) -> Completion | NoInverse:
    """z = x − (y − beta) / alpha, what lies beyond the slope. Surplus: one number a number."""
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)
    if alpha == 0:
        return NoInverse("its alpha is 0: y does not depend on x")
    undone = lambda e, y: e.op("Mul", e.op("Sub", y, beta), 1 / alpha)  # noqa: E731
    return (remainder(undone, "beyond the slope"),)


def hard_swish_root(e: Emitter, y: ir.Value) -> ir.Value:
    """x ≥ 0 with x · min(x + 3, 6) / 6 = y: the root of x² + 3x = 6y up to y = 3, y beyond."""
    root = e.op("Sqrt", e.op("Add", e.op("Mul", e.op("Min", y, 3.0), 24.0), 9.0))
    below = e.op("Mul", e.op("Sub", root, 3.0), 0.5)
    return e.op("Where", less(e, y, 3.0), below, y)


def folded(root: Unary) -> Completed:
    """A function that is negative below 0 and increases above: z = min(x, 0) is x itself below the fold.

    The branch x ≥ 0 is undone where z is not negative. Keeping the other side whole costs no more numbers than
    a bit would, and its tail, where y rounds to 0, comes back as well.
    """

    def give(e: Emitter, y: ir.Value, z: ir.Value) -> ir.Value:
        return e.op("Where", less(e, z, 0.0), z, root(e, e.op("Max", y, 0.0)))

    return Completed("negative part", lambda e, x, y: e.op("Min", x, 0.0), give)


@rules.completion("HardSwish")
def hard_swish(node: NodeView) -> Completion | NoInverse:
    """z = min(x, 0); x ≥ 0 is a root of a quadratic. Surplus: one number a number."""
    return (folded(hard_swish_root),)


Slope = Callable[[Emitter, ir.Value, ir.Value], ir.Value]


def newton(value: Unary, slope: Slope, start: float) -> Unary:
    """Solve f(x) = y for x ≥ 0: `slope(e, x, f(x) / x)` is f′. x stays a little above 0, where f(x) / x is 0/0."""

    def root(e: Emitter, y: ir.Value) -> ir.Value:
        tiny = float(np.finfo(e.dtype.numpy()).tiny) * 16
        x = e.op("Add", y, e.op("Min", y, start))
        for _ in range(STEPS):
            x = e.op("Max", x, tiny)
            found = value(e, x)
            step = e.op("Div", e.op("Sub", found, y), slope(e, x, e.op("Div", found, x)))
            x = e.op("Sub", x, step)
        return e.op("Max", x, 0.0)

    return root


def _sigmoid(e: Emitter, x: ir.Value) -> ir.Value:
    return e.op("Div", e.scalar(1.0), e.op("Add", e.op("Exp", e.op("Neg", x)), 1.0))


def gelu_slope(e: Emitter, x: ir.Value, phi: ir.Value) -> ir.Value:
    """Φ(x) + x · φ(x). That of the approximation by tanh differs by 1e-3 at most."""
    density = e.op("Mul", e.op("Exp", e.op("Mul", e.op("Mul", x, x), -0.5)), 1 / np.sqrt(2 * np.pi))
    return e.op("Add", phi, e.op("Mul", x, density))


@rules.completion("Gelu")
def gelu(node: NodeView) -> Completion | NoInverse:
    """z = min(x, 0); x ≥ 0 by Newton steps on x · Φ(x), or its approximation by tanh. Surplus: one number a number."""
    attribute = node.node.attributes.get("approximate")
    if attribute is not None and attribute.as_string() == "tanh":
        a, b = float(np.sqrt(2 / np.pi)), 0.044715

        def value(e: Emitter, x: ir.Value) -> ir.Value:
            inner = e.op("Mul", x, e.op("Add", e.op("Mul", e.op("Mul", x, x), a * b), a))
            return e.op("Mul", e.op("Mul", x, 0.5), e.op("Add", e.op("Tanh", inner), 1.0))

        return (folded(newton(value, gelu_slope, 0.3)),)
    return (
        folded(
            newton(
                lambda e, x: e.op("Mul", e.op("Mul", x, 0.5), e.op("Add", e.op("Erf", e.op("Mul", x, 0.5**0.5)), 1.0)),
                gelu_slope,
                0.3,
            )
        ),
    )


def swish_slope(alpha: float) -> Slope:
    """s + αx · s (1 − s), s = sigmoid(αx)."""

    def slope(e: Emitter, x: ir.Value, s: ir.Value) -> ir.Value:
        rest = e.op("Mul", e.op("Sub", e.scalar(1.0), s), alpha)
        return e.op("Add", s, e.op("Mul", e.op("Mul", x, s), rest))

    return slope


@rules.completion("Swish")
def swish(node: NodeView) -> Completion | NoInverse:
    """z = min(x, 0); x ≥ 0 by Newton steps on x · sigmoid(alpha · x). Surplus: one number a number."""
    alpha = node.number("alpha", 1.0)
    if not alpha > 0:
        return NoInverse("its alpha is not above 0")
    value = lambda e, x: e.op("Mul", x, _sigmoid(e, e.op("Mul", x, alpha)))  # noqa: E731
    return (folded(newton(value, swish_slope(alpha), 0.3 / alpha)),)


def mish_slope(e: Emitter, x: ir.Value, t: ir.Value) -> ir.Value:
    """t + x (1 − t²) sigmoid(x), t = tanh(softplus(x))."""
    rest = e.op("Sub", e.scalar(1.0), e.op("Mul", t, t))
    return e.op("Add", t, e.op("Mul", e.op("Mul", x, rest), _sigmoid(e, x)))


@rules.completion("Mish")
def mish(node: NodeView) -> Completion | NoInverse:
    """z = min(x, 0); x ≥ 0 by Newton steps on x · tanh(softplus(x)). Surplus: one number a number."""

    def value(e: Emitter, x: ir.Value) -> ir.Value:
        # tanh(log(1 + u)) = ((1 + u)² − 1) / ((1 + u)² + 1), u = exp(x); with v = 1/u nothing overflows for x ≥ 0.
        v = e.op("Exp", e.op("Neg", x))
        above = e.op("Add", e.op("Mul", v, 2.0), 1.0)
        below = e.op("Add", above, e.op("Mul", e.op("Mul", v, v), 2.0))
        return e.op("Mul", x, e.op("Div", above, below))

    return (folded(newton(value, mish_slope, 0.3)),)


for _name in ("Round", "Floor", "Ceil"):

    @rules.completion(_name)
    def rounding(node: NodeView) -> Completion | NoInverse:
        """z = x − y, what rounding takes; x = y + z. Surplus: one number a number."""
        return (remainder(latent="what rounding takes"),)


def _to(e: Emitter, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    cast = e.cast(value, dtype)
    cast.dtype = dtype
    return cast


@rules.completion("Cast")
def cast(node: NodeView) -> Completion | NoInverse:
    """z = x − y in x's type, what rounding takes. Surplus: one number a number where the new type is narrower."""
    source, to = node.dtype, ir.DataType(node.integer("to", 0))
    if source == to:
        return ()
    if source not in FLOATS:
        return (Completed("", None, lambda e, y, _: _to(e, e.op("Round", y) if to in FLOATS else y, source)),)
    if to in FLOATS:
        return (Convert(source, to),)
    if to in (ir.DataType.STRING, ir.DataType.BOOL):
        return NoInverse(f"it casts to {to.name}")
    return (remainder(lambda e, y: _to(e, y, source), "what rounding takes"),)


@rules.completion("QuantizeLinear")
def quantize(node: NodeView) -> Completion | NoInverse:
    """z = x − scale · (y − zero point), what rounding and saturation take. Surplus: one number a number."""
    numbers = _quantization(node)
    if isinstance(numbers, NoInverse):
        return numbers
    scale, zero = numbers

    def undone(e: Emitter, y: ir.Value) -> ir.Value:
        level = e.op("Sub", _to(e, y, node.dtype), e.constant(zero, "zero_point"))
        return e.op("Mul", level, e.constant(scale, "scale"))

    return (remainder(undone, "what rounding takes"),)


@rules.completion("DequantizeLinear")
def dequantize(node: NodeView) -> Completion | NoInverse:
    """x = round(y / scale) + zero point, in whole numbers: nothing is lost."""
    numbers = _quantization(node)
    if isinstance(numbers, NoInverse):
        return numbers
    scale, zero = numbers
    kind = node.dtype

    def give(e: Emitter, y: ir.Value, _: ir.Value) -> ir.Value:
        level = e.op("Round", e.op("Div", y, e.constant(scale, "scale")))
        return _to(e, e.op("Add", level, e.constant(zero, "zero_point")), kind)

    return (Completed("", None, give),)


def _quantization(node: NodeView) -> tuple[np.ndarray, np.ndarray] | NoInverse:
    """Scale and zero point as arrays that broadcast against x."""
    if node.unknown != 0:
        return NoInverse("the recovered tensor is its scale")
    scale, zero, shape = node.constant(1), node.constant(2), node.shape(node.x)
    if scale is None or (node.operand(2) is not None and zero is None):
        return NoInverse("its scale is not constant")
    if node.integer("block_size", 0):
        return NoInverse("it quantizes in blocks")
    if not np.all(scale):
        return NoInverse("its scale has a zero")
    wide = np.asarray(scale, np.float64)
    level = np.zeros(wide.shape) if zero is None else np.asarray(zero, np.float64)
    if wide.ndim == 1 and wide.size > 1:
        if shape is None:
            return UNKNOWN_RANK
        spread = [1] * len(shape)
        spread[node.integer("axis", 1) % len(shape)] = -1
        wide, level = wide.reshape(spread), level.reshape(spread)
    return wide.reshape(()) if wide.size == 1 else wide, level.reshape(()) if level.size == 1 else level
