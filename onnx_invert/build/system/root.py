"""Roots of φᵢ(xᵢ) = yᵢ for every element at once, by bracketing.

The bracket grows geometrically from around y (a flow's layers are near the identity). It shrinks by a few steps of
false position, which most elements need no more than (false_position.py), then by inverse quadratic interpolation
where that is safe and by halving where it is not. It ends when the bracket is no wider than rounding, for every
element. Whether φᵢ rises or falls is told by its values at the first two points. All of this stays in the domain that
the plan found for φᵢ.
Source: T. Chandrupatla, A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function
without using derivatives, Advances in Engineering Software 28 (1997).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_invert.build.clamp import Probe
from onnx_invert.build.newton.loop import iterate
from onnx_invert.build.system.bracket import between, fraction, largest, rounding, smallest, unsolved
from onnx_invert.build.system.ends import Ends
from onnx_invert.build.system.false_position import approach
from onnx_invert.build.system.function import Function, Phi
from onnx_invert.build.system.rational import guess
from onnx_invert.build.system.selection import Selection
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.steps import Block, Root

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation

Shape = Sequence[int | str]

GROWTH = 4.0
"""By this the step widens while the root is not inside yet."""

WIDENINGS = 32
"""At most; 4³² steps of y's size are beyond what float32 tells from infinity."""

FAR = 2.0**16
"""A bracket this many times as wide as 1 and its distance from 0 together spans orders of magnitude."""

SHRINKINGS = 12
"""At most: the logarithm of the largest float64 is 710, that of FAR 11; halved on both sides of 0."""

ROUNDINGS = 8.0
"""Units in the last place of what makes y, by which φ of a closed form may differ from y."""

NARROWINGS = 60
"""At most: halving alone takes an interval of 4³² units in the last place to one."""


def find_roots(r: Realisation, step: Root) -> ir.Value:
    """x in the elements of `step.mask`, anything elsewhere. A y that φ does not reach gives the nearer end."""
    x, missed = roots(r, step)
    if r.outer is None:
        r.probes.append(probe(step, missed))
    return x


def probe(step: Block, missed: ir.Value) -> Probe:
    """What counts the elements where `missed` is 1."""
    return Probe(step.name, missed.name or "", None, np.asarray(0.5), None)


def roots(r: Realisation, step: Root, selection: Selection | None = None) -> tuple[ir.Value, ir.Value]:
    """x as by `find_roots`, of all elements or of a selection, and 1 where y is not reached."""
    e, dtype = r.e, step.x.dtype or r.e.dtype
    with e.scope(f"root/{step.name}", dtype):
        target = r.read(step.y)
        image = Phi.of(r, step, selection)
        shape = [dim if isinstance(dim, int) else str(dim.value) for dim in step.x.shape or ()]
        if selection is None:
            live = e.constant(step.mask.any(axis=_same_axes(step), keepdims=True).astype(dtype.numpy()), "live")
            ends = Ends.of(e, step.domain)
        else:
            target = selection.pick(e, target, selection.place, step.y)
            live = e.constant(np.ones([1] * len(shape)), "live")
            ends = Ends.of(e, step.domain, selection)
            shape[selection.place.axis] = selection.width

        def function(b: Emitter, x: ir.Value) -> ir.Value:
            return b.op("Sub", image(b, x), target)

        eps = float(np.finfo(dtype.numpy()).eps)

        def searched(b: Emitter) -> tuple[ir.Value, ir.Value]:
            size = b.op("Abs", target)
            noise, unroll = b.op("Mul", size, eps), r.unroll is not None
            x, missed = root_of(b, function, target, live, shape, unroll=unroll, ends=ends, noise=noise)
            if not step.domain.is_reals:
                return x, missed
            # Of an infinite y what rises, or falls, without end has an infinite x; a finite one would be made up.
            endless = b.op("Greater", size, float(np.finfo(dtype.numpy()).max))
            return b.op("Where", endless, b.op("Mul", b.op("Sign", x), size), x), missed

        closed = guess(e, image, target) if r.noise is None else None
        if closed is None or (r.unroll is not None and not closed.exact):
            x, missed = searched(e)
        elif closed.exact:
            x, missed = closed.x, e.op("Mul", live, 0.0)
            if closed.rise is not None:
                missed = e.op("Cast", e.op("Not", e.op("Greater", closed.rise, 0.0)), to=int(dtype))
        else:
            x = ends.hold(e, closed.x)
            # It holds of no number, nor of an infinite y.
            slack = e.op("Mul", closed.size, ROUNDINGS * eps)
            slack = e.op("Add", slack, float(np.finfo(dtype.numpy()).tiny))
            trial = image.trial(e, x)
            fits = e.op("Less", e.op("Abs", e.op("Sub", trial.read(step.y), target)), slack)
            for same in closed.same(trial) if closed.same is not None else ():
                fits = e.op("And", fits, same)
            x, missed = _else(e, x, fits, None if step.mask.all() else live, shape, searched)
        if step.domain.period is not None:
            turns = e.op("Round", e.op("Div", x, step.domain.period))
            x = e.op("Sub", x, e.op("Mul", turns, step.domain.period))
        return x, missed


def _else(
    e: Emitter,
    x: ir.Value,
    fits: ir.Value,
    live: ir.Value | None,
    shape: Shape,
    searched: Callable[[Emitter], tuple[ir.Value, ir.Value]],
) -> tuple[ir.Value, ir.Value]:
    """x where it fits, and what `searched` gives elsewhere, which runs if there is such a place that is `live`."""

    def step(b: Emitter, state: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        found, missed = searched(b)
        missed = b.op("Where", fits, b.scalar(0.0), missed)
        return [b.op("Where", fits, state[0], found), missed], b.op("Mul", missed, 0.0)

    left = e.op("Cast", e.op("Not", fits), to=int(e.dtype))
    left = left if live is None else e.op("Mul", left, live)
    found, missed = iterate(e, [x, left], [shape] * 2, step, most=1, unroll=False, busy=left)
    return found, missed


def root_of(
    e: Emitter,
    function: Function,
    centre: ir.Value,
    live: ir.Value,
    shape: Shape,
    *,
    unroll: bool,
    signed: bool = False,
    ends: Ends | None = None,
    noise: ir.Value | None = None,
) -> tuple[ir.Value, ir.Value]:
    """x with function(x) = 0, element by element, looked for from around `centre`; and 1 where there is none.

    `shape` is that of both. `live` is 1 where an element counts. With `signed` the function is known to lie below 0
    before its root and above 0 behind it; otherwise it is monotone, and its direction is told by two of its values.
    The search stays within `ends`. Where |function(x)| is not above `noise`, what rounding makes of 0, no x is better.
    """
    ends = ends or Ends()
    size = e.op("Add", e.op("Mul", e.op("Abs", centre), 0.5), 0.5)
    if ends.length is not None:
        size = e.op("Max", size, ends.length)
    middle = ends.hold(e, centre)
    top = float(np.finfo(e.dtype.numpy()).max)  # of a y near it, half as much again is infinite
    low = ends.hold(e, e.op("Max", e.op("Sub", middle, size), -top))
    high = ends.hold(e, e.op("Min", e.op("Add", middle, size), top))
    places = [low, high]
    if ends.there:
        # Inside, where the function is defined.
        quarter = e.op("Mul", e.op("Sub", high, low), 0.25)
        places = [e.op("Add", low, quarter), e.op("Sub", high, quarter)]
    tried = [function(e, place) for place in places]
    sign = None if signed else e.op("Where", e.op("Less", tried[1], tried[0]), e.scalar(-1.0), e.scalar(1.0))

    def turned(b: Emitter, value: ir.Value) -> ir.Value:
        return value if sign is None else b.op("Mul", sign, value)

    def rising(b: Emitter, x: ir.Value) -> ir.Value:
        return ends.settled(b, x, turned(b, function(b, x)))

    if ends.short:
        values = [rising(e, low), rising(e, high)]
    else:
        low, high = places
        values = [turned(e, value) for value in tried]
    bracket = _bracket(e, rising, [low, values[0], high, values[1], size], live, shape, ends, unroll)
    missed = e.op("Or", e.op("Greater", bracket[1], 0.0), e.op("Less", bracket[3], 0.0))
    if not unroll:
        bracket = _shrink(e, rising, bracket, live, shape)
        bracket = approach(e, rising, bracket, live, shape, noise, bounded=ends.there)
    x1, f1, x2, f2 = _narrow(e, rising, bracket, live, shape, unroll, noise)
    kept = ends.kept(e, x1, x2)
    if kept is not None:
        solved = e.op("Or", e.op("Equal", f1, 0.0), e.op("Equal", f2, 0.0))
        missed = e.op("Or", missed, e.op("And", kept, e.op("Not", solved)))
    x = e.op("Where", e.op("Less", e.op("Abs", f2), e.op("Abs", f1)), x2, x1)
    return x, e.op("Mul", e.op("Cast", missed, to=int(e.dtype)), live)


def _bracket(
    e: Emitter,
    function: Function,
    start: list[ir.Value],
    live: ir.Value,
    shape: Shape,
    ends: Ends,
    unroll: bool,
) -> list[ir.Value]:
    """Ends with φ below y at the lower and above it at the upper one, as far as there are such."""

    top = largest(e)

    def outside(b: Emitter, f_low: ir.Value, f_high: ir.Value) -> ir.Value:
        found = b.op("Or", b.op("Greater", f_low, 0.0), b.op("Less", f_high, 0.0))
        return b.op("Mul", b.op("Cast", found, to=int(b.dtype)), live)

    def widen(b: Emitter, state: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        low, f_low, high, f_high, size = state
        above, below = b.op("Greater", f_low, 0.0), b.op("Less", f_high, 0.0)
        size = b.op("Mul", size, GROWTH)
        lower = ends.hold(b, b.op("Max", b.op("Sub", low, size), -top))
        upper = ends.hold(b, b.op("Min", b.op("Add", high, size), top))
        trial = b.op("Where", above, lower, upper)
        value = function(b, trial)
        # Where the root lies below, the old lower end is the new upper one, and the other way round.
        new_high = b.op("Where", above, low, b.op("Where", below, trial, high))
        new_f_high = b.op("Where", above, f_low, b.op("Where", below, value, f_high))
        new_low = b.op("Where", above, trial, b.op("Where", below, high, low))
        new_f_low = b.op("Where", above, value, b.op("Where", below, f_high, f_low))
        return [new_low, new_f_low, new_high, new_f_high, size], outside(b, new_f_low, new_f_high)

    most = 6 if unroll else WIDENINGS
    busy = outside(e, start[1], start[3])
    return iterate(e, start, [shape] * 5, widen, most=most, unroll=unroll, busy=busy)[:4]


def _shrink(e: Emitter, function: Function, bracket: list[ir.Value], live: ir.Value, shape: Shape) -> list[ir.Value]:
    """A bracket over many orders of magnitude halved in the logarithm of 1 + |x|, until its ends are near each other.

    To halve it as it is would take a step for each factor of 2: of y = eˣ + x the bracket is as wide as y.
    """

    if float(np.finfo(e.dtype.numpy()).max) <= FAR:
        return bracket  # half precision spans no more than halving takes steps

    def busy(b: Emitter, low: ir.Value, high: ir.Value) -> ir.Value:
        near = b.op("Max", b.op("Max", low, b.op("Neg", high)), 0.0)  # 0 where it holds 0
        wide = b.op("Greater", b.op("Sub", high, low), b.op("Mul", b.op("Add", near, 1.0), FAR))
        return b.op("Mul", b.op("Cast", wide, to=int(b.dtype)), live)

    def order(b: Emitter, x: ir.Value) -> ir.Value:
        return b.op("Mul", b.op("Sign", x), b.op("Log", b.op("Add", b.op("Abs", x), 1.0)))

    def step(b: Emitter, state: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        low, f_low, high, f_high = state
        middle = b.op("Mul", b.op("Add", order(b, low), order(b, high)), 0.5)
        size = b.op("Sub", b.op("Exp", b.op("Abs", middle)), 1.0)
        x = b.op("Min", b.op("Max", b.op("Mul", b.op("Sign", middle), size), low), high)
        f = function(b, x)
        above = b.op("Greater", f, 0.0)
        low, f_low = b.op("Where", above, low, x), b.op("Where", above, f_low, f)
        high, f_high = b.op("Where", above, x, high), b.op("Where", above, f, f_high)
        return [low, f_low, high, f_high], busy(b, low, high)

    left = busy(e, bracket[0], bracket[2])
    return iterate(e, bracket, [shape] * 4, step, most=SHRINKINGS, unroll=False, busy=left)


def _narrow(
    e: Emitter,
    function: Function,
    ends: list[ir.Value],
    live: ir.Value,
    shape: Shape,
    unroll: bool,
    noise: ir.Value | None,
) -> list[ir.Value]:
    """The bracket as narrow as can be: its ends, each with its value."""
    low, f_low, high, f_high = ends
    tiny = smallest(e)

    def step(b: Emitter, state: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        # x1, f1: the newest end; x2, f2: the other one; t: where to try next, as a fraction of the way between.
        x1, f1, x2, f2, t = state
        x = between(b, x1, x2, t)
        f = function(b, x)
        same = b.op("Equal", b.op("Sign", f), b.op("Sign", f1))
        x3, f3 = b.op("Where", same, x1, x2), b.op("Where", same, f1, f2)  # the end before
        x2, f2 = b.op("Where", same, x2, x1), b.op("Where", same, f2, f1)
        back = b.op("Sub", x, x2)
        # Of a bracket this wide or narrow either end is as good a measure of rounding as the other.
        least = b.op("Div", rounding(b, x, x2), b.op("Max", b.op("Abs", back), tiny))
        wide = b.op("Less", least, 0.5)
        # Once the bracket is closed a further step must do no harm: it goes to its middle.
        least = b.op("Min", least, 0.5)
        t = _next(b, back, f, f2, b.op("Sub", x3, x2), f3)
        t = b.op("Min", b.op("Max", t, least), b.op("Sub", b.scalar(1.0), least))
        busy = b.op("Cast", b.op("And", wide, unsolved(b, f, f2, noise)), to=int(b.dtype))
        return [x, f, x2, f2, t], b.op("Mul", busy, live)

    secant = fraction(e, e.op("Div", f_low, e.op("Sub", f_low, f_high)), None)
    busy = e.op("Mul", e.op("Cast", unsolved(e, f_low, f_high, noise), to=int(e.dtype)), live)
    start = [low, f_low, high, f_high, secant]
    most = 16 if unroll else NARROWINGS
    return iterate(e, start, [shape] * 5, step, most=most, unroll=unroll, busy=busy)[:4]


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


def _same_axes(step: Root) -> tuple[int, ...]:
    """The axes whose size is not fixed; a mask is the same along them."""
    return tuple(axis for axis, dim in enumerate(step.x.shape or ()) if not isinstance(dim, int))
