"""The inverse model: one graph from the known outputs back to the recovered inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnx_ir as ir

from onnx_invert.build import affine
from onnx_invert.build.clamp import Probe, clamp, hold_in_domain, largest
from onnx_invert.build.forwards import Forwards
from onnx_invert.build.noise import Noise
from onnx_invert.build.ranks import align
from onnx_invert.build.residual import along_batch, forward_nodes, run_forwards
from onnx_invert.build.residual import residual as relative_residual
from onnx_invert.build.versions import domains_of, ir_version_for, opset_for
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.plan import Plan
from onnx_invert.plan.stages import Path, Stage
from onnx_invert.rules.facts import Convert, Diagonal, Elementwise, Matrix, Paired, Rearrangement, Repeat

HALF_TYPES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass
class Inverse:
    """The graph of an inverse, the places in it where values may be clamped, and the input that takes η."""

    model: ir.Model
    probes: list[Probe] = field(default_factory=list)
    eta: str = ""


def build(
    plan: Plan,
    *,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
    instrumented: bool = False,
    residual: bool = False,
) -> Inverse:
    """Emit the inverse that `plan` describes.

    Its inputs are the known outputs and those given inputs that it needs, its outputs the recovered
    inputs, under their own names. `opset` defaults to 17, or to the model's where copied forward nodes mean
    something else at 17. With `instrumented` it has one more input, the scalar η: every tensor that
    stands for a forward one is multiplied by 1 + η·u, u random in ±[1/2, 1], and the tensors that are
    clamped are outputs too. That is how the verification measures how much rounding is amplified. With `residual`
    it has the output of that name, ‖f(x) − y‖ / ‖y‖ of each sample.

    Raises:
        UsageError: an `opset` outside 13 to 23, or older than copied forward nodes need.
    """
    problem = plan.problem
    names = [v.name or "" for v in (*problem.known, *problem.recovered, *problem.given)]
    e = Emitter(plan.paths[0].y.dtype or ir.DataType.FLOAT, reserved=names)
    forwards = Forwards(e, problem, plan.paths)
    again = forward_nodes(problem) if residual else []
    version = opset_for([*forwards.nodes, *again], problem.opset, opset)
    result = Inverse(ir.Model(ir.Graph([], [], nodes=[]), ir_version=8))
    inputs: dict[ir.Value, ir.Value] = {}
    for path in plan.paths:
        if path.y not in inputs:
            inputs[path.y] = port_of(path.y)
    noise = Noise(e, plan.paths[0].y.dtype or ir.DataType.FLOAT) if instrumented else None
    walk = Walk(e, forwards, result.probes, noise)
    outputs = [walk.undo(path, inputs[path.y]) for path in plan.paths]
    if residual:
        outputs.append(_residual(e, plan, forwards, inputs, outputs))
    if noise is not None:
        inputs[noise.port] = noise.port
        result.eta = noise.port.name or ""
        made = {output.name: output for node in e.nodes for output in node.outputs}
        made |= {port.name: port for port in inputs.values()}
        outputs += [made[probe.tensor] for probe in result.probes if made[probe.tensor] not in outputs]
    ports = [*inputs.values(), *forwards.inputs]
    domains = {"": version, **forwards.domains, **domains_of(again, problem.graph.opset_imports)}
    result.model = assemble(e, ports, outputs, domains, metadata)
    return result


def _residual(
    e: Emitter, plan: Plan, forwards: Forwards, ports: Mapping[ir.Value, ir.Value], found: Sequence[ir.Value]
) -> ir.Value:
    """f run on the x that was found, next to y; the given inputs that this takes are added to the others."""
    problem = plan.problem
    given = {port.name: port for port in forwards.inputs}
    used = {value for node in forward_nodes(problem) for value in node.inputs}
    extra = {value: given.get(value.name) or port_of(value) for value in problem.given if value in used}
    forwards.inputs[:] = extra.values()
    values = {**extra, **{path.x: x for path, x in zip(plan.paths, found, strict=True)}}
    return relative_residual(e, problem, run_forwards(e, problem, values), ports, along_batch(problem))


def assemble(
    e: Emitter,
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    opsets: Mapping[str, int],
    metadata: Mapping[str, str] | None = None,
    name: str = "inverse",
) -> ir.Model:
    """What was emitted as a model; constants that nothing uses are left out."""
    align(e)
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=e.nodes,
        initializers=[value for value in e.initializers if value.uses()],
        opset_imports=dict(opsets),
        name=name,
    )
    return ir.Model(
        graph,
        ir_version=ir_version_for(opsets[""]),
        producer_name="onnx-invert",
        metadata_props=dict(metadata or {}),
    )


def port_of(value: ir.Value) -> ir.Value:
    """An input or output of the inverse, with the name, type and shape that the forward tensor has."""
    dims = None
    if value.shape is not None:
        dims = ir.Shape(
            [
                dim if isinstance(dim, int) else dim.value or f"{value.name}_{axis}"
                for axis, dim in enumerate(value.shape)
            ]
        )
    return ir.Value(name=value.name, shape=dims, type=ir.TensorType(value.dtype or ir.DataType.FLOAT))


class Others(Protocol):
    """Has the other operand of a node that is undone: what a given input, or a recovered tensor, makes of it."""

    def value(self, forward: ir.Value) -> ir.Value:
        """The graph's own copy of a forward tensor."""
        ...


class Walk:
    """Goes back along paths, emitting each stage's inverse; affine runs wait until they can be folded."""

    def __init__(self, e: Emitter, forwards: Others, probes: list[Probe], noise: Noise | None) -> None:
        self._e, self._forwards, self._probes, self._noise = e, forwards, probes, noise
        self._waiting: list[affine.Step] = []
        self._last: Stage | None = None
        # Between two facts of one node the value stands for no tensor of the model.
        self._at_node = True

    def undo(self, path: Path, y: ir.Value) -> ir.Value:
        """Emit one path backwards; returns the recovered input, named as an output."""
        value = self.back(path, y)
        if value is y or value.name == y.name:
            value = self._e.op("Identity", value)
        port = port_of(path.x)
        value.name, value.shape, value.type = port.name, port.shape, port.type
        return value

    def back(self, path: Path, y: ir.Value) -> ir.Value:
        """Emit one path backwards; returns the tensor that it ends at."""
        e, value = self._e, y
        e.dtype = path.y.dtype or ir.DataType.FLOAT
        if self._noise is not None:
            value = self._noise.shake(value, path.y)
        stages = list(reversed(path.stages))
        for index, stage in enumerate(stages):
            ends_node = index + 1 == len(stages) or stages[index + 1].nodes != stage.nodes
            step = _affine_step(stage)
            if step is not None:
                self._waiting.append(step)
                self._last, self._at_node = stage, ends_node
                continue
            value = self._flush(value)
            with e.scope(stage.name):
                value = self._emit(stage, value)
            if isinstance(stage.fact, Convert):
                e.dtype = stage.fact.source
            if self._noise is not None and ends_node:
                value = self._noise.shake(value, stage.x)
        return self._flush(value)

    def _flush(self, value: ir.Value) -> ir.Value:
        if self._last is None:
            return value
        with self._e.scope(self._last.name):
            for step in affine.fold(self._waiting):
                value = affine.emit(self._e, value, step, self._noise)
        if self._noise is not None and self._at_node:
            value = self._noise.shake(value, self._last.x)
        self._waiting, self._last = [], None
        return value

    def _emit(self, stage: Stage, y: ir.Value) -> ir.Value:
        """The inverse of one stage that is not part of an affine run."""
        e, fact = self._e, stage.fact
        match fact:
            case Elementwise():
                return _undo_elementwise(e, stage, fact, y, self._probes)
            case Matrix():
                assert stage.pinv is not None
                weight = e.constant(stage.pinv, "weight")
                x = e.op("MatMul", y, weight) if fact.side == "right" else e.op("MatMul", weight, y)
                return x if self._noise is None else self._noise.of_product(x, y, weight, fact.side)
            case Repeat():
                return _undo_repeat(e, fact, y)
            case Rearrangement():
                return fact.inverse(e, y)
            case Convert():
                return _undo_convert(e, stage, fact, y, self._probes)
            case Paired():
                other = stage.nodes[0].inputs[fact.other]
                assert other is not None
                return fact.inverse(e, y, self._forwards.value(other))
            case Diagonal():
                return affine.emit(e, y, affine.undo_diagonal(fact))


def _affine_step(stage: Stage) -> affine.Step | None:
    fact = stage.fact
    if isinstance(fact, Diagonal):
        return affine.undo_diagonal(fact)
    if isinstance(fact, Matrix) and fact.side == "right" and fact.weight.ndim == 2:
        assert stage.pinv is not None
        return affine.undo_matrix(stage.pinv)
    return None


def _undo_elementwise(e: Emitter, stage: Stage, fact: Elementwise, y: ir.Value, probes: list[Probe]) -> ir.Value:
    branch = stage.branch or fact.principal
    y, probe = clamp(e, y, fact, branch, stage.name)
    if probe is not None:
        probes.append(probe)
    if e.dtype not in HALF_TYPES:
        return hold_in_domain(e, branch.inverse(e, y), fact)
    # Half precision would lose most digits inside a composed function: it is computed in float32.
    narrow = e.dtype
    with e.scope(stage.name, ir.DataType.FLOAT):
        x = branch.inverse(e, e.cast(y, ir.DataType.FLOAT))
    return hold_in_domain(e, e.cast(x, narrow), fact)


def _undo_repeat(e: Emitter, fact: Repeat, y: ir.Value) -> ir.Value:
    """Least squares: x = Σ w·y / Σ w² over the repeated axes; 0 where all weights are 0."""
    if fact.count > 1 or fact.weights is not None:
        if fact.weights is None:
            y = e.op("Mul", y, 1.0 / fact.count)
        else:
            # In units of the largest weight: the square of 1e-170 is 0.
            top = np.max(np.abs(fact.weights), axis=fact.axes, keepdims=True)
            top = np.where(top > 0, top, 1.0)
            unit = fact.weights / top
            squares = np.sum(np.square(unit), axis=fact.axes, keepdims=True)
            factor = np.where(squares > 0, unit / np.where(squares > 0, squares, 1.0) / top, 0.0)
            y = e.op("Mul", y, e.constant(factor, "factor"))
        y = e.op("ReduceSum", y, e.ints(fact.axes), keepdims=1)
    if fact.squeezed:
        y = e.op("Squeeze", y, e.ints(fact.squeezed))
    return y


def _undo_convert(e: Emitter, stage: Stage, fact: Convert, y: ir.Value, probes: list[Probe]) -> ir.Value:
    """Cast back; to a narrower type only after holding y within what that type can hold."""
    if fact.source.itemsize < fact.target.itemsize:
        wide = np.dtype(fact.target.numpy())
        top = np.asarray(largest(np.dtype(fact.source.numpy())), dtype=wide)
        probes.append(Probe(stage.name, y.name or "", -top, top, None))
        y = e.op("Min", e.op("Max", y, e.scalar(-float(top))), e.scalar(float(top)))
    x = e.cast(y, fact.source)
    x.dtype = fact.source
    return x
