"""Steps of Gauss–Newton with the Jacobian held, all samples of a batch at once.

In the first phase, from the anchor c, and in the second,

    v ← c + Jᵀ (J Jᵀ + α I)⁻¹ (t − F(v) + J (v − c))          v ← v + Jᵀ (J Jᵀ + λ I)⁻¹ (t − F(v))

The first leads to the solution nearest to c and is not thrown off by saturation or a singular J. J Jᵀ is (m, m);
with fewer unknowns than equations it is JᵀJ (r, r), by Jᵀ(J Jᵀ + αI)⁻¹ = (JᵀJ + αI)⁻¹Jᵀ, and v the least-squares
solution. α and λ are in units of the mean eigenvalue.
Source: as for iteration.py.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton.iteration import Settings, State, advance, initial, length
from onnx_invert.build.newton.linear import solve
from onnx_invert.build.rows import zeros
from onnx_invert.graph.emit import Emitter


class Sized(Protocol):
    """What is iterated over: v (N, size)."""

    @property
    def size(self) -> int:
        """Of v."""
        ...


class Linearised(Protocol):
    """Equations at a point."""

    @property
    def value(self) -> ir.Value:
        """F(v) (N, m)."""
        ...

    def jacobian(self, e: Emitter) -> ir.Value:
        """J (N, m, r)."""
        ...


class Equations(Protocol):
    """What is solved: `outputs` equations F(v) = t."""

    @property
    def outputs(self) -> int:
        """m."""
        ...

    @property
    def coordinates(self) -> Sized:
        """Of v."""
        ...

    def at(self, e: Emitter, v: ir.Value, seeds: int, soft: ir.Value | None = None) -> Linearised:
        """F and J at v (N, r)."""
        ...


def start(
    e: Emitter, objective: Equations, target: ir.Value, settings: Settings, begin: ir.Value | None = None
) -> State:
    """The state before the first step. It keeps t − F(v) (N, m) and J (N, m, r); both are 0 at first, so that the
    first step stays at v and evaluates them there."""
    m, r = objective.outputs, objective.coordinates.size
    extra = (zeros(e, target, after=(m,)), zeros(e, target, after=(m, r)))
    return initial(e, target, r, settings, extra, begin)


def shapes(objective: Equations, samples: int | str, *, soft: bool) -> list[list[int | str]]:
    """The shapes of the state."""
    m, r = objective.outputs, objective.coordinates.size
    return [*State.shapes(samples, r, soft=soft), [samples, m], [samples, m, r]]


def step(
    e: Emitter, objective: Equations, target: ir.Value, norm: ir.Value, state: State, settings: Settings
) -> tuple[State, ir.Value]:
    """One iteration; the new state and, per sample, 1.0 while there is something left to do (N, 1)."""
    trial = e.op("Add", state.v, direction(e, objective, state, careful=settings.careful))
    local = objective.at(e, trial, min(objective.outputs, objective.coordinates.size), state.soft)
    residual = e.op("Sub", target, local.value)
    kept = (residual, local.jacobian(e))
    return advance(e, state, trial, length(e, residual), kept, norm, settings)


def direction(e: Emitter, objective: Equations, state: State, *, careful: bool = False) -> ir.Value:
    """The step (N, r) from the state's v; `careful` as in linear.py."""
    m, r = objective.outputs, objective.coordinates.size
    residual, jacobian = state.extra
    # In units of the mean entry of J, so that squares neither vanish nor overflow.
    top = e.op("Mul", e.op("ReduceSum", e.op("Abs", jacobian), e.ints([1, 2]), keepdims=1), 1 / (m * r))
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
