"""Steps of Gauss–Newton with the Jacobian held, all samples of a batch at once.

In the first phase, from the anchor c, and in the second,

    v ← c + Jᵀ (J Jᵀ + α I)⁻¹ (t − F(v) + J (v − c))          v ← v + Jᵀ (J Jᵀ + λ I)⁻¹ (t − F(v))

The first leads to the solution nearest to c and is not thrown off by saturation or a singular J. J Jᵀ is (m, m);
with fewer unknowns than equations it is JᵀJ (r, r), by Jᵀ(J Jᵀ + αI)⁻¹ = (JᵀJ + αI)⁻¹Jᵀ, and v the least-squares
solution. α and λ are in units of the mean eigenvalue.
Source: as for iteration.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton.iteration import Direction, Equations, Linearised, State
from onnx_invert.build.newton.linear import solve
from onnx_invert.graph.emit import Emitter


def direction(objective: Equations, *, careful: bool = False) -> Direction:
    """From J, held for as long as the step takes; `careful` as in linear.py, and the system formed in float64.

    J in float32 tells singular values down to 1e-7 of the largest, and J Jᵀ in float32 their squares: half as many
    digits. No node of the model is evaluated in float64, for which runtimes lack kernels.
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
    away = e.op("Mul", e.op("Sub", state.v, state.anchor), state.phase)
    column = e.op("Div", e.op("Unsqueeze", residual, e.ints([2])), top)
    local_system = _Linear(e.op("Div", jacobian, top), column, away, state.damping)
    least = float(np.finfo(e.dtype.numpy()).eps)
    if not careful or e.dtype == ir.DataType.DOUBLE:
        return _solve(e, local_system, m, r, least, careful=careful)
    with e.scope(e.scope_name, ir.DataType.DOUBLE):
        found = _solve(e, local_system.cast(e), m, r, least**2, careful=careful)
    return e.op("Cast", found, to=int(e.dtype))


@dataclass(frozen=True)
class _Linear:
    """What a step follows from: `jacobian` (N, m, r), `residual` t − F(v) (N, m, 1) in the same units, `away` v − c
    (N, r) or 0, and `share` (N, 1), α or λ."""

    jacobian: ir.Value
    residual: ir.Value
    away: ir.Value
    share: ir.Value

    def cast(self, e: Emitter) -> _Linear:
        """In the current type."""
        values = (self.jacobian, self.residual, self.away, self.share)
        return _Linear(*(e.op("Cast", value, to=int(e.dtype)) for value in values))


def _solve(e: Emitter, local: _Linear, m: int, r: int, least: float, *, careful: bool) -> ir.Value:
    """The step (N, r); α or λ is taken for `least` more than it is, so that a singular J has one."""
    jacobian = local.jacobian
    turned = e.op("Transpose", jacobian, perm=[0, 2, 1])
    size = min(m, r)
    gram = e.op("MatMul", jacobian, turned) if m <= r else e.op("MatMul", turned, jacobian)
    identity = e.constant(np.eye(size)[None], "identity")
    trace = e.op("ReduceSum", e.op("Mul", gram, identity), e.ints([1, 2]), keepdims=1)
    mean = e.op("Max", e.op("Mul", trace, 1 / size), float(np.finfo(e.dtype.numpy()).tiny))
    damping = e.op("Mul", mean, e.op("Add", e.op("Unsqueeze", local.share, e.ints([2])), least))
    right = e.op("Add", local.residual, e.op("MatMul", jacobian, e.op("Unsqueeze", local.away, e.ints([2]))))
    if m > r:
        right = e.op("MatMul", turned, right)
    system = e.op("Add", gram, e.op("Mul", identity, damping))
    found = solve(e, system, right, size, careful=careful)
    if m <= r:
        found = e.op("MatMul", turned, found)
    return e.op("Sub", e.op("Squeeze", found, e.ints([2])), local.away)
