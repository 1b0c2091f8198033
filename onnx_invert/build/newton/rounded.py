"""Steps of Gauss–Newton on equations whose kinks are rounded off, at a width that falls from step to step.

Since F changes, it and J are evaluated at the state's v in every step, and nothing is kept. A step is taken where it
helps at the present width; what is remembered as the best is so by the true equations.
Source: as for smoothing.py.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from onnx_invert.build.newton import dense, krylov
from onnx_invert.build.newton.iteration import Settings, State, advance, initial, length
from onnx_invert.build.newton.objective import Objective
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.newton import LARGEST_DENSE


def start(
    e: Emitter, objective: Objective, target: ir.Value, settings: Settings, begin: ir.Value | None = None
) -> State:
    """The state before the first step."""
    return initial(e, target, objective.coordinates.size, settings, start=begin)


def shapes(objective: Objective, samples: int | str) -> list[list[int | str]]:
    """The shapes of the state."""
    return State.shapes(samples, objective.coordinates.size, soft=True)


def step(
    e: Emitter, objective: Objective, target: ir.Value, norm: ir.Value, state: State, settings: Settings
) -> tuple[State, ir.Value]:
    """One iteration; the new state and, per sample, 1.0 while there is something left to do (N, 1)."""
    held = min(objective.outputs, objective.coordinates.size) <= LARGEST_DENSE
    seeds = min(objective.outputs, objective.coordinates.size) if held else 1
    local = objective.at(e, state.v, seeds, state.soft)
    residual = e.op("Sub", target, local.value)
    if held:
        along = dense.direction(e, objective, state, residual, local.jacobian(e), careful=settings.careful)
    else:
        along = krylov.direction(e, objective, local, residual, state)
    trial = e.op("Add", state.v, along)
    error = length(e, e.op("Sub", target, objective.value(e, trial, state.soft)))
    true = length(e, e.op("Sub", target, objective.value(e, trial)))
    return advance(e, replace(state, error=length(e, residual)), trial, error, (), norm, settings, true)
