"""The ways to every tensor that depends on x."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnx_invert.bodies import has_bodies
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.lossless.links import links_of, missing
from onnx_invert.plan.lossless.samples import Samples, shape_of
from onnx_invert.plan.lossless.steps import Effort, Join, Keep, Run, Step, Undo
from onnx_invert.plan.problem import Problem
from onnx_invert.rules import RuleSet
from onnx_invert.rules.completion import Selection
from onnx_invert.rules.completions.gates import gate
from onnx_invert.rules.facts import NoInverse, Paired
from onnx_invert.rules.node import FLOATS, NodeView


class Ways:
    """The ways to every tensor, one after the other; `uses` counts the nodes that take a tensor."""

    def __init__(self, problem: Problem, rules: RuleSet, effort: Effort, samples: Samples) -> None:
        self.problem = problem
        self.uses: dict[ir.Value, int] = {}
        self._rules, self._effort, self._samples = rules, effort, samples
        self._nodes = [node for node in upstream(problem.known) if self._depends(node)]
        self._order = {node: place for place, node in enumerate(self._nodes)}
        self._reachable: dict[ir.Node, bool] = {}
        for node in self._nodes:
            for value in {value for value in node.inputs if value is not None}:
                self.uses[value] = self.uses.get(value, 0) + 1

    def _depends(self, node: ir.Node) -> bool:
        return any(value in self.problem.dependent for value in node.inputs if value is not None)

    def __iter__(self) -> Iterator[Step]:
        for value in self.problem.recovered:
            yield from self._keep(value)
        if self._effort.keep:
            return
        selections: dict[ir.Value, list[tuple[ir.Value, Selection]]] = {}
        for node in self._nodes:
            if node not in self.problem.capturing:
                for step in self._undo(node):
                    yield step
                    if len(step.links) == 1 and isinstance(part := step.links[0].part, Selection) and not step.others:
                        selections.setdefault(step.value, []).append((step.output, part))
                yield from self._gate(node)
                yield from self._run(node)
            for output in node.outputs:
                yield from self._keep(output)
        for value, parts in selections.items():
            if len(parts) > 1:
                yield _joined(value, parts)

    def _gate(self, node: ir.Node) -> Iterator[Undo]:
        """A GELU or its like that ends here, written out in several nodes."""
        if node.op_type not in {"Mul", "Div"}:
            return
        found = gate(node.outputs[0], self._order, self.problem.dependent)
        if found is None or found.value.dtype not in FLOATS or not node.outputs[0].name:
            return
        shape = shape_of(found.value)
        links = links_of((found.part,), shape, shape, self._effort, self._samples)
        if links is not None:
            yield Undo(found.value, node, node.outputs[0], links, (), found.whole)

    def _keep(self, value: ir.Value) -> Iterator[Keep]:
        numbers = self._samples.numbers(shape_of(value))
        if numbers is not None and value.dtype in FLOATS and value.name:
            yield Keep(value, numbers)

    def _run(self, node: ir.Node) -> Iterator[Run]:
        unknown = [value for value in node.inputs if value is not None and value in self.problem.dependent]
        if self._available(node):
            needs = tuple(dict.fromkeys(unknown))
            yield from (Run(output, node, needs) for output in node.outputs)

    def _available(self, node: ir.Node) -> bool:
        """True if the operands that do not depend on x can be had without it: not even by its shape."""
        if has_bodies(node):
            return False
        others = [value for value in node.inputs if value is not None and value not in self.problem.dependent]
        return all(self._is_available(value) for value in others)

    def _is_available(self, value: ir.Value) -> bool:
        maker = value.producer()
        if maker is None:
            return True
        if maker not in self._reachable:
            self._reachable[maker] = not self._depends(maker) and self._available(maker)
        return self._reachable[maker]

    def _undo(self, node: ir.Node) -> Iterator[Undo]:
        for place, value in enumerate(node.inputs):
            if value is None or value not in self.problem.dependent:
                continue
            for index, output in enumerate(node.outputs):
                if not output.name or (index and node.op_type != "Split"):
                    continue
                chain = self._rules.complete(NodeView(node, place, self.problem.opset, index))
                if isinstance(chain, NoInverse):
                    continue
                links = links_of(chain, shape_of(value), shape_of(output), self._effort, self._samples)
                if links is None or (value.dtype not in FLOATS and any(link.numbers for link in links)):
                    continue
                others = [
                    other
                    for link in links
                    if isinstance(link.part, Paired) and (other := node.inputs[link.part.other]) is not None
                ]
                if all(other in self.problem.dependent or self._is_available(other) for other in others):
                    unknown = tuple(other for other in others if other in self.problem.dependent)
                    yield Undo(value, node, output, links, unknown)


def _joined(value: ir.Value, parts: Sequence[tuple[ir.Value, Selection]]) -> Join:
    return Join(value, tuple(parts), missing([part for _, part in parts]))
