"""The inverse model of a Newton plan: closed-form ends, then systems of equations, each solved in a Loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.build.forwards import Forwards
from onnx_invert.build.inverse import Inverse, Walk, assemble, port_of
from onnx_invert.build.newton import dense, krylov
from onnx_invert.build.newton.iteration import Settings, State, length
from onnx_invert.build.newton.loop import iterate
from onnx_invert.build.newton.objective import Coordinates, Objective
from onnx_invert.build.rows import joined, rows, split, tensor
from onnx_invert.build.tape import copy, place
from onnx_invert.build.versions import domains_of, opset_for
from onnx_invert.errors import UsageError
from onnx_invert.graph.emit import Emitter
from onnx_invert.numerics.prior import Prior
from onnx_invert.numerics.tolerance import eps
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.newton import NewtonPlan, System
from onnx_invert.rules.differential import second

Array = NDArray[np.float64]

RESIDUAL = "residual"
"""The output that `--residual` adds."""

ITERATIONS = 100
"""A smooth network takes 10 to 20; the rest is for samples that start again."""

SCALES = (0.03, 0.1, 0.3, 1.0, 0.1, 0.3)
"""How far from the first anchor a sample that stalls starts again, in standard deviations: near it first, where
activations are not saturated yet. More iterations than these need go through them again."""

PER_ANCHOR = 16
"""Iterations that one start takes, about."""

SOLVED, ROUND_OFF = 32.0, 2.0
"""In units of eps: a residual below the first is a solution, as the verification has it; below the second there is
nothing left to gain."""


@dataclass(frozen=True)
class Options:
    """What the user can say of the solver. `bounds` are the ends (n) of the recovered numbers; `spreads` per
    system those of its known numbers (m), in whose units they are compared. `prior` says what is plausible for x."""

    iterations: int = ITERATIONS
    tolerance: float | None = None
    unroll: int | None = None
    residual: bool = False
    bounds: tuple[Array, Array] | None = None
    spreads: Sequence[Array] = field(default_factory=list)
    prior: Prior | None = None

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


def build_probe(plan: NewtonPlan) -> ir.Model:
    """The model from its inputs to the tensors that the systems know: their spread on samples sets the units."""
    problem = plan.solved
    e = Emitter(problem.known[0].dtype or ir.DataType.FLOAT, [value.name or "" for value in problem.inputs])
    ports = {value: port_of(value) for value in problem.inputs}
    values = dict(ports)
    wanted = [value for system in plan.systems for value in system.wanted]
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
        for index, system in enumerate(plan.systems):
            target = self._solve(index, system, target)
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

    def _solve(self, index: int, system: System, known: ir.Value) -> ir.Value:
        """The unknowns of a system as rows (N, n), from its known numbers (N, m)."""
        e, options = self._e, self._options
        self._prepare(system)
        final = index == len(self._plan.systems) - 1
        bounds = options.bounds if final else None
        with e.scope("solve" if final else f"solve_{index}"):
            prior = options.prior if final else None
            coordinates, decode = _coordinates(e, system, bounds, prior, known)
            spread = options.spreads[index] if options.spreads else np.ones(system.m)
            scale = e.constant(1 / spread[None, :], "scale")
            objective = Objective(system.program, system.layouts, self._values, coordinates, scale)
            target = e.op("Mul", known, scale)
            # A target near 0 is measured against a thousandth of the spread, as the verification does.
            norm = e.op("Max", length(e, target), 1e-3 * system.m**0.5)
            unit = eps(e.dtype.numpy())
            settings = Settings(
                iterations=options.unroll or options.iterations,
                solved=options.solved(e.dtype),
                floor=ROUND_OFF * unit,
                anchors=_anchors(
                    coordinates.size, bounds if prior is None else None, options.iterations // PER_ANCHOR
                ),
                huge=float(np.finfo(e.dtype.numpy()).max) / 16,
            )
            method = dense if system.is_dense else krylov
            if method is krylov and options.unroll is not None:
                raise UsageError(
                    f"--unroll: the system of {system.m} equations for {system.n} unknowns is solved by conjugate "
                    "gradients, which need a Loop."
                )
            first = method.start(e, objective, target, settings)
            batch = self._batch

            def body(inner: Emitter, values: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
                after, busy = method.step(inner, objective, target, norm, State.of(values), settings)
                return after.flat(), busy

            found = iterate(
                e,
                first.flat(),
                method.shapes(objective, batch),
                body,
                most=settings.iterations,
                unroll=options.unroll is not None,
            )
            return decode(State.of(found).best)

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


def _coordinates(
    e: Emitter,
    system: System,
    bounds: tuple[Array, Array] | None,
    prior: Prior | None,
    known: ir.Value,
) -> tuple[Coordinates, Callable[[ir.Value], ir.Value]]:
    """What is iterated over, and how it becomes the unknowns (N, n).

    The unknowns are x = m + w A: m from the prior, A its factor (0 and I without one). With a front h = x W + b and
    A W = U S Vᵀ, the least-norm w lies in the span of U: v = w U has the same norm, h = m W + b + v S Vᵀ and
    x = m + v Uᵀ A. So the loop sees the rank of A W instead of n. With bounds w itself is iterated over and x held
    within them, around the point of the bounds that is nearest to 0 where there is no prior.
    """
    front = system.front
    origin = None if prior is None else _expected(e, prior, known)
    factor = None if prior is None else prior.factor
    basis, turned = None, None
    if factor is not None and (bounds is not None or front is None):
        basis = e.constant(factor.rows, "factor")
        turned = e.op("Transpose", second(e, basis), perm=[1, 0]) if factor.least else None
    free = Coordinates(
        size=system.n if factor is None else factor.size,
        origin=origin,
        basis=basis,
        least=0.0 if factor is None else factor.least,
        turned=turned,
    )
    if bounds is not None:
        low, high = bounds
        if origin is None:
            origin = e.constant(np.clip(np.zeros(system.n), low, high)[None, :], "origin")
        bounded = replace(
            free,
            origin=origin,
            low=e.constant(low[None, :], "low"),
            high=e.constant(high[None, :], "high"),
            weight=None if front is None else e.constant(front.weight, "weight"),
            shift=None if front is None else e.constant(front.shift[None, :], "shift"),
        )
        return bounded, lambda v: bounded.held(e, v)
    if front is None:
        return free, lambda v: free.free(e, v)
    reached = front.weight if factor is None else factor.before(front.weight)
    left, values, right = np.linalg.svd(reached, full_matrices=False)
    kept = values > values.max(initial=0.0) * max(reached.shape) * np.finfo(np.float64).eps
    back = left[:, kept].T if factor is None else factor.after(left[:, kept].T)
    shift = e.constant(front.shift[None, :], "shift")
    start = shift if origin is None else e.op("Add", e.op("MatMul", origin, e.constant(front.weight, "weight")), shift)
    reduced = e.constant(values[kept, None] * right[kept], "basis")
    returned = e.constant(back, "back")

    def decode(v: ir.Value) -> ir.Value:
        x = e.op("MatMul", v, returned)
        return x if origin is None else e.op("Add", x, origin)

    return Coordinates(int(np.count_nonzero(kept)), start, reduced), decode


def _expected(e: Emitter, prior: Prior, known: ir.Value) -> ir.Value:
    """m(y) as rows (N, n), or (1, n) where it is constant."""
    mean = e.constant(prior.mean[None, :], "mean")
    regression = prior.regression
    if regression is None:
        return mean
    centred = e.op("Sub", known, e.constant(regression.center[None, :], "center"))
    z = e.op("Mul", centred, e.constant(1 / regression.scale[None, :], "rate"))
    inner = e.op(
        "Add",
        e.op("MatMul", z, e.constant(regression.directions, "directions")),
        e.constant(regression.offsets[None, :], "offsets"),
    )
    bent = e.op("MatMul", e.op("Max", inner, 0.0), e.constant(regression.weights, "weights"))
    straight = e.op("MatMul", z, e.constant(regression.linear, "linear"))
    return e.op("Add", e.op("Add", straight, bent), mean)


def _anchors(size: int, bounds: tuple[Array, Array] | None, wanted: int) -> Array:
    """Where to start again: normal numbers, or anywhere within the bounds."""
    rng = np.random.default_rng(size)
    count = max(len(SCALES), wanted)
    if bounds is None:
        return np.asarray(rng.standard_normal((count, size)) * np.resize(SCALES, count)[:, None])
    low, high = bounds
    return np.asarray(rng.uniform(low, high, (count, size)) - np.clip(np.zeros(size), low, high))
