"""One system of equations solved in Loops: all samples by the plain iteration, and those that it leaves once more.

The plain iteration is written twice: once for the batch, until few samples are left in it, and once for these alone,
who go on from where they are. A slow sample does not take the others through its iterations. The second Loop proper
takes the unsolved samples alone, so that it costs next to nothing where there are none; it is there only where starts
were fitted for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton import dense, krylov
from onnx_invert.build.newton.iteration import Direction, Restarts, Settings, State, busy, initial, length, step
from onnx_invert.build.newton.loop import iterate
from onnx_invert.build.newton.objective import Objective
from onnx_invert.build.newton.part import Part
from onnx_invert.build.newton.unknowns import Unknowns
from onnx_invert.errors import UsageError
from onnx_invert.graph.emit import Emitter
from onnx_invert.numerics.start import Start
from onnx_invert.numerics.tolerance import eps
from onnx_invert.plan.batch import Batch
from onnx_invert.plan.newton import System

PATIENCE, LONG_PATIENCE = 3, 8
"""Steps without progress until a sample counts as stalled; the longer one in the second Loop."""

ROUND_OFF, NEAR = 2.0, 8.0
"""In units of eps: below the first a residual has nothing left to gain, below the second little."""

SLOWLY = 0.1
"""By which α falls in the second Loop, each step."""

FEW = 0.25
"""When no more than this part of a batch is left, it goes on alone: to be taken out costs a part of an iteration."""

RESCUE_ITERATIONS = 2880
"""Of the second Loop at most: 96 starts."""

EASE, TIGHTEN = 0.3, 4.0
"""By which λ falls and rises in the second Loop: in smaller steps, of which fewer are in vain."""

MARGIN = 0.5
"""Of the residual of a solution, below which the second Loop takes a sample for solved: the direction of what is left
changes, and with it the share that its units make of y's own."""

LEAST_SHARE = 0.05
"""Of an error in y's own units: the second Loop asks for no less than this part of it."""

STEADY = 0.999
"""Where a least residual is looked for that is not 0 a step makes progress if it leaves less than this share of it."""

MORE = 3
"""Starts of such a sample after the first, where there may be several least residuals."""


@dataclass(frozen=True)
class Solver:
    """What solves one system, for `unknowns`. `values` maps the model's tensors to the graph's; `scale` (m) is one
    over the units of the known numbers; `samples` is the size of the axis of samples, a symbol or 1. With `own` a
    sample counts as left by what is left of it in the known numbers' own units, too. `kinks` are
    spreads of tensors, in whose units a kink of a function of them is rounded off. The second Loop runs up to `again`
    times."""

    e: Emitter
    system: System
    batch: Batch
    values: Mapping[ir.Value, ir.Value]
    unknowns: Unknowns
    scale: ir.Value
    solved: float
    samples: int | str
    own: bool = True
    kinks: Mapping[ir.Value, float] = field(default_factory=dict)
    again: int = RESCUE_ITERATIONS

    def solve(self, known: ir.Value, iterations: int, *, unroll: bool, apart: bool) -> tuple[ir.Value, ir.Value]:
        """x (N, n) for known numbers (N, m) by the plain iteration, and ‖t − F‖ (N, 1) there.

        `apart` takes the last samples out of the batch.
        """
        e = self.e
        if not self.system.is_dense and unroll:
            raise UsageError(
                f"--unroll: the system of {self.system.m} equations for {self.system.n} unknowns is solved by "
                "conjugate gradients, which need a Loop."
            )
        settings = self._settings(iterations, PATIENCE, self.unknowns.restarts(iterations))
        target, norm = self._target(known), self._norm(known)
        first = initial(e, target, self.unknowns.coordinates.size, settings)
        if unroll or not apart:
            found, _ = self._iterate(target, norm, settings, first, unroll=unroll)
            return self.unknowns.decode(e, found.best), found.best_error
        found, done = self._iterate(target, norm, settings, first, share=FEW)
        assert done is not None
        part = Part.of(e, busy(e, found, norm, settings))
        begun = State(*(part.take(e, value) for value in found.flat()))
        target, norm = part.take(e, target), part.take(e, norm)
        with e.scope(e.scope_name, ir.DataType.INT64):
            taken = e.op("Squeeze", e.cast(done, ir.DataType.INT64), e.ints([0, 1]))
            more = e.op("Sub", e.count(iterations), taken)
        rest, _ = self._of(e, part)._iterate(target, norm, settings, begun, most=more)
        best, error = (part.put(e, *pair) for pair in ((rest.best, found.best), (rest.best_error, found.best_error)))
        return self.unknowns.decode(e, best), error

    def within(
        self, known: ir.Value, x: ir.Value, iterations: int, *, affine: bool, unroll: bool, apart: bool
    ) -> ir.Value:
        """x (N, n) within the bounds: the nearest of them to a closed form's `x` (N, n), and where that is no solution
        what leaves least of F(x) = t, looked for from there on. `apart` takes these samples out of the batch.

        Where F is `affine` there is one least, and it is looked for once.
        """
        e = self.e
        near = self.unknowns.nearest(e, x)
        begin = self.unknowns.encode(e, near)
        error = self._left(known, begin)
        norm = self._verified(known, near, error)
        unsolved = e.op("Not", e.op("Less", error, e.op("Mul", norm, self.solved * MARGIN)))
        v, error = self._nearer(known, begin, error)
        if unroll or not apart:
            found = self._least(known, v, error, iterations, affine=affine, unroll=unroll)
            return e.op("Where", unsolved, found, near)
        part = Part.of(e, unsolved)
        known, v, error = (part.take(e, value) for value in (known, v, error))
        found = self._of(e, part)._least(known, v, error, iterations, affine=affine, unroll=False)
        return part.put(e, found, near)

    def _nearer(self, known: ir.Value, v: ir.Value, error: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Of v (N, r), whose error is `error` (N, 1), and the origin what leaves less: of an ill-conditioned f a
        closed form's x for a y that is a little off lies anywhere."""
        e = self.e
        origin = e.op("Mul", v, 0.0)
        other = e.op("Min", self._left(known, origin), float(np.finfo(e.dtype.numpy()).max) / 16)
        nearer = e.op("Less", error, other)  # nothing is less than what is not finite
        return e.op("Where", nearer, v, origin), e.op("Where", nearer, error, other)

    def _least(
        self, known: ir.Value, v: ir.Value, error: ir.Value, iterations: int, *, affine: bool, unroll: bool
    ) -> ir.Value:
        """x (N, n) that leaves least, from v (N, r) on, whose error is `error` (N, 1), and where F bends again from
        the origin and from elsewhere."""
        restarts = self.unknowns.restarts(iterations).from_origin(0 if affine else MORE)
        settings = replace(self._settings(iterations, LONG_PATIENCE, restarts), progress=STEADY)
        target = self._target(known)
        first = initial(self.e, target, self.unknowns.coordinates.size, settings, (v, error))
        found, _ = self._iterate(target, self._norm(known), settings, first, unroll=unroll, careful=affine)
        return self.unknowns.decode(self.e, found.best)

    def _left(self, known: ir.Value, v: ir.Value) -> ir.Value:
        """‖t − F(v)‖ (N, 1)."""
        return length(self.e, self.e.op("Sub", self._target(known), self._objective.value(self.e, v)))

    def rescue(self, known: ir.Value, x: ir.Value, error: ir.Value, start: Start | None, *, apart: bool) -> ir.Value:
        """x (N, n) with the samples solved that were not, from where `error` (N, 1) says how far they are.

        `apart` takes them out of the batch.
        """
        e = self.e
        norm = self._verified(known, x, error) if self.own else self._norm(known)
        unsolved = e.op("Greater", error, e.op("Mul", norm, self.solved * MARGIN))
        if not apart:
            return e.op("Where", unsolved, self._again(known, x, error, norm, start, apart=False), x)
        part = Part.of(e, unsolved)
        known, begin, error, norm = (part.take(e, value) for value in (known, x, error, norm))
        return part.put(e, self._of(e, part)._again(known, begin, error, norm, start, apart=True), x)

    def _of(self, e: Emitter, part: Part) -> Solver:
        """The same for some of the samples."""
        return replace(self, e=e, samples=e.unique("unsolved"), unknowns=self.unknowns.of(e, part.rows))

    def unsolved(self, known: ir.Value, x: ir.Value, error: ir.Value) -> ir.Value:
        """True (N, 1) for the samples that `rescue` takes."""
        e = self.e
        return e.op("Greater", error, e.op("Mul", self._verified(known, x, error), self.solved * MARGIN))

    def error(self, known: ir.Value, x: ir.Value) -> ir.Value:
        """‖t − F(x)‖ (N, 1)."""
        return self._left(known, self.unknowns.encode(self.e, x))

    def _verified(self, known: ir.Value, x: ir.Value, error: ir.Value) -> ir.Value:
        """What the error at x is to be measured against (N, 1), so that it is no smaller than in the units of the
        known numbers themselves, which the verification has it in."""
        e, norm = self.e, self._norm(known)
        value = self._objective.value(e, self.unknowns.encode(e, x))
        own = length(e, e.op("Sub", known, e.op("Div", value, self.scale)))
        tiny = float(np.finfo(e.dtype.numpy()).tiny)
        share = e.op("Div", e.op("Mul", e.op("Div", error, norm), length(e, known)), e.op("Max", own, tiny))
        # Where F is not finite no comparison holds, and the norm stays what it is.
        smaller = e.op("Where", e.op("Less", share, 1.0), e.op("Max", share, LEAST_SHARE), e.scalar(1.0))
        return e.op("Mul", norm, smaller)

    def _again(
        self, known: ir.Value, x: ir.Value, error: ir.Value, norm: ir.Value, start: Start | None, *, apart: bool
    ) -> ir.Value:
        restarts = self.unknowns.rescues(self.e, known, self.scale, self.again, start, rounding=self._objective.rounds)
        plain = self._settings(self.again, LONG_PATIENCE, restarts)
        settings = replace(plain, solved=self.solved * MARGIN, near=plain.floor, fade=SLOWLY, fall=EASE, rise=TIGHTEN)
        target, begin = self._target(known), (self.unknowns.encode(self.e, x), error)
        first = initial(self.e, target, self.unknowns.coordinates.size, settings, begin)
        found, _ = self._iterate(target, norm, settings, first, careful=True, apart=apart)
        return self.unknowns.decode(self.e, found.best)

    def _iterate(
        self,
        target: ir.Value,
        norm: ir.Value,
        settings: Settings,
        first: State,
        *,
        most: ir.Value | None = None,
        share: float = 0.0,
        unroll: bool = False,
        careful: bool = False,
        apart: bool = False,
    ) -> tuple[State, ir.Value | None]:
        """The state after at most `most` steps, all that the settings allow without; in a Loop while more than a
        `share` of the samples is busy. With a share also the steps that it took (1, 1). `apart`: a step takes
        those alone that are busy."""
        e, objective = self.e, self._objective
        direction = dense.direction(objective, careful=careful) if self.system.is_dense else krylov.direction()
        begun = first.flat()
        shapes = State.shapes(self.samples, objective.coordinates.size, rounding=first.width is not None)

        def body(inner: Emitter, values: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
            state = State(*values[: len(begun)])
            if apart:
                after, left = self._step_apart(inner, direction, target, norm, state, settings)
            else:
                after, left = step(inner, objective, direction, target, norm, state, settings)
            return [*after.flat(), *(inner.op("Add", count, 1.0) for count in values[len(begun) :])], left

        count = [e.constant(np.zeros((1, 1)), "done")] if share else []
        after = iterate(
            e,
            [*begun, *count],
            [*shapes, *([1, 1] for _ in count)],
            body,
            most=settings.iterations if most is None else most,
            unroll=unroll,
            busy=None if most is None else e.cast(busy(e, first, norm, settings)),
            share=share,
        )
        return State(*after[: len(begun)]), after[-1] if share else None

    def _step_apart(
        self, e: Emitter, direction: Direction, target: ir.Value, norm: ir.Value, state: State, settings: Settings
    ) -> tuple[State, ir.Value]:
        """A step of the samples that are busy: the last of them takes a hundred times as many as most."""
        part = Part.of(e, busy(e, state, norm, settings))
        begun = State(*(part.take(e, value) for value in state.flat()))
        chosen = replace(settings, restarts=settings.restarts.of(e, part.rows))
        target, norm = part.take(e, target), part.take(e, norm)
        after, left = step(e, self._of(e, part)._objective, direction, target, norm, begun, chosen)
        found = (part.put(e, *pair) for pair in zip(after.flat(), state.flat(), strict=True))
        return State(*found), part.put(e, left, e.scalar(0.0))

    def _settings(self, iterations: int, patience: int, restarts: Restarts) -> Settings:
        numbers = self.e.dtype.numpy()
        huge = float(np.finfo(numbers).max) / 16
        unit = eps(numbers)
        return Settings(iterations, self.solved, ROUND_OFF * unit, NEAR * unit, patience, restarts, huge)

    @property
    def _objective(self) -> Objective:
        s = self.system
        return Objective(
            s.program, s.layouts, self.values, self.unknowns.coordinates, self.scale, self.batch, self.kinks
        )

    def _target(self, known: ir.Value) -> ir.Value:
        return self.e.op("Mul", known, self.scale)

    def _norm(self, known: ir.Value) -> ir.Value:
        """Of the target. One near 0 is measured against a thousandth of the spread, as the verification does."""
        return self.e.op("Max", length(self.e, self._target(known)), 1e-3 * self.system.m**0.5)
