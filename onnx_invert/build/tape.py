"""Forward and reverse accumulation, emitted as nodes: products with the Jacobian of a part of the model.

A tape runs forward nodes inside the graph under construction and linearises each at the values it finds there.
`push` then carries tangents from the unknown tensors to the known ones, `pull` cotangents back; both may be
emitted several times, and in the body of a Loop inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.program import Program, Step
from onnx_invert.rules.differential import Differential, Point
from onnx_invert.rules.rounding import has_kink, kink, rounded

Width = Callable[[Emitter, ir.Value], ir.Value | None]
"""Emits the width by which the kink of a function of this operand is rounded off; None where it stays a kink."""


def copy(e: Emitter, nodes: Iterable[ir.Node], values: dict[ir.Value, ir.Value], prefix: str = "forward") -> None:
    """Emit `nodes` as they are. `values` maps tensors of the model to those of the graph, and grows."""
    for node in nodes:
        inputs = [None if value is None else place(e, value, values) for value in node.inputs]
        values.update(zip(node.outputs, again(e, node, inputs, prefix), strict=True))


def again(e: Emitter, node: ir.Node, inputs: Sequence[ir.Value | None], prefix: str = "forward") -> Sequence[ir.Value]:
    """Emit one node of the model on other operands; its outputs."""
    twin = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        attributes=list(node.attributes.values()),
        num_outputs=len(node.outputs),
        name=e.unique(f"{prefix}/{node.name}"),
    )
    for mine, theirs in zip(twin.outputs, node.outputs, strict=True):
        mine.name = e.unique(f"{prefix}/{theirs.name}") if theirs.name else theirs.name
        mine.type, mine.shape = theirs.type, theirs.shape
    e.add_node(twin)
    return twin.outputs


def advance(e: Emitter, step: Step, values: dict[ir.Value, ir.Value], width: Width | None) -> ir.Value | None:
    """Emit a step's node, its kink rounded off; what that adds to its slope."""
    node = step.node
    copy(e, [node], values)
    x = node.inputs[0] if node.inputs else None
    c = None if width is None or x is None or not has_kink(node) else width(e, x)
    if c is None or x is None:
        return None
    inputs = [None if value is None else values[value] for value in node.inputs]
    added, bend = rounded(e, values[x], kink(e, node, inputs), c)
    output = node.outputs[0]
    values[output] = e.op("Add", values[output], added)
    values[output].shape, values[output].type = output.shape, output.type
    return bend


def place(e: Emitter, value: ir.Value, values: dict[ir.Value, ir.Value]) -> ir.Value:
    """The graph's own copy of a tensor of the model; weights are taken over when they are first used."""
    if value not in values:
        tensor = value.const_value
        assert tensor is not None, f"{value.name!r} is neither made nor constant"
        values[value] = e.weight(tensor, value.name or "weight")
    return values[value]


def weights(e: Emitter, nodes: Iterable[ir.Node], values: dict[ir.Value, ir.Value]) -> None:
    """Take over the weights of `nodes`, so that a body captures them of the graph around it."""
    for node in nodes:
        for value in node.inputs:
            if value is not None and value.const_value is not None:
                place(e, value, values)


@dataclass
class Tape:
    """A program that has run in the graph, and what it is linearised to there."""

    program: Program
    values: dict[ir.Value, ir.Value]
    seeds: int
    _maps: list[tuple[str, ir.Value, ir.Value, Differential]] = field(default_factory=list)

    @staticmethod
    def record(
        e: Emitter,
        program: Program,
        values: Mapping[ir.Value, ir.Value],
        seeds: int,
        width: Width | None = None,
    ) -> Tape:
        """Run the program where the unknowns are as `values` says; `seeds` tangents will go together.

        `values` also holds what `program.before` makes, and the inputs that are given. `width` says how
        kinks are rounded off.
        """
        found = dict(values)
        tape = Tape(program, found, seeds)
        for step in program.steps:
            bend = advance(e, step, found, width)
            inputs = [None if value is None else found[value] for value in step.node.inputs]
            point = Point(e, seeds, inputs, [found[output] for output in step.node.outputs], bend, step.hidden)
            with e.scope(f"derivative/{step.node.name}"):
                made = [(operand, output, at(point)) for operand, output, at in step.partials]
            name = step.node.name or ""
            tape._maps += [(name, x, y, differential) for x, y, differential in made if differential is not None]
        return tape

    def push(self, e: Emitter, tangents: Mapping[ir.Value, ir.Value]) -> dict[ir.Value, ir.Value]:
        """Tangents (S, *shape) of the unknowns to those of the wanted tensors; what is missing is zero."""
        known = dict(tangents)
        for name, x, y, differential in self._maps:
            if x in known:
                with e.scope(f"push/{name}"):
                    part = differential.push(e, known[x])
                    known[y] = part if y not in known else e.op("Add", known[y], part)
        return {value: known[value] for value in self.program.wanted if value in known}

    def pull(self, e: Emitter, cotangents: Mapping[ir.Value, ir.Value]) -> dict[ir.Value, ir.Value]:
        """Cotangents (S, *shape) of the wanted tensors to those of the unknowns; what is missing is zero."""
        known = dict(cotangents)
        for name, x, y, differential in reversed(self._maps):
            if y in known:
                with e.scope(f"pull/{name}"):
                    part = differential.pull(e, known[y])
                    known[x] = part if x not in known else e.op("Add", known[x], part)
        return {value: known[value] for value in self.program.unknowns if value in known}
