"""x = φ(x, y) by sweeps: exact after as many as there are steps in a triangular order, or a contraction's limit.

The sweeps of a contraction, x ← φ(x) with the factor L < 1, are accelerated, sample by sample, by Anderson's method:
with f = φ(x) − x and the last three differences Δf and Δφ, the next x is φ(x) − Δφ γ, γ the least squares solution
of Δf γ = f. The plain sweeps have ‖fₖ‖ ≤ Lᵏ ‖f₀‖. A point that does not keep to this is thrown away, and the sample
goes on by plain sweeps from where it was: at most one sweep more than without.
Source: H. Walker & P. Ni, Anderson acceleration for fixed-point iterations, SIAM J. Numerical Analysis 49 (2011).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton.iteration import length
from onnx_invert.build.newton.linear import solve
from onnx_invert.build.newton.loop import count_through, iterate
from onnx_invert.build.system.pieces import Piece, masked
from onnx_invert.build.system.root import probe, roots
from onnx_invert.build.system.selection import Selection
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.steps import Root, Sweep

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation

Map = Callable[[Emitter, ir.Value], ir.Value]

WRITTEN_OUT = 3
"""Up to as many sweeps are written out one after the other: a Loop gains nothing."""

MOST = 1000
"""Sweeps of a contraction."""

MEMORY = 3
"""Differences that the acceleration looks back at."""


def sweep(r: Realisation, step: Sweep) -> ir.Value:
    """x in the elements of `step.mask`; no number where y is none, or infinite."""
    e, dtype = r.e, step.x.dtype or r.e.dtype
    with e.scope(f"sweep/{step.name}", dtype):
        target = r.read(step.y)
        r.settle(step.nodes, step.x)
        known = r.read(step.x) if step.x in r.pieces else None
        nothing = e.op("Mul", target, 0.0)
        start = _finite(e, nothing if step.rounds is not None else target)
        if known is not None:
            start = e.op("Where", r.mask_of(step.mask), start, known)
        shape = [dim if isinstance(dim, int) else str(dim.value) for dim in step.x.shape or ()]
        eps = float(np.finfo(dtype.numpy()).eps)

        last = step.inner[-1]

        def once(
            b: Emitter, before: ir.Value, missed: ir.Value | None, selection: Selection | None = None
        ) -> list[ir.Value]:
            """x after one sweep, and where a root was not reached, if it ends in one."""
            inside = r.inside(b, step.name, dict.fromkeys(step.frozen, before))
            if known is not None:
                inside.put(step.x, Piece(known, mask=~step.mask))
            if missed is None or not isinstance(last, Root):
                inside.run(step.inner)
                with b.scope(b.scope_name, dtype):
                    return [_finite(b, inside.read(step.x))]
            inside.run(step.inner[:-1])
            x, without = roots(inside, last, selection)
            with b.scope(b.scope_name, dtype):
                x = _finite(b, x)
                if selection is not None:
                    return [selection.spread(b, x, before), selection.spread(b, without, missed)]
                inside.put(step.x, masked(x, last.mask))
                return [inside.read(step.x), without]

        most = sweeps(step, eps)
        unroll = r.unroll is not None or (step.rounds is not None and step.rounds <= WRITTEN_OUT)
        sizes = [dim for dim in shape[1:] if isinstance(dim, int)]
        if step.contraction and step.by_sample and not unroll and shape and len(sizes) + 1 == len(shape):
            x = _accelerated(e, lambda b, x: once(b, x, None)[0], start, shape[0], sizes, step.contraction, most)
            return e.op("Add", x, nothing)
        begin = [start, e.op("Mul", start, 0.0)] if isinstance(last, Root) else [start]

        def body(b: Emitter, state: list[ir.Value], count: ir.Value) -> tuple[list[ir.Value], ir.Value]:
            missed = state[1] if len(state) > 1 else None
            if step.cut is not None:
                # Each sweep finds what no other does.
                left = b.op("Less", count, b.count(most - 1))
                return once(b, state[0], missed, Selection.of(b, step.cut, count)), b.cast(left, dtype)
            after = once(b, state[0], missed)
            moved = b.op("Abs", b.op("Sub", after[0], state[0]))
            slack = b.op("Mul", b.op("Abs", after[0]), 2 * eps)
            return after, b.cast(b.op("Greater", moved, slack), dtype)

        x, *missed = count_through(e, begin, [shape] * len(begin), body, most=most, unroll=unroll)
        if missed and r.outer is None:
            r.probes.append(probe(step, missed[0]))
        return e.op("Add", x, nothing)


def _accelerated(
    e: Emitter, once: Map, start: ir.Value, samples: int | str, sizes: list[int], factor: float, most: int
) -> ir.Value:
    """The limit of x ← once(x) from `start`; every sample has `sizes` numbers."""
    n = math.prod(sizes)
    m = min(MEMORY, n)
    eps = float(np.finfo(e.dtype.numpy()).eps)

    def rows(b: Emitter, x: ir.Value) -> ir.Value:
        return b.op("Reshape", once(b, b.op("Reshape", x, b.ints([-1, *sizes]))), b.ints([-1, n]))

    first = e.op("Reshape", start, e.ints([-1, n]))
    g = rows(e, first)
    f = e.op("Sub", g, first)
    size = length(e, f)
    empty = e.op("Mul", e.op("Unsqueeze", f, e.ints([1])), e.constant(np.zeros((1, m, 1)), "empty"))
    flag = e.op("Add", e.op("Mul", size, 0.0), 1.0)
    # g, f: φ(x) and φ(x) − x where x was taken last; then where to go next, Δf, Δφ, the bound of ‖f‖, and 1 while
    # the sample is accelerated.
    state = [g, f, g, empty, empty, e.op("Mul", size, factor), flag]
    vector, block, number = [samples, n], [samples, m, n], [samples, 1]

    def body(b: Emitter, state: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        g, f, x, df, dg, limit, fast = state
        new_g = rows(b, x)
        new_f = b.op("Sub", new_g, x)
        size, scale = length(b, new_f), length(b, new_g)
        floor = b.op("Mul", scale, 4 * eps)
        kept = b.op("Or", b.op("LessOrEqual", size, b.op("Max", limit, floor)), b.op("Less", fast, 0.5))
        wide = b.op("Unsqueeze", kept, b.ints([2]))
        wide.dtype = ir.DataType.BOOL
        df, dg = (
            b.op("Where", wide, _shifted(b, old, b.op("Sub", new, last), m), old)
            for old, new, last in ((df, new_f, f), (dg, new_g, g))
        )
        fast = b.op("Where", kept, fast, b.scalar(0.0))
        g, f = b.op("Where", kept, new_g, g), b.op("Where", kept, new_f, f)
        limit = b.op("Where", kept, b.op("Mul", limit, factor), limit)
        x = b.op("Sub", g, b.op("Mul", _ahead(b, f, df, dg, m), fast))
        busy = b.op("Or", b.op("Not", kept), b.op("Greater", size, b.op("Mul", scale, 2 * eps)))
        return [g, f, x, df, dg, limit, fast], b.cast(busy)

    shapes = [vector, vector, vector, block, block, number, number]
    g, *_ = iterate(e, state, shapes, body, most=most + 1, unroll=False)
    return e.op("Reshape", g, e.ints([-1, *sizes]))


def _shifted(b: Emitter, old: ir.Value, new: ir.Value, m: int) -> ir.Value:
    """The last m rows, the new one at the end."""
    row = b.op("Unsqueeze", new, b.ints([1]))
    if m == 1:
        return row
    return b.op("Concat", b.op("Slice", old, b.ints([1]), b.ints([m]), b.ints([1])), row, axis=1)


def _ahead(b: Emitter, f: ir.Value, df: ir.Value, dg: ir.Value, m: int) -> ir.Value:
    """Δφ γ (N, n) with Δf γ ≈ f in the sense of least squares, a little damped; 0 where f or Δf is."""
    eps = float(np.finfo(b.dtype.numpy()).eps)
    tiny = float(np.finfo(b.dtype.numpy()).tiny)
    # In units of the sum of Δf, so that squares neither vanish nor overflow.
    top = b.op("Max", b.op("ReduceSum", b.op("Abs", df), b.ints([1, 2]), keepdims=1), tiny * 2**20)
    df = b.op("Div", df, top)
    column = b.op("Div", b.op("Unsqueeze", f, b.ints([2])), top)
    gram = b.op("MatMul", df, b.op("Transpose", df, perm=[0, 2, 1]))
    identity = b.constant(np.eye(m)[None], "identity")
    trace = b.op("ReduceSum", b.op("Mul", gram, identity), b.ints([1, 2]), keepdims=1)
    damping = b.op("Add", b.op("Mul", trace, 8 * eps), eps * eps)
    gamma = solve(b, b.op("Add", gram, b.op("Mul", identity, damping)), b.op("MatMul", df, column), m)
    ahead = b.op("MatMul", b.op("Transpose", dg, perm=[0, 2, 1]), gamma)
    return b.op("Squeeze", ahead, b.ints([2]))


def sweeps(step: Sweep, eps: float) -> int:
    """How many are needed at most."""
    if step.rounds is not None:
        return step.rounds
    factor = step.contraction or 0.5
    return min(MOST, 2 + math.ceil(math.log(eps / 4) / math.log(factor))) if factor > 0 else 2


def _finite(b: Emitter, value: ir.Value) -> ir.Value:
    """0 where the value is not finite: what is not settled yet must not spoil what is, through 0 · ∞."""
    top = float(np.finfo(b.dtype.numpy()).max) / 4
    return b.op("Where", b.op("Less", b.op("Abs", value), top), value, b.scalar(0.0))
