"""The interval on which a function of each element keeps its direction, found by trying.

The function takes all its elements at once: one number for all of them, or an array in the shape of x, and gives the
elements of y that count, side by side. Ends are found by halving, for all elements together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_invert.plan.elements import Mask
from onnx_invert.plan.steps import Domain

Floats = NDArray[np.float64]
Function = Callable[[NDArray[np.floating] | float], Floats | None]
"""y, or None where it cannot be computed; not a number where it is not defined."""

FINE = 161
"""Points over the range of x."""

FURTHER = 1.5 ** np.arange(1, 41)
"""Points beyond it on either side, in units of the range: up to ten million times as far."""

HALVINGS = 64

NOISE = 2.0**-20
"""Beside the largest value, a step that may be rounding."""

SAME = 1e-3
"""Beside the range of values, by how much they may differ one period further on."""

ALIKE = 1e-5
"""Ends that differ by no more than this part of the interval are the same."""


def search(function: Function, reach: float, mask: Mask, free: Sequence[int]) -> Domain | None:
    """The longest interval on which every element keeps its direction, if no x outside of it gives a y again.

    There the function is not defined, stands still, or repeats itself. None where it does anything else, or where
    the interval differs along the axes `free`, whose size is not fixed: from sample to sample.
    """
    grid = np.concatenate([-reach * FURTHER[::-1], np.linspace(-reach, reach, FINE), reach * FURTHER])
    table = _Table.of(function, grid, reach)
    runs = None if table is None else table.runs()
    if table is None or runs is None:
        return None
    first, last, sign = runs
    ends: list[Floats | None] = []
    for side, at in ((-1, first), (1, last)):
        whole = np.full(mask.shape, np.nan)
        whole[mask] = _end(function, table, at, sign, side, mask)
        common = shared(whole, mask, free, side)
        if common is None:
            return None
        ends.append(None if np.all(common == side * np.inf) else common)
    low, high = ends
    if not table.goes_on(first, last):
        return Domain(low, high)
    if low is None or high is None or low.size > 1 or high.size > 1:
        return None
    period = _period(function, float(low.reshape(-1)[0]), float(high.reshape(-1)[0]))
    return None if period is None else Domain(low, high, period)


@dataclass
class _Table:
    """Values of a function on a grid (points, elements), and how large a step is that may be rounding."""

    grid: Floats
    values: Floats
    noise: Floats

    @staticmethod
    def of(function: Function, grid: Floats, reach: float) -> _Table | None:
        """None if it is computed nowhere."""
        rows = [function(point) for point in grid]
        sizes = [row.size for row in rows if row is not None]
        if not sizes:
            return None
        values = np.stack([np.full(sizes[0], np.nan) if row is None else row for row in rows])
        size = np.where(np.isfinite(values), np.abs(values), 0)
        # What is large far out says nothing of the values near 0.
        near = np.max(size[np.abs(grid) <= reach], axis=0)
        return _Table(grid, values, NOISE * np.maximum(size, near))

    def runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats] | None:
        """For every element the first and the last point of a run in one direction, and the direction.

        They hold the longest part of the grid on which all elements keep theirs, and move. None if there is none.
        """
        with np.errstate(invalid="ignore"):
            steps = np.diff(self.values, axis=0)
        noise = np.maximum(self.noise[1:], self.noise[:-1])
        signs = np.where(np.isnan(steps), np.nan, np.where(np.abs(steps) <= noise, 0.0, np.sign(steps)))
        seeds = [seed for seed in _together(signs) if np.all(seed[2] != 0)]
        if not seeds:
            return None
        # Far out the grid is too wide to tell a function that repeats itself from one that does not.
        near = len(self.grid) - len(FURTHER)
        sizes = [min(stop, near) - max(start, len(FURTHER)) for start, stop, _ in seeds]
        places = [abs(self.grid[start] + self.grid[min(stop, near)]) for start, stop, _ in seeds]
        start, stop, direction = seeds[max(range(len(seeds)), key=lambda index: (sizes[index], -places[index]))]
        bounds = [_own(column, start, stop, sign) for column, sign in zip(signs.T, direction, strict=True)]
        first, last = (np.array(points) for points in zip(*bounds, strict=True))
        return None if np.any(last - first < 2) else (first, last, direction)

    def goes_on(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> bool:
        """Whether some element takes a value beyond a run that is not the one at its end."""
        points, columns = np.arange(len(self.grid))[:, None], np.arange(len(first))
        for beyond, at in ((points < first, first), (points > last, last)):
            end, noise = self.values[at, columns], self.noise[at, columns]
            with np.errstate(invalid="ignore"):
                if np.any(beyond & (np.abs(self.values - end) > noise)):
                    return True
        return False


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


def _end(function: Function, table: _Table, at: NDArray[np.int64], sign: Floats, side: int, mask: Mask) -> Floats:
    """The last x on one side of a run, for every element; infinite where nothing ends."""
    grid, columns = table.grid, np.arange(len(at))
    edge = 0 if side < 0 else len(grid) - 1
    value, noise = table.values[at, columns], table.noise[at, columns]
    inner, outer = grid[at], grid[np.clip(at + side, 0, len(grid) - 1)]
    open_ended = at == edge
    whole = np.zeros(mask.shape)

    def at_points(points: Floats) -> Floats:
        whole[mask] = np.where(open_ended, 0.0, points)
        made = function(whole)
        return np.full(len(at), np.nan) if made is None else made

    beyond = table.values[np.clip(at + side, 0, len(grid) - 1), columns]
    with np.errstate(invalid="ignore"):
        flat = np.maximum(np.abs(beyond - value), np.abs(at_points((inner + outer) / 2) - value)) <= noise
    # Where it stands still beyond, the end lies between the last point that moved and the first that did not.
    back = np.clip(at - side, 0, len(grid) - 1)
    good = inner.copy()
    bad = np.where(flat, grid[back], outer)
    for _ in range(HALVINGS):
        middle = (good + bad) / 2
        made = at_points(middle)
        with np.errstate(invalid="ignore"):
            keeps = np.where(flat, np.abs(made - value) <= noise / 4, side * sign * (made - value) >= -noise / 4)
        keeps &= ~np.isnan(made)
        good, bad = np.where(keeps, middle, good), np.where(keeps, bad, middle)
    return np.where(open_ended, side * np.inf, good)


def shared(ends: Floats, mask: Mask, free: Sequence[int], side: int) -> Floats | None:
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
    turns = [[function(point + shift) for point in inside] for shift in (0.0, length, -length)]
    if any(values is None for turn in turns for values in turn):
        return None
    here, *others = (np.stack([values for values in turn if values is not None]) for turn in turns)
    slack = SAME * (np.max(here, axis=0) - np.min(here, axis=0))
    return length if all(np.all(np.abs(other - here) <= slack) for other in others) else None
