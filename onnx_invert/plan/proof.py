"""Proof that yᵢ rises, or falls, strictly with xᵢ, or the place where it turns round or stands still.

The numbers of x's type are cut into cells. In each the slope of y by x is enclosed, whatever the known tensors are
(enclosing.py). A cell with a slope of one sign, and no jump, is done; any other is halved, until its ends are
neighbours in x's type, and what counts is y at its ends. Where y may jump between two cells its values beside the
jump are compared. What is smaller than rounding makes no fold, and no proof either.
Source: R. Moore, R. Kearfott & M. Cloud, Introduction to Interval Analysis, 2009, chapter 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnx_invert.plan.elements import Mask
from onnx_invert.plan.steps import Domain
from onnx_invert.rules.enclosures.enclosure import Enclosure

Floats = NDArray[np.float64]

ROUNDS = 90
"""How often cells are halved at most: a float64 has 64 bits."""

MOST_CELLS = 1500
"""So many open cells in one round, and there is no proof."""

MOST_NUMBERS = 1 << 20
"""Elements times cells in one round, at most."""

ROUNDING = 1e-10
"""Bounds at a single x that are wider than this are so for other reasons than rounding: what known tensors may be."""

NOISE = 1e-5
"""What rounding leaves unknown of y in x's type by more than this share of it may hide a jump: no proof."""

FIRST = (0.0, 2.0**-10, 0.125, 0.5, 1.0, 2.0, 4.0, 16.0, 64.0, 2.0**10, 2.0**20, 2.0**40)
"""Where the first cells end, on both sides."""


@dataclass(frozen=True)
class Found:
    """What is certain of a function of each element: `proven` that it is strictly monotone, or where it is not.

    `fold` describes a place where it turns round; `flat` are per element the ends of what it stands still beyond.
    """

    proven: bool = False
    fold: str = ""
    flat: tuple[Floats, Floats] | None = None


class Function:
    """y by x in the elements of a mask: `at(cells)` encloses it; cells are (cells, *shape), or the same for all."""

    def __init__(
        self,
        enclose: Callable[[Enclosure], Enclosure | None],
        shape: tuple[int, ...],
        mask: Mask,
        dtype: np.dtype[np.generic],
    ) -> None:
        self._enclose = enclose
        self.shape, self.mask = shape, mask
        limits = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
        self.eps, self.top, self.tiny = float(limits.eps), float(limits.max), float(limits.smallest_normal)

    def at(self, low: Floats, high: Floats, *, moves: bool = True) -> Enclosure | None:
        """Bounds of y, (cells, elements)."""
        axes = [1] * (len(self.shape) + 1 - low.ndim)
        low, high = low.reshape(*low.shape, *axes), high.reshape(*high.shape, *axes)
        one = np.ones((1,) * (len(self.shape) + 1))
        cells = Enclosure(low, high, one, one, one < 0)
        made = self._enclose(cells)
        if made is None:
            return None
        count = low.shape[0]
        return made.mapped(lambda v: np.broadcast_to(v, (count, *self.shape))[:, self.mask])


def prove(function: Function, domain: Domain) -> Found:
    """What is certain of `function` on a domain."""
    with np.errstate(all="ignore"):  # bounds may be infinite, or no numbers
        return _prove(function, domain)


def _prove(function: Function, domain: Domain) -> Found:
    size = int(np.count_nonzero(function.mask))
    if not size or size * len(FIRST) * 2 > MOST_NUMBERS:
        return Found()
    points = np.unique([sign * point for point in (*FIRST, function.top) for sign in (1, -1) if point <= function.top])
    low, high = points[:-1], points[1:]
    done: list[tuple[Floats, Floats, Enclosure]] = []
    narrow: list[tuple[Floats, Floats]] = []
    for _ in range(ROUNDS):
        cells = _held(function, low, high, domain)
        made = function.at(*cells)
        if made is None or not made.moves:
            return Found()
        fall, rise = made.slope
        sure = ((fall > 0) | (rise < 0) | ((fall == 0) & (rise == 0))) & ~made.jumps
        sure |= _points(function, cells)
        settled = sure.all(axis=1)
        done.append((low[settled], high[settled], made.mapped(lambda v, s=settled: v[s])))  # type: ignore[misc]
        low, high = low[~settled], high[~settled]
        if not low.size:
            break
        tight = high - low <= 2 * function.eps * np.maximum(np.abs(low), np.abs(high)) + function.tiny
        narrow.append((low[tight], high[tight]))
        low, high = low[~tight], high[~tight]
        if not low.size:
            break
        middle = _middle(function, low, high)
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
        if low.size > MOST_CELLS or low.size * size > MOST_NUMBERS:
            break
    open_cells = low.size > 0 and not settled.all() and not tight.all()
    return _judged(function, domain, done, narrow, complete=not open_cells)


def _held(function: Function, low: Floats, high: Floats, domain: Domain) -> tuple[Floats, Floats]:
    """Cells within the domain, whose ends may differ from element to element; those outside of it are points."""
    ends = []
    for end in (low, high):
        cells = end.reshape(-1, *[1] * len(function.shape))
        if domain.low is not None:
            cells = np.maximum(cells, np.asarray(domain.low, np.float64))
        if domain.high is not None:
            cells = np.minimum(cells, np.asarray(domain.high, np.float64))
        ends.append(cells)
    return ends[0], ends[1]


def _points(function: Function, cells: tuple[Floats, Floats]) -> NDArray[np.bool_]:
    """Cells that lie outside of the domain, or just at its end."""
    low, high = cells
    width = np.broadcast_to(high - low, (low.shape[0], *function.shape))[:, function.mask]
    size = np.broadcast_to(np.maximum(np.abs(low), np.abs(high)), (low.shape[0], *function.shape))[:, function.mask]
    return np.asarray(width <= 4 * function.eps * size)


def _middle(function: Function, low: Floats, high: Floats) -> Floats:
    """Where cells are cut: in the middle between exponents where these differ much."""
    small, large = np.minimum(np.abs(low), np.abs(high)), np.maximum(np.abs(low), np.abs(high))
    small = np.maximum(small, function.tiny / 4)
    geometric = np.sign(low / 2 + high / 2) * np.sqrt(small) * np.sqrt(large)
    apart = (large > 4 * small) & (np.sign(low) * np.sign(high) >= 0)
    return np.where(apart, geometric, low / 2 + high / 2)


def _judged(
    function: Function,
    domain: Domain,
    done: list[tuple[Floats, Floats, Enclosure]],
    narrow: list[tuple[Floats, Floats]],
    *,
    complete: bool,
) -> Found:
    """From all cells: one direction throughout, no jump against it, and no part that stands still."""
    low, high = (np.concatenate([part[i] for part in done]) for i in (0, 1))
    if not low.size:
        return Found()
    order = np.argsort(low)
    low, high = low[order], high[order]
    slopes = [np.concatenate([part[2].slope[i] for part in done])[order] for i in (0, 1)]
    bounds = [np.concatenate([part[2].value[i] for part in done])[order] for i in (0, 1)]
    cells = _held(function, low, high, domain)
    width = np.broadcast_to(cells[1] - cells[0], (low.size, *function.shape))[:, function.mask]
    point = _points(function, cells)
    rising, falling = (slopes[0] > 0) & ~point, (slopes[1] < 0) & ~point
    still = (slopes[0] == 0) & (slopes[1] == 0) & ~point
    with np.errstate(all="ignore"):
        # By how much it moves at least, against what rounding makes of its values.
        least = np.where(rising, slopes[0], -slopes[1]) * width
        size = np.fmin(np.maximum(np.abs(bounds[0]), np.abs(bounds[1])), function.top)
        seen = (rising | falling) & (least > 8 * function.eps * size)
    both = (rising & seen).any(axis=0) & (falling & seen).any(axis=0)
    if both.any():
        element = int(np.flatnonzero(both)[0])
        return Found(fold=_fold(low, high, (rising & seen)[:, element], (falling & seen)[:, element]))
    wider = still & (width > 16 * function.eps * np.maximum(np.abs(low), np.abs(high))[:, None] + function.tiny)
    if wider.any():
        return _standing(function, low, high, wider, still | point, complete=complete)
    one_way = (rising | point).all(axis=0) | (falling | point).all(axis=0)
    if not complete or not one_way.all():
        return Found()
    edges = np.unique(np.concatenate([low, high, *(end for pair in narrow for end in pair)]))
    return _beside(function, domain, edges, narrow, np.asarray(rising.any(axis=0)))


def _beside(
    function: Function, domain: Domain, edges: Floats, narrow: list[tuple[Floats, Floats]], rises: NDArray[np.bool_]
) -> Found:
    """The values beside every place where it may jump: at the ends of cells, and in those that were not told."""
    step = np.maximum(4 * function.eps * np.abs(edges), function.tiny)
    inner = (edges > -function.top) & (edges < function.top)
    first = np.concatenate([(edges - step)[inner], *(pair[0] for pair in narrow)])
    last = np.concatenate([(edges + step)[inner], *(pair[1] for pair in narrow)])
    inside = _inside(function, domain, first, last)
    made = function.at(first, last)
    if made is None:
        return Found()
    fall, rise = made.slope
    doubtful = ((made.jumps | ~((fall > 0) | (rise < 0))) & inside).any(axis=1)
    first, last, inside = first[doubtful], last[doubtful], inside[doubtful]
    if not first.size:
        return Found(proven=True)
    values = [function.at(point, point) for point in (first, first / 2 + last / 2, last)]
    for before, behind in pairwise(values):
        if before is None or behind is None:
            return Found()
        with np.errstate(all="ignore"):
            size = np.maximum(np.abs(before.high), np.abs(behind.high))
            wide = np.maximum(before.high - before.low, behind.high - behind.low)
            # What rounding makes of the bounds in float64 it makes of the values in x's type, and more.
            noise = wide * (function.eps / float(np.finfo(np.float64).eps))
            slack = 8 * function.eps * size + function.tiny + noise
            ahead = np.where(rises, behind.low - before.high, before.low - behind.high)
            against = np.where(rises, before.low - behind.high, behind.low - before.high)
        back = (against > slack) & inside
        if back.any():
            at = first[np.flatnonzero(back.any(axis=1))[0]]
            return Found(fold=f"it jumps back at {at:.6g}")
        rounded = (wide <= ROUNDING * (1 + size)) & (noise <= NOISE * (1 + size))
        if not np.all((ahead >= -slack) & rounded | ~inside):
            return Found()
    return Found(proven=True)


def _inside(function: Function, domain: Domain, first: Floats, last: Floats) -> NDArray[np.bool_]:
    """Which elements have the places from `first` to `last` within their domain (places, elements).

    At an end of the domain itself the values may be anything: the search does not ask for them.
    """
    axes = [1] * len(function.shape)
    inside = np.ones((first.size, *function.shape), bool)
    if domain.low is not None:
        inside &= first.reshape(-1, *axes) > np.asarray(domain.low, np.float64)
    if domain.high is not None:
        inside &= last.reshape(-1, *axes) < np.asarray(domain.high, np.float64)
    return inside[:, function.mask]


def _fold(low: Floats, high: Floats, rising: NDArray[np.bool_], falling: NDArray[np.bool_]) -> str:
    """Where one element turns round, in words."""
    ups, downs = np.flatnonzero(rising), np.flatnonzero(falling)
    rare, way, other = (downs, "falls", "rises") if downs.size <= ups.size else (ups, "rises", "falls")
    start = stop = int(rare[np.argmin(np.abs(low[rare] + high[rare]))])
    while start - 1 in set(rare.tolist()) and high[start - 1] == low[start]:
        start -= 1
    while stop + 1 in set(rare.tolist()) and high[stop] == low[stop + 1]:
        stop += 1
    common = ups if rare is downs else downs
    where = int(common[np.argmin(np.abs(low[common] - low[start]))])
    return f"it {way} from {low[start]:.6g} to {high[stop]:.6g}, and {other} at {(low[where] + high[where]) / 2:.6g}"


def _standing(
    function: Function,
    low: Floats,
    high: Floats,
    wider: NDArray[np.bool_],
    still: NDArray[np.bool_],
    *,
    complete: bool,
) -> Found:
    """A function that stands still: beyond an end only, or somewhere in between, for which there is no remedy."""
    ends: list[list[float]] = [[], []]
    for column in range(still.shape[1]):
        moving = np.flatnonzero(~still[:, column])
        if not moving.size:
            return Found(fold="it stands still everywhere")
        inner = wider[moving[0] : moving[-1] + 1, column]
        if inner.any():
            at = moving[0] + int(np.flatnonzero(inner)[0])
            return Found(fold=f"it stands still from {low[at]:.6g} to {high[at]:.6g}")
        ends[0].append(low[moving[0]] if wider[: moving[0], column].any() else -np.inf)
        ends[1].append(high[moving[-1]] if wider[moving[-1] :, column].any() else np.inf)
    return Found(flat=(np.asarray(ends[0]), np.asarray(ends[1]))) if complete else Found()
