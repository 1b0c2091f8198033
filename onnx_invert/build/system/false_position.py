"""The first steps towards a root: false position, which takes few nodes a step and converges fast on what is smooth.

With φ at the ends x₁ and x₂ of a bracket, of which x₂ is the newest, the next point is where the straight line between
is 0. Where φ there has the sign that it had at x₂, its value at x₁ is taken smaller, by 1 − φ(x)/φ(x₂), so that no end
stays where it is for ever. What this does not finish, functions of several sharp bends, is left with its bracket to
a method whose number of steps is bounded.
Source: N. Anderson & Å. Björck, A new high order method of Regula Falsi type for computing a root of an equation,
BIT 13 (1973).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton.loop import iterate
from onnx_invert.build.system.bracket import between, fraction, rounding, smallest, unsolved
from onnx_invert.build.system.search import Search
from onnx_invert.graph.emit import Emitter

STEPS = 8
"""At most: most elements of a spline take 4 to 6, and the slowest of thousands have no use for more of them."""

LEAST = 1 / 16
"""The value at the end that stays is taken smaller by no more than this at once."""


def approach(e: Emitter, search: Search, bracket: Sequence[ir.Value], *, bounded: bool) -> list[ir.Value]:
    """A narrower bracket of a root, (x₁, φ(x₁), x₂, φ(x₂)) as it was given, element by element.

    With `bounded` it may have an end of the domain for one of its own, where φ is taken to be far from 0 (ends.py),
    which no straight line is of use for: it is halved then.
    """
    x1, f1, x2, f2 = bracket
    live, noise = search.live, search.noise
    tiny, far = smallest(e), float(np.finfo(e.dtype.numpy()).max) / 2

    def ahead(b: Emitter, x1: ir.Value, f1: ir.Value, g1: ir.Value, x2: ir.Value, f2: ir.Value) -> list[ir.Value]:
        """Where to try next, as a fraction of the way from x₂ to x₁, and whether to go on: 0 where not."""
        width = b.op("Max", b.op("Abs", b.op("Sub", x1, x2)), tiny)
        least = b.op("Div", rounding(b, x1, x2), width)
        going = b.op("And", b.op("Less", least, 0.5), unsolved(b, f1, f2, noise))
        least = b.op("Min", least, 0.5)
        straight = b.op("Less", b.op("Max", b.op("Abs", f1), b.op("Abs", f2)), far) if bounded else None
        t = inside(b, b.op("Div", f2, b.op("Sub", f2, g1)), least, straight)
        going = b.cast(going)
        return [b.op("Mul", t, going), b.op("Mul", going, live)]

    def step(b: Emitter, state: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        x1, f1, g1, x2, f2, t = state  # g₁ is what the value at x₁ is taken for
        x = between(b, x2, x1, t)
        f = search.function(b, x)
        same = b.op("Equal", b.op("Greater", f, 0.0), b.op("Greater", f2, 0.0))
        g1 = b.op("Where", same, smaller(b, g1, f2, f), f2)
        x1, f1 = b.op("Where", same, x1, x2), b.op("Where", same, f1, f2)
        t, busy = ahead(b, x1, f1, g1, x, f)
        return [x1, f1, g1, x, f, t], busy

    t, busy = ahead(e, x1, f1, f1, x2, f2)
    return _ends(iterate(e, [x1, f1, f1, x2, f2, t], [search.shape] * 6, step, most=STEPS, unroll=False, busy=busy))


def inside(b: Emitter, t: ir.Value, least: ir.Value, safe: ir.Value | None) -> ir.Value:
    """A fraction of the way, or half of it (`fraction`), that is `least` away from either end."""
    t = fraction(b, t, safe)
    return b.op("Min", b.op("Max", t, least), b.op("Sub", b.scalar(1.0), least))


def smaller(b: Emitter, g1: ir.Value, f2: ir.Value, f: ir.Value) -> ir.Value:
    """What the value at the end that stays is taken for, when one of the same sign as f₂ has followed on f₂."""
    return b.op("Mul", g1, b.op("Max", b.op("Sub", b.scalar(1.0), b.op("Div", f, f2)), LEAST))


def _ends(state: Sequence[ir.Value]) -> list[ir.Value]:
    x1, f1, _, x2, f2, _ = state
    return [x1, f1, x2, f2]
