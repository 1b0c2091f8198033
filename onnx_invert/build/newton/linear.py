"""Solving A z = b for many small symmetric positive definite A at once, in plain operators (ONNX has no solve).

Gauss–Jordan elimination in blocks: for the rows k of each block, with D = A[k, k],

    [A | b][i, :] ← [A | b][i, :] − A[i, k] · D⁻¹ [A | b][k, :],   i ∉ k

after which A is its blocks D, and z[k] = D⁻¹ b[k]. The rows k themselves stay as they are until then: to write them as
one more product, D − (D − 1) · 1, loses as many digits as D has before the point. Within a block it goes row by row,
with the samples along the last axis: each of its steps is a product of a column with a row, and runtimes are fast only
where the last axis of such a product is long. Without pivoting this is as stable as Cholesky's for a positive definite
A: no element grows.
Source: N. Higham, Accuracy and Stability of Numerical Algorithms, 2002, 14.4.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter

BLOCK = 16
"""Rows eliminated by one matrix product. Below it, one row at a time is as fast and takes fewer nodes."""


def solve(e: Emitter, a: ir.Value, b: ir.Value, size: int) -> ir.Value:
    """z (N, k, 1) with A z = b; A (N, k, k) positive definite, b (N, k, 1), k = `size`."""
    if size == 1:
        return e.op("Div", b, a)
    whole = e.op("Concat", a, b, axis=2)
    if size <= BLOCK:
        found, _ = eliminate(e, samples_last(e, whole, size, size + 1), size, 1)
        return samples_first(e, found, size, 1)
    inverses = []
    for start in range(0, size, BLOCK):
        whole, inverse = _eliminate_block(e, whole, start, min(BLOCK, size - start), size)
        inverses.append(inverse)
    b = columns_of(e, whole, size, size + 1)
    starts = range(0, size, BLOCK)
    parts = [rows_of(e, b, start, min(start + BLOCK, size)) for start in starts]
    return e.op("Concat", *map(partial(e.op, "MatMul"), inverses, parts), axis=1)


def eliminate(e: Emitter, a: ir.Value, size: int, others: int) -> tuple[ir.Value, list[ir.Value]]:
    """A⁻¹ B (k, c, N) of [A | B] (k, k + c, N), k = `size` and c = `others`, and the pivots (1, 1, N) of A.

    Columns that have become those of the identity are left out at once.
    """
    pivots: list[ir.Value] = []
    for row in range(size):
        width = size - row - 1 + others
        if width == 0:
            return a, [*pivots, _row(e, a, row)]
        column, a = e.ops("Split", a, e.ints([1, width]), outputs=2, axis=1)
        pivots.append(_row(e, column, row))
        scaled = e.op("Div", _row(e, a, row), pivots[-1])
        apart = np.ones((size, 1, 1))
        apart[row] = 0
        a = e.op("Sub", a, e.op("Mul", e.op("Mul", column, e.constant(apart, "apart")), scaled))
    return e.op("Div", a, e.op("Concat", *pivots, axis=0)), pivots


def _eliminate_block(e: Emitter, a: ir.Value, start: int, count: int, size: int) -> tuple[ir.Value, ir.Value]:
    """One step for `count` rows of [A | b] (N, k, k + 1) from `start` on: their columns become 0 in all others.

    Beside it the inverse (N, c, c) of what these columns have in the rows themselves.
    """
    rows = rows_of(e, a, start, start + count)
    inverse = _inverse(e, columns_of(e, rows, start, start + count), count)
    scaled = e.op("MatMul", inverse, rows)
    columns = columns_of(e, a, start, start + count)
    apart = np.ones((1, size, 1))
    apart[0, start : start + count] = 0
    return e.op("Sub", a, e.op("MatMul", e.op("Mul", columns, e.constant(apart, "apart")), scaled)), inverse


def _inverse(e: Emitter, a: ir.Value, size: int) -> ir.Value:
    """A⁻¹ of (N, k, k), one row at a time beside the identity."""
    a = samples_last(e, a, size, size)
    identity = e.op("Add", e.op("Mul", a, 0.0), e.constant(np.eye(size)[:, :, None], "identity"))
    found, _ = eliminate(e, e.op("Concat", a, identity, axis=1), size, size)
    return samples_first(e, found, size, size)


def samples_last(e: Emitter, a: ir.Value, rows: int, columns: int) -> ir.Value:
    """(N, k, l) → (k, l, N).

    As one matrix: onnxruntime would move a Transpose of three axes past all that follows, and undo it.
    """
    flat = e.op("Reshape", a, e.ints([-1, rows * columns]))
    return e.op("Reshape", e.op("Transpose", flat, perm=[1, 0]), e.ints([rows, columns, -1]))


def samples_first(e: Emitter, a: ir.Value, rows: int, columns: int) -> ir.Value:
    """(k, l, N) → (N, k, l), the same way."""
    flat = e.op("Reshape", a, e.ints([rows * columns, -1]))
    return e.op("Reshape", e.op("Transpose", flat, perm=[1, 0]), e.ints([-1, rows, columns]))


def rows_of(e: Emitter, a: ir.Value, start: int, stop: int) -> ir.Value:
    """a[:, start:stop, :] of (N, k, l)."""
    return e.op("Slice", a, e.ints([start]), e.ints([stop]), e.ints([1]))


def columns_of(e: Emitter, a: ir.Value, start: int, stop: int) -> ir.Value:
    """a[:, :, start:stop] of (N, k, l)."""
    return e.op("Slice", a, e.ints([start]), e.ints([stop]), e.ints([2]))


def _row(e: Emitter, a: ir.Value, row: int) -> ir.Value:
    """a[row:row + 1] of (k, l, N)."""
    return e.op("Slice", a, e.ints([row]), e.ints([row + 1]), e.ints([0]))
