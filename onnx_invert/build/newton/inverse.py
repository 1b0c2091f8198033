"""The inverse model of a Newton plan: closed-form ends, then systems of equations, each solved in a Loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.build.forwards import Forwards
from onnx_invert.build.inverse import Inverse, Walk, assemble, port_of
from onnx_invert.build.newton import dense, krylov
from onnx_invert.build.newton.iteration import Settings, State, length
from onnx_invert.build.newton.loop import iterate
from onnx_invert.build.newton.objective import Objective
from onnx_invert.build.newton.unknowns import unknowns_of
from onnx_invert.build.rows import joined, rows, split, tensor
from onnx_invert.build.tape import copy, place
from onnx_invert.build.versions import domains_of, opset_for
from onnx_invert.errors import UsageError
from onnx_invert.graph.emit import Emitter
from onnx_invert.numerics.prior import Prior
from onnx_invert.numerics.tolerance import eps
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.newton import NewtonPlan, System

Array = NDArray[np.float64]

RESIDUAL = "residual"
"""The output that `--residual` adds."""

ITERATIONS = 100
"""A smooth network takes 10 to 20; the rest is for samples that start again."""

PATIENCE, LONG_PATIENCE = 3, 8
"""Steps without progress until a sample counts as stalled; the longer one where the plain iteration left samples."""

SOLVED, ROUND_OFF = 32.0, 2.0
"""In units of eps: a residual below the first is a solution, as the verification has it; below the second there is
nothing left to gain."""


@dataclass(frozen=True)
class Options:
    """What the user can say of the solver. `bounds` are the ends (n) of the recovered numbers; `spreads` per
    system those of its known numbers (m), in whose units they are compared. `prior` says what is plausible for x.

    `starts` says, per system and at last for all of them joined, where samples that are not solved start again: what
    is plausible for the system's unknowns (n) given its known numbers, None where that is not known. Without it they
    start anywhere, and the systems are not joined.
    """

    iterations: int = ITERATIONS
    tolerance: float | None = None
    unroll: int | None = None
    residual: bool = False
    bounds: tuple[Array, Array] | None = None
    spreads: Sequence[Array] = field(default_factory=list)
    prior: Prior | None = None
    starts: Sequence[Prior | None] = ()

    def solved(self, dtype: ir.DataType) -> float:
        """The relative residual of a solution."""
        return self.tolerance if self.tolerance is not None else SOLVED * eps(dtype.numpy())


def build_newton(
    plan: NewtonPlan, options: Options, *, opset: int | None = None, metadata: Mapping[str, str] | None = None
) -> Inverse:
    """Emit the inverse that `plan` describes: inputs and outputs as for a closed form, and `residual` (N) if asked.

    Raises:
        UsageError: an opset that does not fit, or `unroll` where products with the Jacobian are taken.
    """
    return _Build(plan, options).run(opset, metadata)


def build_probe(plan: NewtonPlan, wanted: Sequence[ir.Value] = ()) -> ir.Model:
    """The model from its inputs to `wanted`, by default the tensors that the systems know, one after the other."""
    problem = plan.solved
    e = Emitter(problem.known[0].dtype or ir.DataType.FLOAT, [value.name or "" for value in problem.inputs])
    ports = {value: port_of(value) for value in problem.inputs}
    values = dict(ports)
    wanted = wanted or [value for system in plan.systems for value in system.wanted]
    nodes = upstream(wanted)
    copy(e, nodes, values)
    outputs = []
    for index, value in enumerate(wanted):
        output = e.op("Identity", place(e, value, values))
        output.name, output.shape, output.type = f"known_{index}", value.shape, value.type
        outputs.append(output)
    version = opset_for(nodes, problem.opset)
    domains = domains_of(nodes, problem.graph.opset_imports)
    return assemble(e, list(ports.values()), outputs, {"": version, **domains}, name="probe")


class _Build:
    """Emits one inverse. Tensors of the model are mapped to the graph's own in one place, so that no weight and no
    forward node outside a loop is there twice."""

    def __init__(self, plan: NewtonPlan, options: Options) -> None:
        problem = plan.problem
        self._plan, self._options = plan, options
        names = [value.name or "" for value in (*problem.known, *problem.recovered, *problem.given)]
        self._e = Emitter(problem.known[0].dtype or ir.DataType.FLOAT, [*names, RESIDUAL])
        self._nodes = upstream(problem.known)
        used = {value for node in self._nodes for value in node.inputs}
        self._given = {value: port_of(value) for value in problem.given if value in used}
        self._values: dict[ir.Value, ir.Value] = dict(self._given)

    def run(self, opset: int | None, metadata: Mapping[str, str] | None) -> Inverse:
        """The whole graph."""
        e, plan = self._e, self._plan
        problem = plan.problem
        version = opset_for(self._nodes, problem.opset, opset)
        result = Inverse(ir.Model(ir.Graph([], [], nodes=[]), ir_version=8))
        ports = {path.y: port_of(path.y) for path in plan.ends}
        walk = Walk(e, Forwards(e, problem, plan.ends), result.probes, None)
        layouts = [system.layouts for system in plan.systems]
        known = [
            rows(e, layouts[0][path.x], walk.back(path, ports[path.y]) if path.stages else ports[path.y])
            for path in plan.ends
        ]
        target = joined(e, known)
        y = target
        for index, system in enumerate(plan.systems):
            target = self._solve(index, system, target)
        if self._options.starts and plan.joined is not None:
            target = self._solve(len(plan.systems), plan.joined, y, begin=target)
        outputs = []
        last = plan.systems[-1]
        sizes = [last.layouts[value].size for value in last.unknowns]
        found = dict(self._values)
        for value, part in zip(last.unknowns, split(e, target, sizes), strict=True):
            found[value] = tensor(e, last.layouts[value], part)
        made = last.unknowns
        if plan.decoder is not None:
            _take_weights(e, plan.decoder.nodes, self._values)
            found = {**self._values, **found}
            copy(e, [node for node in plan.decoder.nodes if node.outputs[0] not in found], found)
            made = (plan.decoder.x,)
        for value, inside in zip(problem.recovered, made, strict=True):
            port, output = port_of(value), e.op("Identity", found[inside])
            output.name, output.shape, output.type = port.name, port.shape, port.type
            found[inside] = output
            outputs.append(output)
        if self._options.residual:
            outputs.append(self._residual(found, ports))
        opsets = {"": version, **domains_of(self._nodes, problem.graph.opset_imports)}
        result.model = assemble(e, [*ports.values(), *self._given.values()], outputs, opsets, metadata)
        return result

    def _solve(self, index: int, system: System, known: ir.Value, begin: ir.Value | None = None) -> ir.Value:
        """The unknowns of a system as rows (N, n), from its known numbers (N, m); `begin` are those it starts from."""
        e, options, plan = self._e, self._options, self._plan
        self._prepare(system)
        final = index >= len(plan.systems) - 1
        bounds = options.bounds if final else None
        scope = "solve_joined" if begin is not None else "solve" if final else f"solve_{index}"
        with e.scope(scope):
            unknowns = unknowns_of(e, system, bounds, options.prior if final else None, known)
            spread = options.spreads[index % len(plan.systems)] if options.spreads else np.ones(system.m)
            scale = e.constant(1 / spread[None, :], "scale")
            objective = Objective(
                system.program, system.layouts, self._values, unknowns.coordinates, scale, plan.batch
            )
            target = e.op("Mul", known, scale)
            # A target near 0 is measured against a thousandth of the spread, as the verification does.
            norm = e.op("Max", length(e, target), 1e-3 * system.m**0.5)
            settings = Settings(
                iterations=options.unroll or options.iterations,
                solved=options.solved(e.dtype),
                floor=ROUND_OFF * eps(e.dtype.numpy()),
                patience=LONG_PATIENCE if options.starts else PATIENCE,
                restarts=unknowns.restarts(
                    e,
                    known,
                    options.iterations,
                    options.starts[index] if options.starts else None,
                    long=bool(options.starts),
                ),
                huge=float(np.finfo(e.dtype.numpy()).max) / 16,
            )
            method = dense if system.is_dense else krylov
            if method is krylov and options.unroll is not None:
                raise UsageError(
                    f"--unroll: the system of {system.m} equations for {system.n} unknowns is solved by conjugate "
                    "gradients, which need a Loop."
                )
            first = method.start(e, objective, target, settings, None if begin is None else unknowns.encode(e, begin))
            soft = settings.restarts.soft is not None

            def body(inner: Emitter, values: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
                state = State.of(values, soft=soft)
                after, busy = method.step(inner, objective, target, norm, state, settings)
                return after.flat(), busy

            found = iterate(
                e,
                first.flat(),
                method.shapes(objective, self._batch, soft=soft),
                body,
                most=settings.iterations,
                unroll=options.unroll is not None,
            )
            return unknowns.decode(e, State.of(found, soft=soft).best)

    @property
    def _batch(self) -> int | str:
        """The size of the axis of samples: a symbol, or 1."""
        unknown = self._plan.systems[-1].unknowns[0]
        dims = list(unknown.shape or ())
        return 1 if not dims or isinstance(dims[0], int) else dims[0].value or "N"

    def _prepare(self, system: System) -> None:
        """Run once what needs no unknown, and take over the weights."""
        e, program = self._e, system.program
        copy(e, [node for node in program.before if node.outputs[0] not in self._values], self._values)
        for step in program.steps:
            _take_weights(e, [step.node], self._values)

    def _residual(self, found: Mapping[ir.Value, ir.Value], ports: Mapping[ir.Value, ir.Value]) -> ir.Value:
        """‖f(x) − y‖ / ‖y‖ of each sample (N), the largest over several outputs; f is run once more on x."""
        e = self._e
        _take_weights(e, self._nodes, self._values)
        values = {**self._values, **found}
        copy(e, [node for node in self._nodes if node.outputs[0] not in values], values)
        worst: ir.Value | None = None
        for value, port in ports.items():
            layout = self._plan.batch.layout(value)
            y = rows(e, layout, port)
            difference = length(e, e.op("Sub", rows(e, layout, values[value]), y))
            tiny = float(np.finfo(e.dtype.numpy()).tiny)
            relative = e.op("Div", difference, e.op("Max", length(e, y), tiny))
            worst = relative if worst is None else e.op("Max", worst, relative)
        assert worst is not None
        output = e.op("Squeeze", worst, e.ints([1]))
        output.name, output.shape = RESIDUAL, ir.Shape([self._batch])
        return output


def _take_weights(e: Emitter, nodes: Iterable[ir.Node], values: dict[ir.Value, ir.Value]) -> None:
    for node in nodes:
        for value in node.inputs:
            if value is not None and value.const_value is not None:
                place(e, value, values)
