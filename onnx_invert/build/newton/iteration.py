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

SECOND = 1e-2
"""λ where a sample starts with the second phase."""

PROGRESS = 0.8
"""A step makes progress if it leaves less than this share of the residual."""


@dataclass(frozen=True)
class Restarts:
    """Where a sample that stalls starts again, and how; one row for each time.

    It starts from `center` (N, r), 0 if None, plus a row of `offsets` (a, r); with both phases, or where `second`
    (a) is true with the second alone. `soft` (a) is what the slopes of kinks are taken for at least in the beginning,
    and `fade` (a) the factor by which this falls each step; None if they stay what they are.
    """

    offsets: NDArray[np.float64]
    second: NDArray[np.bool_]
    center: ir.Value | None = None
    soft: NDArray[np.float64] | None = None
    fade: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.offsets)


@dataclass(frozen=True)
class Settings:
    """How far and how long: `iterations` at most, `solved` the relative residual of a solution, `floor` that of
    round-off, `patience` steps without progress until a sample counts as stalled, `restarts` what it does then.
    `huge` stands for the residual of what is not finite; `careful` is how linear systems are solved (linear.py)."""

    iterations: int
    solved: float
    floor: float
    patience: int
    restarts: Restarts
    huge: float
    careful: bool = False


@dataclass(frozen=True)
class State:
    """What goes round the loop, per sample.

    `v` (N, r) is where the sample is, `anchor` (N, r) where it began, `error` (N, 1) is ‖t − F(v)‖, `damping` α or
    λ, `phase` 1 in the first phase and 0 in the second, `stall` counts steps without progress, `tries` anchors,
    `best` is the best v and `best_error` its error. `soft` is the least slope of kinks, None where it is not used.
    `extra` is what the method keeps at v beside it.
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
    soft: ir.Value | None = None
    extra: tuple[ir.Value, ...] = ()

    def flat(self) -> list[ir.Value]:
        """All tensors, in the order of the fields."""
        named = (self.v, self.anchor, self.error, self.damping, self.phase, self.stall, self.tries)
        return [*named, self.best, self.best_error, *([] if self.soft is None else [self.soft]), *self.extra]

    @staticmethod
    def of(values: list[ir.Value], *, soft: bool) -> State:
        """Back from `flat`; `soft` says whether there is one."""
        v, anchor, error, damping, phase, stall, tries, best, best_error, *rest = values
        least, extra = (rest[0], rest[1:]) if soft else (None, rest)
        return State(v, anchor, error, damping, phase, stall, tries, best, best_error, least, tuple(extra))

    @staticmethod
    def shapes(samples: int | str, r: int, *, soft: bool) -> list[list[int | str]]:
        """The shapes of `flat`, without those of `extra`."""
        vector, number = [samples, r], [samples, 1]
        return [vector, vector, *[number] * 5, vector, number, *([number] if soft else [])]


def initial(
    e: Emitter,
    like: ir.Value,
    r: int,
    settings: Settings,
    extra: tuple[ir.Value, ...] = (),
    start: ir.Value | None = None,
) -> State:
    """The state before the first step, for as many samples as `like` has; with `start` (N, r) the second phase alone,
    from there."""
    vector, number = zeros(e, like, after=(r,)), zeros(e, like, after=(1,))
    large = e.op("Add", number, settings.huge)
    damping = e.op("Add", number, FIRST if start is None else SECOND)
    phase = e.op("Add", number, 1.0 if start is None else 0.0)
    begin = vector if start is None else start
    soft = None if settings.restarts.soft is None else number
    return State(begin, begin, large, damping, phase, number, number, begin, large, soft, extra)


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
    # Against where the sample is now: what another start has reached says nothing of this one.
    progress = e.op("Less", error, e.op("Mul", state.error, PROGRESS))

    best_error = e.op("Where", better, error, state.best_error)
    factor = e.op("Where", accept, e.scalar(FALL), e.scalar(RISE))
    least = e.op("Where", accept, e.scalar(0.0), e.scalar(LAST))
    damping = e.op("Max", e.op("Mul", state.damping, factor), least)
    over = e.op("Or", e.op("Less", damping, LAST * (1 - FALL)), e.op("Not", finite))
    phase = e.op("Where", e.op("And", first, e.op("Not", over)), e.scalar(1.0), e.scalar(0.0))
    stall = e.op("Where", e.op("Or", first, progress), e.scalar(0.0), e.op("Add", state.stall, 1.0))
    stalled = e.op("Greater", stall, settings.patience - 0.5)
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
        soft=_fade(e, state, settings.restarts),
        extra=tuple(
            e.op("Where", _widened(e, accept, rank), new, old)
            for new, old, rank in zip(extra, state.extra, (2, 3), strict=False)
        ),
    )
    rough = e.op("Greater", best_error, e.op("Mul", norm, settings.floor))
    going = e.op("Not", stalled)
    if len(settings.restarts):
        unsolved = e.op("Greater", best_error, e.op("Mul", norm, settings.solved))
        left = e.op("Less", state.tries, len(settings.restarts) - 0.5)
        again = e.op("And", stalled, e.op("And", unsolved, left))
        after = _restart(e, after, again, settings)
        going = e.op("Or", going, again)
    return after, e.op("Cast", e.op("And", rough, going), to=int(e.dtype))


def _restart(e: Emitter, state: State, again: ir.Value, settings: Settings) -> State:
    """Put the samples of `again` on their next anchor, at the beginning of a phase."""
    restarts = settings.restarts
    offset = _row(e, state.tries, restarts.offsets)
    start = offset if restarts.center is None else e.op("Add", restarts.center, offset)
    anchor = e.op("Where", again, start, state.anchor)
    kept = e.op("Where", again, e.scalar(0.0), e.scalar(1.0))
    phase, damping = e.scalar(1.0), e.scalar(FIRST)
    if restarts.second.any():
        phase = _row(e, state.tries, np.where(restarts.second, 0.0, 1.0).astype(np.float64)[:, None])
        damping = _row(e, state.tries, np.where(restarts.second, SECOND, FIRST).astype(np.float64)[:, None])
    soft = state.soft
    if soft is not None and restarts.soft is not None:
        soft = e.op("Where", again, _row(e, state.tries, restarts.soft[:, None]), soft)
    return replace(
        state,
        v=e.op("Where", again, anchor, state.v),
        anchor=anchor,
        error=e.op("Where", again, e.scalar(settings.huge), state.error),
        damping=e.op("Where", again, damping, state.damping),
        phase=e.op("Where", again, phase, state.phase),
        stall=e.op("Mul", state.stall, kept),
        tries=e.op("Sub", e.op("Add", state.tries, 1.0), kept),
        soft=soft,
        extra=tuple(
            e.op("Where", _widened(e, again, rank), e.scalar(0.0), value)
            for value, rank in zip(state.extra, (2, 3), strict=False)
        ),
    )


def _fade(e: Emitter, state: State, restarts: Restarts) -> ir.Value | None:
    """The least slope of kinks at the next step; `tries` counts the starts so far."""
    if state.soft is None or restarts.fade is None:
        return None
    return e.op("Mul", state.soft, _row(e, e.op("Sub", state.tries, 1.0), restarts.fade[:, None]))


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


def _row(e: Emitter, tries: ir.Value, table: NDArray[np.float64]) -> ir.Value:
    """Row `tries` of a table (a, k), for each sample (N, k)."""
    rows = e.constant(table, "anchors")
    if len(table) == 1:
        return rows
    index = e.constant(np.arange(len(table))[None, :], "index")
    picked = e.op("Cast", e.op("Equal", tries, index), to=int(e.dtype))
    return e.op("MatMul", picked, rows)
