"""Elementary functions in plain operators, exact to a few units in the last place over the whole range.

Asinh, Atanh, Sinh, Log1p, Expm1 and the inverse error function are missing in ONNX or in some of its
runtimes, and the textbook forms lose digits: log(1 + u) for small u, log(y / (1 − y)) near 1/2,
y + log(1 − exp(−y)) for small y. Each function here says how it keeps them.
Source for the forms: N. Higham, Accuracy and Stability of Numerical Algorithms, 1.14; W. Kahan,
Branch Cuts for Complex Elementary Functions.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter

HALF_PI, HALF_PI_REST = float(np.pi / 2), 6.123233995736766e-17
"""π/2 is their sum, to twice the digits of float64."""

LOG_2 = (float(np.log(2.0)), 2.3190468138462996e-17)
"""log 2, likewise."""


def less(e: Emitter, a: ir.Value, b: float) -> ir.Value:
    """a < b, as truth values."""
    truth = e.op("Less", a, b)
    truth.dtype = ir.DataType.BOOL
    return truth


def log1p(e: Emitter, u: ir.Value) -> ir.Value:
    """log(1 + u), u > −1.

    With w = fl(1 + u), log(w) is off by the rounding (w − 1) − u; its first-order effect is taken off:
    log(w) − ((w − 1) − u) / w.
    """
    w = e.op("Add", u, 1.0)
    rounding = e.op("Sub", e.op("Sub", w, 1.0), u)
    return e.op("Sub", e.op("Log", w), e.op("Div", rounding, w))


def atanh(e: Emitter, y: ir.Value) -> ir.Value:
    """artanh(y) = sign(y) · log1p(2|y| / (1 − |y|)) / 2, −1 < y < 1; 1 − |y| is exact near 1."""
    a = e.op("Abs", y)
    u = e.op("Div", e.op("Add", a, a), e.op("Sub", e.scalar(1.0), a))
    return e.op("Mul", e.op("Sign", y), e.op("Mul", log1p(e, u), 0.5))


def logit(e: Emitter, y: ir.Value) -> ir.Value:
    """log(y / (1 − y)), 0 < y < 1.

    With p = min(y, 1 − y), d = 1 − 2p and the sign of y − 1/2 in front, it is log1p(d / p): near 1/2
    the difference y − 1/2 is exact, so no digit is lost; for small y, d / p is 1 / y to rounding.
    """
    half = e.op("Sub", y, 0.5)
    p = e.op("Min", y, e.op("Sub", e.scalar(1.0), y))
    d = e.op("Mul", e.op("Abs", half), 2.0)
    return e.op("Mul", e.op("Sign", half), log1p(e, e.op("Div", d, p)))


def softplus_inverse(e: Emitter, y: ir.Value) -> ir.Value:
    """log(exp(y) − 1), y > 0.

    It is 0 at log 2, so a sum there would cancel: with t = y − log 2 it is log1p(2 · expm1(t)), which
    overflows for large y and cancels for small. So that is taken at c, y held within [1/2, 1], and what
    exp(y) − 1 = exp(y) · D(y) differs from there is added: y − c + log(D(y) / D(c)), exactly 0 for y = c.
    D(y) = 1 − exp(−y) = tanh(y/2) · (1 + exp(−y)) has no cancellation for small y.
    """
    c = e.op("Min", e.op("Max", y, 0.5), 1.0)
    t = minus(e, c, *LOG_2)
    near = log1p(e, e.op("Mul", _expm1(e, t), 2.0))
    ratio = e.op("Div", _one_minus_decay(e, y), _one_minus_decay(e, c))
    return e.op("Add", near, e.op("Add", e.op("Sub", y, c), e.op("Log", ratio)))


def _one_minus_decay(e: Emitter, y: ir.Value) -> ir.Value:
    decay = e.op("Exp", e.op("Neg", y))
    return e.op("Mul", e.op("Tanh", e.op("Mul", y, 0.5)), e.op("Add", decay, 1.0))


def _expm1(e: Emitter, t: ir.Value) -> ir.Value:
    """exp(t) − 1 = tanh(t/2) · (exp(t) + 1), without cancellation for small t."""
    return e.op("Mul", e.op("Tanh", e.op("Mul", t, 0.5)), e.op("Add", e.op("Exp", t), 1.0))


def minus(e: Emitter, y: ir.Value, number: float, rest: float = 0.0) -> ir.Value:
    """y − (number + rest), for y near it exact to the last bit of y although the number is rounded.

    The number is split into two of the type: y − head is exact there, and the tail is what head lacks.
    `rest` is what float64 lacks of the number.
    """
    head = float(np.asarray(number, dtype=e.dtype.numpy()))
    tail = number - head + rest
    difference = e.op("Sub", y, head)
    return e.op("Sub", difference, tail) if tail else difference


def log1p_quotient(e: Emitter, y: ir.Value, depth: float) -> ir.Value:
    """log(1 + y / depth), −depth < y ≤ 0.

    For y above −depth/2 it is log1p(y / depth). Near −depth the quotient has lost the digits that
    y + depth still has, so below −depth/2, log(2 · (y + depth) / depth) is added to log1p(−1/2).
    """
    upper = log1p(e, e.op("Max", e.op("Mul", y, 1 / depth), -0.5))
    rest = e.op("Mul", minus(e, y, -depth), 2 / depth)
    return e.op("Add", upper, e.op("Log", e.op("Min", rest, 1.0)))


def tan(e: Emitter, y: ir.Value) -> ir.Value:
    """tan(y) = sin(y) / sin(π/2 − |y|), |y| < π/2: cos loses digits where it is small."""
    return e.op("Div", e.op("Sin", y), cos(e, e.op("Abs", y)))


def cos(e: Emitter, y: ir.Value) -> ir.Value:
    """cos(y) = sin(π/2 − y): keeps the digits near π/2."""
    return e.op("Sin", e.op("Neg", minus(e, y, HALF_PI, HALF_PI_REST)))


def asinh(e: Emitter, y: ir.Value) -> ir.Value:
    """arsinh(y) = sign(y) · (log1p(t + t · t / (1 + sqrt(1 + t²))) + log(a / t)), a = |y|.

    t is a, held below a power of two whose square is finite; above it arsinh grows like log.
    """
    a = e.op("Abs", y)
    t, rest = _held(e, a)
    root = e.op("Sqrt", e.op("Add", e.op("Mul", t, t), 1.0))
    u = e.op("Add", t, e.op("Mul", t, e.op("Div", t, e.op("Add", root, 1.0))))
    return e.op("Mul", e.op("Sign", y), e.op("Add", log1p(e, u), rest))


def acosh(e: Emitter, y: ir.Value) -> ir.Value:
    """arcosh(y) = log1p(d + sqrt(d · (d + 2))) + log((y − 1) / d), d = y − 1 ≥ 0, held like t in arsinh."""
    d, rest = _held(e, e.op("Sub", y, 1.0))
    root = e.op("Mul", e.op("Sqrt", d), e.op("Sqrt", e.op("Add", d, 2.0)))
    return e.op("Add", log1p(e, e.op("Add", d, root)), rest)


def _held(e: Emitter, a: ir.Value) -> tuple[ir.Value, ir.Value]:
    """t = min(a, top) and log(a / t), exactly 0 up to top = 2^60 (2^500 in float64)."""
    top = 2.0 ** (500 if e.dtype == ir.DataType.DOUBLE else 60)
    return e.op("Min", a, top), e.op("Log", e.op("Mul", e.op("Max", a, top), 1 / top))


def sinh(e: Emitter, y: ir.Value) -> ir.Value:
    """sinh(y) = tanh(y/2) · (h²/2 + 1 + exp(−|y|)/2), h = exp(|y|/2).

    tanh keeps the digits of a small y, and h² is never formed before it is halved.
    """
    half_square, decay = _half_exponentials(e, y)
    return e.op("Mul", e.op("Tanh", e.op("Mul", y, 0.5)), e.op("Add", e.op("Add", half_square, 1.0), decay))


def cosh(e: Emitter, y: ir.Value) -> ir.Value:
    """cosh(y) = h²/2 + exp(−|y|)/2, h = exp(|y|/2)."""
    half_square, decay = _half_exponentials(e, y)
    return e.op("Add", half_square, decay)


def _half_exponentials(e: Emitter, y: ir.Value) -> tuple[ir.Value, ir.Value]:
    a = e.op("Abs", y)
    h = e.op("Exp", e.op("Mul", a, 0.5))
    half_square = e.op("Mul", e.op("Mul", h, 0.5), h)
    return half_square, e.op("Mul", e.op("Exp", e.op("Neg", a)), 0.5)


def atan(e: Emitter, y: ir.Value) -> ir.Value:
    """arctan(y). In float64, where onnxruntime lacks it, a float32 angle t is corrected.

    arctan(y) = t + arctan(d), d = (y · cos t − sin t) / (cos t + y · sin t); d is below 1e-6, so it is its own arctan
    up to d³/3.
    """
    if e.dtype != ir.DataType.DOUBLE:
        return e.op("Atan", y)
    narrow = e.cast(e.op("Min", e.op("Max", y, -1e30), 1e30), ir.DataType.FLOAT)
    narrow.dtype = ir.DataType.FLOAT
    angle = e.op("Atan", narrow)
    angle.dtype = ir.DataType.FLOAT
    t = e.cast(angle, ir.DataType.DOUBLE)
    sine, cosine = e.op("Sin", t), e.op("Cos", t)
    above = e.op("Sub", e.op("Mul", y, cosine), sine)
    below = e.op("Add", cosine, e.op("Mul", y, sine))
    return e.op("Add", t, e.op("Div", above, below))


def asin(e: Emitter, y: ir.Value) -> ir.Value:
    """arcsin(y), |y| ≤ 1; in float64 2 · arctan(y / (1 + sqrt((1 − y)(1 + y))))."""
    if e.dtype != ir.DataType.DOUBLE:
        return e.op("Asin", y)
    root = e.op("Sqrt", e.op("Mul", e.op("Sub", e.scalar(1.0), y), e.op("Add", y, 1.0)))
    return e.op("Mul", atan(e, e.op("Div", y, e.op("Add", root, 1.0))), 2.0)


def acos(e: Emitter, y: ir.Value) -> ir.Value:
    """arccos(y), |y| ≤ 1; in float64 2 · arctan(sqrt(1 − y) / sqrt(1 + y)), the divisor held off 0."""
    if e.dtype != ir.DataType.DOUBLE:
        return e.op("Acos", y)
    below = e.op("Max", e.op("Sqrt", e.op("Add", y, 1.0)), 1e-20)
    return e.op("Mul", atan(e, e.op("Div", e.op("Sqrt", e.op("Sub", e.scalar(1.0), y)), below)), 2.0)


def power(e: Emitter, y: ir.Value, exponent: float | np.ndarray) -> ir.Value:
    """y ** exponent for y ≥ 0, by Mul and Sqrt where they serve (Pow fails in some runtimes)."""
    if np.ndim(exponent) == 0 and float(exponent) in (0.5, 1.0, 2.0, 3.0):
        match float(exponent):
            case 0.5:
                return e.op("Sqrt", y)
            case 1.0:
                return y
            case 2.0:
                return e.op("Mul", y, y)
            case _:
                return e.op("Mul", e.op("Mul", y, y), y)
    return e.op("Pow", y, e.constant(np.asarray(exponent), "exponent"))


def erfinv(e: Emitter, y: ir.Value) -> ir.Value:
    """The inverse error function, −1 < y < 1: y · P(w), w = −log((1 − y)(1 + y)).

    erfinv(y) / y is a smooth function of w; two polynomials, joined at w = 5 and the second in sqrt(w),
    are fitted to scipy's erfinv when the graph is built (M. Giles, Approximating the erfinv function,
    GPU Computing Gems, 2010, has the idea of the variable w).
    """
    log_product = e.op("Log", e.op("Mul", e.op("Sub", e.scalar(1.0), y), e.op("Add", y, 1.0)))
    w = e.op("Max", e.op("Neg", log_product), e.scalar(0.0))
    degree = 11 if np.finfo(e.dtype.numpy()).eps > 1e-8 else 26
    tail_end = 18.0 if degree == 11 else 38.0
    joint = 5.0
    low = _polynomial(e, e.op("Min", w, joint), 0.0, joint, degree, root=False)
    root = e.op("Sqrt", e.op("Max", w, joint))
    high = _polynomial(e, root, float(np.sqrt(joint)), float(np.sqrt(tail_end)), degree, root=True)
    near = e.cast(less(e, w, joint))
    blend = e.op("Add", e.op("Mul", near, low), e.op("Mul", e.op("Sub", e.scalar(1.0), near), high))
    return e.op("Mul", y, blend)


def _polynomial(e: Emitter, v: ir.Value, start: float, stop: float, degree: int, *, root: bool) -> ir.Value:
    """Horner's rule on [start, stop] for erfinv(y) / y as a function of w, or of sqrt(w) with `root`."""
    coefficients = _erfinv_coefficients(start, stop, degree, root)
    scale = 2.0 / (stop - start)
    s = e.op("Add", e.op("Mul", v, scale), -1.0 - start * scale)
    value = e.scalar(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = e.op("Add", e.op("Mul", value, s), coefficient)
    return value


def _erfinv_coefficients(start: float, stop: float, degree: int, root: bool) -> list[float]:
    from numpy.polynomial import chebyshev
    from scipy.special import erfcinv

    s = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    v = (s + 1) / 2 * (stop - start) + start
    w = v * v if root else v
    # 1 − y = 1 − sqrt(1 − exp(−w)) without the cancellation for large w.
    y = np.sqrt(-np.expm1(-w))
    ratio = erfcinv(np.exp(-w) / (1 + y)) / y
    return [float(c) for c in chebyshev.cheb2poly(chebyshev.chebfit(s, ratio, degree))]
