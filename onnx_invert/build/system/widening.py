"""Brackets of a root: widened until the root lies inside, and drawn in where they span orders of magnitude."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton.loop import iterate
from onnx_invert.build.system.bracket import largest, unsolved
from onnx_invert.build.system.ends import Ends
from onnx_invert.build.system.search import Search
from onnx_invert.graph.emit import Emitter

GROWTH = 4.0
"""By this the step widens while the root is not inside yet."""

WIDENINGS = 32
"""At most; 4³² steps of y's size are beyond what float32 tells from infinity."""

FAR = 2.0**16
"""A bracket this many times as wide as 1 and its distance from 0 together spans orders of magnitude."""

SHRINKINGS = 12
"""At most: the logarithm of the largest float64 is 710, that of FAR 11; halved on both sides of 0."""


def widened(e: Emitter, search: Search, start: list[ir.Value], ends: Ends) -> list[ir.Value]:
    """Ends with φ below y at the lower and above it at the upper one, as far as there are such.

    `start` are the ends to begin with, each with its value, and how far they may be moved at once. An end where |φ|
    is not above the search's noise, if that is told, need not be one of a bracket.
    """

    top = largest(e)

    def busy_with(b: Emitter, f_low: ir.Value, f_high: ir.Value) -> ir.Value:
        return b.op("Mul", b.cast(outside(b, f_low, f_high, search.noise)), search.live)

    def widen(b: Emitter, state: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        low, f_low, high, f_high, size = state
        above, below = b.op("Greater", f_low, 0.0), b.op("Less", f_high, 0.0)
        size = b.op("Mul", size, GROWTH)
        lower = ends.hold(b, b.op("Max", b.op("Sub", low, size), -top))
        upper = ends.hold(b, b.op("Min", b.op("Add", high, size), top))
        trial = b.op("Where", above, lower, upper)
        value = search.function(b, trial)
        # Where the root lies below, the old lower end is the new upper one, and the other way round.
        new_high = b.op("Where", above, low, b.op("Where", below, trial, high))
        new_f_high = b.op("Where", above, f_low, b.op("Where", below, value, f_high))
        new_low = b.op("Where", above, trial, b.op("Where", below, high, low))
        new_f_low = b.op("Where", above, value, b.op("Where", below, f_high, f_low))
        return [new_low, new_f_low, new_high, new_f_high, size], busy_with(b, new_f_low, new_f_high)

    most = 6 if search.unroll else WIDENINGS
    busy = busy_with(e, start[1], start[3])
    return iterate(e, start, [search.shape] * 5, widen, most=most, unroll=search.unroll, busy=busy)[:4]


def outside(b: Emitter, f_low: ir.Value, f_high: ir.Value, noise: ir.Value | None) -> ir.Value:
    """Whether the root does not lie between, and neither end is one (`widened`)."""
    found = b.op("Or", b.op("Greater", f_low, 0.0), b.op("Less", f_high, 0.0))
    return found if noise is None else b.op("And", found, unsolved(b, f_low, f_high, noise))


def drawn_in(e: Emitter, search: Search, bracket: list[ir.Value]) -> list[ir.Value]:
    """A bracket over many orders of magnitude halved in the logarithm of 1 + |x|, until its ends are near each other.

    To halve it as it is would take a step for each factor of 2: of y = eˣ + x the bracket is as wide as y.
    """

    if float(np.finfo(e.dtype.numpy()).max) <= FAR:
        return bracket  # half precision spans no more than halving takes steps

    def busy(b: Emitter, low: ir.Value, high: ir.Value) -> ir.Value:
        near = b.op("Max", b.op("Max", low, b.op("Neg", high)), 0.0)  # 0 where it holds 0
        wide = b.op("Greater", b.op("Sub", high, low), b.op("Mul", b.op("Add", near, 1.0), FAR))
        return b.op("Mul", b.cast(wide), search.live)

    def order(b: Emitter, x: ir.Value) -> ir.Value:
        return b.op("Mul", b.op("Sign", x), b.op("Log", b.op("Add", b.op("Abs", x), 1.0)))

    def step(b: Emitter, state: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        low, f_low, high, f_high = state
        middle = b.op("Mul", b.op("Add", order(b, low), order(b, high)), 0.5)
        size = b.op("Sub", b.op("Exp", b.op("Abs", middle)), 1.0)
        x = b.op("Min", b.op("Max", b.op("Mul", b.op("Sign", middle), size), low), high)
        f = search.function(b, x)
        above = b.op("Greater", f, 0.0)
        low, f_low = b.op("Where", above, low, x), b.op("Where", above, f_low, f)
        high, f_high = b.op("Where", above, x, high), b.op("Where", above, f, f_high)
        return [low, f_low, high, f_high], busy(b, low, high)

    left = busy(e, bracket[0], bracket[2])
    return iterate(e, bracket, [search.shape] * 4, step, most=SHRINKINGS, unroll=False, busy=left)
