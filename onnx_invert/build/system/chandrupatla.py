"""The last steps towards a root: inverse quadratic interpolation where it is safe, halving of the bracket elsewhere.

Source: T. Chandrupatla, A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function
without using derivatives, Advances in Engineering Software 28 (1997).
"""

from __future__ import annotations

import onnx_ir as ir

from onnx_invert.build.newton.loop import iterate
from onnx_invert.build.system.bracket import between, fraction, rounding, smallest, unsolved
from onnx_invert.build.system.search import Search
from onnx_invert.graph.emit import Emitter

NARROWINGS = 60
"""At most: halving alone takes an interval of 4³² units in the last place to one."""

JUMP = 64.0
"""Values so many times what rounding makes of 0, at ends as near each other as rounding, are those of a jump."""


def narrowed(e: Emitter, search: Search, ends: list[ir.Value]) -> list[ir.Value]:
    """The bracket as narrow as can be: its ends, each with its value.

    An element that is done stays where it is while others go on: what it gets does not depend on them.
    """
    low, f_low, high, f_high = ends
    live, noise = search.live, search.noise

    def step(b: Emitter, state: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        # x1, f1: the newest end; x2, f2: the other one; t: where to try next, as a fraction of the way between.
        x1, f1, x2, f2, t = state
        x = between(b, x1, x2, t)
        f = search.function(b, x)
        same = b.op("Equal", b.op("Sign", f), b.op("Sign", f1))
        x3, f3 = b.op("Where", same, x1, x2), b.op("Where", same, f1, f2)  # the end before
        x2, f2 = b.op("Where", same, x2, x1), b.op("Where", same, f2, f1)
        back = b.op("Sub", x, x2)
        least, going = _left(b, x, f, x2, f2, noise)
        least = b.op("Min", least, 0.5)
        t = _next(b, back, f, f2, b.op("Sub", x3, x2), f3)
        t = b.op("Min", b.op("Max", t, least), b.op("Sub", b.scalar(1.0), least))
        going = b.cast(going)
        return [x, f, x2, f2, b.op("Mul", t, going)], b.op("Mul", going, live)

    secant = fraction(e, e.op("Div", f_low, e.op("Sub", f_low, f_high)), None)
    going = e.cast(_left(e, low, f_low, high, f_high, noise)[1])
    start = [low, f_low, high, f_high, e.op("Mul", secant, going)]
    busy = e.op("Mul", going, live)
    most = 16 if search.unroll else NARROWINGS
    return iterate(e, start, [search.shape] * 5, step, most=most, unroll=search.unroll, busy=busy)[:4]


def _left(
    b: Emitter, x1: ir.Value, f1: ir.Value, x2: ir.Value, f2: ir.Value, noise: ir.Value | None
) -> tuple[ir.Value, ir.Value]:
    """The width of rounding as a part of the bracket, and whether there is something left to try in it.

    That is the case above two such widths; where φ jumps, as long as there is a number between the ends at all: y may
    be the value at that number alone (a table that has a value twice gives their mean there).
    """
    # Of a bracket this wide or narrow either end is as good a measure of rounding as the other.
    least = b.op("Div", rounding(b, x1, x2), b.op("Max", b.op("Abs", b.op("Sub", x1, x2)), smallest(b)))
    jumps = unsolved(b, f1, f2, None if noise is None else b.op("Mul", noise, JUMP))
    wide = b.op("And", b.op("Less", least, 0.5), unsolved(b, f1, f2, noise))
    return least, b.op("Or", wide, b.op("And", b.op("Less", least, 1.0), jumps))


def _next(b: Emitter, back: ir.Value, f1: ir.Value, f2: ir.Value, far: ir.Value, f3: ir.Value) -> ir.Value:
    """Where to try next: by inverse quadratic interpolation where it is known to be safe, in the middle elsewhere.

    With ξ = (x₁ − x₂) / (x₃ − x₂), of which `back` and `far` are the two parts, and φ the same of f:

        t = f₁ / (f₃ − f₂) · (f₃ / (f₁ − f₂) + (1 − 1/ξ) f₂ / (f₃ − f₁))    if φ² < ξ and (1 − φ)² < 1 − ξ
    """
    one = b.scalar(1.0)
    short, whole = b.op("Sub", f1, f2), b.op("Sub", f3, f2)
    xi, phi = b.op("Div", back, far), b.op("Div", short, whole)
    rest = b.op("Sub", one, phi)
    below = b.op("Less", b.op("Mul", phi, phi), xi)
    above = b.op("Less", b.op("Mul", rest, rest), b.op("Sub", one, xi))
    slope = b.op("Div", b.op("Mul", b.op("Sub", one, b.op("Div", far, back)), f2), b.op("Sub", f3, f1))
    t = b.op("Mul", b.op("Div", f1, whole), b.op("Add", b.op("Div", f3, short), slope))
    return fraction(b, t, b.op("And", below, above))
