"""What every iteration does with a step, whoever computed it: accept, damp, give up, start again.

Every sample goes through two phases. In the first, of iteratively regularised Gauss–Newton, every step is taken
while the damping α falls geometrically; in the second, Levenberg–Marquardt's, a step is taken only where the
sample's residual falls, and the damping λ rises where it does not. A sample that stalls far from a solution starts
again from another anchor. The best v ever seen is what comes out, so an iteration after convergence harms nothing.
Source: B. Kaltenbacher, A. Neubauer & O. Scherzer, Iterative Regularization Methods for Nonlinear Ill-Posed
Problems, 2008, chapter 4; J. Nocedal & S. Wright, Numerical Optimization, 2006, 10.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.build.rows import zeros
from onnx_invert.graph.emit import Emitter

FIRST, FALL, LAST = 1.0, 0.1, 1e-6
"""α starts at the mean eigenvalue of J Jᵀ, falls by this factor each step, and ends the first phase here."""

RISE = 10.0
"""By which λ rises where a step did not help."""

PATIENCE = 3
"""Steps without progress until a sample counts as stalled."""

PROGRESS = 0.8
"""A step makes progress if it leaves less than this share of the residual."""


@dataclass(frozen=True)
class Settings:
    """How far and how long: `iterations` at most, `solved` the relative residual of a solution, `floor` that of
    round-off, `anchors` (a, r) where to start again. `huge` stands for the residual of what is not finite."""

    iterations: int
    solved: float
    floor: float
    anchors: NDArray[np.float64]
    huge: float


@dataclass(frozen=True)
class State:
    """What goes round the loop, per sample.

    `v` (N, r) is where the sample is, `anchor` (N, r) where it began, `error` (N, 1) is ‖t − F(v)‖, `damping` α or
    λ, `phase` 1 in the first phase and 0 in the second, `stall` counts steps without progress, `tries` anchors,
    `best` is the best v and `best_error` its error. `extra` is what the method keeps at v beside it.
    """

    v: ir.Value
    anchor: ir.Value
    error: ir.Value
    damping: ir.Value
    phase: ir.Value
    stall: ir.Value
    tries: ir.Value
    best: ir.Value
    best_error: ir.Value
    extra: tuple[ir.Value, ...] = ()

    def flat(self) -> list[ir.Value]:
        """All tensors, in the order of the fields."""
        named = (self.v, self.anchor, self.error, self.damping, self.phase, self.stall, self.tries)
        return [*named, self.best, self.best_error, *self.extra]

    @staticmethod
    def of(values: list[ir.Value]) -> State:
        """Back from `flat`."""
        v, anchor, error, damping, phase, stall, tries, best, best_error, *extra = values
        return State(v, anchor, error, damping, phase, stall, tries, best, best_error, tuple(extra))

    @staticmethod
    def shapes(samples: int | str, r: int) -> list[list[int | str]]:
        """The shapes of `flat`, without those of `extra`."""
        vector, number = [samples, r], [samples, 1]
        return [vector, vector, *[number] * 5, vector, number]


def initial(e: Emitter, like: ir.Value, r: int, huge: float, extra: tuple[ir.Value, ...] = ()) -> State:
    """The state before the first step, for as many samples as `like` has."""
    vector, number = zeros(e, like, after=(r,)), zeros(e, like, after=(1,))
    large = e.op("Add", number, huge)
    damping, phase = e.op("Add", number, FIRST), e.op("Add", number, 1.0)
    return State(vector, vector, large, damping, phase, number, number, vector, large, extra)


def advance(
    e: Emitter,
    state: State,
    trial: ir.Value,
    error: ir.Value,
    extra: tuple[ir.Value, ...],
    norm: ir.Value,
    settings: Settings,
) -> tuple[State, ir.Value]:
    """Take the step to `trial` (N, r), whose error is `error` (N, 1), where it is to be taken.

    `extra` is what the method keeps at the trial, `norm` (N, 1) that of the target. Returns the new state and, per
    sample, 1.0 while there is something left to do (N, 1).
    """
    first = e.op("Greater", state.phase, 0.5)
    finite = e.op("Less", error, settings.huge)
    falls = e.op("Less", error, state.error)
    accept = e.op("Or", e.op("And", first, finite), falls)
    better = e.op("Less", error, state.best_error)
    progress = e.op("Less", error, e.op("Mul", state.best_error, PROGRESS))

    best_error = e.op("Where", better, error, state.best_error)
    factor = e.op("Where", accept, e.scalar(FALL), e.scalar(RISE))
    least = e.op("Where", accept, e.scalar(0.0), e.scalar(LAST))
    damping = e.op("Max", e.op("Mul", state.damping, factor), least)
    over = e.op("Or", e.op("Less", damping, LAST * (1 - FALL)), e.op("Not", finite))
    phase = e.op("Where", e.op("And", first, e.op("Not", over)), e.scalar(1.0), e.scalar(0.0))
    stall = e.op("Where", e.op("Or", first, progress), e.scalar(0.0), e.op("Add", state.stall, 1.0))
    stalled = e.op("Greater", stall, PATIENCE - 0.5)
    after = State(
        v=e.op("Where", accept, trial, state.v),
        anchor=state.anchor,
        error=e.op("Where", accept, error, state.error),
        damping=damping,
        phase=phase,
        stall=stall,
        tries=state.tries,
        best=e.op("Where", better, trial, state.best),
        best_error=best_error,
        extra=tuple(
            e.op("Where", _widened(e, accept, rank), new, old)
            for new, old, rank in zip(extra, state.extra, (2, 3), strict=False)
        ),
    )
    rough = e.op("Greater", best_error, e.op("Mul", norm, settings.floor))
    going = e.op("Not", stalled)
    if len(settings.anchors):
        unsolved = e.op("Greater", best_error, e.op("Mul", norm, settings.solved))
        left = e.op("Less", state.tries, len(settings.anchors) - 0.5)
        again = e.op("And", stalled, e.op("And", unsolved, left))
        after = _restart(e, after, again, settings)
        going = e.op("Or", going, again)
    return after, e.op("Cast", e.op("And", rough, going), to=int(e.dtype))


def _restart(e: Emitter, state: State, again: ir.Value, settings: Settings) -> State:
    """Put the samples of `again` on their next anchor, at the beginning of the first phase."""
    anchor = e.op("Where", again, _next_anchor(e, state.tries, settings.anchors), state.anchor)
    kept = e.op("Where", again, e.scalar(0.0), e.scalar(1.0))
    return replace(
        state,
        v=e.op("Where", again, anchor, state.v),
        anchor=anchor,
        error=e.op("Where", again, e.scalar(settings.huge), state.error),
        damping=e.op("Where", again, e.scalar(FIRST), state.damping),
        phase=e.op("Where", again, e.scalar(1.0), state.phase),
        stall=e.op("Mul", state.stall, kept),
        tries=e.op("Sub", e.op("Add", state.tries, 1.0), kept),
        extra=tuple(
            e.op("Where", _widened(e, again, rank), e.scalar(0.0), value)
            for value, rank in zip(state.extra, (2, 3), strict=False)
        ),
    )


def _widened(e: Emitter, truth: ir.Value, rank: int) -> ir.Value:
    if rank == 2:
        return truth
    wide = e.op("Unsqueeze", truth, e.ints([2]))
    wide.dtype = ir.DataType.BOOL
    return wide


def length(e: Emitter, rows: ir.Value) -> ir.Value:
    """The norm of each row (N, 1), in units of its sum: squares of small numbers are 0."""
    top = e.op("ReduceSum", e.op("Abs", rows), e.ints([1]), keepdims=1)
    top = e.op("Max", top, float(np.finfo(e.dtype.numpy()).tiny))
    unit = e.op("Div", rows, top)
    return e.op("Mul", top, e.op("Sqrt", e.op("ReduceSum", e.op("Mul", unit, unit), e.ints([1]), keepdims=1)))


def _next_anchor(e: Emitter, tries: ir.Value, anchors: NDArray[np.float64]) -> ir.Value:
    """Row `tries` of the anchors, for each sample (N, r)."""
    rows = e.constant(anchors, "anchors")
    if len(anchors) == 1:
        return rows
    index = e.constant(np.arange(len(anchors))[None, :], "index")
    picked = e.op("Cast", e.op("Equal", tries, index), to=int(e.dtype))
    return e.op("MatMul", picked, rows)
