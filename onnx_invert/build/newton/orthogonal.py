"""Least squares and least-norm solutions of many small systems at once by orthogonalisation, in plain operators.

The rows a_j of A (k, l) become A = Rᵀ Q, R upper triangular (k, k) and Q of unit rows, by modified Gram–Schmidt:

    q_j = a_j / R_jj,  R_jj = ‖a_j‖,    R_ji = a_i · q_j,  a_i ← a_i − R_ji q_j,   i > j

A Aᵀ = RᵀR is never formed, so that singular values count down to eps times the largest, and not to its root. Rows of Q
are orthogonal up to eps times the condition of A only, but the solutions are backward stable if they are put together
in the order of the projections I − q_j q_jᵀ. Those of a panel of rows are one matrix product,

    (I − q_p q_pᵀ) … (I − q_1 q_1ᵀ) = I − Qᵀ M Q,    M = (I + N)⁻¹,  N the part of Q Qᵀ below its diagonal.

Source: Å. Björck, Numerics of Gram–Schmidt orthogonalization, Linear Algebra Appl. 197, 1994; Å. Björck & C. Paige,
Loss and recapture of orthogonality in the modified Gram–Schmidt algorithm, SIAM J. Matrix Anal. Appl. 13, 1992.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter

PANEL = 16
"""Rows whose projections are one matrix product."""


@dataclass(frozen=True)
class Panel:
    """p rows of Q and R: `rows` (N, p, l) of Q; `mix` M (N, p, p); `norms` R_jj (N, 1, 1) of each; `within` R_ji of
    the rows i after j in the panel (N, p − 1 − j, 1); `after` those of the c rows after it (N, c, p), None at the end.
    """

    rows: ir.Value
    mix: ir.Value
    norms: Sequence[ir.Value]
    within: Sequence[ir.Value]
    after: ir.Value | None

    def __len__(self) -> int:
        return len(self.norms)


def factor(e: Emitter, a: ir.Value, count: int) -> list[Panel]:
    """A = Rᵀ Q of (N, k, l), k = `count` ≤ l; a row that is 0 stays 0."""
    panels = []
    for start in range(0, count, PANEL):
        size = min(PANEL, count - start)
        rest = count - start - size
        head, tail = _split(e, a, size, rest)
        rows, norms, within = _orthogonalise(e, head, size)
        mix = _mix(e, rows, size)
        after = None
        if tail is not None:
            after = e.op("MatMul", tail, _turn(e, e.op("MatMul", mix, rows)))
            a = e.op("Sub", tail, e.op("MatMul", after, rows))
        panels.append(Panel(rows, mix, norms, within, after))
    return panels


def least_norm(e: Emitter, panels: Sequence[Panel], b: ir.Value) -> ir.Value:
    """The x (N, 1, l) of least norm with A x = b (N, k, 1)."""
    solved = []
    left = sum(map(len, panels))
    for panel in panels:
        left -= len(panel)
        head, tail = _split(e, b, len(panel), left)
        z = _forward(e, panel, head)
        solved.append(z)
        if tail is not None and panel.after is not None:
            b = e.op("Sub", tail, e.op("MatMul", panel.after, z))
    x: ir.Value | None = None
    for panel, z in zip(reversed(panels), reversed(solved), strict=True):
        # From the last row to the first, what x has along q_j already is taken off: x ← x + (z_j − q_j · x) q_j.
        gap = z if x is None else e.op("Sub", z, e.op("MatMul", panel.rows, _turn(e, x)))
        step = e.op("MatMul", e.op("MatMul", _turn(e, gap), panel.mix), panel.rows)
        x = step if x is None else e.op("Add", x, step)
    assert x is not None
    return x


def least_squares(e: Emitter, panels: Sequence[Panel], b: ir.Value) -> ir.Value:
    """The x (N, k, 1) that makes ‖Aᵀ x − b‖ least, b (N, l, 1)."""
    along = []
    for panel in panels:
        along.append(e.op("MatMul", panel.mix, e.op("MatMul", panel.rows, b)))
        if panel.after is not None:
            b = e.op("Sub", b, _turn(e, e.op("MatMul", _turn(e, along[-1]), panel.rows)))
    x: ir.Value | None = None
    for panel, c in zip(reversed(panels), reversed(along), strict=True):
        rest = c
        if x is not None and panel.after is not None:
            rest = e.op("Sub", c, _turn(e, e.op("MatMul", _turn(e, x), panel.after)))
        found = _backward(e, panel, rest)
        x = found if x is None else e.op("Concat", found, x, axis=1)
    assert x is not None
    return x


def _orthogonalise(e: Emitter, a: ir.Value, size: int) -> tuple[ir.Value, list[ir.Value], list[ir.Value]]:
    """Rows of Q, R_jj and R_ji of (N, p, l), one row at a time."""
    tiny = float(np.finfo(e.dtype.numpy()).tiny)
    rows, norms, within = [], [], []
    for row in range(size):
        head, tail = _split(e, a, 1, size - row - 1)
        square = e.op("ReduceSum", e.op("Mul", head, head), e.ints([2]), keepdims=1)
        norms.append(e.op("Max", e.op("Sqrt", square), tiny))
        rows.append(e.op("Div", head, norms[-1]))
        if tail is not None:
            within.append(e.op("MatMul", tail, _turn(e, rows[-1])))
            a = e.op("Sub", tail, e.op("Mul", within[-1], rows[-1]))
    return e.op("Concat", *rows, axis=1), norms, within


def _mix(e: Emitter, rows: ir.Value, size: int) -> ir.Value:
    """(I + N)⁻¹ = (I − N) (I + N²) (I + N⁴) …, as far as powers of N are not 0."""
    identity = e.constant(np.eye(size)[None], "identity")
    below = e.constant(np.tril(np.ones((1, size, size)), -1), "below")
    power = e.op("Mul", e.op("MatMul", rows, _turn(e, rows)), below)
    found = e.op("Sub", identity, power)
    reach = 2
    while reach < size:
        power = e.op("MatMul", power, power)
        found = e.op("Add", found, e.op("MatMul", found, power))
        reach *= 2
    return found


def _forward(e: Emitter, panel: Panel, b: ir.Value) -> ir.Value:
    """z (N, p, 1) with Rᵀ z = b within the panel."""
    found = []
    for row in range(len(panel)):
        head, tail = _split(e, b, 1, len(panel) - row - 1)
        found.append(e.op("Div", head, panel.norms[row]))
        if tail is not None:
            b = e.op("Sub", tail, e.op("Mul", panel.within[row], found[-1]))
    return e.op("Concat", *found, axis=1)


def _backward(e: Emitter, panel: Panel, c: ir.Value) -> ir.Value:
    """x (N, p, 1) with R x = c within the panel."""
    size = len(panel)
    parts = e.ops("Split", c, e.ints([1] * size), outputs=size, axis=1) if size > 1 else (c,)
    x = e.op("Div", parts[-1], panel.norms[-1])
    for row in reversed(range(size - 1)):
        known = e.op("ReduceSum", e.op("Mul", panel.within[row], x), e.ints([1]), keepdims=1)
        x = e.op("Concat", e.op("Div", e.op("Sub", parts[row], known), panel.norms[row]), x, axis=1)
    return x


def _split(e: Emitter, a: ir.Value, first: int, rest: int) -> tuple[ir.Value, ir.Value | None]:
    """The first rows of (N, k, l) and the others, None if there are none."""
    if not rest:
        return a, None
    head, tail = e.ops("Split", a, e.ints([first, rest]), outputs=2, axis=1)
    return head, tail


def _turn(e: Emitter, a: ir.Value) -> ir.Value:
    """(N, k, l) → (N, l, k)."""
    return e.op("Transpose", a, perm=[0, 2, 1])
