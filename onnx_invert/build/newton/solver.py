"""One system of equations solved in Loops: all samples by the plain iteration, and those that it leaves once more.

The second Loop takes the unsolved samples alone, so that it costs next to nothing where there are none; it is there
only where starts were fitted for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton import dense, krylov
from onnx_invert.build.newton.iteration import Restarts, Settings, State, initial, length, step
from onnx_invert.build.newton.loop import iterate
from onnx_invert.build.newton.objective import Objective
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

RESCUE_ITERATIONS = 1440
"""Of the second Loop at most: 48 starts."""

MARGIN = 0.5
"""Of the residual of a solution, below which the second Loop takes a sample for solved: the direction of what is left
changes, and with it the share that its units make of y's own."""

LEAST_SHARE = 0.05
"""Of an error in y's own units: the second Loop asks for no less than this part of it."""


@dataclass(frozen=True)
class Solver:
    """What solves one system, for `unknowns`. `values` maps the model's tensors to the graph's; `scale` (m) is one
    over the units of the known numbers; `samples` is the size of the axis of samples, a symbol or 1."""

    e: Emitter
    system: System
    batch: Batch
    values: Mapping[ir.Value, ir.Value]
    unknowns: Unknowns
    scale: ir.Value
    solved: float
    samples: int | str

    def solve(self, known: ir.Value, iterations: int, *, unroll: bool) -> tuple[ir.Value, ir.Value]:
        """x (N, n) for known numbers (N, m) by the plain iteration, and ‖t − F‖ (N, 1) there."""
        if not self.system.is_dense and unroll:
            raise UsageError(
                f"--unroll: the system of {self.system.m} equations for {self.system.n} unknowns is solved by "
                "conjugate gradients, which need a Loop."
            )
        settings = self._settings(iterations, PATIENCE, self.unknowns.restarts(iterations))
        found = self._iterate(known, self._norm(known), settings, None, unroll=unroll)
        return self.unknowns.decode(self.e, found.best), found.best_error

    def rescue(self, known: ir.Value, x: ir.Value, error: ir.Value, start: Start | None, *, apart: bool) -> ir.Value:
        """x (N, n) with the samples solved that were not, from where `error` (N, 1) says how far they are.

        `apart` takes them out of the batch. Then sample 0 goes with them, so that there is one in any batch of some.
        """
        e = self.e
        norm = self._verified(known, x, error)
        unsolved = e.op("Greater", error, e.op("Mul", norm, self.solved * MARGIN))
        if not apart:
            return e.op("Where", unsolved, self._again(known, x, error, norm, start), x)
        unsolved.dtype = ir.DataType.BOOL
        with e.scope(e.scope_name, ir.DataType.INT64):
            everyone = e.op("Squeeze", e.op("Cast", unsolved, to=int(ir.DataType.INT64)), e.ints([1]))
            chosen = e.op("Squeeze", e.op("NonZero", everyone), e.ints([0]))
            first = e.op("Slice", e.op("Mul", everyone, e.count(0)), e.ints([0]), e.ints([1]), e.ints([0]))
            taken = e.op("Concat", chosen, first, axis=0)
            # A sample's row among those taken: how many of them come before it, its own not counted.
            place = e.op("Max", e.op("Sub", e.op("CumSum", everyone, e.count(0)), e.count(1)), e.count(0))
        alone = replace(self, samples=e.unique("unsolved"), unknowns=self.unknowns.of(e, taken))
        known, begin, error, norm = (e.op("Gather", value, taken, axis=0) for value in (known, x, error, norm))
        found = alone._again(known, begin, error, norm, start)
        return e.op("Where", unsolved, e.op("Gather", found, place, axis=0), x)

    def error(self, known: ir.Value, x: ir.Value) -> ir.Value:
        """‖t − F(x)‖ (N, 1)."""
        value = self._objective.value(self.e, self.unknowns.encode(self.e, x))
        return length(self.e, self.e.op("Sub", self._target(known), value))

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

    def _again(self, known: ir.Value, x: ir.Value, error: ir.Value, norm: ir.Value, start: Start | None) -> ir.Value:
        restarts = self.unknowns.rescues(self.e, known, self.scale, RESCUE_ITERATIONS, start)
        plain = self._settings(RESCUE_ITERATIONS, LONG_PATIENCE, restarts)
        settings = replace(plain, solved=self.solved * MARGIN, near=plain.floor, fade=SLOWLY)
        begin = self.unknowns.encode(self.e, x), error
        found = self._iterate(known, norm, settings, begin, unroll=False, careful=True)
        return self.unknowns.decode(self.e, found.best)

    def _iterate(
        self,
        known: ir.Value,
        norm: ir.Value,
        settings: Settings,
        begin: tuple[ir.Value, ir.Value] | None,
        *,
        unroll: bool,
        careful: bool = False,
    ) -> State:
        e, objective = self.e, self._objective
        target = self._target(known)
        direction = dense.direction(objective, careful=careful) if self.system.is_dense else krylov.direction()
        size = objective.coordinates.size
        first = initial(e, target, size, settings, begin)

        def body(inner: Emitter, values: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
            after, busy = step(inner, objective, direction, target, norm, State(*values), settings)
            return after.flat(), busy

        shapes = State.shapes(self.samples, size, soft=first.soft is not None)
        return State(*iterate(e, first.flat(), shapes, body, most=settings.iterations, unroll=unroll))

    def _settings(self, iterations: int, patience: int, restarts: Restarts) -> Settings:
        numbers = self.e.dtype.numpy()
        huge = float(np.finfo(numbers).max) / 16
        unit = eps(numbers)
        return Settings(iterations, self.solved, ROUND_OFF * unit, NEAR * unit, patience, restarts, huge)

    @property
    def _objective(self) -> Objective:
        s = self.system
        return Objective(s.program, s.layouts, self.values, self.unknowns.coordinates, self.scale, self.batch)

    def _target(self, known: ir.Value) -> ir.Value:
        return self.e.op("Mul", known, self.scale)

    def _norm(self, known: ir.Value) -> ir.Value:
        """Of the target. One near 0 is measured against a thousandth of the spread, as the verification does."""
        return self.e.op("Max", length(self.e, self._target(known)), 1e-3 * self.system.m**0.5)
