"""Forward nodes that the inverse runs as they are: what the given inputs feed."""

from __future__ import annotations

import onnx_ir as ir

from onnx_invert.errors import ModelError
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.plan import Plan
from onnx_invert.plan.problem import Problem
from onnx_invert.rules.facts import Paired

_STABLE_FROM = 13


class Forwards:
    """Copies forward nodes into the inverse, each once, and finds which given inputs they need."""

    def __init__(self, e: Emitter, problem: Problem, plan: Plan) -> None:
        self._e = e
        self._copies: dict[ir.Value, ir.Value] = {}
        self.inputs: list[ir.Value] = []
        wanted = [
            other
            for path in plan.paths
            for stage in path.stages
            if isinstance(stage.fact, Paired) and (other := stage.nodes[0].inputs[stage.fact.other]) is not None
        ]
        nodes = list(dict.fromkeys(node for value in wanted for node in upstream(value)))
        self.opset: int | None = problem.opset if nodes else None
        if nodes and problem.opset < _STABLE_FROM:
            raise ModelError(
                f"The inverse has to run {nodes[0].name!r} ({nodes[0].op_type}) forwards, from opset "
                f"{problem.opset}. Convert the model to opset 13 or newer first "
                "(onnx.version_converter.convert_version)."
            )
        used = set(wanted) | {v for node in nodes for v in node.inputs if v is not None}
        for value in problem.given:
            if value in used:
                port = ir.Value(name=value.name, shape=value.shape, type=value.type)
                self._copies[value] = port
                self.inputs.append(port)
        for node in nodes:
            self._copy(node)

    def value(self, forward: ir.Value) -> ir.Value:
        """The inverse's own copy of a forward tensor that needs no recovered input."""
        if forward not in self._copies:
            tensor = forward.const_value
            assert tensor is not None
            with self._e.scope("given", tensor.dtype):
                self._copies[forward] = self._e.constant(tensor.numpy(), forward.name or "weight")
        return self._copies[forward]

    def _copy(self, node: ir.Node) -> None:
        inputs = [None if value is None else self.value(value) for value in node.inputs]
        copy = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            attributes=list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=self._e.unique(f"given/{node.name}"),
        )
        for mine, theirs in zip(copy.outputs, node.outputs, strict=True):
            mine.name = self._e.unique(f"given/{theirs.name}")
            mine.type, mine.shape = theirs.type, theirs.shape
            self._copies[theirs] = mine
        self._e.add_node(copy)
