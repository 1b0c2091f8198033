"""Solving A z = b for many small symmetric positive definite A at once, in plain operators (ONNX has no solve).

Gauss–Jordan elimination in blocks: for the rows k of each block, with D = A[k, k],

    [A | b][k, :] ← D⁻¹ [A | b][k, :],    [A | b][i, :] ← [A | b][i, :] − A[i, k] · (that),   i ∉ k

after which A is the identity and b the solution. D⁻¹ is found the same way, one row at a time. Without pivoting
this is as stable as Cholesky's for a positive definite A: no element grows.
Source: N. Higham, Accuracy and Stability of Numerical Algorithms, 2002, 14.4.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter

BLOCK = 16
"""Rows eliminated by one matrix product. Below it, one row at a time is as fast and takes fewer nodes."""


def solve(e: Emitter, a: ir.Value, b: ir.Value, size: int, *, careful: bool = False) -> ir.Value:
    """z (N, k, 1) with A z = b; A (N, k, k) positive definite, b (N, k, 1), k = `size`.

    `careful` forms no D⁻¹, whose error grows with the condition of D, but eliminates row by row within a block.
    """
    if size == 1:
        return e.op("Div", b, a)
    whole = e.op("Concat", a, b, axis=2)
    if size <= BLOCK:
        for row in range(size):
            whole = eliminate_row(e, whole, row, size)
    else:
        for start in range(0, size, BLOCK):
            whole = _eliminate_block(e, whole, start, min(BLOCK, size - start), size, careful=careful)
    return columns_of(e, whole, size, size + 1)


def eliminate_row(e: Emitter, a: ir.Value, row: int, size: int, first: int = 0) -> ir.Value:
    """One step of the elimination, of `size` rows: column `first` + `row` becomes that of the identity."""
    pivots = rows_of(e, a, row, row + 1)
    at = first + row
    scaled = e.op("Div", pivots, columns_of(e, pivots, at, at + 1))
    column = columns_of(e, a, at, at + 1)
    unit = np.zeros((1, size, 1))
    unit[0, row] = 1
    # Row `row` itself: a − (a_kk − 1) · a / a_kk = a / a_kk.
    return e.op("Sub", a, e.op("Mul", e.op("Sub", column, e.constant(unit, "unit")), scaled))


def _eliminate_block(e: Emitter, a: ir.Value, start: int, count: int, size: int, *, careful: bool) -> ir.Value:
    """The same for `count` rows from `start` on, as a product of matrices."""
    rows = rows_of(e, a, start, start + count)
    if careful:
        scaled = rows
        for row in range(count):
            scaled = eliminate_row(e, scaled, row, count, start)
    else:
        pivot = columns_of(e, rows, start, start + count)
        scaled = e.op("MatMul", _inverse(e, pivot, count), rows)
    columns = columns_of(e, a, start, start + count)
    unit = np.zeros((1, size, count))
    unit[0, start : start + count] = np.eye(count)
    return e.op("Sub", a, e.op("MatMul", e.op("Sub", columns, e.constant(unit, "unit")), scaled))


def _inverse(e: Emitter, a: ir.Value, size: int) -> ir.Value:
    """A⁻¹ of (N, k, k), one row at a time beside the identity."""
    zero = e.op("Mul", a, 0.0)
    whole = e.op("Concat", a, e.op("Add", zero, e.constant(np.eye(size)[None], "identity")), axis=2)
    for row in range(size):
        whole = eliminate_row(e, whole, row, size)
    return columns_of(e, whole, size, 2 * size)


def rows_of(e: Emitter, a: ir.Value, start: int, stop: int) -> ir.Value:
    """a[:, start:stop, :]."""
    return e.op("Slice", a, e.ints([start]), e.ints([stop]), e.ints([1]))


def columns_of(e: Emitter, a: ir.Value, start: int, stop: int) -> ir.Value:
    """a[:, :, start:stop]."""
    return e.op("Slice", a, e.ints([start]), e.ints([stop]), e.ints([2]))
