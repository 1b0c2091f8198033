"""What runs between unknown tensors and known ones, and how each node of it is differentiated."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnx_invert.bodies import has_bodies
from onnx_invert.errors import Blocker
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.stages import is_drawn
from onnx_invert.rules import RuleSet
from onnx_invert.rules.differential import At
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import FLOATS, NodeView


@dataclass(frozen=True)
class Step:
    """A node, and how each of its outputs is differentiated by each operand that depends on the unknown.

    It is `hidden` if its outputs may be infinite, or no numbers, and the wanted tensors take no notice of that.
    """

    node: ir.Node
    partials: tuple[tuple[ir.Value, ir.Value, At], ...]
    hidden: bool = False


@dataclass(frozen=True)
class Program:
    """The nodes between unknown tensors and the wanted ones, in the order in which they run.

    `before` are those that need no unknown; they can run once, outside a loop.
    """

    unknowns: tuple[ir.Value, ...]
    wanted: tuple[ir.Value, ...]
    steps: tuple[Step, ...]
    before: tuple[ir.Node, ...]

    @property
    def nodes(self) -> list[ir.Node]:
        """All of them."""
        return [*self.before, *(step.node for step in self.steps)]


def program(
    unknowns: Sequence[ir.Value], wanted: Sequence[ir.Value], rules: RuleSet, opset: int
) -> tuple[Program, list[Blocker]]:
    """What to run and how to differentiate it; and every node that has no derivative."""
    order, dependent = _between(unknowns, wanted)
    steps, before, blockers = [], [], list[Blocker]()
    for node in order:
        places = [i for i, value in enumerate(node.inputs) if value is not None and value in dependent]
        if has_bodies(node):
            blockers.append(Blocker(node.name or "", node.op_type, "it has a body, which is not run inside a solver"))
            continue
        if is_drawn(node):
            reason = "what it makes is drawn anew at every run: the equations would change from step to step"
            blockers.append(Blocker(node.name or "", node.op_type, reason, "export the model for inference"))
            continue
        if not places:
            before.append(node)
            continue
        partials = []
        used = [
            (index, output)
            for index, output in enumerate(node.outputs)
            if _is_float(output) and (index == 0 or output.uses() or output in wanted)
        ]
        for index, output in used:
            for place in places:
                operand = node.inputs[place]
                assert operand is not None
                if not _is_float(operand):
                    continue
                at = rules.differentiate(NodeView(node, place, opset, index))
                if isinstance(at, NoInverse):
                    blockers.append(Blocker(node.name or "", node.op_type, at.reason, at.remedy))
                else:
                    partials.append((operand, output, at))
        steps.append(Step(node, tuple(partials)))
    return Program(tuple(unknowns), tuple(wanted), tuple(_with_hidden(steps, wanted)), tuple(before)), blockers


def part(
    rules: RuleSet,
    opset: int,
    nodes: Sequence[ir.Node],
    unknowns: Sequence[ir.Value],
    wanted: Sequence[ir.Value],
    frozen: Collection[tuple[ir.Node, int]] = (),
) -> Program | Blocker:
    """`nodes` as a program: each differentiated by what depends on an unknown elsewhere than at the `frozen` operands.

    What a node takes from outside of them, `values` have when it is run; or the node that has no derivative.
    """
    inside = set(unknowns)
    steps = []
    for node in nodes:
        partials = []
        for place, value in enumerate(node.inputs):
            if value is None or value not in inside or (node, place) in frozen or value.dtype not in FLOATS:
                continue
            for index, output in enumerate(node.outputs):
                if output.dtype not in FLOATS:
                    continue
                at = rules.differentiate(NodeView(node, place, opset, index))
                if isinstance(at, NoInverse):
                    return Blocker(node.name or "", node.op_type, at.reason, at.remedy)
                partials.append((value, output, at))
        if partials:
            inside.update(output for output in node.outputs if output.dtype in FLOATS)
        steps.append(Step(node, tuple(partials)))
    return Program(tuple(unknowns), tuple(wanted), tuple(steps), ())


def _between(unknowns: Sequence[ir.Value], wanted: Sequence[ir.Value]) -> tuple[list[ir.Node], set[ir.Value]]:
    """The nodes that make `wanted` from `unknowns` in running order, and the values that need an unknown to run.

    That a shape needs only an unknown's shape makes no difference here: it is no float, and has no derivative.
    """
    found = upstream(wanted, set(unknowns))
    dependent = set(unknowns)
    for node in found:
        if any(value in dependent for value in node.inputs if value is not None):
            dependent.update(node.outputs)
    return found, dependent


_HIDES = {
    "Where": frozenset({1, 2}),
    "Div": frozenset({1}),
    **dict.fromkeys(("Max", "Min", "Clip", "Reciprocal", "Exp", "Sigmoid", "Tanh", "Softplus", "Elu", "Relu"), None),
}
"""Operands that may be infinite, or no numbers, and the output finite: what is not chosen, and what saturates. None
says all of them."""

_BREAKS = frozenset(
    {
        *("Acos", "Acosh", "Asin", "Atanh", "Cosh", "Div", "Exp", "Log", "Pow", "Reciprocal", "ReduceLogSum"),
        *("ReduceLogSumExp", "Sinh", "Sqrt", "Tan"),
    }
)
"""What makes infinities, or no numbers, of ordinary ones."""

_LEVEL = frozenset({"Add", "Clip", "LeakyRelu", "Max", "Mean", "Min", "Neg", "PRelu", "Relu", "Sub", "Sum"})
"""What has a finite slope also there."""


def _with_hidden(steps: Sequence[Step], wanted: Sequence[ir.Value]) -> list[Step]:
    broken = set[ir.Value]()
    for step in steps:
        if step.node.op_type in _BREAKS or any(value in broken for value in step.node.inputs):
            broken.update(step.node.outputs)
    exposed = set(wanted)
    found = []
    for step in reversed(steps):
        node = step.node
        seen = any(output in exposed for output in node.outputs)
        hidden = not seen and node.op_type not in _LEVEL and node.outputs[0] in broken
        found.append(replace(step, hidden=True) if hidden else step)
        if seen:
            hides = _HIDES.get(node.op_type, frozenset())
            exposed.update(v for i, v in enumerate(node.inputs) if v is not None and not (hides is None or i in hides))
    return found[::-1]


def _is_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype in FLOATS
