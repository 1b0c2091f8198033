"""log|det| of many small matrices at once, by elimination.

In blocks without pivoting, for the rows k of each block, the pivots of A[k, k] are counted, and what is left is
A ← A₂₂ − A₂₁ A[k, k]⁻¹ A₁₂. No pivoting is needed where A = D (I + E), D diagonal and ‖E‖ < 1, as the Jacobian of a
contraction's block is: the symmetric part of I + E is positive definite, then so is that of all that is left, and a
factor of a row changes no more than its pivot. Elsewhere the row with the largest entry of the next column, of those
that are left, is subtracted from the others; rows stay where they are.
Source: G. Golub & C. Van Loan, Matrix Computations, 2013, 3.4 and 4.3.2.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton.linear import BLOCK, columns_of, eliminate, rows_of, samples_first, samples_last
from onnx_invert.build.newton.loop import iterate
from onnx_invert.graph.emit import Emitter

LARGEST = 1024
"""Rows up to which a determinant is computed: the matrix of each sample is held whole."""

MOST_WRITTEN_OUT = 256
"""Rows up to which the elimination in blocks is written out: a Loop beyond."""

MOST_PIVOTS_WRITTEN_OUT = 12
"""The same of the elimination with pivoting, a row at a time."""


def log_det(e: Emitter, a: ir.Value, size: int, *, unroll: bool = False) -> ir.Value:
    """log|det A| (N, 1) of A (N, size, size) with pivots that need no exchange of rows."""
    if size > MOST_WRITTEN_OUT and not unroll:
        return _in_a_loop(e, a, size)
    logs = []
    for start in range(0, size, BLOCK):
        a, found = _eliminated(e, a, size - start)
        logs.append(found)
    total = logs[0] if len(logs) == 1 else e.op("Concat", *logs, axis=1)
    return e.op("ReduceSum", total, e.ints([1]), keepdims=1) if size > 1 else total


def _eliminated(e: Emitter, a: ir.Value, left: int) -> tuple[ir.Value, ir.Value]:
    """What is left of A (N, left, left) when its first block is eliminated; the logarithms of the pivots (N, k)."""
    count = min(BLOCK, left)
    rows, below = a, None
    if left > count:
        rows, below = e.ops("Split", a, e.ints([count, left - count]), outputs=2, axis=1)
    found, pivots = eliminate(e, samples_last(e, rows, count, left), count, left - count)
    diagonal = pivots[0] if count == 1 else e.op("Concat", *pivots, axis=0)
    logs = e.op("Squeeze", e.op("Log", e.op("Abs", diagonal)), e.ints([1]))
    if below is not None:
        before, after = e.ops("Split", below, e.ints([count, left - count]), outputs=2, axis=2)
        a = e.op("Sub", after, e.op("MatMul", before, samples_first(e, found, count, left - count)))
    return a, e.op("Transpose", logs, perm=[1, 0])


def _in_a_loop(e: Emitter, a: ir.Value, size: int) -> ir.Value:
    """The same, whose matrix stays as large as it is: what is done with becomes an identity at the end."""
    extra = -size % BLOCK
    whole = size + extra
    a = _beside_identity(e, a, size, extra) if extra else a
    samples = e.unique("rows")
    total = e.op("Squeeze", e.op("Mul", columns_of(e, rows_of(e, a, 0, 1), 0, 1), 0.0), e.ints([2]))

    def body(b: Emitter, state: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        left, found = _eliminated(b, state[0], whole)
        total = b.op("Add", state[1], b.op("ReduceSum", found, b.ints([1]), keepdims=1))
        return [_beside_identity(b, left, whole - BLOCK, BLOCK), total], b.op("Add", b.op("Mul", total, 0.0), 1.0)

    shapes: list[list[int | str]] = [[samples, whole, whole], [samples, 1]]
    return iterate(e, [a, total], shapes, body, most=whole // BLOCK, unroll=False)[1]


def _beside_identity(e: Emitter, a: ir.Value, size: int, extra: int) -> ir.Value:
    """[A 0; 0 I], A (N, size, size) and I of `extra` rows, no more than A has."""
    right = e.op("Mul", columns_of(e, a, 0, extra), 0.0)
    upper = e.op("Concat", a, right, axis=2)
    last = np.concatenate([np.zeros((extra, size)), np.eye(extra)], axis=1)[None]
    return e.op(
        "Concat", upper, e.op("Add", e.op("Mul", rows_of(e, upper, 0, extra), 0.0), e.constant(last, "last")), axis=1
    )


def log_det_by_pivots(e: Emitter, a: ir.Value, size: int, *, unroll: bool = False) -> ir.Value:
    """log|det A| (N, 1) of any A (N, size, size); −∞ where it is singular."""
    first = columns_of(e, rows_of(e, a, 0, 1), 0, 1)
    zero = e.op("Mul", first, 0.0)
    total = e.op("Squeeze", zero, e.ints([2]))
    left = e.op("Add", zero, e.constant(np.ones((1, size, 1)), "left"))
    if size == 1:
        return e.op("Log", e.op("Abs", e.op("Squeeze", first, e.ints([2]))))
    unit = e.op("Add", zero, e.constant(np.eye(size)[None, :, :1], "unit"))
    places = e.ints(list(range(size)))
    shift = e.constant(np.roll(np.eye(size), 1, axis=0)[None], "shift")

    def body(b: Emitter, state: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        a, left, unit, total = state
        column = b.op("MatMul", a, unit)
        # Of the rows that are left one that is 0 there comes before one that is not.
        size_of = b.op("Add", b.op("Mul", b.op("Abs", column), left), b.op("Sub", left, 1.0))
        best = b.op("ArgMax", size_of, axis=1, keepdims=1)
        with b.scope(b.scope_name, ir.DataType.INT64):
            index = b.op("Reshape", places, b.ints([1, size, 1]))
        hit = b.cast(b.op("Equal", index, best))
        row = b.op("MatMul", b.op("Transpose", hit, perm=[0, 2, 1]), a)
        pivot = b.op("MatMul", row, unit)
        total = b.op("Add", total, b.op("Squeeze", b.op("Log", b.op("Abs", pivot)), b.ints([2])))
        safe = b.op("Where", b.op("Equal", pivot, 0.0), b.scalar(1.0), pivot)
        left = b.op("Sub", left, hit)
        factor = b.op("Div", b.op("Mul", column, left), safe)
        a = b.op("Sub", a, b.op("MatMul", factor, row))
        return [a, left, b.op("MatMul", shift, unit), total], b.op("Add", b.op("Mul", left, 0.0), 1.0)

    samples = e.unique("rows")
    shapes: list[list[int | str]] = [[samples, size, size], [samples, size, 1], [samples, size, 1], [samples, 1]]
    small = unroll or size <= MOST_PIVOTS_WRITTEN_OUT
    return iterate(e, [a, left, unit, total], shapes, body, most=size, unroll=small)[3]
