"""What a user gives as bounds, made into ends for each number of x; and samples that lie beyond them.

An infinite end leaves x free on that side. Two ends that are equal fix a number of x: it has no unknown of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert.describe import describe
from onnx_invert.errors import UsageError
from onnx_invert.plan.bounds import Ends
from onnx_invert.plan.layout import Layout
from onnx_invert.plan.newton import NewtonPlan

Bound = Any
"""A number or an array for every recovered input, or a mapping from their names to such."""


def ends_of(plan: NewtonPlan, bounds: tuple[Bound, Bound]) -> Ends | None:
    """The bounds as one number for each recovered number; None where they bound nothing.

    Raises:
        UsageError: shapes or names that do not fit, ends that leave no x, or that leave nothing to find.
    """
    system = plan.systems[-1]
    layouts = {value.name or "": system.layouts[value] for value in system.unknowns}
    shown = {value.name or "": describe(value) for value in system.unknowns}
    low, high = (
        np.concatenate([_end(which, bound, name, layouts, shown[name]) for name in layouts])
        for which, bound in zip(("lower", "upper"), bounds, strict=True)
    )
    if count := int(np.sum(~(low <= high) | (low == np.inf) | (high == -np.inf))):
        raise UsageError(
            f"--bounds: {count} of {low.size} numbers of x cannot lie within them: the lower end is above the upper "
            "one, infinite on the wrong side, or no number. Equal ends fix a number; -inf and inf leave it free."
        )
    if np.all(low == high):
        raise UsageError(f"--bounds: they fix all {low.size} numbers of x, which leaves nothing to find.")
    return None if np.all(np.isneginf(low) & np.isposinf(high)) else (low, high)


def _end(which: str, bound: Bound, name: str, layouts: Mapping[str, Layout], shown: str) -> NDArray[np.float64]:
    """One end of one input, flat."""
    if isinstance(bound, Mapping):
        if missing := [other for other in layouts if other not in bound]:
            raise UsageError(
                f"--bounds: the {which} one has no array for {', '.join(map(repr, missing))}. It has: "
                f"{', '.join(map(repr, bound)) or 'none'}."
            )
        bound = bound[name]
    array, sizes = np.asarray(bound), layouts[name].sizes
    if array.dtype.kind not in "fiub":
        raise UsageError(f"--bounds: the {which} one is {array.dtype}; {shown} takes numbers.")
    try:
        return np.broadcast_to(array.astype(np.float64), sizes).reshape(-1)
    except ValueError:
        raise UsageError(
            f"--bounds: the {which} one has shape {array.shape}; {shown} takes one number, or {sizes}."
        ) from None


def box(plan: NewtonPlan, bounds: Ends | None) -> dict[str, Ends]:
    """The bounds by input, in the shape of one sample: what is drawn lies within them."""
    if bounds is None:
        return {}
    low, high = (by_input(plan, end) for end in bounds)
    return {name: (low[name], high[name]) for name in low}


def by_input(plan: NewtonPlan, row: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """A row of numbers (n) by recovered input, in the shape of one sample."""
    system = plan.systems[-1]
    shapes = [system.layouts[value].sizes for value in system.unknowns]
    places = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = zip(system.unknowns, shapes, np.split(row, places), strict=True)
    return {value.name or "": part.reshape(shape) for value, shape, part in parts}


def beyond(bounds: Mapping[str, Ends], batches: Sequence[Mapping[str, NDArray[Any]]], *, rows: bool) -> str | None:
    """A note that samples lie beyond the bounds (by input), whose y may not be reached; None if none do.

    Samples are `rows` of a batch, or a batch is one sample. What an end is that both sides share rounds as x does.
    """
    outside = total = 0
    for batch in batches:
        missed: NDArray[np.bool_] = np.zeros(1, bool)
        for name, (low, high) in bounds.items():
            x = batch[name]
            near = low.astype(x.dtype)
            off = np.where(low == high, x != near, (x < low) | (x > high))
            missed = missed | off.reshape(len(x) if rows else 1, -1).any(axis=1)
        outside += int(missed.sum())
        total += missed.size
    return (
        f"{outside} of {total} samples lie beyond --bounds: if no x within has their y, that y is not reached"
        if outside
        else None
    )
