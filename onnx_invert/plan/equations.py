"""Every node is an equation between tensors; find which equation determines which unknown tensor.

Known tensors spread from the outputs: a node whose output is known and which has one unknown operand is
solved for it. What this leaves is reported: an equation with several unknown operands, or one that is
left over because its tensors were already determined.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import onnx_ir as ir

from onnx_invert.errors import Blocker
from onnx_invert.plan.problem import Problem
from onnx_invert.rules.node import FLOATS


class Solve(NamedTuple):
    """`node` determines its operand number `operand` from its output."""

    node: ir.Node
    operand: int


class Equation(NamedTuple):
    """A node between unknown tensors: the places of its operands that depend on a recovered input."""

    node: ir.Node
    places: tuple[int, ...]


@dataclass
class Ordering:
    """What can be solved, in order from the outputs to the inputs, of the equations of `problem` (`system`)."""

    problem: Problem
    system: dict[ir.Node, Equation]

    @property
    def solves(self) -> tuple[Solve, ...]:
        """Which equation determines what, from the outputs to the inputs."""
        return tuple(self._spread[0].values())

    @property
    def is_complete(self) -> bool:
        """True if nothing stands in the way."""
        return not any(len(equation.places) > 1 for equation in self.system.values()) and not self.blockers

    @cached_property
    def blockers(self) -> tuple[Blocker, ...]:
        """What stands in the way; looked for when it is asked for, which only a refusal does."""
        return tuple(_obstacles(self.problem, self.system, *self._spread))

    @cached_property
    def _spread(self) -> tuple[dict[ir.Node, Solve], set[ir.Value]]:
        """How equations are solved, each once, and the tensors that are known then. Linear in nodes and tensors."""
        known: set[ir.Value] = set()
        solved: dict[ir.Node, Solve] = {}
        ready: deque[ir.Value] = deque(self.problem.known)
        while ready:
            value = ready.popleft()
            if value in known:
                continue
            known.add(value)
            neighbours = [value.producer(), *[node for node, _ in value.uses()]]
            for node in neighbours:
                equation = self.system.get(node) if node is not None else None
                if equation is None or equation.node in solved or equation.node in self.problem.capturing:
                    continue
                place = _one_unknown(equation, known)
                if place is not None:
                    solved[equation.node] = Solve(equation.node, place)
                    operand = equation.node.inputs[place]
                    assert operand is not None
                    ready.append(operand)
        return solved, known


def equations(problem: Problem) -> dict[ir.Node, Equation]:
    """The nodes that connect the recovered inputs with the known outputs, each as an equation."""
    found: dict[ir.Node, Equation] = {}
    dependent = problem.dependent
    waiting = [value.producer() for value in problem.known]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        unknown = [(place, value) for place, value in enumerate(node.inputs) if value in dependent]
        found[node] = Equation(node, tuple([place for place, _ in unknown]))
        waiting += [value.producer() for _, value in unknown if value is not None]
    return found


def order(problem: Problem) -> Ordering:
    """The equations, to be ordered as far as somebody asks."""
    return Ordering(problem, equations(problem))


def _one_unknown(equation: Equation, known: set[ir.Value]) -> int | None:
    """The place of the only unknown operand, if the output is known and there is just one."""
    node, places = equation
    if known.isdisjoint(node.outputs):
        return None
    inputs = node.inputs
    unknown = [place for place in places if inputs[place] not in known]
    return unknown[0] if len(unknown) == 1 else None


def _obstacles(
    problem: Problem, system: dict[ir.Node, Equation], solved: dict[ir.Node, Solve], known: set[ir.Value]
) -> list[Blocker]:
    """Equations that are stuck or left over, and tensors that several equations use."""
    blockers = []
    for node, equation in system.items():
        if node in problem.capturing:
            blockers.append(
                Blocker(
                    node.name or "",
                    node.op_type,
                    "its body uses the unknown: which branch runs, or how often, decides what is undone",
                    "export the model without it",
                )
            )
        elif len(equation.places) > 1:
            operands = sorted({node.inputs[place].name or "" for place in equation.places})  # type: ignore[union-attr]
            what = (
                f"it uses the unknown tensor {operands[0]!r} {len(equation.places)} times"
                if len(operands) == 1
                else f"its operands {' and '.join(map(repr, operands))} both depend on the unknown"
            )
            blockers.append(
                Blocker(
                    node.name or "",
                    node.op_type,
                    f"{what}: one equation for several unknowns",
                    "cut the model before it, and invert the part that comes first or after",
                )
            )
    tensors = [*problem.graph.inputs, *(output for node in problem.graph for output in node.outputs)]
    for value in tensors:
        if value not in problem.dependent:
            continue
        users = {node: None for node, _ in value.uses() if node in system}
        claims = len(users) + (value in problem.known)
        if claims > 1 and not any(len(system[node].places) > 1 for node in users):
            source = value.producer()
            names = [repr(node.name) for node in users] + (["the outputs"] if value in problem.known else [])
            blockers.append(
                Blocker(
                    (source.name or "") if source is not None else value.name or "",
                    source.op_type if source is not None else "input",
                    f"its tensor {value.name!r} is determined {claims} times, through {' and '.join(names)}",
                    _choice(problem),
                )
            )
    if not blockers:
        blockers = [
            Blocker(value.name or "", "input", "no known output determines it", "--recover  names the others")
            for value in problem.recovered
            if value not in known
        ]
    return blockers


def _choice(problem: Problem) -> str:
    if len(problem.known) < 2:
        return "cut the model where the paths part"
    return f"--from NAME  with one of: {', '.join(value.name or '' for value in problem.known)}"


def upstream(values: Iterable[ir.Value], known: Container[ir.Value] = ()) -> list[ir.Node]:
    """The nodes that make `values`, each once, in the order in which they run; what is `known` needs none."""

    def makers(wanted: Iterable[ir.Value | None]) -> Iterator[tuple[ir.Node, bool]]:
        for value in wanted:
            if value is not None and value not in known and (maker := value.producer()) is not None:
                yield maker, False

    found: dict[ir.Node, None] = {}
    stack = list(makers(values))[::-1]
    while stack:
        node, done = stack.pop()
        if done:
            found[node] = None
        elif node not in found:
            stack.append((node, True))
            stack.extend(makers(node.inputs))
    return list(found)


def float_types(problem: Problem, ends: Iterable[ir.Value]) -> list[ir.DataType]:
    """The floating-point types that tensors have between the recovered inputs and the known outputs, each once.

    Those of `ends` come first. What rounds more coarsely than both ends, a network in half precision behind casts,
    is among them.
    """
    made = (value for node in upstream(problem.known) for value in node.outputs if value in problem.dependent)
    found = dict.fromkeys(value.dtype for value in (*ends, *made))
    return [dtype for dtype in found if dtype in FLOATS]
