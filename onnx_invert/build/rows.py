"""Tensors of the model as rows, one per sample, and back; tangents likewise, with their axis of seeds in front."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.layout import Layout


def rows(e: Emitter, layout: Layout, value: ir.Value) -> ir.Value:
    """The tensor as (samples, size)."""
    if layout.is_matrix:
        return value
    return e.op("Reshape", value, e.ints([-1, layout.size]))


def tensor(e: Emitter, layout: Layout, rows: ir.Value) -> ir.Value:
    """(samples, size) as the model has it."""
    if layout.is_matrix:
        return rows
    return e.op("Reshape", rows, e.ints([-1, *layout.sizes] if layout.batched else list(layout.sizes)))


def seeded_rows(e: Emitter, layout: Layout, value: ir.Value, seeds: int) -> ir.Value:
    """Tangents (S, *shape) as (S, samples, size)."""
    if layout.is_matrix:
        return value
    return e.op("Reshape", value, e.ints([seeds, -1, layout.size]))


def seeded_tensor(e: Emitter, layout: Layout, rows: ir.Value, seeds: int) -> ir.Value:
    """(S, samples, size) as tangents (S, *shape)."""
    if layout.is_matrix:
        return rows
    return e.op("Reshape", rows, e.ints([seeds, *([-1] if layout.batched else []), *layout.sizes]))


def zeros(e: Emitter, like: ir.Value, *, before: Sequence[int] = (), after: Sequence[int] = ()) -> ir.Value:
    """Zeros (*before, samples, *after), as many samples as `like` (samples, k) has."""
    with e.scope(e.scope_name, ir.DataType.INT64):
        count = e.op("Slice", e.op("Shape", like), e.ints([0]), e.ints([1]), e.ints([0]))
        shape = e.op("Concat", *([e.ints(before)] if before else []), count, e.ints(after), axis=0)
    return e.op("Expand", e.scalar(0.0), shape)


def joined(e: Emitter, parts: Sequence[ir.Value]) -> ir.Value:
    """Side by side along the last axis."""
    return parts[0] if len(parts) == 1 else e.op("Concat", *parts, axis=-1)


def split(e: Emitter, value: ir.Value, sizes: Sequence[int]) -> list[ir.Value]:
    """Parts along the last axis."""
    if len(sizes) == 1:
        return [value]
    ends = np.cumsum([0, *sizes]).tolist()
    return [e.op("Slice", value, e.ints([start]), e.ints([stop]), e.ints([-1])) for start, stop in pairwise(ends)]
