"""The inverse model of a Newton plan: closed-form ends, then systems of equations, each solved in a Loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.build.forwards import Forwards
from onnx_invert.build.inverse import Inverse, Walk, assemble, port_of
from onnx_invert.build.newton.reversed import Reversed, retry
from onnx_invert.build.newton.solver import RESCUE_ITERATIONS, Solver
from onnx_invert.build.newton.unknowns import Unknowns, boxed, unknowns_of
from onnx_invert.build.residual import name_of, relative
from onnx_invert.build.rows import joined, rows, split, tensor
from onnx_invert.build.tape import copy, place, weights
from onnx_invert.build.versions import domains_of, opset_for
from onnx_invert.graph.emit import Emitter
from onnx_invert.numerics.prior import Prior
from onnx_invert.numerics.start import Start
from onnx_invert.numerics.tolerance import eps
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.newton import NewtonPlan, System
from onnx_invert.plan.problem import Problem

Array = NDArray[np.float64]

ITERATIONS = 100
"""A smooth network takes 10 to 20; the rest is for samples that start again."""

ANCHORING = 5
"""Steps that a conditional prior takes to where it is iterated from: in four α has fallen to its last, and one more
follows kinks. Eight take longer, and the errors on digits differ by less than 1e-4 (docs/benchmarks.md)."""

SOLVED = 32.0
"""In units of eps: a residual below it is a solution, as the verification has it."""


@dataclass(frozen=True)
class Options:
    """What the user can say of the solver. `bounds` are the ends (n) of the recovered numbers, `units` (n)
    what those with an infinite end count in, 1 without; `spreads` per system those of its known numbers (m), in whose
    units they are compared. `prior` says what is plausible for x; without one the iteration begins near 0, or near
    `anchor` (n) where f is not finite at 0. `distribution` is that which samples are drawn from.

    `starts` says, per system and at last for all of them joined, where samples that are not solved start again: what
    is plausible for the system's unknowns (n) given its known numbers, None where that is not known. Without it they
    start anywhere, and the systems are not joined. `kinks` are the spreads of tensors of the model that a function has
    a kink of, in whose units the kink is rounded off for those samples. They are iterated up to `again` times.
    `affine` says that f is, for x within bounds beside a closed form.
    """

    iterations: int = ITERATIONS
    tolerance: float | None = None
    unroll: int | None = None
    residual: bool = False
    bounds: tuple[Array, Array] | None = None
    units: Array | None = None
    spreads: Sequence[Array] = field(default_factory=list)
    prior: Prior | None = None
    anchor: Array | None = None
    distribution: int = 0
    starts: Sequence[Start | None] = ()
    reversed: Sequence[Reversed | None] = ()
    kinks: Mapping[ir.Value, float] = field(default_factory=dict)
    again: int = RESCUE_ITERATIONS
    affine: bool = False

    def solved(self, dtype: ir.DataType) -> float:
        """The relative residual of a solution."""
        return self.tolerance if self.tolerance is not None else SOLVED * eps(dtype.numpy())


def build_newton(
    plan: NewtonPlan,
    options: Options,
    *,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
    closed: Inverse | None = None,
) -> Inverse:
    """Emit the inverse that `plan` describes: inputs and outputs as for a closed form, and `residual` (N) if asked.

    With bounds `closed` may be a closed form's, which has x wherever that lies within them; its graph is used up.

    Raises:
        UsageError: an opset that does not fit, or `unroll` where products with the Jacobian are taken.
    """
    return _Build(plan, options, closed).run(opset, metadata)


def build_probe(plan: NewtonPlan, wanted: Sequence[ir.Value] = (), problem: Problem | None = None) -> ir.Model:
    """The model from its inputs to `wanted`, by default the tensors that the systems know, one after the other.

    It is that of `problem`, by default the one whose unknowns the systems have.
    """
    problem = problem or plan.solved
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

    def __init__(self, plan: NewtonPlan, options: Options, closed: Inverse | None) -> None:
        problem = plan.problem
        self._plan, self._options = plan, options
        names = [value.name or "" for value in (*problem.known, *problem.recovered, *problem.given)]
        self._e = Emitter(problem.known[0].dtype or ir.DataType.FLOAT, [*names, name_of(problem)])
        self._ports: dict[str, ir.Value] = {}
        self._begin: list[ir.Value] = []
        if closed is not None:
            self._ports = {port.name or "": port for port in closed.model.graph.inputs}
            self._begin = list(closed.model.graph.outputs)
            self._e.go_on(closed.model.graph)
            for x in self._begin:
                x.name = self._e.unique(f"closed_form/{x.name}")
        self._nodes = upstream(problem.known)
        used = {value for node in self._nodes for value in node.inputs}
        self._given = {value: self._port(value) for value in problem.given if value in used}
        self._values: dict[ir.Value, ir.Value] = dict(self._given)
        self._unknowns: Unknowns | None = None

    def _port(self, value: ir.Value) -> ir.Value:
        """The input of the inverse for an output or a given input of the model, one for each."""
        return self._ports.get(value.name or "") or port_of(value)

    def run(self, opset: int | None, metadata: Mapping[str, str] | None) -> Inverse:
        """The whole graph."""
        e, plan = self._e, self._plan
        problem = plan.problem
        version = opset_for(self._nodes, problem.opset, opset)
        result = Inverse(ir.Model(ir.Graph([], [], nodes=[]), ir_version=8))
        ports = {path.y: self._port(path.y) for path in plan.ends}
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
            target = self._join(plan.joined, y, target)
        target = self._unlike_numbers(target, ports)
        outputs = []
        last = plan.systems[-1]
        sizes = [last.layouts[value].size for value in last.unknowns]
        found = dict(self._values)
        for value, part in zip(last.unknowns, split(e, target, sizes), strict=True):
            found[value] = tensor(e, last.layouts[value], part)
        made = last.unknowns
        if plan.decoder is not None:
            weights(e, plan.decoder.nodes, self._values)
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

    def _solve(self, index: int, system: System, known: ir.Value) -> ir.Value:
        """The unknowns of a system as rows (N, n), from its known numbers (N, m)."""
        options = self._options
        self._prepare(system)
        final = index == len(self._plan.systems) - 1
        with self._e.scope("solve" if final else f"solve_{index}"):
            bounds, prior, anchor = (options.bounds, options.prior, options.anchor) if final else (None, None, None)
            self._unknowns = unknowns_of(self._e, system, bounds, prior, known, options.units, anchor)
            solver = self._solver(system, index)
            if prior is not None and prior.ends is not None and bounds is None and options.unroll is None:
                solver = self._anchored(solver, system, index, prior.ends, known)
            iterations = options.unroll or options.iterations
            unrolled = options.unroll is not None
            if self._begin:
                pairs = zip(system.unknowns, self._begin, strict=True)
                begin = joined(self._e, [rows(self._e, system.layouts[value], x) for value, x in pairs])
                return solver.within(
                    known, begin, iterations, affine=options.affine, unroll=unrolled, apart=self._apart
                )
            x, error = solver.solve(known, iterations, unroll=unrolled, apart=self._apart)
            if options.starts:
                if bounds is not None and prior is not None:
                    # What is held from outside has no slope beyond a face, and that may be where it stays.
                    self._unknowns = boxed(self._e, system, bounds, options.units, prior.mean)
                    solver = self._solver(system, index)
                other = options.reversed[index] if options.reversed else None
                if other is not None:
                    with self._e.scope(f"{self._e.scope_name}_reversed"):
                        x, error = retry(self._e, solver, other, known, x, error, apart=self._apart)
                x = solver.rescue(known, x, error, options.starts[index], apart=self._apart)
        return x

    def _anchored(self, solver: Solver, system: System, index: int, ends: Array, known: ir.Value) -> Solver:
        """The solver from a point of the range of the data: what a few steps find, held within it.

        A regression is at its ends where x is likely to be, and a covariance that does not know of them takes half of
        its steps beyond.
        """
        e = self._e
        assert self._unknowns is not None
        with e.scope(f"{e.scope_name}_anchor"):
            x, _ = solver.solve(known, ANCHORING, unroll=False, apart=False)
            low, high = (e.constant(end[None, :], name) for end, name in zip(ends, ("least", "most"), strict=True))
            self._unknowns = self._unknowns.around(e, e.op("Min", e.op("Max", x, low), high))
        return self._solver(system, index)

    def _join(self, system: System, known: ir.Value, x: ir.Value) -> ir.Value:
        """x (N, n) with the samples solved that several systems, one after the other, have not solved.

        Its unknowns are those of the last of them.
        """
        self._prepare(system)
        with self._e.scope("solve_joined"):
            solver = self._solver(system, 0)
            return solver.rescue(known, x, solver.error(known, x), self._options.starts[-1], apart=self._apart)

    def _unlike_numbers(self, x: ir.Value, ports: Mapping[ir.Value, ir.Value]) -> ir.Value:
        """x (N, n) with NaN in the samples whose y is not finite: the loops leave them where they began, near 0."""
        e, batch = self._e, self._plan.batch
        for y, port in ports.items():
            apart = rows(e, batch.layout(y), e.op("Sub", port, port))
            x = e.op("Add", x, e.op("ReduceSum", apart, e.ints([1]), keepdims=1))
        return x

    def _solver(self, system: System, index: int) -> Solver:
        e, options = self._e, self._options
        spread = options.spreads[index] if options.spreads else np.ones(system.m)
        scale = e.constant(1 / spread[None, :], "scale")
        assert self._unknowns is not None
        solved = options.solved(e.dtype)
        return Solver(
            e,
            system,
            self._plan.batch,
            self._values,
            self._unknowns,
            scale,
            solved,
            self._batch,
            kinks=options.kinks,
            again=options.again,
        )

    @property
    def _apart(self) -> bool:
        """True if samples can be taken out of the batch: nothing but y comes with them."""
        return not self._given and isinstance(self._batch, str)

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
            weights(e, [step.node], self._values)

    def _residual(self, found: Mapping[ir.Value, ir.Value], ports: Mapping[ir.Value, ir.Value]) -> ir.Value:
        """‖f(x) − y‖ / ‖y‖ of each sample (N), the largest over several outputs; f is run once more on x."""
        e = self._e
        weights(e, self._nodes, self._values)
        values = {**self._values, **found}
        copy(e, [node for node in self._nodes if node.outputs[0] not in values], values)
        layouts = {value: self._plan.batch.layout(value) for value in ports}
        pairs = ((rows(e, layouts[y], values[y]), rows(e, layouts[y], port)) for y, port in ports.items())
        output = relative(e, pairs)
        output.name, output.shape = name_of(self._plan.problem), ir.Shape([self._batch])
        return output
