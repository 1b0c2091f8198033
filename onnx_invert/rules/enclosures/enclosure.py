"""Bounds of a tensor's values and of their slopes by x, where x runs through cells.

    value ∈ [low, high],   slope ∈ [fall, rise]   almost everywhere in the cell

Arrays are (cells, *shape), with size 1 wherever they are the same. The slopes are None for a tensor that does not
follow from x. `jump` marks cells in which the tensor may be discontinuous, or not defined: there the slopes alone
say nothing of its values. Bounds are rounded outwards, but never across 0: what is positive, however small, keeps a
positive lower bound, `TINY` in place of what float64 rounds to 0. So the sign of a bound is certain, and strict.
Source: R. Moore, R. Kearfott & M. Cloud, Introduction to Interval Analysis, 2009, chapters 4 to 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pair = tuple[Array, Array]
Marks = NDArray[np.bool_]

TINY = float(np.finfo(np.float64).smallest_subnormal)
"""The lower bound of what is positive and may be smaller than any float64."""

_SMALL = 1e-290
"""Bounds between 0 and this say of what is positive no more than that it is: as `TINY` they take part in no size."""

_ULPS = 4 * float(np.finfo(np.float64).eps)
"""What numpy's functions may be off by, relative."""


@dataclass(frozen=True)
class Enclosure:
    """Values in [low, high], slopes in [fall, rise] (None: no x in it), cells with a `jump`."""

    low: Array
    high: Array
    fall: Array | None = None
    rise: Array | None = None
    jump: Marks | None = None

    @property
    def moves(self) -> bool:
        """True if it follows from x."""
        return self.fall is not None

    @property
    def value(self) -> Pair:
        """The bounds of the value."""
        return self.low, self.high

    @property
    def slope(self) -> Pair:
        """The bounds of the slope; 0 where x plays no part."""
        if self.fall is None or self.rise is None:
            zero = np.zeros((1,) * self.low.ndim)
            return zero, zero
        return self.fall, self.rise

    @property
    def jumps(self) -> Marks:
        """The cells with a jump."""
        return np.zeros((1,) * self.low.ndim, bool) if self.jump is None else self.jump

    def ranked(self, rank: int) -> Enclosure:
        """The same with a tensor's `rank` axes behind that of the cells: new ones come first, of size 1."""

        def lifted(array: NDArray[np.generic]) -> NDArray[np.generic]:
            missing = rank + 1 - array.ndim
            if missing <= 0:
                return array
            return array.reshape(array.shape[0], *[1] * missing, *array.shape[1:])

        return self.mapped(lifted)

    def mapped(self, change: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> Enclosure:
        """Every array changed in the same way; what is exact stays one array for both bounds."""
        low = change(self.low)
        high = low if self.high is self.low else change(self.high)
        rest = (self.fall, self.rise, self.jump)
        return Enclosure(low, high, *(None if a is None else change(a) for a in rest))  # type: ignore[arg-type]


def exactly(array: NDArray[np.generic]) -> Enclosure:
    """A constant."""
    values = np.asarray(array).astype(np.float64)[None]
    return Enclosure(values, values)


def anything(rank: int, *, moves: bool) -> Enclosure:
    """Nothing is known of it."""
    infinite = np.full((1,) * (rank + 1), np.inf)
    if not moves:
        return Enclosure(-infinite, infinite)
    return Enclosure(-infinite, infinite, -infinite, infinite, np.ones((1,) * (rank + 1), bool))


def within(rank: int, low: float, high: float) -> Enclosure:
    """Known to lie between two numbers, and not to follow from x."""
    return Enclosure(np.full((1,) * (rank + 1), low), np.full((1,) * (rank + 1), high))


# Pairs of bounds.


def outwards(low: Array, high: Array) -> Pair:
    """A little wider, but neither end across 0, or off it; what is no number is unbounded."""
    return _next(low, -1.0), _next(high, 1.0)


def _next(values: Array, side: float) -> Array:
    """The next numbers on the side −1 or 1, not across 0.

    Most are 0, without bound on that side, or neither small nor infinite: these have the next bits, which are quicker
    to compute than `nextafter`.
    """
    values = np.ascontiguousarray(values, np.float64).reshape(np.shape(values))
    bits = values.view(np.int64)
    made = np.asarray(bits + int(side) * ((bits >> 63) | 1)).view(np.float64)
    zero, unbounded, size = values == 0, values == side * np.inf, np.abs(values)
    np.copyto(made, 0.0, where=zero)
    np.copyto(made, side * np.inf, where=unbounded)
    special = np.asarray(~((size >= 2 * _SMALL) & (size < np.inf) | zero | unbounded))
    if not np.count_nonzero(special):
        return made
    few = values[special]
    near = np.nextafter(few, side * np.inf)
    near = np.where(few * side < 0, np.minimum(near * side, -TINY) * side, near)
    near = np.where((near * side < 0) & (near * side > -_SMALL), -side * TINY, near)
    made[special] = np.where(np.isnan(few), side * np.inf, near)
    return made


def plus(a: Pair, b: Pair) -> Pair:
    """The sum. One with an exact 0 is exact, and so is one that is 0."""
    with np.errstate(all="ignore"):
        low, high = a[0] + b[0], a[1] + b[1]
    down, up = outwards(low, high)
    exact = [(a[i] == 0) | (b[i] == 0) for i in (0, 1)]
    low = np.where(exact[0] & ~np.isnan(low), low, down) if exact[0].any() else down
    high = np.where(exact[1] & ~np.isnan(high), high, up) if exact[1].any() else up
    # What may be as small as any number makes up for nothing.
    for one, other in ((a, b), (b, a)):
        if (tiny := one[0] == TINY).any():
            low = np.where(tiny & (other[0] < 0), other[0], low)
        if (tiny := one[1] == -TINY).any():
            high = np.where(tiny & (other[1] > 0), other[1], high)
    return low, high


def minus(a: Pair) -> Pair:
    """The negative."""
    return -a[1], -a[0]


def times(a: Pair, b: Pair) -> Pair:
    """The product; 0 times what has no bound is 0, for it is finite all the same."""
    products = [_product(x, y) for x in _ends(a) for y in _ends(b)]
    low, high = reduce(np.minimum, products), reduce(np.maximum, products)
    # However large the other factor is, the product with what may be as small as any number may be so too.
    small = (a[0] == TINY) | (b[0] == TINY) | (a[1] == -TINY) | (b[1] == -TINY)
    if small.any():
        low, high = np.where(small & (low > 0), TINY, low), np.where(small & (high < 0), -TINY, high)
    return outwards(low, high)


def _ends(a: Pair) -> tuple[Array, ...]:
    """Both bounds, or the one that what is exact has."""
    return a[:1] if a[0] is a[1] else a


def _product(a: Array, b: Array) -> Array:
    with np.errstate(all="ignore"):
        made = np.asarray(a * b)
        zero = np.asarray((a == 0) | (b == 0))
        lost = (made == 0) & ~zero
        if lost.any():
            made = np.where(lost, np.sign(a) * np.sign(b) * TINY, made)
    if zero.any():
        np.copyto(made, 0.0, where=zero)
    return made


def hull(a: Pair, b: Pair) -> Pair:
    """All between."""
    return np.minimum(a[0], b[0]), np.maximum(a[1], b[1])


def pick(where: Marks, a: Pair, b: Pair) -> Pair:
    """`a` where true."""
    return np.where(where, a[0], b[0]), np.where(where, a[1], b[1])


def over(b: Pair) -> Pair:
    """1 / b where b keeps its sign; unbounded elsewhere. An end at 0 is taken for a limit."""
    with np.errstate(all="ignore"):
        above, below = 1 / np.where(b[1] == 0, -0.0, b[1]), 1 / np.where(b[0] == 0, 0.0, b[0])
    crosses = (b[0] < 0) & (b[1] > 0) | ((b[0] == 0) & (b[1] == 0))
    low, high = outwards(_signed(above, b[1]), _signed(below, b[0]))
    return np.where(crosses, -np.inf, low), np.where(crosses, np.inf, high)


def _signed(quotient: Array, divisor: Array) -> Array:
    """1 / d without its underflow: 1 / ∞ stands for what is as small as any number."""
    return np.where((quotient == 0) & (divisor != 0), np.sign(divisor) * TINY, quotient)


# Enclosures.


def made(value: Pair, slope: Pair | None, *parts: Enclosure, jump: Marks | None = None) -> Enclosure:
    """From bounds; the jumps are those of the parts, and `jump`."""
    if slope is None or not any(part.moves for part in parts):
        return Enclosure(*value)
    jumps = np.zeros((1,) * value[0].ndim, bool) if jump is None else jump
    for part in parts:
        jumps = jumps | part.jumps
    return Enclosure(*value, *slope, jumps)


def add(a: Enclosure, b: Enclosure) -> Enclosure:
    """a + b."""
    return made(plus(a.value, b.value), plus(a.slope, b.slope) if a.moves or b.moves else None, a, b)


def negative(a: Enclosure) -> Enclosure:
    """−a."""
    return made(minus(a.value), minus(a.slope), a)


def multiply(a: Enclosure, b: Enclosure) -> Enclosure:
    """a · b, (a · b)′ = a′ b + a b′."""
    slope = None
    if a.moves and b.moves:
        slope = plus(times(a.slope, b.value), times(a.value, b.slope))
    elif a.moves or b.moves:
        slope = times(a.slope, b.value) if a.moves else times(a.value, b.slope)
    return made(times(a.value, b.value), slope, a, b)


def reciprocal(b: Enclosure) -> Enclosure:
    """1 / b, with a jump where b may be 0."""
    value = over(b.value)
    crosses = (b.low < 0) & (b.high > 0) | ((b.low == 0) & (b.high == 0))
    return made(value, times(minus(times(value, value)), b.slope), b, jump=crosses)


def between(where: Pair, a: Enclosure, b: Enclosure, condition: Enclosure) -> Enclosure:
    """`a` where the condition, in [0, 1], is 1; `b` where it is 0; both where it may be either."""
    yes, no = where[0] > 0, where[1] < 1
    value = pick(yes, a.value, pick(no, b.value, hull(a.value, b.value)))
    slope = pick(yes, a.slope, pick(no, b.slope, hull(a.slope, b.slope)))
    jump = np.where(yes, a.jumps, np.where(no, b.jumps, a.jumps | b.jumps))
    if condition.moves:
        jump = jump | condition.jumps | ~(yes | no)
    moves = a.moves or b.moves or condition.moves
    return Enclosure(*value, *slope, jump) if moves else Enclosure(*value)


def larger(a: Enclosure, b: Enclosure) -> Enclosure:
    """max(a, b), which is continuous."""
    first, second = a.low >= b.high, b.low >= a.high
    value = np.maximum(a.low, b.low), np.maximum(a.high, b.high)
    slope = pick(first, a.slope, pick(second, b.slope, hull(a.slope, b.slope)))
    jump = np.where(first, a.jumps, np.where(second, b.jumps, a.jumps | b.jumps))
    return Enclosure(*value, *slope, jump) if a.moves or b.moves else Enclosure(*value)


def smaller(a: Enclosure, b: Enclosure) -> Enclosure:
    """min(a, b)."""
    return negative(larger(negative(a), negative(b)))


def absolute(a: Enclosure) -> Enclosure:
    """|a|."""
    both = larger(a, negative(a))
    return Enclosure(np.maximum(both.low, 0.0), both.high, both.fall, both.rise, both.jump)


def through(
    a: Enclosure,
    forward: Callable[[Array], Array],
    slope: Callable[[Array, Array], Pair],
    *,
    low: float = -np.inf,
    high: float = np.inf,
    outside: Marks | None = None,
) -> Enclosure:
    """f(a) for an f that rises throughout, with the bounds that `slope` gives of f′ on an interval, and f′ > 0.

    All values lie strictly between `low` and `high`. `outside` are cells where f is not defined everywhere.
    """
    with np.errstate(all="ignore"):
        first, last = forward(a.low), forward(a.high)
        first, last = first - _ULPS * np.abs(first), last + _ULPS * np.abs(last)
        first, last = np.where(np.isnan(first), low, first), np.where(np.isnan(last), high, last)
        steep = slope(a.low, a.high)
        steep = steep[0] * (1 - 4 * _ULPS), steep[1] * (1 + 4 * _ULPS)
    steep = (
        np.where(np.isnan(steep[0]), TINY, np.maximum(steep[0], TINY)),
        np.where(np.isnan(steep[1]), np.inf, np.maximum(steep[1], _SMALL)),  # it may have underflowed
    )
    bottom = TINY if low == 0 else low
    top = -TINY if high == 0 else high
    value = np.clip(first, bottom, top), np.clip(last, bottom, top)
    if outside is not None:
        value = np.where(outside, -np.inf, value[0]), np.where(outside, np.inf, value[1])
        steep = np.where(outside, -np.inf, steep[0]), np.where(outside, np.inf, steep[1])
    return made(value, times(steep, a.slope), a, jump=outside)


def steps(a: Enclosure, forward: Callable[[Array], Array]) -> Enclosure:
    """A staircase: it rises, by jumps alone."""
    low, high = forward(a.low), forward(a.high)
    zero = np.zeros_like(low)
    return made((low, high), (zero, zero), a, jump=low != high)


def less(a: Enclosure, b: Enclosure, *, equal: bool = False) -> Enclosure:
    """a < b, or a ≤ b, as a number in [0, 1]. What holds but at single points of a cell holds there."""
    gap = add(a, negative(b))
    never_still = np.zeros((1,) * gap.low.ndim, bool)
    if gap.moves:
        never_still = ~gap.jumps & ((gap.slope[0] > 0) | (gap.slope[1] < 0)) & (gap.low < gap.high)
    above_open = gap.low > 0 if equal else gap.low >= 0
    below_open = gap.high <= 0 if equal else gap.high < 0
    yes = below_open | ((gap.high <= 0) & never_still)
    no = above_open | ((gap.low >= 0) & never_still)
    low, high = np.where(yes, 1.0, 0.0), np.where(no & ~yes, 0.0, 1.0)
    zero = np.zeros_like(low)
    return made((low, high), (zero, zero), a, b, jump=low != high)
