"""Functions that rise throughout, and the bounds of their slopes on an interval.

A slope is `bell` (largest at 0, falling to both sides), `valley` (least at 0), or monotone itself: its bounds are
then at the ends of the interval, and at 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.special

from onnx_invert.rules.enclosures.enclosure import (
    TINY,
    Array,
    Enclosure,
    Pair,
    absolute,
    add,
    exactly,
    hull,
    larger,
    made,
    multiply,
    negative,
    outwards,
    pick,
    plus,
    smaller,
    through,
    times,
    within,
)

Slope = Callable[[Array], Array]
Bounds = Callable[[Array, Array], Pair]


def bell(slope: Slope) -> Bounds:
    """Of an even slope that is largest at 0."""

    def bounds(low: Array, high: Array) -> Pair:
        ends = slope(low), slope(high)
        peak = np.where((low <= 0) & (high >= 0), slope(np.zeros(())), np.maximum(*ends))
        return np.minimum(*ends), peak

    return bounds


def valley(slope: Slope) -> Bounds:
    """Of an even slope that is least at 0."""

    def bounds(low: Array, high: Array) -> Pair:
        ends = slope(low), slope(high)
        floor = np.where((low <= 0) & (high >= 0), slope(np.zeros(())), np.minimum(*ends))
        return floor, np.maximum(*ends)

    return bounds


def monotone(slope: Slope) -> Bounds:
    """Of a slope that rises or falls itself."""

    def bounds(low: Array, high: Array) -> Pair:
        ends = slope(low), slope(high)
        return np.minimum(*ends), np.maximum(*ends)

    return bounds


def logistic(v: Array) -> Array:
    """σ′(v), to its last digits far out."""
    w = np.exp(-np.abs(v))
    return np.asarray(w / (1 + w) ** 2)


def _softplus(v: Array) -> Array:
    return np.asarray(np.logaddexp(0.0, v))


def sigmoid(a: Enclosure) -> Enclosure:
    """σ(a)."""
    return through(a, scipy.special.expit, bell(logistic), low=0.0, high=1.0)


def tanh(a: Enclosure) -> Enclosure:
    """tanh a; tanh′(v) = 4 σ′(2v)."""
    return through(a, np.tanh, bell(lambda v: 4 * logistic(2 * v)), low=-1.0, high=1.0)


def erf(a: Enclosure) -> Enclosure:
    """erf a."""
    peak = bell(lambda v: 2 / np.sqrt(np.pi) * np.exp(-v * v))

    def bounds(low: Array, high: Array) -> Pair:
        fall, rise = peak(low, high)
        # exp makes of the rounding of v² a relative error.
        share = np.minimum(1e-15 * np.maximum(low * low, high * high), 1.0)
        return fall * (1 - share), rise * (1 + share)

    return through(a, scipy.special.erf, bounds, low=-1.0, high=1.0)


def exp(a: Enclosure) -> Enclosure:
    """exp a."""
    return through(a, np.exp, monotone(np.exp), low=0.0)


def log(a: Enclosure) -> Enclosure:
    """log a, on a ≥ 0: an end at 0 is a limit."""
    return through(a, np.log, monotone(lambda v: 1 / np.abs(v)), outside=a.low < 0)


def root(a: Enclosure) -> Enclosure:
    """√a."""
    floor = np.where(a.low > 0, np.sqrt(np.abs(a.low)), 0.0)
    made = through(a, np.sqrt, monotone(lambda v: 0.5 / np.sqrt(np.abs(v))), outside=a.low < 0)
    return Enclosure(np.maximum(made.low, floor * (1 - 1e-15)), made.high, made.fall, made.rise, made.jump)


def softplus(a: Enclosure) -> Enclosure:
    """log(1 + exp a)."""
    return through(a, _softplus, monotone(scipy.special.expit), low=0.0)


def softsign(a: Enclosure) -> Enclosure:
    """a / (1 + |a|)."""

    def forward(v: Array) -> Array:
        return np.where(np.isinf(v), np.sign(v), v / (1 + np.abs(v)))

    return through(a, forward, bell(lambda v: 1 / (1 + np.abs(v)) ** 2), low=-1.0, high=1.0)


def _side(v: Array) -> Array:
    """1 / √|1 − v²|, to its last digits near 1, and where v² has no number."""
    return np.asarray(1 / (np.sqrt(np.abs(1 - v)) * np.sqrt(np.abs(1 + v))))


FUNCTIONS: dict[str, Callable[[Enclosure], Enclosure]] = {
    "Sigmoid": sigmoid,
    "Tanh": tanh,
    "Erf": erf,
    "Exp": exp,
    "Log": log,
    "Sqrt": root,
    "Softplus": softplus,
    "Softsign": softsign,
    "Atan": partial(through, forward=np.arctan, slope=bell(lambda v: 1 / (1 + v * v)), low=-np.pi / 2, high=np.pi / 2),
    "Asinh": partial(through, forward=np.arcsinh, slope=bell(lambda v: 1 / np.hypot(1.0, v))),
    "Sinh": partial(through, forward=np.sinh, slope=valley(np.cosh)),
    "Atanh": lambda a: through(
        a,
        np.arctanh,
        valley(lambda v: 1 / np.abs((1 - v) * (1 + v))),
        outside=(a.low < -1) | (a.high > 1),
    ),
    "Asin": lambda a: through(a, np.arcsin, valley(_side), outside=(a.low < -1) | (a.high > 1)),
    "Acos": lambda a: negative(
        add(
            through(a, np.arcsin, valley(_side), outside=(a.low < -1) | (a.high > 1)),
            within(a.low.ndim - 1, -np.pi / 2, -np.pi / 2),
        )
    ),
    "Acosh": lambda a: through(a, np.arccosh, monotone(_side), outside=a.low < 1),
}
"""f by operator, for those without attributes."""


def wave(a: Enclosure, turn: float) -> Enclosure:
    """sin(a + turn): its bounds from the crests and troughs between the ends."""

    def bounds(low: Array, high: Array) -> Pair:
        with np.errstate(invalid="ignore"):
            ends = np.sin(low), np.sin(high)
            crest = np.floor((high - np.pi / 2) / (2 * np.pi)) >= np.ceil((low - np.pi / 2) / (2 * np.pi))
            trough = np.floor((high + np.pi / 2) / (2 * np.pi)) >= np.ceil((low + np.pi / 2) / (2 * np.pi))
        # What is left of a large argument modulo 2π is uncertain by its rounding.
        slack = 1e-15 * (1 + np.where(np.isfinite(high - low), np.maximum(np.abs(low), np.abs(high)), 0.0))
        bottom = np.where(trough | np.isnan(ends[0]) | np.isnan(ends[1]), -1.0, np.minimum(*ends) - slack)
        top = np.where(crest | np.isnan(ends[0]) | np.isnan(ends[1]), 1.0, np.maximum(*ends) + slack)
        return np.maximum(bottom, -1.0), np.minimum(top, 1.0)

    shifted = add(a, within(a.low.ndim - 1, turn, turn)) if turn else a
    value = bounds(shifted.low, shifted.high)
    if not a.moves:
        return Enclosure(*value)
    slope = bounds(*outwards(shifted.low + np.pi / 2, shifted.high + np.pi / 2))
    return Enclosure(*value, *times(slope, a.slope), a.jumps)


def power(a: Enclosure, exponent: float) -> Enclosure | None:
    """a to a constant power: of a whole one by its slope p·a^(p−1), of others where a ≥ 0."""
    if exponent == 0:
        return exactly(np.ones((1,) * (a.low.ndim - 1)))
    if exponent == 1:
        return a
    whole = float(exponent).is_integer()
    if whole and exponent > 0 and exponent <= 64:
        odd = int(exponent) % 2 == 1

        base = a if odd else absolute(a)
        steep: Bounds = valley(lambda v: _kept(exponent * np.abs(v) ** (int(exponent) - 1), np.abs(v)))
        return _risen(base, lambda v: _kept(v ** int(exponent), v), steep)
    if np.any(a.low < 0):
        return None
    if exponent > 0:
        steep = monotone(lambda v: _kept(exponent * np.abs(v) ** (exponent - 1), np.abs(v)))
        return _risen(a, lambda v: _kept(np.abs(v) ** exponent, np.abs(v)), steep)
    return None


def _kept(power: Array, v: Array) -> Array:
    """A power without its underflow: that of what is not 0 is not 0."""
    return np.where((power == 0) & (v != 0), np.sign(v) * TINY, power)


def _risen(a: Enclosure, forward: Callable[[Array], Array], slope: Bounds) -> Enclosure:
    """f(a) for an f that rises, its slope 0 at single points perhaps."""
    with np.errstate(all="ignore"):
        value, steep = (forward(a.low), forward(a.high)), slope(a.low, a.high)
    for _ in range(3):  # what powers may be off by
        value, steep = outwards(*value), outwards(*steep)
    return made(value, times(steep, a.slope), a)


def bent(a: Enclosure, below: float, above: float = 1.0) -> Enclosure:
    """`below`·a for a < 0, `above`·a for a > 0."""
    rank = a.low.ndim - 1
    zero = within(rank, 0.0, 0.0)
    right = multiply(larger(a, zero), within(rank, above, above))
    left = multiply(smaller(a, zero), within(rank, below, below))
    whole = add(left, right)
    if not a.moves:
        return whole
    # One of both stands still: their slopes are not added.
    slopes = multiply(a, within(rank, above, above)).slope, multiply(a, within(rank, below, below)).slope
    yes, no = a.low >= 0, a.high <= 0
    low = np.where(yes, slopes[0][0], np.where(no, slopes[1][0], np.minimum(slopes[0][0], slopes[1][0])))
    high = np.where(yes, slopes[0][1], np.where(no, slopes[1][1], np.maximum(slopes[0][1], slopes[1][1])))
    return Enclosure(whole.low, whole.high, low, high, a.jumps)


def exponential_unit(a: Enclosure, alpha: float, gamma: float, width: float) -> Enclosure | None:
    """gamma·a for a ≥ 0, gamma·alpha·(exp(a / width) − 1) below: it may rise, fall, turn round at 0 or stand still."""
    if width == 0 or not np.isfinite([alpha, gamma, width]).all():
        return None
    rank = a.low.ndim - 1
    # Each side with the slope of a itself: held at 0, it would stand still in the whole of a cell across 0.
    below = Enclosure(np.minimum(a.low, 0.0), np.minimum(a.high, 0.0), a.fall, a.rise, a.jump)
    above = Enclosure(np.maximum(a.low, 0.0), np.maximum(a.high, 0.0), a.fall, a.rise, a.jump)
    bend = through(multiply(below, _about(rank, 1 / width)), np.expm1, monotone(np.exp), low=-1.0)
    left, right = multiply(bend, _about(rank, gamma * alpha)), multiply(above, _about(rank, gamma))
    value = plus(left.value, right.value)  # one of both is 0
    if not a.moves:
        return Enclosure(*value)
    slope = pick(a.low >= 0, right.slope, pick(a.high <= 0, left.slope, hull(left.slope, right.slope)))
    return Enclosure(*value, *slope, a.jumps)


def _about(rank: int, number: float) -> Enclosure:
    """A number that was rounded; those that products leave exact are."""
    return within(rank, *((number, number) if abs(number) == 1 else map(float, outwards(*[np.asarray(number)] * 2))))
