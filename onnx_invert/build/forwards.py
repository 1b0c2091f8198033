"""Forward nodes that the inverse runs as they are: what the given inputs feed."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnx_invert.build.tape import copy
from onnx_invert.build.versions import domains_of
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.problem import Problem
from onnx_invert.plan.stages import Path
from onnx_invert.rules.facts import Paired


class Forwards:
    """Copies forward nodes into the inverse, each once, and finds which given inputs they need."""

    def __init__(self, e: Emitter, problem: Problem, paths: Sequence[Path]) -> None:
        self._e = e
        self._copies: dict[ir.Value, ir.Value] = {}
        self.inputs: list[ir.Value] = []
        wanted = [
            other
            for path in paths
            for stage in path.stages
            if isinstance(stage.fact, Paired) and (other := stage.nodes[0].inputs[stage.fact.other]) is not None
        ]
        nodes = upstream(wanted)
        self.nodes, self._imports = nodes, problem.graph.opset_imports
        used = dict.fromkeys(
            [*wanted, *(v for node in nodes for v in node.inputs if v is not None)]
        )  # in a fixed order
        for value in problem.given:
            if value in used:
                port = ir.Value(name=value.name, shape=value.shape, type=value.type)
                self._copies[value] = port
                self.inputs.append(port)
        for value in used:
            if value.const_value is not None:
                self.value(value)
        copy(e, nodes, self._copies, "given")

    @property
    def domains(self) -> dict[str, int]:
        """The versions of other domains that the copies need."""
        return domains_of(self.nodes, self._imports)

    def value(self, forward: ir.Value) -> ir.Value:
        """The inverse's own copy of a forward tensor that needs no recovered input."""
        if forward not in self._copies:
            tensor = forward.const_value
            assert tensor is not None
            self._copies[forward] = self._e.weight(tensor, f"given/{forward.name}")
        return self._copies[forward]
