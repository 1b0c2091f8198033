"""The interval on which a function of each element keeps its direction, found by trying.

The function takes all its elements at once: one number for all of them, or an array in the shape of x, and gives the
elements of y that count, side by side. Ends are found by halving, for all elements together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_invert.plan.steps import Domain, Mask

Floats = NDArray[np.float64]
Function = Callable[[NDArray[np.floating] | float], Floats | None]
"""y, or None where it cannot be computed; not a number where it is not defined."""

FINE = 161
"""Points over the range of x."""

FURTHER = 1.5
FAR = 1e12
"""A run that reaches the end of the range is followed outwards in steps that grow by the one, as far as the other."""

HALVINGS = 64

NOISE = 2.0**-20
"""Beside the largest value, a step that may be rounding."""

ALIKE = 1e-5
"""Ends that differ by no more than this part of the interval are the same."""


def search(function: Function, reach: float, mask: Mask, free: Sequence[int]) -> Domain | None:
    """The longest interval on which every element keeps its direction.

    None where there is none, or where it differs along the axes `free`, whose size is not fixed: from sample to sample.
    """
    grid = np.linspace(-reach, reach, FINE)
    table = _Table.of(function, grid)
    if table is None:
        return None
    runs = table.runs()
    if runs is None or np.any(runs[1] - runs[0] < 2):
        return None
    first, last, sign = runs
    ends = []
    for side in (-1, 1):
        end = _end(function, table, first if side < 0 else last, sign, side, mask)
        whole = np.full(mask.shape, np.nan)
        whole[mask] = end
        shared = _shared(whole, mask, free, side)
        if shared is None:
            return None
        ends.append(shared)
    low, high = ends
    if np.all(low == -np.inf) and np.all(high == np.inf):
        return Domain()
    domain = Domain(
        None if np.all(low == -np.inf) else low,
        None if np.all(high == np.inf) else high,
    )
    if domain.low is None or domain.high is None or domain.low.size > 1 or domain.high.size > 1:
        return domain
    return Domain(domain.low, domain.high, _period(function, float(low.reshape(-1)[0]), float(high.reshape(-1)[0])))


@dataclass
class _Table:
    """Values of a function on a grid (points, elements)."""

    grid: Floats
    values: Floats

    @staticmethod
    def of(function: Function, grid: Floats) -> _Table | None:
        rows = [function(point) for point in grid]
        sizes = [row.size for row in rows if row is not None]
        if not sizes:
            return None
        return _Table(grid, np.stack([np.full(sizes[0], np.nan) if row is None else row for row in rows]))

    @property
    def noise(self) -> Floats:
        """How large a step may be rounding, for each element."""
        size = np.where(np.isfinite(self.values), np.abs(self.values), 0)
        return np.asarray(NOISE * np.max(size, axis=0))

    def runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats] | None:
        """For every element the first and the last point of a run in one direction, and the direction.

        They hold the longest part of the grid on which all elements keep theirs, and move. None if there is none.
        """
        with np.errstate(invalid="ignore"):
            steps = np.diff(self.values, axis=0)
        signs = np.where(np.isnan(steps), np.nan, np.where(np.abs(steps) <= self.noise, 0.0, np.sign(steps)))
        seeds = [seed for seed in _together(signs) if np.all(seed[2] != 0)]
        if not seeds:
            return None
        start, stop, direction = max(seeds, key=lambda seed: seed[1] - seed[0])
        bounds = [_own(column, start, stop, sign) for column, sign in zip(signs.T, direction, strict=True)]
        first, last = zip(*bounds, strict=True)
        return np.array(first), np.array(last), direction


def _together(signs: Floats) -> Iterator[tuple[int, int, Floats]]:
    """Runs of steps (points, elements) on which no element turns round: the first and the last point, directions."""
    start, direction = 0, np.zeros(signs.shape[1])
    for index, step in enumerate(signs):
        defined = not np.isnan(step).any()
        if defined and np.all((step == 0) | (direction == 0) | (step == direction)):
            direction = np.where(direction == 0, step, direction)
            continue
        yield start, index, direction
        start, direction = (index, step) if defined else (index + 1, np.zeros(signs.shape[1]))
    yield start, len(signs), direction


def _own(signs: Floats, start: int, stop: int, direction: float) -> tuple[int, int]:
    """The run of one element around that of all: as far as it keeps its direction, and moves."""
    while start > 0 and signs[start - 1] in (0.0, direction):
        start -= 1
    while stop < len(signs) and signs[stop] in (0.0, direction):
        stop += 1
    moves = start + np.flatnonzero(signs[start:stop] == direction)
    return int(moves[0]), int(moves[-1]) + 1


def _end(
    function: Function, table: _Table, at: NDArray[np.int64], sign: Floats, side: int, mask: Mask
) -> Floats:
    """The last x on one side of a run, for every element; infinite where nothing ends."""
    grid, noise = table.grid, table.noise
    columns = np.arange(len(at))
    inner, value = grid[at].copy(), table.values[at, columns]
    edge = at == (0 if side < 0 else len(grid) - 1)
    outer = np.where(edge, np.nan, grid[np.clip(at + side, 0, len(grid) - 1)])
    beyond = np.where(edge, np.nan, table.values[np.clip(at + side, 0, len(grid) - 1), columns])
    open_ended = edge.copy()
    far = float(np.max(np.abs(grid)))
    while np.any(open_ended) and far < FAR:
        far *= FURTHER
        made = function(side * far)
        made = np.full(len(at), np.nan) if made is None else made
        # On it goes where the function is defined and has not turned round; it may have come to a stand.
        with np.errstate(invalid="ignore"):
            goes = open_ended & (side * sign * (made - value) >= -noise)
        stops = open_ended & ~goes
        outer[stops], beyond[stops] = side * far, made[stops]
        inner[goes], value[goes] = side * far, made[goes]
        open_ended &= goes
    with np.errstate(invalid="ignore"):
        flat = ~open_ended & (np.abs(beyond - value) <= noise)
    # Where it stands still beyond, the end lies between the last point that moved and the first that did not.
    back = np.clip(at - side, 0, len(grid) - 1)
    good = inner.copy()
    bad = np.where(flat, grid[back], outer)
    whole = np.zeros(mask.shape)
    for _ in range(HALVINGS):
        middle = (good + bad) / 2
        whole[mask] = np.where(open_ended, 0.0, middle)
        made = function(whole)
        made = np.full(len(at), np.nan) if made is None else made
        with np.errstate(invalid="ignore"):
            keeps = np.where(flat, np.abs(made - value) <= noise / 4, side * sign * (made - value) >= -noise / 4)
        keeps &= ~np.isnan(made)
        good, bad = np.where(keeps, middle, good), np.where(keeps, bad, middle)
    return np.where(open_ended, side * np.inf, good)


def _shared(ends: Floats, mask: Mask, free: Sequence[int], side: int) -> Floats | None:
    """The ends with size 1 along the axes `free`, the inner ones of those that differ by rounding; None if they do."""
    inner, outer = (np.where(mask, ends, sign * side * np.inf) for sign in (1, -1))
    reduce = (np.min, np.max) if side > 0 else (np.max, np.min)
    axes = tuple(free)
    closest, furthest = reduce[0](inner, axis=axes, keepdims=True), reduce[1](outer, axis=axes, keepdims=True)
    known = mask.any(axis=axes, keepdims=True)
    with np.errstate(invalid="ignore"):
        apart = known & ~(np.isclose(closest, furthest, rtol=ALIKE, atol=ALIKE))
    if np.any(apart):
        return None
    shared = np.where(known, closest, side * np.inf)
    numbers = np.unique(shared[known])
    return np.asarray(numbers) if len(numbers) == 1 else np.asarray(shared)


def _period(function: Function, low: float, high: float) -> float | None:
    """The length of the interval, if the function repeats itself on both sides of it."""
    length = high - low
    inside = low + length * np.array([0.1, 0.3, 0.55, 0.8])
    for shift in (length, -length):
        for point in inside:
            here, there = function(point), function(point + shift)
            if here is None or there is None or not np.allclose(here, there, rtol=1e-3, atol=1e-3):
                return None
    ends = function(low), function(high)
    if any(end is None for end in ends) or np.allclose(*ends, rtol=1e-3, atol=1e-3):  # type: ignore[arg-type]
        return None
    return length
