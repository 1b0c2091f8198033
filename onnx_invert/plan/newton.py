"""The plan of an inverse that solves f(x) = y: what is peeled off, where it is cut, how large the systems are.

Ends that have an inverse for every y (a final sigmoid, a scaler) are undone in closed form first; a final Softmax is
compared by its logarithm. What is left is cut at its narrowest tensor h, where h is smaller than both x and y: then
h is found from y first, as a least-squares problem, and x from h. Nothing is proven of such an inverse: its
guarantee is what would hold if every system is solved, and is given only for the samples on which it was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_invert.describe import describe, kind
from onnx_invert.errors import Blocker, ModelError, NotInvertibleError
from onnx_invert.plan.batch import Batch, follow, joined
from onnx_invert.plan.bottleneck import WIDE_TYPES, bottleneck, onto_end
from onnx_invert.plan.decoder import Decoder
from onnx_invert.plan.equations import float_types
from onnx_invert.plan.front import Front, find_front
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.plan.layout import Layout
from onnx_invert.plan.peeling import peel
from onnx_invert.plan.plan import Row, release_weights, table_rows
from onnx_invert.plan.problem import Problem
from onnx_invert.plan.program import Program, program
from onnx_invert.plan.stages import Path
from onnx_invert.rules import RuleSet
from onnx_invert.rules.differential import flat
from onnx_invert.rules.node import FLOATS

LARGEST_DENSE = 256
"""Above this many equations and unknowns the Jacobian is not held: its products are taken instead."""

AT_ONCE = 1 << 31
"""Bytes that the samples which are run together take, where an inverse is tried."""

MOST_RUNS = 8
"""So many such runs at most, where nobody says how many samples to take."""


@dataclass(frozen=True)
class System:
    """Equations program(unknowns) = wanted, as one sample has them: m of them for n unknowns."""

    program: Program
    layouts: dict[ir.Value, Layout]
    front: Front | None
    unknowns: tuple[ir.Value, ...]

    @property
    def wanted(self) -> tuple[ir.Value, ...]:
        """The known tensors."""
        return self.program.wanted

    @property
    def m(self) -> int:
        """How many equations."""
        return sum(self.layouts[value].size for value in self.wanted)

    @property
    def n(self) -> int:
        """How many unknowns."""
        return sum(self.layouts[value].size for value in self.unknowns)

    @property
    def is_dense(self) -> bool:
        """True if the Jacobian is held."""
        return min(self.m, self.n) <= LARGEST_DENSE

    @property
    def nodes(self) -> list[ir.Node]:
        """The nodes of the model that it undoes."""
        front = self.front.nodes if self.front is not None else ()
        return [*front, *(step.node for step in self.program.steps)]

    @property
    def numbers(self) -> int:
        """The numbers in all tensors of one sample that its nodes make."""
        total = 0
        for node in self.nodes:
            for output in node.outputs:
                dims = list(output.shape or ())
                total += int(np.prod([dim for dim in dims if isinstance(dim, int)]))
        return total


@dataclass
class NewtonPlan:
    """How the recovered inputs follow from the known outputs by solving equations.

    `ends` holds per known output the closed-form way back to the tensor that the equations know it by; `systems`
    are solved in this order, each for what the next one knows. `batch` says where samples lie in between.
    With a `decoder` x is what it makes of a w, and w is what is solved for. `joined` is all systems as one, where
    there are several.
    """

    problem: Problem
    ends: list[Path]
    systems: list[System]
    rules: RuleSet
    batch: Batch
    decoder: Decoder | None = None
    joined: System | None = None
    guarantee: Guarantee = field(init=False)

    def __post_init__(self) -> None:
        n, m = self.systems[-1].n, self.systems[0].m
        narrowest = min(min(system.m, system.n) for system in self.systems)
        self.guarantee = Guarantee.of(n == narrowest and m > n, m == narrowest)
        if self.guarantee is Guarantee.BIJECTION:
            self.guarantee = Guarantee.RIGHT

    @property
    def solved(self) -> Problem:
        """The problem whose unknowns the systems have: w's with a decoder."""
        return self.problem if self.decoder is None else self.decoder.problem

    @property
    def paths(self) -> list[Path]:
        """The ends, under the name that every plan has for its paths."""
        return self.ends

    @property
    def copies(self) -> bool:
        """True if the inverse runs nodes of the model forwards."""
        return True

    @property
    def condition(self) -> float | None:
        """None: it changes from point to point."""
        return None

    @property
    def passes(self) -> int:
        """What one iteration costs, in forward passes: two, and one for each column or row of the Jacobian."""
        return sum(2 + (min(s.m, s.n) if s.is_dense else 2 * MOST_PRODUCTS) for s in self.systems)

    def memory(self, itemsize: int) -> int:
        """Bytes that one sample takes at most while a system is solved, beside the weights.

        All tensors of an iteration, as if none made room for the next: forward values twice and slopes, their
        tangents once per seed in two stages of one operation, J four times (as it is made, samples first, scaled,
        turned), and the system with its right-hand side twice. What a conditional prior's regression takes before
        the iteration begins, some numbers for each of its landmarks, is not among them.
        """
        return itemsize * max(_numbers(system) for system in self.systems)

    @property
    def at_once(self) -> int:
        """How many samples are run together where the inverse is tried: as many as `AT_ONCE` bytes hold."""
        return max(1, AT_ONCE // max(1, self.memory(int(self.dtypes[0].itemsize))))

    def affordable(self, count: int) -> int:
        """How many samples are drawn to try the inverse where nobody asked for a number: fewer of large ones."""
        return min(count, max(1, MOST_RUNS * self.at_once))

    @property
    def rows(self) -> list[Row]:
        """The plan as a table, in the order in which the inverse runs."""
        ends = [row for path in self.ends if path.stages for row in table_rows(self.problem, self.rules, path)]
        return [*ends, *(self._row(system) for system in self.systems)]

    def _row(self, system: System) -> Row:
        nodes = system.nodes
        names = [node.name or "" for node in nodes]
        ends = [kind(value) for value in (*system.unknowns[:1], *system.wanted[:1])]
        how = "Gauss–Newton" if system.is_dense else "Gauss–Newton by conjugate gradients"
        return Row(
            node=" … ".join(dict.fromkeys([*names[:1], *names[-1:]])),
            op="+".join(dict.fromkeys(node.op_type for node in nodes)),
            rule=f"f(x) = y solved: {how}",
            shapes=f"{ends[0]} → {ends[1]}",
            guarantee=Guarantee.of(system.m > system.n, system.m <= system.n),
            rank=None,
            condition=None,
            lost=max(0, system.n - system.m),
            note=f"{system.m} equations for {system.n} unknowns",
        )

    @property
    def images(self) -> dict[str, Any]:
        """Of no output is it known which values f reaches."""
        return {value.name or "": None for value in self.problem.known}

    @property
    def requirements(self) -> list[str]:
        """With a decoder, that x is one that it makes; else none beyond what the guarantee says."""
        return [] if self.decoder is None else [f"y is f(x) of an x that {self.decoder.name} makes"]

    @property
    def dtypes(self) -> list[ir.DataType]:
        """Every floating-point type that the equations run through, y's first."""
        return float_types(self.problem, (*self.problem.known, *self.problem.recovered))

    def release(self) -> None:
        """Let go of the weights; what is needed to describe the plan stays."""
        release_weights(self.problem, self.ends)


MOST_PRODUCTS = 150
"""Steps of conjugate gradients at most, for one linear system. In float32 they lose their orthogonality before."""


def _numbers(system: System) -> int:
    small = min(system.m, system.n)
    seeds = small if system.is_dense else 1
    r = system.n  # with bounds or a prior the loop sees all of x, whatever the front
    inner = system.numbers + system.m + 2 * r
    matrices = 4 * system.m * r + 4 * small * (small + 1) if system.is_dense else 0
    return inner * (4 + 3 * seeds) + matrices + 8 * (r + system.m) + system.n


def make_newton_plan(outer: Problem, rules: RuleSet, decoder: Decoder | None = None) -> NewtonPlan:
    """Peel, cut and measure; with a decoder the equations of the joined model.

    Raises:
        NotInvertibleError: with every node that has no derivative or mixes samples, or why there are no equations.
        ModelError: sizes that are known only at run time.
    """
    problem = outer if decoder is None else decoder.problem
    _check_types(problem)
    ends = peel(problem, rules)
    wanted = tuple(path.x for path in ends)
    unknowns = problem.recovered
    whole, blockers = program(unknowns, wanted, rules, problem.opset)
    if not blockers:
        blockers = _flat_outputs(whole)
    batch = follow(unknowns, tuple(dict.fromkeys((*problem.known, *wanted))), problem.opset)
    if blockers := joined(batch, blockers):
        raise NotInvertibleError(blockers)
    cut = bottleneck(whole, batch, onto_end(problem, rules, whole))
    stages = [(unknowns, wanted)] if cut is None else [((cut,), wanted), (unknowns, (cut,))]
    systems = [_system(problem, rules, batch, x, t) for x, t in stages]
    whole_system = None if cut is None else _system(problem, rules, batch, unknowns, wanted, systems[-1].front)
    return NewtonPlan(outer, ends, systems, rules, batch, decoder, whole_system)


def _check_types(problem: Problem) -> None:
    blockers = []
    wide = [repr(value.name) for value in problem.known if value.dtype in WIDE_TYPES]
    some = f": {', '.join(wide)}" if wide else ""
    for value in (*problem.recovered, *problem.known):
        if value.dtype not in WIDE_TYPES:
            kind = value.dtype.name.lower() if value.dtype is not None else "of unknown type"
            remedy = (
                "convert the model to float32"
                if value.dtype in FLOATS
                else f"--from  names a floating-point output{some}"
            )
            blockers.append(Blocker(value.name or "", "tensor", f"it is {kind}: equations need float32 or 64", remedy))
    kinds = {value.dtype for value in (*problem.recovered, *problem.known)}
    if not blockers and len(kinds) > 1:
        names = ", ".join(describe(value) for value in (*problem.recovered, *problem.known))
        blockers.append(Blocker(names, "tensor", "they are of different types", "use one type throughout"))
    if blockers:
        raise NotInvertibleError(blockers)


def _system(
    problem: Problem,
    rules: RuleSet,
    batch: Batch,
    unknowns: tuple[ir.Value, ...],
    wanted: tuple[ir.Value, ...],
    front: Front | None = None,
) -> System:
    """The equations from `unknowns` to `wanted`; `front` if it is known already."""
    if front is None and len(unknowns) == 1:
        front = find_front(unknowns[0], rules, problem.opset, frozenset(wanted))
    starts = unknowns if front is None else (front.value,)
    steps, _ = program(starts, wanted, rules, problem.opset)
    layouts = {value: batch.layout(value) for value in (*unknowns, *starts, *wanted)}
    batched = {layout.batched for layout in layouts.values()}
    if len(batched) > 1:
        rows = ", ".join(describe(value) for value in layouts)
        raise ModelError(
            f"Some of these tensors hold a batch and some do not, so that samples cannot be told: {rows}."
        )
    return System(steps, layouts, front, unknowns)


def _flat_outputs(whole: Program) -> list[Blocker]:
    """Outputs that do not move with any unknown: rounded, counted, compared."""
    moved = set(whole.unknowns)
    stops: dict[ir.Value, ir.Node] = {}
    for step in whole.steps:
        for x, y, at in step.partials:
            if x in moved and at is not flat:
                moved.add(y)
        for output in step.node.outputs:
            if output not in moved and any(v in moved for v in step.node.inputs if v is not None):
                stops[output] = step.node
    if any(value in moved for value in whole.wanted):
        return []
    return [
        Blocker(node.name or "", node.op_type, "it is flat between jumps: nothing tells which way to change its input")
        for node in dict.fromkeys(stops.values())
    ]
