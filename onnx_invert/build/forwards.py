"""Forward nodes that the inverse runs as they are: what the given inputs feed."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from onnx_invert.errors import ModelError, UsageError
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.plan import Plan
from onnx_invert.plan.problem import Problem
from onnx_invert.rules.facts import Paired

OLDEST_OPSET = 13
"""The oldest opset whose signatures are those that rules emit."""


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
        nodes = upstream(wanted)
        self._nodes, self._opset, self._imports = nodes, problem.opset, problem.graph.opset_imports
        used = set(wanted) | {v for node in nodes for v in node.inputs if v is not None}
        for value in problem.given:
            if value in used:
                port = ir.Value(name=value.name, shape=value.shape, type=value.type)
                self._copies[value] = port
                self.inputs.append(port)
        for node in nodes:
            self._copy(node)

    def opset(self, wanted: int | None, default: int) -> int:
        """An opset at which the copies mean what they meant in the model.

        Raises:
            UsageError: the `wanted` one is not.
            ModelError: none from 13 on is.
        """
        if not self._nodes:
            return wanted or default
        for opset in [wanted] if wanted is not None else [max(default, self._opset), self._opset]:
            if opset >= OLDEST_OPSET and all(_same_at(node, self._opset, opset) for node in self._nodes):
                return opset
        first = f"{self._nodes[0].name!r} ({self._nodes[0].op_type})"
        if wanted is not None:
            raise UsageError(
                f"--opset {wanted}: the inverse runs {first} forwards, from opset {self._opset}, "
                f"and its operators changed on the way to {wanted}."
            )
        raise ModelError(
            f"The inverse has to run {first} forwards, from opset {self._opset}. Convert the model to opset "
            f"{OLDEST_OPSET} or newer first (onnx.version_converter.convert_version)."
        )

    @property
    def domains(self) -> dict[str, int]:
        """The versions of other domains that the copies need."""
        names = {node.domain for node in self._nodes} - {"", "ai.onnx"}
        return {name: version for name, version in self._imports.items() if name in names}

    def value(self, forward: ir.Value) -> ir.Value:
        """The inverse's own copy of a forward tensor that needs no recovered input."""
        if forward not in self._copies:
            tensor = forward.const_value
            assert tensor is not None
            self._copies[forward] = self._e.weight(tensor, f"given/{forward.name}")
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


def _same_at(node: ir.Node, before: int, after: int) -> bool:
    """True if the operator has one and the same definition at both opsets of the default domain."""
    if before == after or node.domain not in {"", "ai.onnx"}:
        return True
    first, second = (onnx.defs.get_schema(node.op_type, opset, "").since_version for opset in (before, after))
    return bool(first == second)
