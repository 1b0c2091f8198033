"""Polynomials of degree 2 whose coefficients are tensors, or numbers, and their roots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter

Number = ir.Value | float
Polynomial = Sequence[Number]
"""The coefficients from the constant on; what is 0 throughout is the number 0."""


def plus(e: Emitter, a: Number, b: Number) -> Number:
    """a + b."""
    if isinstance(a, float) and isinstance(b, float):
        return a + b
    if isinstance(a, float):
        return b if a == 0 else e.op("Add", a, b)
    return a if isinstance(b, float) and b == 0 else e.op("Add", a, b)


def minus(e: Emitter, a: Number, b: Number) -> Number:
    """a − b."""
    if isinstance(b, float):
        return plus(e, a, -b)
    return e.op("Neg", b) if isinstance(a, float) and a == 0 else e.op("Sub", a, b)


def times(e: Emitter, a: Number, b: Number) -> Number:
    """a b."""
    if isinstance(a, float) and isinstance(b, float):
        return a * b
    if isinstance(b, float):
        a, b = b, a
    if isinstance(a, float) and a in {0.0, 1.0, -1.0}:
        return 0.0 if a == 0 else b if a == 1 else minus(e, 0.0, b)
    return e.op("Mul", a, b)


def over(e: Emitter, a: Number, b: Number) -> Number:
    """a / b."""
    if isinstance(a, float) and (isinstance(b, float) or a == 0):
        return 0.0 if isinstance(b, ir.Value) else a / b
    return times(e, a, 1 / b) if isinstance(b, float) else e.op("Div", a, b)


def product(e: Emitter, p: Polynomial, q: Polynomial) -> list[Number]:
    """p q."""
    found: list[Number] = [0.0] * (len(p) + len(q) - 1)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            found[i + j] = plus(e, found[i + j], times(e, a, b))
    return found


def combined(e: Emitter, p: Polynomial, q: Polynomial, factor: Number) -> list[Number]:
    """p + factor · q."""
    size = max(len(p), len(q))
    left, right = ([*r, *[0.0] * (size - len(r))] for r in (p, q))
    if isinstance(factor, float) and factor == -1:
        return [minus(e, a, b) for a, b in zip(left, right, strict=True)]
    return [plus(e, a, times(e, factor, b)) for a, b in zip(left, right, strict=True)]


def at(e: Emitter, p: Polynomial, u: Number) -> Number:
    """p(u)."""
    found = p[-1]
    for coefficient in reversed(p[:-1]):
        found = plus(e, times(e, found, u), coefficient)
    return found


def root(e: Emitter, p: Polynomial, q: Polynomial, t: Number) -> tuple[Number, Number]:
    """The u with p(u) = t q(u) at which p − t q rises, or any where both are of degree 1; and how fast."""
    below, b, a = _difference(e, p, q, t)
    if isinstance(a, float) and a == 0:
        return over(e, below, b), b
    inner = plus(e, times(e, b, b), times(e, times(e, 4.0, a), below))
    slope: Number = e.op("Sqrt", e.op("Max", inner, 0.0))
    return over(e, times(e, 2.0, below), plus(e, b, slope)), slope


def reached(e: Emitter, p: Polynomial, q: Polynomial, t: Number) -> tuple[Number, ir.Value | None]:
    """The same of degree 1, q being positive; where t is not reached, far away on its side, and 0 is not above the
    second value. None where every t is."""
    below, b, _ = _difference(e, p, q, t)
    if isinstance(b, float) or b is p[1]:
        return over(e, below, b), None
    # Where t is reached b is not below half a unit in the last place of p₁.
    least = times(e, p[1], float(np.finfo(e.dtype.numpy()).eps) / 8)
    return over(e, below, e.op("Max", b, least)), b


def _difference(e: Emitter, p: Polynomial, q: Polynomial, t: Number) -> tuple[Number, Number, Number]:
    """Minus the constant coefficient of p − t q, and the other two."""
    p0, p1, p2 = combined(e, p, [0.0, 0.0, 0.0], 1.0)
    q0, q1, q2 = combined(e, q, [0.0, 0.0, 0.0], 1.0)
    b, a = (minus(e, above, times(e, t, under)) for above, under in ((p1, q1), (p2, q2)))
    return minus(e, times(e, t, q0), p0), b, a
