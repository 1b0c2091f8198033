"""Elements along one axis, taken from one or several values and put side by side with as little work as there is.

A Gather along the last axis copies number by number, and takes a runtime several times as long as a Slice, a Split
or a Concat of the same numbers; a Gather of longer rows copies each at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter

MOST_RUNS = 16
"""Runs up to which single numbers are moved by Split and Concat; beyond is one Gather, so that graphs stay small."""

NARROW = 8
"""Numbers up to which a value is split into every one of them, once for all who want some."""

LONG = 16
"""Numbers in a row from which on a Gather copies them as fast as anything does."""


class Column(NamedTuple):
    """What stands at `at` along an axis of `value`, which has `width` elements there."""

    value: ir.Value
    at: int
    width: int


class _Run(NamedTuple):
    """`length` elements of `value`, from `first` on, `step` apart."""

    value: ir.Value
    first: int
    length: int
    step: int
    width: int


def columns_of(value: ir.Value, at: Iterable[int], width: int) -> list[Column]:
    """Elements of one value."""
    return [Column(value, int(here), width) for here in at]


def join(e: Emitter, axis: int, columns: Sequence[Column], inner: Sequence[int] | None = None) -> ir.Value:
    """The elements side by side. `inner` are the sizes of the axes behind; None where they are not known."""
    key = ("join", axis, *columns)
    if key not in e.made:
        e.made[key] = _join(e, axis, columns, inner)
    return e.made[key]


def turn(e: Emitter, value: ir.Value, perm: Sequence[int]) -> ir.Value:
    """A value with its axes in another order; two turns are one, or none."""
    if value in e.turned:
        value, before = e.turned[value]
        perm = [before[axis] for axis in perm]
    if list(perm) == list(range(len(perm))):
        return value
    key = ("turn", value, *perm)
    if key not in e.made:
        e.made[key] = e.op("Transpose", value, perm=list(perm))
        e.turned[e.made[key]] = (value, tuple(perm))
    return e.made[key]


def _join(e: Emitter, axis: int, columns: Sequence[Column], inner: Sequence[int] | None) -> ir.Value:
    runs = _runs(columns)
    if len(runs) == 1:
        return _slice(e, axis, runs[0])
    short = inner is not None and int(np.prod(inner)) < LONG
    if all(_is_all(run) for run in runs) or (short and len(runs) <= MOST_RUNS):
        return e.op("Concat", *_parts(e, axis, runs), axis=axis)
    widths = {column.value: column.width for column in columns}
    starts = dict(zip(widths, np.cumsum([0, *widths.values()]).tolist(), strict=False))
    together = next(iter(widths)) if len(widths) == 1 else e.op("Concat", *widths, axis=axis)
    return e.op("Gather", together, e.ints([starts[column.value] + column.at for column in columns]), axis=axis)


def _runs(columns: Sequence[Column]) -> list[_Run]:
    """The elements in as few runs as a walk from the first to the last gives: of steps of 1, or else all of one."""
    value, first, width = columns[0]
    steps = {b.at - a.at for a, b in itertools.pairwise(columns)}
    if len(steps) == 1 and min(steps) > 0 and all(column.value is value for column in columns):
        return [_Run(value, first, len(columns), min(steps), width)]
    runs: list[_Run] = []
    for column in columns:
        if runs and runs[-1].value is column.value and runs[-1].first + runs[-1].length == column.at:
            runs[-1] = runs[-1]._replace(length=runs[-1].length + 1)
        else:
            runs.append(_Run(column.value, column.at, 1, 1, column.width))
    return runs


def _is_all(run: _Run) -> bool:
    return run.length == run.width


def _parts(e: Emitter, axis: int, runs: Sequence[_Run]) -> list[ir.Value]:
    """Every run as a value; a value of which there are several is split at their ends."""
    of_one: dict[ir.Value, list[_Run]] = {}
    for run in runs:
        of_one.setdefault(run.value, []).append(run)
    found: dict[_Run, list[ir.Value]] = {}
    for value, mine in of_one.items():
        width = mine[0].width
        if len(mine) == 1:
            found[mine[0]] = [_slice(e, axis, mine[0])]
        elif width <= NARROW:
            single = _split(e, axis, value, [1] * width)
            found.update({run: single[run.first : run.first + run.length] for run in mine})
        else:
            ends = sorted({0, width, *(end for run in mine for end in (run.first, run.first + run.length))})
            sizes = [b - a for a, b in itertools.pairwise(ends)]
            made = dict(zip(ends, _split(e, axis, value, sizes), strict=False))
            between = set(itertools.pairwise(ends))
            for run in mine:
                alone = (run.first, run.first + run.length) in between
                found[run] = [made[run.first] if alone else _slice(e, axis, run)]
    return [part for run in runs for part in found[run]]


def _split(e: Emitter, axis: int, value: ir.Value, sizes: Sequence[int]) -> list[ir.Value]:
    key = ("split", axis, value, *sizes)
    if key not in e.split:
        e.split[key] = list(e.ops("Split", value, e.ints(sizes), outputs=len(sizes), axis=axis))
    return e.split[key]


def _slice(e: Emitter, axis: int, run: _Run) -> ir.Value:
    if _is_all(run):
        return run.value
    key = ("slice", axis, run)
    if key not in e.made:
        last = run.first + (run.length - 1) * run.step + 1
        bounds = [e.ints([run.first]), e.ints([last]), e.ints([axis])]
        e.made[key] = e.op("Slice", run.value, *bounds, *([e.ints([run.step])] if run.step > 1 else []))
    return e.made[key]
