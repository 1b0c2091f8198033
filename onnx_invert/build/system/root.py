"""Roots of φᵢ(xᵢ) = yᵢ for every element at once.

On the whole real line x is looked for by secants from y on, which make a bracket by themselves (secant.py). Elsewhere
the bracket grows geometrically from around y (a flow's layers are near the identity), and shrinks by a few steps of
false position, which most elements need no more than (false_position.py). Brackets that are left are widened
(widening.py) and narrowed by inverse quadratic interpolation where that is safe and by halving where it is not
(chandrupatla.py), until they are no wider than rounding, for every element. Whether φᵢ rises or falls is told by its
values at the first two points. All of this stays in the domain that the plan found for φᵢ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_invert.build.clamp import Probe
from onnx_invert.build.newton.loop import iterate
from onnx_invert.build.system.chandrupatla import narrowed
from onnx_invert.build.system.ends import Ends
from onnx_invert.build.system.false_position import approach
from onnx_invert.build.system.function import Phi
from onnx_invert.build.system.rational import guess
from onnx_invert.build.system.search import Function, Search, Shape
from onnx_invert.build.system.secant import pursue
from onnx_invert.build.system.selection import Selection
from onnx_invert.build.system.widening import drawn_in, outside, widened
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.steps import Block, Root

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation

ROUNDINGS = 8.0
"""Units in the last place of what makes y, by which φ of a closed form may differ from y."""


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

        eps, top = float(np.finfo(dtype.numpy()).eps), float(np.finfo(dtype.numpy()).max)

        def searched(b: Emitter) -> tuple[ir.Value, ir.Value]:
            goal, endless = target, None
            if step.domain.is_reals:
                # Of an infinite y what rises, or falls, without end has an infinite x, on the side of a finite one's.
                endless = b.op("Greater", b.op("Abs", target), top)
                goal = b.op("Where", endless, b.op("Mul", b.op("Sign", target), top / 64), target)
            noise, unroll = b.op("Mul", b.op("Abs", goal), eps), r.unroll is not None

            def function(inner: Emitter, x: ir.Value) -> ir.Value:
                return inner.op("Sub", image(inner, x), goal)

            x, missed = root_of(b, Search(function, live, shape, noise, unroll), goal, ends=ends)
            if endless is None:
                return x, missed
            x = b.op("Where", endless, b.op("Mul", b.op("Sign", x), b.op("Abs", target)), x)
            return x, b.op("Max", missed, b.op("Mul", b.cast(endless, dtype), live))

        closed = guess(e, image, target) if r.noise is None else None
        if closed is None or (r.unroll is not None and not closed.exact):
            x, missed = searched(e)
        elif closed.exact:
            x, missed = closed.x, e.op("Mul", live, 0.0)
            if closed.rise is not None:
                missed = e.cast(e.op("Not", e.op("Greater", closed.rise, 0.0)), dtype)
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

    left = e.cast(e.op("Not", fits))
    left = left if live is None else e.op("Mul", left, live)
    found, missed = iterate(e, [x, left], [shape] * 2, step, most=1, unroll=False, busy=left)
    return found, missed


def root_of(
    e: Emitter, search: Search, centre: ir.Value, *, signed: bool = False, ends: Ends | None = None
) -> tuple[ir.Value, ir.Value]:
    """x looked for from around `centre`, of the same shape; and 1 where there is none.

    With `signed` the function is known to lie below 0 before its root and above 0 behind it; otherwise it is monotone,
    and its direction is told by two of its values. The search stays within `ends`.
    """
    ends = ends or Ends()
    size = e.op("Add", e.op("Mul", e.op("Abs", centre), 0.5), 0.5)
    sign: ir.Value | None = None
    pursued = not (signed or search.unroll or ends.there or search.noise is None or e.dtype.itemsize <= 2)
    if pursued:
        bracket, falls = pursue(e, search, centre, size)
        sign = e.op("Where", falls, e.scalar(-1.0), e.scalar(1.0))
        bracket[1], bracket[3] = (e.op("Mul", sign, value) for value in (bracket[1], bracket[3]))
        size = e.op("Max", size, e.op("Sub", bracket[2], bracket[0]))
    else:
        bracket, size, sign = _around(e, search.function, centre, size, ends, signed)

    def rising(b: Emitter, x: ir.Value) -> ir.Value:
        value = search.function(b, x)
        return ends.settled(b, x, value if sign is None else b.op("Mul", sign, value))

    turned = replace(search, function=rising)
    limit = search.noise if pursued else None
    bracket = widened(e, replace(turned, noise=limit), [*bracket, size], ends)
    missed = outside(e, bracket[1], bracket[3], limit)
    if not search.unroll:
        bracket = drawn_in(e, turned, bracket)
        if not pursued:
            bracket = approach(e, turned, bracket, bounded=ends.there)
    x1, f1, x2, f2 = narrowed(e, turned, bracket)
    kept = ends.kept(e, x1, x2)
    if kept is not None:
        solved = e.op("Or", e.op("Equal", f1, 0.0), e.op("Equal", f2, 0.0))
        missed = e.op("Or", missed, e.op("And", kept, e.op("Not", solved)))
    x = e.op("Where", e.op("Less", e.op("Abs", f2), e.op("Abs", f1)), x2, x1)
    return x, e.op("Mul", e.cast(missed), search.live)


def _around(
    e: Emitter, function: Function, centre: ir.Value, size: ir.Value, ends: Ends, signed: bool
) -> tuple[list[ir.Value], ir.Value, ir.Value | None]:
    """Points on both sides of `centre` with the values there, turned to rise; how far they are, and the turn."""
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

    def turned(value: ir.Value) -> ir.Value:
        return value if sign is None else e.op("Mul", sign, value)

    if ends.short:
        values = [ends.settled(e, place, turned(function(e, place))) for place in (low, high)]
        return [low, values[0], high, values[1]], size, sign
    values = [turned(value) for value in tried]
    return [places[0], values[0], places[1], values[1]], size, sign


def _same_axes(step: Root) -> tuple[int, ...]:
    """The axes whose size is not fixed; a mask is the same along them."""
    return tuple(axis for axis, dim in enumerate(step.x.shape or ()) if not isinstance(dim, int))
