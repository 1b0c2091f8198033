"""What an inverse does, move by move, in one form for all kinds of plan.

A move is one of the inverse's steps: nodes of the network that are undone, put back, run or solved together. What
the inverse computes and nothing uses is no move; nor is what only tells sizes, or follows from weights alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import onnx_ir as ir

from onnx_invert.plan.bounded import BoundedPlan
from onnx_invert.plan.choice import AnyPlan
from onnx_invert.plan.conditions import strategy
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.newton import NewtonPlan
from onnx_invert.plan.plan import Plan
from onnx_invert.plan.problem import Problem, followers
from onnx_invert.plan.stages import Path, Stage
from onnx_invert.plan.steps import Affine, Block, Coupled, Forward, Place, Root, Scale, Solve, Step, Sweep, Tear, Undo
from onnx_invert.plan.system_plan import SystemPlan
from onnx_invert.rules.facts import Rearrangement

Operand = tuple[ir.Node, int]


class Kind(Enum):
    """What becomes of a node; the value is what a reader is told."""

    RUN = "run"
    PLACED = "put back"
    UNDONE = "undo"
    SOLVED = "solve"


@dataclass(frozen=True)
class Move:
    """One step of the inverse: it finds the operands `finds` of `nodes`, or runs them if there are none.

    `how` says by what; `reads` are the operands that have to be known before.
    """

    kind: Kind
    nodes: tuple[ir.Node, ...]
    finds: frozenset[Operand] = frozenset()
    reads: frozenset[Operand] = frozenset()
    how: str = ""


def moves(plan: AnyPlan) -> list[Move]:
    """The moves of a plan, in the order in which the inverse makes them. Linear in the number of nodes and steps."""
    if isinstance(plan, BoundedPlan):
        return moves(plan.closed)
    match plan:
        case Plan():
            found = [move for path in plan.paths for move in _back(plan, path)]
        case SystemPlan():
            found = _live(plan)
        case NewtonPlan():
            found = [move for path in plan.ends if path.stages for move in _back(plan, path)]
            found += [_solved(system.nodes, system.unknowns, _newton(system.m, system.n)) for system in plan.systems]
            if plan.decoder is not None:
                found += [_run(node) for node in plan.decoder.nodes]
    return [*map(_run, _beforehand(subject(plan), found)), *found]


def subject(plan: AnyPlan) -> Problem:
    """The problem whose graph the moves are about: with a decoder, that of the model behind it."""
    return plan.solved if isinstance(plan, NewtonPlan) else plan.problem


def _beforehand(problem: Problem, found: Iterable[Move]) -> list[ir.Node]:
    """The nodes that follow from given inputs, and that some move reads: they can run at once."""
    given = followers(problem.graph, problem.given)
    read = dict.fromkeys(
        value
        for move in found
        for node in move.nodes
        for value in node.inputs
        if value is not None and value in given and value not in problem.dependent
    )
    return [node for node in upstream(read) if any(output in given for output in node.outputs)]


def _run(node: ir.Node) -> Move:
    return Move(Kind.RUN, (node,), reads=frozenset(_operands([node])), how="runs as in the network")


def _operands(nodes: Iterable[ir.Node]) -> Iterator[Operand]:
    for node in nodes:
        yield from ((node, place) for place, value in enumerate(node.inputs) if value is not None)


def _back(plan: Plan | NewtonPlan, path: Path) -> Iterator[Move]:
    """The moves of a path; nodes that were multiplied out are undone in one."""
    joined: dict[ir.Node, tuple[ir.Node, ...]] = {}
    facts: dict[ir.Node, list[Stage]] = {}
    for stage in path.stages:
        joined.update(dict.fromkeys(stage.nodes, stage.nodes))
        facts.setdefault(stage.nodes[0], []).append(stage)
    done: set[ir.Node] = set()
    operand = {solve.node: solve.operand for solve in path.solves}
    for solve in reversed(path.solves):
        nodes = joined.get(solve.node, (solve.node,))
        if solve.node in done:
            continue
        done.update(nodes)
        finds = frozenset((node, operand[node]) for node in nodes if node in operand)
        reads = frozenset(_operands(nodes)) - finds
        if len(nodes) > 1:
            yield Move(Kind.SOLVED, nodes, finds, reads, "multiplied out: x = y @ (W₁ W₂)⁺")
        else:
            kind = Kind.PLACED if _only_moves(facts.get(solve.node, [])) else Kind.UNDONE
            yield Move(kind, nodes, finds, reads, _summary(plan, solve.node))


def _only_moves(stages: Sequence[Stage]) -> bool:
    return all(isinstance(stage.fact, Rearrangement) for stage in stages)


def _summary(plan: Plan | SystemPlan | NewtonPlan, node: ir.Node) -> str:
    rule = plan.rules.find(node.domain, node.op_type, plan.problem.opset)
    return rule.summary if rule is not None else "its logarithm is compared"


def _newton(m: int, n: int) -> str:
    return f"Gauss–Newton: {m} equations for {n} unknowns"


def _solved(nodes: Sequence[ir.Node], unknowns: Sequence[ir.Value], how: str) -> Move:
    """Nodes that are solved together for `unknowns`."""
    nodes = tuple(node for node in dict.fromkeys(nodes) if node.graph is not None)  # not what the plan made up
    operands = set(_operands(nodes))
    finds = {(node, place) for node, place in operands if node.inputs[place] in unknowns}
    made = {output for node in nodes for output in node.outputs}
    within = {(node, place) for node, place in operands if node.inputs[place] in made}
    return Move(Kind.SOLVED, nodes, frozenset(finds), frozenset(operands - finds - within), how)


def _live(plan: SystemPlan) -> list[Move]:
    """The steps of a plan without those whose results nothing uses, from the last to the first.

    A node may run several times, with more known of its operands each time: a run serves what is read before the
    next one.
    """
    wanted = set(plan.problem.recovered)
    awaited = set(plan.problem.recovered)
    found = []
    for step in reversed(plan.steps):
        if isinstance(step, Forward):
            if awaited.isdisjoint(step.node.outputs):
                continue
            awaited.difference_update(step.node.outputs)
        elif _target(step) not in wanted:
            continue
        move = _move(plan, step)
        read = {node.inputs[place] for node, place in move.reads} | _results(step)
        values = {value for value in read if value is not None}
        wanted |= values
        awaited |= values
        found.append(move)
    return found[::-1]


def _target(step: Step) -> ir.Value | None:
    match step:
        case Place() | Undo():
            return step.node.inputs[step.operand]
        case Block():
            return step.x
    raise AssertionError(step)


def _results(step: Step) -> set[ir.Value]:
    """What a step takes of what its nodes make."""
    match step:
        case Forward():
            return set()
        case Place() | Undo():
            return set(step.node.outputs)
        case Block():
            return {step.y, step.x}
    raise AssertionError(step)


def _move(plan: SystemPlan, step: Step) -> Move:
    match step:
        case Forward():
            return _run(step.node)
        case Place():
            return Move(Kind.PLACED, (step.node,), frozenset({(step.node, step.operand)}), how=_SHIFTED)
        case Undo():
            finds = frozenset({(step.node, step.operand)})
            kind = Kind.PLACED if _only_moves(step.stages) else Kind.UNDONE
            return Move(
                kind, (step.node,), finds, frozenset(_operands([step.node])) - finds, _summary(plan, step.node)
            )
        case Affine() | Root() | Scale() | Tear() | Coupled() | Solve() | Sweep():
            return _solved(step.nodes, [step.x], strategy(step))
    raise AssertionError(step)


_SHIFTED = "elements go back to where they were"
