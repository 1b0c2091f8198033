"""Steps of Gauss–Newton with the Jacobian held, all samples of a batch at once.

In the first phase, from the anchor c, and in the second,

    v ← c + Jᵀ (J Jᵀ + α I)⁻¹ (t − F(v) + J (v − c))          v ← v + Jᵀ (J Jᵀ + λ I)⁻¹ (t − F(v))

The first leads to the solution nearest to c and is not thrown off by saturation or a singular J. J Jᵀ is (m, m);
with fewer unknowns than equations it is JᵀJ (r, r), by Jᵀ(J Jᵀ + αI)⁻¹ = (JᵀJ + αI)⁻¹Jᵀ, and v the least-squares
solution. α and λ are in units of the mean eigenvalue.
Source: as for iteration.py.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton.iteration import Direction, Equations, Linearised, State
from onnx_invert.build.newton.linear import solve
from onnx_invert.graph.emit import Emitter


def direction(objective: Equations, *, careful: bool = False) -> Direction:
    """From J, held for as long as the step takes; `careful` as in linear.py."""
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
    turned = e.op("Transpose", jacobian, perm=[0, 2, 1])
    size = min(m, r)
    gram = e.op("MatMul", jacobian, turned) if m <= r else e.op("MatMul", turned, jacobian)
    identity = e.constant(np.eye(size)[None], "identity")
    trace = e.op("ReduceSum", e.op("Mul", gram, identity), e.ints([1, 2]), keepdims=1)
    mean = e.op("Max", e.op("Mul", trace, 1 / size), float(np.finfo(e.dtype.numpy()).tiny))
    least = float(np.finfo(e.dtype.numpy()).eps)
    damping = e.op("Mul", mean, e.op("Add", e.op("Unsqueeze", state.damping, e.ints([2])), least))
    away = e.op("Mul", e.op("Sub", state.v, state.anchor), state.phase)
    column = e.op("Div", e.op("Unsqueeze", residual, e.ints([2])), top)
    right = e.op("Add", column, e.op("MatMul", jacobian, e.op("Unsqueeze", away, e.ints([2]))))
    if m > r:
        right = e.op("MatMul", turned, right)
    system = e.op("Add", gram, e.op("Mul", identity, damping))
    found = solve(e, system, right, size, careful=careful)
    if m <= r:
        found = e.op("MatMul", turned, found)
    return e.op("Sub", e.op("Squeeze", found, e.ints([2])), away)
