"""The inverse model of a plan made of steps."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnx_invert.build.inverse import Inverse, assemble, port_of
from onnx_invert.build.noise import Noise
from onnx_invert.build.pruning import prune
from onnx_invert.build.residual import forward_nodes
from onnx_invert.build.residual import residual as residual_of
from onnx_invert.build.system.live import Live
from onnx_invert.build.system.log_det import NAME, LogDet
from onnx_invert.build.system.pieces import Piece
from onnx_invert.build.system.realise import Realisation
from onnx_invert.build.versions import domains_of, opset_for
from onnx_invert.errors import Blocker, NotInvertibleError, UsageError
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.problem import Problem
from onnx_invert.plan.samples import Samples
from onnx_invert.plan.system_plan import SystemPlan


def build_system(
    plan: SystemPlan,
    *,
    opset: int | None = None,
    unroll: int | None = None,
    metadata: Mapping[str, str] | None = None,
    log_det: bool = False,
    instrumented: bool = False,
    residual: bool = False,
) -> Inverse:
    """Emit the inverse that `plan` describes; arguments, inputs and outputs as for `build`.

    With `unroll` iterations are written out. With `log_det` there is one more output of that name, one number a
    sample: log|det ∂x/∂y|; with `residual` one more, ‖f(x) − y‖ / ‖y‖.

    Raises:
        NotInvertibleError: the log-determinant of a node is not defined.
        UsageError, ModelError: no opset at which the copied forward nodes mean what they meant.
    """
    problem = plan.problem
    names = [v.name or "" for v in (*problem.known, *problem.recovered, *problem.given)]
    dtype = problem.known[0].dtype or ir.DataType.FLOAT
    e = Emitter(dtype, reserved=names)
    noise = Noise(e, dtype) if instrumented else None
    ports = {value: port_of(value) for value in (*problem.known, *problem.given)}
    e.given.update(ports[value] for value in problem.given)
    sizes = {name: (ports[value], axis) for name, (value, axis) in plan.sizes.items()}
    r = Realisation(e, plan.concrete, problem.dependent, ports, sizes, noise, unroll=unroll)
    if log_det:
        r.log_det = _log_det(plan)
    for value in problem.known:
        r.start(value, ports[value] if noise is None else noise.shake(ports[value], value))
    if r.log_det is not None:
        r.log_det.start(r, problem.known)
    r.run(plan.steps)
    outputs = [_output(e, r, value) for value in problem.recovered]
    if r.log_det is not None:
        outputs.append(_named(e, r.log_det.total(r, problem.recovered[0]), problem))
    if residual:
        outputs.append(_residual(e, r, plan, ports))
    counted = {probe.tensor for probe in r.probes} if noise is not None else set()
    prune(e.nodes, [*outputs, *(value for node in e.nodes for value in node.outputs if value.name in counted)])
    version = opset_for(r.copied, problem.opset, opset)
    used = [ports[v] for v in problem.given if ports[v].uses()]
    inputs = [*(ports[value] for value in problem.known), *used]
    result = Inverse(ir.Model(ir.Graph([], [], nodes=[]), ir_version=8), r.probes)
    if noise is not None:
        inputs.append(noise.port)
        result.eta = noise.port.name or ""
        made = {output.name: output for node in e.nodes for output in node.outputs}
        made |= {port.name: port for port in inputs}
        result.probes = [probe for probe in r.probes if probe.tensor in made]
        outputs += [made[p.tensor] for p in result.probes if made[p.tensor] not in outputs]
    domains = {"": version, **domains_of(r.copied, problem.graph.opset_imports)}
    result.model = assemble(e, inputs, outputs, domains, metadata)
    return result


def _output(e: Emitter, r: Realisation, x: ir.Value) -> ir.Value:
    """A recovered input, named as an output."""
    value = e.op("Identity", r.read(x))
    port = port_of(x)
    value.name, value.shape, value.type = port.name, port.shape, port.type
    return value


def _log_det(plan: SystemPlan) -> LogDet:
    if plan.redundant:
        what = "an equation is left over: there is no square Jacobian"
        raise NotInvertibleError([Blocker("the model", "log-det", what, "leave out --log-det")])
    samples = _samples(plan)
    live = Live(plan.concrete, plan.problem.given, samples) if plan.has_masks else None
    return LogDet(plan.rules, plan.problem.opset, samples, live)


def _samples(plan: SystemPlan) -> Samples:
    first = (plan.problem.recovered[0].shape or ir.Shape([1]))[0]
    batch = first if isinstance(first, int) else str(first.value)
    return Samples(plan.concrete, plan.problem.inputs, batch)


def _residual(e: Emitter, r: Realisation, plan: SystemPlan, ports: Mapping[ir.Value, ir.Value]) -> ir.Value:
    """f run on the x that was found, next to y."""
    problem = plan.problem
    again = r.inside(e, "again", {})
    for x in problem.recovered:
        again.put(x, Piece(r.read(x)))
    for node in forward_nodes(problem):
        if any(output in problem.dependent for output in node.outputs):
            for output, made in zip(node.outputs, again.evaluate(node), strict=True):
                again.put(output, Piece(made))
    samples = _samples(plan)
    along = {y: found for y in problem.known if (found := samples.along(y)) is not None}
    if len(along) < len(problem.known):
        raise UsageError("--residual: the samples of an output lie along no axis.")
    return residual_of(e, problem, {y: again.read(y) for y in problem.known}, ports, along)


def _named(e: Emitter, value: ir.Value, problem: Problem) -> ir.Value:
    """The log-determinant as an output."""
    taken = {v.name for v in (*problem.known, *problem.given, *problem.recovered)}
    name = NAME
    while name in taken:
        name += "_"
    x = problem.recovered[0]
    value.name, value.type = name, ir.TensorType(x.dtype or e.dtype)
    value.shape = ir.Shape([x.shape[0]]) if x.shape is not None else None
    return value
