"""log|det| of many small matrices at once, by elimination in blocks without pivoting.

For the rows k of each block the pivots of A[k, k] are counted, and what is left is A ← A₂₂ − A₂₁ A[k, k]⁻¹ A₁₂. No
pivoting is needed where A = D (I + E), D diagonal and ‖E‖ < 1, as the Jacobian of a contraction's block is: the
symmetric part of I + E is positive definite, then so is that of all that is left, and a factor of a row changes
no more than its pivot. Source: G. Golub & C. Van Loan, Matrix Computations, 2013, 4.3.2.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton.linear import BLOCK, columns_of, eliminate_row, rows_of
from onnx_invert.graph.emit import Emitter

LARGEST = 256
"""Rows up to which a determinant is computed: the matrix of each sample is held whole."""


def log_det(e: Emitter, a: ir.Value, size: int) -> ir.Value:
    """log|det A| (N, 1) of A (N, size, size) with pivots that need no exchange of rows."""
    logs = []
    for start in range(0, size, BLOCK):
        left = size - start
        count = min(BLOCK, left)
        rows = rows_of(e, a, 0, count)
        for row in range(count):
            pivot = columns_of(e, rows_of(e, rows, row, row + 1), row, row + 1)
            logs.append(e.op("Log", e.op("Abs", pivot)))
            if count > 1 or left > count:
                rows = eliminate_row(e, rows, row, count)
        if left > count:
            below = rows_of(e, a, count, left)
            product = e.op("MatMul", columns_of(e, below, 0, count), columns_of(e, rows, count, left))
            a = e.op("Sub", columns_of(e, below, count, left), product)
    total = logs[0] if size == 1 else e.op("ReduceSum", e.op("Concat", *logs, axis=2), e.ints([2]), keepdims=1)
    return e.op("Squeeze", total, e.ints([2]))


def units(mask: np.ndarray) -> np.ndarray:
    """One tangent for every element of a mask (one sample): (S, 1, *sizes)."""
    places = np.flatnonzero(mask)
    found = np.zeros((len(places), mask.size))
    found[np.arange(len(places)), places] = 1
    return found.reshape(len(places), 1, *mask.shape)
