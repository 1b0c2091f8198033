"""What of a network is undone in closed form before its equations are solved: the operations next to y."""

from __future__ import annotations

from collections.abc import Container, Iterable

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.equations import Solve
from onnx_invert.plan.guarantee import judge
from onnx_invert.plan.problem import Problem
from onnx_invert.plan.stages import Path, Stage, measure
from onnx_invert.rules import RuleSet
from onnx_invert.rules.facts import Branch, Diagonal, Elementwise, NoInverse
from onnx_invert.rules.interval import POSITIVE, REALS
from onnx_invert.rules.node import NodeView


def peel(problem: Problem, rules: RuleSet) -> list[Path]:
    """One path for each known output, back through nodes that can be undone for every value they make."""
    leading = _leading(problem.known)
    return [_peel(problem, rules, value, leading) for value in problem.known]


def _leading(known: Iterable[ir.Value]) -> set[ir.Node]:
    """The nodes that the known outputs are made of."""
    found: set[ir.Node] = set()
    waiting = list(known)
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            waiting.extend(value for value in node.inputs if value is not None)
    return found


def _peel(problem: Problem, rules: RuleSet, y: ir.Value, leading: Container[ir.Node]) -> Path:
    """Go back from a known output through nodes that can be undone for every value they make.

    `leading` are those that lead to a known output: what others, a label's, take does not matter.
    """
    solves: list[Solve] = []
    stages: list[Stage] = []
    value = y
    while (node := value.producer()) is not None and value not in problem.recovered:
        places = [i for i, v in enumerate(node.inputs) if v is not None and v in problem.dependent]
        if len(places) != 1 or len(node.outputs) != 1 or not _only(value, y, problem, leading):
            break
        if node.op_type == "Softmax" and not stages:
            value, stage = _logarithm(node)
            solves.append(Solve(node, places[0]))
            stages.append(stage)
            break
        chain = rules.apply(NodeView(node, places[0], problem.opset))
        if isinstance(chain, NoInverse) or not all(_is_open(fact) for fact in chain):
            break
        solves.append(Solve(node, places[0]))
        stages[:0] = [Stage(fact, (node,), places[0]) for fact in chain]
        operand = node.inputs[places[0]]
        assert operand is not None
        value = operand
    while stages and isinstance(stages[0].fact, Diagonal):
        # A shift or scale alone gains nothing; the equations take it as it is.
        first = stages[0].nodes[0]
        if any(isinstance(stage.fact, Elementwise) for stage in stages if first in stage.nodes):
            break
        stages = [stage for stage in stages if first not in stage.nodes]
        solves = [solve for solve in solves if solve.node is not first]
        value = first.outputs[0]
    for stage in stages:
        measure(stage)
    judge(stages)
    return Path(value, y, tuple(reversed(solves)), stages)


def _only(value: ir.Value, y: ir.Value, problem: Problem, leading: Container[ir.Node]) -> bool:
    """True if nothing but the next node back towards `y` uses the tensor, of those that lead to a known output."""
    uses = sum(user in leading or user.graph is not problem.graph for user, _ in value.uses())
    return uses == 0 if value is y else uses == 1 and value not in problem.known


def _is_open(fact: object) -> bool:
    """True if the fact is undone for every y it makes, whatever x was: a bijection of the line onto its image."""
    if isinstance(fact, Elementwise):
        return len(fact.branches) == 1 and fact.principal.domain.is_reals
    return isinstance(fact, Diagonal) and bool(np.all(fact.scale != 0))


def _logarithm(node: ir.Node) -> tuple[ir.Value, Stage]:
    """LogSoftmax in place of a final Softmax, and the stage y = exp of it."""
    twin = ir.Node("", "LogSoftmax", [node.inputs[0]], attributes=list(node.attributes.values()), name=node.name)
    value, y = twin.outputs[0], node.outputs[0]
    value.name, value.shape, value.type = f"log({y.name})", y.shape, y.type
    fact = Elementwise(
        np.exp,
        lambda e, x, out: out,
        (Branch(REALS, POSITIVE, lambda e, out: e.op("Log", out)),),
    )
    return value, Stage(fact, (node,))
