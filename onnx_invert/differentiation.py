"""`jacobian`: a model's derivative as a model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import onnx
import onnx_ir as ir

from onnx_invert.build.jacobian import rows_of
from onnx_invert.build.rows import rows
from onnx_invert.build.tape import Tape, copy, place
from onnx_invert.build.versions import domains_of, ir_version_for, opset_for
from onnx_invert.errors import NotInvertibleError, UsageError
from onnx_invert.graph.emit import Emitter
from onnx_invert.graph.given_sizes import GivenShapes
from onnx_invert.graph.write import to_proto
from onnx_invert.opening import ModelLike, open_model
from onnx_invert.plan.batch import follow, joined
from onnx_invert.plan.problem import pose
from onnx_invert.plan.program import program
from onnx_invert.planning import prepare
from onnx_invert.rules import RuleSet, default_rules
from onnx_invert.separation import mixing


def jacobian(
    model: ModelLike,
    *,
    wrt: Sequence[str] = (),
    of: Sequence[str] = (),
    mode: str = "auto",
    shapes: GivenShapes | None = None,
    rules: RuleSet | None = None,
) -> onnx.ModelProto:
    """A model that computes the Jacobian of `model`, sample by sample.

    Its inputs are the model's; its only output is `jacobian` (N, m, n): m numbers of the outputs `of` and n of the
    inputs `wrt`, each flattened and side by side, in float32 or float64 as the model. Where a function has a kink
    (ReLU at 0) it is the derivative of one side. A first axis of symbolic size counts samples, and a sample's outputs
    may depend on its own inputs alone: a model that mixes the samples of a batch is refused.

    Args:
        model: a path or a ModelProto.
        wrt: inputs to differentiate by; may be left out if one input is floating-point.
        of: outputs to differentiate; by default all of floating point that depend on those inputs.
        mode: "forward" accumulates n tangents, "reverse" m cotangents, "auto" the smaller of both.
        shapes: as for `invert`.
        rules: the registry; `default_rules()` by default.

    Raises:
        FileError, ModelError, UsageError: something is wrong with what was given.
        NotInvertibleError: an operator on the way has no derivative, or mixes samples; lists every such node.
    """
    if mode not in {"auto", "forward", "reverse"}:
        raise UsageError(f"mode is 'auto', 'forward' or 'reverse', not {mode!r}.")
    with ExitStack() as stack:
        source = open_model(model, stack, shapes)
        prepare(source)
        problem = pose(source.model, wrt, of, smooth=True)
        steps, blockers = program(problem.recovered, problem.known, rules or default_rules(), problem.opset)
        batch = follow(problem.recovered, problem.known, problem.opset)
        blockers = joined(batch, blockers) or mixing(problem, batch, problem.recovered, problem.known)
        if blockers:
            raise NotInvertibleError(blockers, source.name)
        layouts = {value: batch.layout(value) for value in (*problem.recovered, *problem.known)}
        m, n = (sum(layouts[value].size for value in values) for values in (problem.known, problem.recovered))
        forwards = mode == "forward" or (mode == "auto" and n <= m)
        e = Emitter(problem.known[0].dtype or ir.DataType.FLOAT, [value.name or "" for value in problem.inputs])
        ports = {value: ir.Value(name=value.name, shape=value.shape, type=value.type) for value in problem.inputs}
        values = dict(ports)
        copy(e, steps.before, values)
        tape = Tape.record(e, steps, values, n if forwards else m)
        main = problem.recovered[0]
        like = rows(e, layouts[main], place(e, main, values))
        found = e.op("Identity", rows_of(e, tape, layouts, forwards=forwards, like=like))
        found.name, found.shape = e.unique("jacobian"), ir.Shape([_samples(main), m, n])
        found.type = ir.TensorType(e.dtype)
        version = opset_for(steps.nodes, problem.opset)
        graph = ir.Graph(
            list(ports.values()),
            [found],
            nodes=e.nodes,
            initializers=[value for value in e.initializers if value.uses()],
            opset_imports={"": version, **domains_of(steps.nodes, problem.graph.opset_imports)},
            name="jacobian",
        )
        return to_proto(ir.Model(graph, ir_version=ir_version_for(version), producer_name="onnx-invert"))


def _samples(value: ir.Value) -> int | ir.SymbolicDim:
    dims = list(value.shape or ())
    return dims[0] if dims and not isinstance(dims[0], int) else 1
