"""What every iteration does with a step, whoever computed it: accept, damp, give up, start again.

Every sample goes through two phases. In the first, of iteratively regularised Gauss–Newton, every step is taken
while the damping α falls geometrically; in the second, Levenberg–Marquardt's, a step is taken only where the
sample's residual falls, and the damping λ rises where it does not. A sample that stalls far from a solution starts
again from another anchor. The best v ever seen is what comes out, so an iteration after convergence harms nothing.
Source: B. Kaltenbacher, A. Neubauer & O. Scherzer, Iterative Regularization Methods for Nonlinear Ill-Posed
Problems, 2008, chapter 4; J. Nocedal & S. Wright, Numerical Optimization, 2006, 10.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.build.newton.box import Box
from onnx_invert.build.rows import zeros
from onnx_invert.graph.emit import Emitter

FIRST, FADE, LAST = 1.0, 0.01, 1e-6
"""α starts at the mean eigenvalue of J Jᵀ, falls by this factor each step, and ends the first phase here."""

FALL, RISE = 0.1, 10.0
"""By which λ falls where a step helped and rises where it did not, unless the settings have others."""

SECOND = 1e-2
"""λ where a sample starts with the second phase."""

PROGRESS = 0.8
"""A step makes progress if it leaves less than this share of the residual."""


@dataclass(frozen=True)
class Restarts:
    """Where a sample that stalls starts again, and how; one row for each time.

    It starts from `center` (N, r), 0 if None, plus a row of `offsets` (a, r); with both phases, or where `second`
    (a) is true with the second alone. `width` (a) is that by which kinks are rounded off in the beginning; None if
    they stay what they are. Where `paired` (a) is true it starts from the next of `own` (N, k, r) instead of the
    center, and where `onwards` (a) is true from the best that it has found.
    """

    offsets: NDArray[np.float64]
    second: NDArray[np.bool_]
    center: ir.Value | None = None
    width: NDArray[np.float64] | None = None
    own: ir.Value | None = None
    paired: NDArray[np.bool_] | None = None
    onwards: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    def from_origin(self, count: int) -> Restarts:
        """The first `count` of them behind one without an offset."""
        offsets = np.concatenate([0 * self.offsets[:1], self.offsets])
        return replace(self, offsets=offsets[:count], second=self.second[:count])

    def of(self, e: Emitter, rows: ir.Value) -> Restarts:
        """The same for some of the samples alone, whose indices are `rows` (K)."""
        center, own = (None if v is None else e.op("Gather", v, rows, axis=0) for v in (self.center, self.own))
        return replace(self, center=center, own=own)


SHARPEN, SHARP = 0.93, 1e-3
"""By which the width falls with every step that is taken, and below which it is 0."""


@dataclass(frozen=True)
class Settings:
    """How far and how long: `iterations` at most, `solved` the relative residual of a solution, `floor` that of
    round-off, `patience` steps without progress until a sample counts as stalled, `restarts` what it does then.
    From `near` on, a relative residual too, one such step ends it. α falls by `fade` each step, λ by `fall` with one
    that helps, and rises by `rise` with one that does not. `huge` stands for the residual of what is not finite.
    """

    iterations: int
    solved: float
    floor: float
    near: float
    patience: int
    restarts: Restarts
    huge: float
    fade: float = FADE
    fall: float = FALL
    rise: float = RISE
    progress: float = PROGRESS


@dataclass(frozen=True)
class State:
    """What goes round the loop, per sample.

    `v` (N, r) is where the sample is, `anchor` (N, r) where it began, `damping` α or λ, `phase` 1 in the first phase
    and 0 in the second, `stall` counts steps without progress, `tries` anchors, `best` is the best v and `best_error`
    (N, 1) is ‖t − F‖ there. `width` (N, 1) is that by which kinks are rounded off, None where they never are.
    """

    v: ir.Value
    anchor: ir.Value
    damping: ir.Value
    phase: ir.Value
    stall: ir.Value
    tries: ir.Value
    best: ir.Value
    best_error: ir.Value
    width: ir.Value | None = None

    def flat(self) -> list[ir.Value]:
        """All tensors, in the order of the fields."""
        named = (self.v, self.anchor, self.damping, self.phase, self.stall, self.tries, self.best, self.best_error)
        return [*named, *([] if self.width is None else [self.width])]

    @staticmethod
    def shapes(samples: int | str, r: int, *, rounding: bool) -> list[list[int | str]]:
        """The shapes of `flat`."""
        vector, number = [samples, r], [samples, 1]
        return [vector, vector, *[number] * 4, vector, number, *([number] if rounding else [])]


class Sized(Protocol):
    """What is iterated over: v (N, size)."""

    @property
    def size(self) -> int:
        """Of v."""
        ...

    @property
    def box(self) -> Box | None:
        """Within which v stays."""
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

    def at(self, e: Emitter, v: ir.Value, seeds: int, width: ir.Value | None = None) -> Linearised:
        """F and J at v (N, r); `width` (N, 1) is that by which kinks are rounded off."""
        ...

    def value(self, e: Emitter, v: ir.Value, width: ir.Value | None = None) -> ir.Value:
        """F(v) (N, m) alone."""
        ...


@dataclass(frozen=True)
class Trial:
    """Where a step goes: `v` (N, r), its `error` (N, 1), and the `plain` one (N, 1), with kinks as they are."""

    v: ir.Value
    error: ir.Value
    plain: ir.Value


@dataclass(frozen=True)
class Direction:
    """Emits the step (N, r) from the state's v, given the equations, what they are there, t − F(v) (N, m) and the
    state; `seeds` tangents go together in it."""

    seeds: int
    emit: Callable[[Emitter, Any, Any, ir.Value, State], ir.Value]


def initial(
    e: Emitter, like: ir.Value, r: int, settings: Settings, begin: tuple[ir.Value, ir.Value] | None = None
) -> State:
    """The state before the first step, for as many samples as `like` has; with `begin`, a v (N, r) and its error
    (N, 1), the second phase alone, from there."""
    number = zeros(e, like, after=(1,))
    phase, damping = (1.0, FIRST) if begin is None else (0.0, SECOND)
    v, error = begin or (zeros(e, like, after=(r,)), e.op("Add", number, settings.huge))
    width = None if settings.restarts.width is None else number
    return State(
        v=v,
        anchor=v,
        damping=e.op("Add", number, damping),
        phase=e.op("Add", number, phase),
        stall=number,
        tries=number,
        best=v,
        best_error=error,
        width=width,
    )


def step(
    e: Emitter,
    objective: Equations,
    direction: Direction,
    target: ir.Value,
    norm: ir.Value,
    state: State,
    settings: Settings,
) -> tuple[State, ir.Value]:
    """One iteration, towards `target` (N, m) of norm `norm` (N, 1): F is linearised at v and tried after the step.

    To run F twice costs less than to carry its Jacobian to the next iteration for those that do not move. Where kinks
    are rounded off, it is those equations that steps are taken by; the best v is that of the equations as they are.
    Returns the new state and, per sample, 1.0 while there is something left to do (N, 1).
    """
    local = objective.at(e, state.v, direction.seeds, state.width)
    residual = e.op("Sub", target, local.value)
    trial = e.op("Add", state.v, direction.emit(e, objective, local, residual, state))
    if (box := objective.coordinates.box) is not None:
        trial = box.hold(e, trial)
    error = plain = length(e, e.op("Sub", target, objective.value(e, trial)))
    if state.width is not None:
        error = length(e, e.op("Sub", target, objective.value(e, trial, state.width)))
    return _advance(e, state, Trial(trial, error, plain), length(e, residual), norm, settings)


def _advance(
    e: Emitter,
    state: State,
    trial: Trial,
    now: ir.Value,
    norm: ir.Value,
    settings: Settings,
) -> tuple[State, ir.Value]:
    """Take the step to `trial` where it is to be taken, from the error `now` (N, 1)."""
    error = trial.error
    first = e.op("Greater", state.phase, 0.5)
    finite = e.op("Less", error, settings.huge)
    falls = e.op("Less", error, now)
    accept = e.op("Or", e.op("And", first, finite), falls)
    better = e.op("Less", trial.plain, state.best_error)
    # Against where the sample is now: what another start has reached says nothing of this one.
    progress = e.op("Less", error, e.op("Mul", now, settings.progress))

    best_error = e.op("Where", better, trial.plain, state.best_error)
    falling = e.op("Where", first, e.scalar(settings.fade), e.scalar(settings.fall))
    factor = e.op("Where", accept, falling, e.scalar(settings.rise))
    least = e.op("Where", accept, e.scalar(0.0), e.scalar(LAST))
    damping = e.op("Max", e.op("Mul", state.damping, factor), least)
    over = e.op("Or", e.op("Less", damping, 0.9 * LAST), e.op("Not", finite))
    phase = e.op("Where", e.op("And", first, e.op("Not", over)), e.scalar(1.0), e.scalar(0.0))
    moving = e.op("Or", first, progress)
    if state.width is not None:
        # Its equations get sharper with every such step, and what that adds to the residual is no lack of progress.
        moving = e.op("Or", moving, e.op("And", accept, e.op("Greater", state.width, 0.0)))
    stall = e.op("Where", moving, e.scalar(0.0), e.op("Add", state.stall, 1.0))
    after = State(
        v=e.op("Where", accept, trial.v, state.v),
        anchor=state.anchor,
        damping=damping,
        phase=phase,
        stall=stall,
        tries=state.tries,
        best=e.op("Where", better, trial.v, state.best),
        best_error=best_error,
        width=_sharpen(e, state.width, accept),
    )
    if len(settings.restarts):
        unsolved = e.op("Greater", best_error, e.op("Mul", norm, settings.solved))
        left = e.op("Less", state.tries, len(settings.restarts) - 0.5)
        again = e.op("And", _stalled(e, after, norm, settings), e.op("And", unsolved, left))
        after = _restart(e, after, again, settings)
    return after, e.cast(busy(e, after, norm, settings))


def busy(e: Emitter, state: State, norm: ir.Value, settings: Settings) -> ir.Value:
    """True where a sample is above round-off and may get further (N, 1)."""
    rough = e.op("Greater", state.best_error, e.op("Mul", norm, settings.floor))
    return e.op("And", rough, e.op("Not", _stalled(e, state, norm, settings)))


def _stalled(e: Emitter, state: State, norm: ir.Value, settings: Settings) -> ir.Value:
    """True where a sample has made no progress for long enough (N, 1)."""
    far = e.op("Greater", state.best_error, e.op("Mul", norm, settings.near))
    return e.op("Greater", state.stall, e.op("Where", far, e.scalar(settings.patience - 0.5), e.scalar(0.5)))


def _restart(e: Emitter, state: State, again: ir.Value, settings: Settings) -> State:
    """Put the samples of `again` on their next anchor, at the beginning of a phase."""
    restarts = settings.restarts
    start = _start(e, state, restarts)
    if restarts.onwards is not None and restarts.onwards.any():
        on = e.op("Greater", _row(e, state.tries, restarts.onwards.astype(np.float64)[:, None]), 0.5)
        start = e.op("Where", on, state.best, start)
    anchor = e.op("Where", again, start, state.anchor)
    kept = e.op("Where", again, e.scalar(0.0), e.scalar(1.0))
    phase, damping = e.scalar(1.0), e.scalar(FIRST)
    if restarts.second.any():
        phase = _row(e, state.tries, np.where(restarts.second, 0.0, 1.0).astype(np.float64)[:, None])
        damping = _row(e, state.tries, np.where(restarts.second, SECOND, FIRST).astype(np.float64)[:, None])
    width = state.width
    if width is not None and restarts.width is not None:
        width = e.op("Where", again, _row(e, state.tries, restarts.width[:, None]), width)
    return replace(
        state,
        v=e.op("Where", again, anchor, state.v),
        anchor=anchor,
        damping=e.op("Where", again, damping, state.damping),
        phase=e.op("Where", again, phase, state.phase),
        stall=e.op("Mul", state.stall, kept),
        tries=e.op("Sub", e.op("Add", state.tries, 1.0), kept),
        width=width,
    )


def _start(e: Emitter, state: State, restarts: Restarts) -> ir.Value:
    """Where each sample starts next (N, r)."""
    offset = _row(e, state.tries, restarts.offsets)
    center = restarts.center
    if center is None:
        return offset
    if restarts.own is None or restarts.paired is None:
        return e.op("Add", center, offset)
    others = e.op("Mul", center, _row(e, state.tries, np.where(restarts.paired, 0.0, 1.0)[:, None]))
    count = int(restarts.paired.sum())
    which = np.zeros((len(restarts), count))
    which[restarts.paired] = np.eye(count)
    picked = e.op("MatMul", e.op("Unsqueeze", _row(e, state.tries, which), e.ints([1])), restarts.own)
    return e.op("Add", e.op("Add", others, offset), e.op("Squeeze", picked, e.ints([1])))


def _sharpen(e: Emitter, width: ir.Value | None, accept: ir.Value) -> ir.Value | None:
    """The width of the next step: what is not solved at one is no beginning for the next."""
    if width is None:
        return None
    less = e.op("Mul", width, e.op("Where", accept, e.scalar(SHARPEN), e.scalar(1.0)))
    return e.op("Where", e.op("Less", less, SHARP), e.scalar(0.0), less)


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
    picked = e.cast(e.op("Equal", tries, index))
    return e.op("MatMul", picked, rows)
