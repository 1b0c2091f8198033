"""On which interval yᵢ rises, or falls, throughout with xᵢ: tried over the range of x, and proven where it can be.

A function that turns round across several points of a grid, or is not defined there, is looked at more closely: its
domain is the longest interval on which it keeps its direction, and its ends are found to the last digit. That it
keeps its direction there is then proven by enclosures of its slope (proof.py), for all x and whatever the known
tensors are; or a fold is found. What can be neither is tried at its kinks and constants (kinks.py), with the known
tensors of a run of the model: tried, not proven, and said so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.plan.curve import Curve
from onnx_invert.plan.elements import Mask
from onnx_invert.plan.in_place import InPlace
from onnx_invert.plan.interval import FURTHER, NOISE, search, shared
from onnx_invert.plan.kinks import around, constants, kinks
from onnx_invert.plan.proof import Found, prove
from onnx_invert.plan.steps import REALS, Domain, Evidence
from onnx_invert.rules.facts import NoInverse

POINTS = 41
"""Points at which a function is tried first."""

CLOSELY = 161
"""Where nothing is proven, over the range of x; as many again at kinks and constants."""

SPREADS = (1.0, 3.0)
"""Deviations of the model's inputs in the runs from which known tensors are taken where nothing is proven."""

FAR = 64.0
"""Ranges of x: what turns round only beyond is taken on the interval before; a quadrature is no integral far out."""


@dataclass(frozen=True)
class Turn:
    """That y turns round: before which x, and, if only far out, within which |x| it was not seen to."""

    before: float
    within: float | None


def judged(block: InPlace) -> tuple[Domain, Evidence] | NoInverse | None:
    """The domain of the elements in `mask`, and why one y has one x there; or where it has several.

    None if nothing is promised, for reasons as of `domain_of`.
    """
    domain = domain_of(block)
    if domain is None:
        return None
    function = block.function()
    found = prove(function, domain)
    if found.flat is not None and domain.is_reals:
        bounded = _bounded(found, block.x, block.mask)
        if bounded is not None:
            domain = bounded
            found = prove(function, domain)
    if found.fold or found.flat is not None:
        return _several(found.fold or "it stands still beyond an end that is not the same for all")
    tried = Curve.of(block)
    onto = tried is not None and (not domain.is_reals or tried.grows())
    if found.proven:
        return domain, Evidence(proven=True, onto=onto)
    points = 0
    for spread in SPREADS:
        closely = Curve.of(block, spread, closely=True)
        if closely is None:
            break
        turned = _turns(closely, domain)
        if isinstance(turned, Turn) and turned.within is not None and domain.period is None:
            domain = _held(domain, turned.within, len(block.shape))
            turned = _turns(closely, domain)
        if turned is None:
            return _several("it is the same for every x that was tried")
        if isinstance(turned, Turn):
            return _several(f"it turns round before x = {turned.before:.6g}")
        points += turned
        if closely.alone:
            break  # no known tensor takes part: another run shows the same
    return domain, Evidence(points=points, onto=onto)


def _held(domain: Domain, within: float, rank: int) -> Domain:
    """The part of the domain with |x| at most `within`."""
    end = np.full((1,) * rank, within)
    low = -end if domain.low is None else np.maximum(domain.low, -end)
    high = end if domain.high is None else np.minimum(domain.high, end)
    return Domain(low, high)


def _several(where: str) -> NoInverse:
    reason = f"y does not rise or fall throughout with x: {where}. Several inputs have one output"
    return NoInverse(reason, "--method newton  finds one")


def _bounded(found: Found, x: ir.Value, mask: Mask) -> Domain | None:
    """The domain between what stands still."""
    assert found.flat is not None
    free = [axis for axis, dim in enumerate(x.shape or ()) if not isinstance(dim, int)]
    ends: list[NDArray[np.float64] | None] = []
    for side, values in zip((-1, 1), found.flat, strict=True):
        whole = np.full(mask.shape, np.nan)
        whole[mask] = values
        end = shared(whole, mask, free, side)
        if end is None:
            return None
        ends.append(None if np.all(end == side * np.inf) else end)
    return Domain(ends[0], ends[1])


def domain_of(block: InPlace) -> Domain | None:
    """The domain of the elements in `mask`.

    None if some element of y rises and falls on it, if the domain is not the same for all samples, or if nothing could
    be tried: nothing is promised then.
    """
    tried = Curve.of(block)
    if tried is None:
        return None
    function, reach = tried.looking_up if tried.lookups else tried.plain, tried.reach
    curve = [function(point) for point in np.linspace(-reach, reach, POINTS)]
    if any(values is None for values in curve):
        return None
    values = np.stack([v for v in curve if v is not None])
    if np.isfinite(values).all():
        slack = 1e-4 * np.max(np.abs(values), axis=0)
        with np.errstate(invalid="ignore"):
            steps = np.diff(values, axis=0)
        rises, falls = ((sign * steps > slack).any(axis=0) for sign in (1, -1))
        monotone = not np.any(rises & falls)
        flat = not (steps[0].all() and steps[-1].all())
        if monotone and not flat:
            return REALS
    else:
        monotone = False
    free = [axis for axis, dim in enumerate(block.x.shape or ()) if not isinstance(dim, int)]
    found = search(function, reach, block.mask, free)
    if found is None and tried.lookups:
        found = search(tried.plain, reach, block.mask, free)
    # A function that only saturates has no end there: a bracket may go on.
    return REALS if found is None and monotone else found


def _turns(trial: Curve, domain: Domain) -> int | Turn | None:
    """At how many points the direction was tried, near and far, at kinks and at constants; or where it changes.

    None where an element is the same at all of them: x leaves no trace in it.
    """
    shape, mask, reach = trial.here.shape, trial.mask, trial.reach
    grid = np.concatenate([-reach * FURTHER[::-1], np.linspace(-reach, reach, CLOSELY), reach * FURTHER])
    with np.errstate(over="ignore"):
        grid = grid[np.isfinite(grid.astype(trial.here.dtype))]
    if trial.crowd is None:
        grid = grid[::3]
    places = np.concatenate([np.zeros(1), constants(trial.nodes, few=trial.crowd is None)])
    near = [np.full(shape, point) for point in (*grid, *around(places))]
    coarse = np.linspace(-reach, reach, POINTS)
    near += kinks(trial.pieces, coarse, shape, few=trial.crowd is None)
    points = []
    for point in near:
        held = point if domain.low is None else np.maximum(point, domain.low)
        held = held if domain.high is None else np.minimum(held, domain.high)
        with np.errstate(over="ignore"):
            points.append(np.broadcast_to(held, shape).astype(trial.here.dtype).astype(np.float64))
    rows = trial.several(points)
    known = [index for index, row in enumerate(rows) if row is not None]
    if not known:
        return 0
    at = np.stack([points[index][mask] for index in known])
    values = np.stack([row for row in rows if row is not None])
    order = np.argsort(at, axis=0, kind="stable")
    at, values = np.take_along_axis(at, order, axis=0), np.take_along_axis(values, order, axis=0)
    # Far out a type may have no number for y, and at an end of the domain nothing is asked.
    inner = np.isfinite(values) & (at > at[0]) & (at < at[-1])
    size = np.where(inner, np.abs(values), 0)
    if inner.any() and np.any(np.all((values == values[len(values) // 2]) | ~inner, axis=0) & inner.any(axis=0)):
        return None
    noise = NOISE * np.maximum(size, np.max(np.where(np.abs(at) <= reach, size, 0), axis=0))
    column, falls, rises = _both_ways(values, inner, noise)
    if column is None:
        return len(known)
    rare = min((falls, rises), key=lambda way: int(way[:, column].sum()))
    before = float(at[int(np.argmax(rare[:, column])), column])
    for radius in reach * FURTHER[FURTHER >= FAR][::-1]:
        if _both_ways(values, inner & (np.abs(at) <= radius * 1.01), noise)[0] is None:
            # One point of the grid less: it may have turned round a little before it was seen to.
            return Turn(before, float(radius) / 1.5)
    return Turn(before, None)


def _both_ways(
    values: NDArray[np.float64], inner: NDArray[np.bool_], noise: NDArray[np.float64]
) -> tuple[int | None, NDArray[np.bool_], NDArray[np.bool_]]:
    """The first column that falls and rises, None if none does; and where each does, by more than `noise`."""
    with np.errstate(invalid="ignore"):
        drops = np.maximum.accumulate(np.where(inner, values, -np.inf), axis=0) - values
        climbs = values - np.minimum.accumulate(np.where(inner, values, np.inf), axis=0)
        falls, rises = ((inner & (moved > noise)) for moved in (drops, climbs))
    both = np.flatnonzero(falls.any(axis=0) & rises.any(axis=0))
    return (int(both[0]) if both.size else None), falls, rises
