"""Steps of Gauss–Newton from products with the Jacobian alone, where both sides are too large to hold it.

The system of dense.py is solved by conjugate gradients, on J Jᵀ + αI or JᵀJ + αI, whichever is smaller: each of
its steps takes one product with J and one with Jᵀ. It stops when every sample's system is solved to `FORCING`;
Gauss–Newton corrects the rest in its next step.
Source: R. Dembo, S. Eisenstat & T. Steihaug, Inexact Newton Methods, SIAM J. Numer. Anal. 19, 1982; M. Hutchinson,
A stochastic estimator of the trace, 1990.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton.iteration import Direction, State
from onnx_invert.build.newton.loop import iterate
from onnx_invert.build.newton.objective import Local, Objective
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.newton import MOST_PRODUCTS
from onnx_invert.rules.differential import Linear

FORCING = 1e-3
"""The relative residual to which a linear system is solved: each Gauss–Newton step then gains up to three digits."""


def direction() -> Direction:
    """From products with J, one tangent at a time."""
    return Direction(1, _emit)


def _emit(e: Emitter, objective: Objective, local: Local, residual: ir.Value, state: State) -> ir.Value:
    m, r = objective.outputs, objective.coordinates.size
    wide = m <= r

    free: ir.Value | None = None

    def push(b: Emitter, v: ir.Value) -> ir.Value:
        moved = v if free is None else b.op("Mul", v, free)
        return b.op("Squeeze", local.push(b, b.op("Unsqueeze", moved, b.ints([0]))), b.ints([0]))

    def pull(b: Emitter, y: ir.Value) -> ir.Value:
        found = b.op("Squeeze", local.pull(b, b.op("Unsqueeze", y, b.ints([0]))), b.ints([0]))
        return found if free is None else b.op("Mul", found, free)

    away = e.op("Mul", e.op("Sub", state.v, state.anchor), state.phase)
    if (box := objective.coordinates.box) is not None:
        free = box.free(e, state.v, pull(e, residual))
        away = e.op("Mul", away, free)
    right = e.op("Add", residual, push(e, away))
    if not wide:
        right = pull(e, right)
    damping = e.op("Mul", _mean_eigenvalue(e, pull, m, min(m, r), like=residual), state.damping)

    def product(b: Emitter, p: ir.Value) -> ir.Value:
        q = push(b, pull(b, p)) if wide else pull(b, push(b, p))
        return b.op("Add", q, b.op("Mul", p, damping))

    found = _conjugate_gradients(e, product, right, min(m, r))
    if wide:
        found = pull(e, found)
    return e.op("Sub", found, away)


def _mean_eigenvalue(e: Emitter, pull: Linear, m: int, size: int, *, like: ir.Value) -> ir.Value:
    """The trace of J Jᵀ over its size, estimated from ‖Jᵀu‖² for one u of random signs (N, 1)."""
    signs = e.constant(np.random.default_rng(m).choice([-1.0, 1.0], (1, m)), "signs")
    u = e.op("Add", e.op("Mul", like, 0.0), signs)
    return e.op("Mul", _dot(e, *[pull(e, u)] * 2), 1 / size)


def _conjugate_gradients(e: Emitter, product: Linear, right: ir.Value, size: int) -> ir.Value:
    """z (N, k) with product(z) = right."""
    tiny = float(np.finfo(e.dtype.numpy()).tiny)
    goal = e.op("Mul", _dot(e, right, right), FORCING**2)
    zero = e.op("Mul", right, 0.0)

    def body(b: Emitter, values: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
        z, rest, p = values
        q = product(b, p)
        square = _dot(b, rest, rest)
        rate = b.op("Div", square, b.op("Max", _dot(b, p, q), tiny))
        z = b.op("Add", z, b.op("Mul", p, rate))
        rest = b.op("Sub", rest, b.op("Mul", q, rate))
        after = _dot(b, rest, rest)
        p = b.op("Add", rest, b.op("Mul", p, b.op("Div", after, b.op("Max", square, tiny))))
        busy = b.cast(b.op("Greater", after, goal))
        return [z, rest, p], busy

    samples = "samples"
    shape: list[int | str] = [samples, size]
    return iterate(e, [zero, right, right], [shape] * 3, body, most=min(MOST_PRODUCTS, 2 * size), unroll=False)[0]


def _dot(e: Emitter, a: ir.Value, b: ir.Value) -> ir.Value:
    return e.op("ReduceSum", e.op("Mul", a, b), e.ints([1]), keepdims=1)
