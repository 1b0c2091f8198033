"""The first steps towards a root of a monotone function on the whole real line, from y on, without a bracket.

The first point is y, the second one that a slope of 1 would have for its root. From there on x follows by the secant
through the last two points, as long as φ lies on one side of y at both, and by Anderson and Björck's false position
(false_position.py) once it does not: elements that have no bracket yet take no step of those that have. To step a few
units in the last place further than the secant makes a bracket of points that come near the root from one side.
Which way φ goes plays no part. What this does not finish is left, as it is, to methods whose steps are bounded.
Source: J. Traub, Iterative Methods for the Solution of Equations (1964), 5.2, for the order of the secant's steps.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton.loop import iterate
from onnx_invert.build.system.bracket import between, largest, smallest
from onnx_invert.build.system.false_position import inside, smaller
from onnx_invert.build.system.search import Search
from onnx_invert.graph.emit import Emitter

STEPS = 12
"""At most; of thousands of elements of a flow the slowest take 5 to 8."""

GROWTH = 8.0
"""The secant leads no further than so many times the distance of the two points."""

FLAT = 2.0**20
"""A secant that leads further than so many times that distance tells nothing."""

FIRST = 4.0
"""The second point is no further from y than so many times y's size, and no nearer than a part of it:"""

NEAREST = 1 / 64
"""near the root rounding would tell the slope."""


def pursue(e: Emitter, search: Search, centre: ir.Value, size: ir.Value) -> tuple[list[ir.Value], ir.Value]:
    """Two points and their values (x₁, φ₁, x₂, φ₂), the first one below the other, element by element; and whether
    φ falls, by the first two points where the last two have one sign.

    An element is done when they are as near each other as rounding and have the root between them, or when one |φ|
    is not above the search's noise, which has to be told. `size` is how far from `centre` the root may be expected.
    """
    function, noise = search.function, search.noise
    assert noise is not None
    tiny, top, eps = smallest(e), largest(e), float(np.finfo(e.dtype.numpy()).eps)

    def ahead(b: Emitter, x1: ir.Value, f1: ir.Value, g1: ir.Value, x2: ir.Value, f2: ir.Value) -> list[ir.Value]:
        """Where to try next, as a fraction of the way from x₂ to x₁, 0 for nowhere; and 1 where to go on."""
        width = b.op("Max", b.op("Abs", b.op("Sub", x1, x2)), tiny)
        # Two units in the last place: no step is shorter, and no bracket with the root inside need be narrower.
        least = b.op("Div", b.op("Add", b.op("Mul", b.op("Abs", x2), 2 * eps), tiny), width)
        alike = b.op("Equal", b.op("Greater", f1, 0.0), b.op("Greater", f2, 0.0))
        t = b.op("Div", f2, b.op("Sub", f2, g1))
        within = inside(b, t, b.op("Min", least, 0.5), None)
        # Of points with values of one sign t is beyond 0 or 1; it is no number, or huge, where φ does not move.
        beyond = b.op("Add", t, b.op("Mul", b.op("Sign", t), least))
        beyond = b.op("Max", b.op("Min", beyond, GROWTH), -GROWTH)
        limit = b.op("Where", alike, b.op("Mul", b.op("Abs", t), 1 / FLAT), least)
        going = b.op("And", b.op("Less", limit, 1.0), b.op("Greater", b.op("Abs", f2), noise))
        t = b.op("Where", going, b.op("Where", alike, beyond, within), b.scalar(0.0))
        return [t, b.op("Mul", b.cast(going), search.live)]

    def step(b: Emitter, state: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        x1, f1, g1, x2, f2, t = state  # g₁ is what the value at x₁ is taken for
        x = b.op("Max", b.op("Min", between(b, x2, x1, t), top), -top)
        f = function(b, x)
        before, after = b.op("Greater", f2, 0.0), b.op("Greater", f, 0.0)
        kept = b.op("And", b.op("Equal", after, before), _differ(b, b.op("Greater", f1, 0.0), before))
        g1 = b.op("Where", kept, smaller(b, g1, f2, f), f2)
        x1, f1 = b.op("Where", kept, x1, x2), b.op("Where", kept, f1, f2)
        t, busy = ahead(b, x1, f1, g1, x, f)
        return [x1, f1, g1, x, f, t], busy

    f1 = function(e, centre)
    reach = e.op("Max", e.op("Min", e.op("Abs", f1), e.op("Mul", size, FIRST)), e.op("Mul", size, NEAREST))
    other = e.op("Sub", centre, e.op("Where", e.op("Less", f1, 0.0), e.op("Neg", reach), reach))
    other = e.op("Max", e.op("Min", other, top), -top)
    f2 = function(e, other)
    # φ falls where it is the larger at the smaller of two points.
    falls = _differ(e, e.op("Less", f2, f1), e.op("Less", other, centre))
    # The better one is to be the newest.
    better = e.op("Less", e.op("Abs", f1), e.op("Abs", f2))
    x1, f1, x2, f2 = (
        e.op("Where", better, one, two) for one, two in ((other, centre), (f2, f1), (centre, other), (f1, f2))
    )
    t, busy = ahead(e, x1, f1, f1, x2, f2)
    made = iterate(e, [x1, f1, f1, x2, f2, t], [search.shape] * 6, step, most=STEPS, unroll=False, busy=busy)
    x1, f1, _, x2, f2, _ = made
    turned = e.op("Less", x2, x1)
    low, high, f_low, f_high = (
        e.op("Where", turned, one, two) for one, two in ((x2, x1), (x1, x2), (f2, f1), (f1, f2))
    )
    above = e.op("Greater", f_low, 0.0)
    apart = _differ(e, above, e.op("Greater", f_high, 0.0))
    return [low, f_low, high, f_high], e.op("Or", e.op("And", apart, above), e.op("And", e.op("Not", apart), falls))


def _differ(b: Emitter, one: ir.Value, other: ir.Value) -> ir.Value:
    """Where one of two truths holds; Xor is left out of what is emitted."""
    return b.op("Not", b.op("Equal", one, other))
