"""One graph of two: from y and z where z is given, from y alone where it is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.build.inverse import assemble
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.lossless.completed import Lossless


def either(
    e: Emitter,
    plan: Lossless,
    plain: ir.Model,
    completed: Sequence[ir.Value],
    inputs: Sequence[ir.Value],
    opsets: Mapping[str, int],
    metadata: Mapping[str, str] | None,
) -> ir.Model:
    """If z has rows, what was emitted; else the nodes of the plain inverse."""
    problem, graph = plan.problem, plain.graph
    latent = next(value for value in inputs if value.const_value is not None)
    outputs = {value.name: value for value in graph.outputs}
    nodes, weights = list(graph), list(graph.initializers.values())
    extra = [value for name, value in outputs.items() if name not in {v.name for v in problem.recovered}]
    shown = [outputs[value.name] for value in problem.recovered] + extra
    ports = [(value.name, value.shape, value.type) for value in shown]
    inputs = [*inputs, *(value for value in graph.inputs if value not in inputs)]
    graph.outputs.clear()
    graph.inputs.clear()
    graph.initializers.clear()
    graph.remove(nodes)
    for value in shown:
        value.name = e.unique(f"plain/{value.name}")
    with e.scope("residual"):
        # Nothing is solved for where z is given: there is no residual.
        found = [*completed, *(_no_residual(e, completed[0], value) for value in extra)]
        found = [e.op("Identity", value) if value.producer() is None else value for value in found]
    for made, before in zip(found, shown, strict=True):
        made.shape, made.type = before.shape, before.type
    main = Emitter(e.dtype)
    main._taken, main._shared, main.initializers = e._taken, e._shared, e.initializers
    with main.scope("latent"):
        empty = main.op("Equal", main.op("Size", latent), main.count(0))
    node = ir.node(
        "If",
        [empty],
        attributes={
            "then_branch": ir.Graph([], shown, nodes=nodes, name="plain"),
            "else_branch": ir.Graph([], found, nodes=e.nodes, name="completed"),
        },
        num_outputs=len(shown),
        name=e.unique("inverse/If"),
    )
    for output, (name, shape, kind) in zip(node.outputs, ports, strict=True):
        output.name, output.shape, output.type = name, shape, kind
    main.add_node(node)
    model = assemble(main, inputs, list(node.outputs), {**plain.opset_imports, **opsets}, metadata)
    for value in weights:
        model.graph.register_initializer(value)
    for value in inputs:
        if value.const_value is not None:
            model.graph.register_initializer(value)
    return model


def _no_residual(e: Emitter, x: ir.Value, like: ir.Value) -> ir.Value:
    """Zeros, one a sample."""
    rank = 1 if like.shape is None else len(like.shape)
    zero = e.constant(np.zeros([1] * rank), "zero")
    with e.scope(e.scope_name, ir.DataType.INT64):
        size = e.op("Slice", e.op("Shape", x), e.ints([0]), e.ints([1]))
        if rank > 1:
            size = e.op("Concat", size, e.ints([1] * (rank - 1)), axis=0)
    return e.op("Expand", zero, size)
