"""Steps of Gauss–Newton with the Jacobian held, all samples of a batch at once.

In the first phase, from the anchor c, and in the second,

    v ← c + Jᵀ (J Jᵀ + α I)⁻¹ (t − F(v) + J (v − c))          v ← v + Jᵀ (J Jᵀ + λ I)⁻¹ (t − F(v))

The first leads to the solution nearest to c and is not thrown off by saturation or a singular J. J Jᵀ is (m, m);
with fewer unknowns than equations it is JᵀJ (r, r), by Jᵀ(J Jᵀ + αI)⁻¹ = (JᵀJ + αI)⁻¹Jᵀ, and v the least-squares
solution. α and λ are in units of the mean eigenvalue. The second Loop's steps come from J itself (orthogonal.py).
Source: as for iteration.py.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton.iteration import Direction, Equations, Linearised, State
from onnx_invert.build.newton.linear import solve
from onnx_invert.build.newton.orthogonal import factor, least_norm, least_squares
from onnx_invert.graph.emit import Emitter


def direction(objective: Equations, *, careful: bool = False) -> Direction:
    """From J, held for as long as the step takes; `careful` by orthogonalisation, without J Jᵀ.

    J tells singular values down to eps times the largest, and J Jᵀ their squares: half as many digits.
    """
    return Direction(min(objective.outputs, objective.coordinates.size), partial(_emit, careful=careful))


def _emit(
    e: Emitter, objective: Equations, local: Linearised, residual: ir.Value, state: State, *, careful: bool
) -> ir.Value:
    m, r = objective.outputs, objective.coordinates.size
    jacobian = local.jacobian(e)
    # In units of J's entries, so that squares neither vanish nor overflow; their size is that of a product with J.
    probe = np.random.default_rng(r).standard_normal((r, 1)) / r**0.5
    rough = e.op("Abs", e.op("MatMul", jacobian, e.constant(probe, "probe")))
    top = e.op("Mul", e.op("ReduceSum", rough, e.ints([1, 2]), keepdims=1), 1 / m)
    top = e.op("Max", top, float(np.finfo(e.dtype.numpy()).tiny) * 2**20)
    jacobian = e.op("Div", jacobian, top)
    away = e.op("Unsqueeze", e.op("Mul", e.op("Sub", state.v, state.anchor), state.phase), e.ints([2]))
    if (box := objective.coordinates.box) is not None:
        fall = e.op("MatMul", _turn(e, jacobian), e.op("Unsqueeze", residual, e.ints([2])))
        free = e.op("Unsqueeze", box.free(e, state.v, e.op("Squeeze", fall, e.ints([2]))), e.ints([1]))
        jacobian, away = e.op("Mul", jacobian, free), e.op("Mul", away, _turn(e, free))
    right = e.op("Add", e.op("Div", e.op("Unsqueeze", residual, e.ints([2])), top), e.op("MatMul", jacobian, away))
    share = e.op("Unsqueeze", state.damping, e.ints([2]))
    found = (_orthogonal if careful else _normal)(e, jacobian, right, share, m, r)
    return e.op("Squeeze", e.op("Sub", found, away), e.ints([2]))


def _normal(e: Emitter, jacobian: ir.Value, right: ir.Value, share: ir.Value, m: int, r: int) -> ir.Value:
    """Jᵀ (J Jᵀ + share · mean)⁻¹ b (N, r, 1) by elimination; J (N, m, r), b = `right` (N, m, 1), `share` (N, 1, 1)."""
    turned = _turn(e, jacobian)
    size = min(m, r)
    gram = e.op("MatMul", jacobian, turned) if m <= r else e.op("MatMul", turned, jacobian)
    identity = e.constant(np.eye(size)[None], "identity")
    trace = e.op("ReduceSum", e.op("Mul", gram, identity), e.ints([1, 2]), keepdims=1)
    info = np.finfo(e.dtype.numpy())
    mean = e.op("Max", e.op("Mul", trace, 1 / size), float(info.tiny))
    damping = e.op("Mul", mean, e.op("Add", share, float(info.eps)))
    if m > r:
        right = e.op("MatMul", turned, right)
    found = solve(e, e.op("Add", gram, e.op("Mul", identity, damping)), right, size)
    return e.op("MatMul", turned, found) if m <= r else found


def _orthogonal(e: Emitter, jacobian: ir.Value, right: ir.Value, share: ir.Value, m: int, r: int) -> ir.Value:
    """The same by orthogonalisation: s of the least ‖s‖² + ‖w‖² with J s + √λ w = b, or of the least
    ‖J s − b‖² + λ ‖s‖² where there are more equations than unknowns."""
    size = min(m, r)
    info = np.finfo(e.dtype.numpy())
    squares = e.op("ReduceSum", e.op("Mul", jacobian, jacobian), e.ints([1, 2]), keepdims=1)
    # Far above what a square of float32 can hold: λ is a small part of it, and J may be 0.
    mean = e.op("Max", e.op("Mul", squares, 1 / size), float(info.tiny) ** 0.5)
    root = e.op("Sqrt", e.op("Mul", mean, e.op("Add", share, float(info.eps) ** 2)))
    rows = jacobian if m <= r else _turn(e, jacobian)
    damped = e.op("Concat", rows, e.op("Mul", e.constant(np.eye(size)[None], "identity"), root), axis=2)
    panels = factor(e, damped, size)
    if m <= r:
        found = e.op("Slice", least_norm(e, panels, right), e.ints([0]), e.ints([r]), e.ints([2]))
        return _turn(e, found)
    nothing = e.op("Mul", e.op("Slice", right, e.ints([0]), e.ints([r]), e.ints([1])), 0.0)
    return least_squares(e, panels, e.op("Concat", right, nothing, axis=1))


def _turn(e: Emitter, a: ir.Value) -> ir.Value:
    """(N, k, l) → (N, l, k)."""
    return e.op("Transpose", a, perm=[0, 2, 1])
