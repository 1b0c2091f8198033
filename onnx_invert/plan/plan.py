"""The plan: every step back, what it promises, and what the whole promises. Printed before it is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnx_invert.describe import kind
from onnx_invert.errors import Blocker, NotInvertibleError
from onnx_invert.plan.equations import Ordering, float_types, order
from onnx_invert.plan.guarantee import Guarantee, Verdict, judge
from onnx_invert.plan.problem import Problem
from onnx_invert.plan.stages import Path, Stage, join_widened, measure, refusals, state_facts, trace
from onnx_invert.rules import RuleSet
from onnx_invert.rules.facts import Convert, Elementwise, Matrix, Paired, requirement
from onnx_invert.rules.interval import Interval

JOINED = "x = y @ (W₁ W₂)⁺: widened and narrowed in one"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Row:
    """A line of the plan's table: one node (or several joined), in the order in which it is undone.

    `rank`, `condition` and `lost` are None where the operation has none; `condition` is infinite where
    an activation saturates. `note` says what a reader should know: a branch that was chosen, a rounding.
    """

    node: str
    op: str
    rule: str
    shapes: str
    guarantee: Guarantee
    rank: int | None
    condition: float | None
    lost: int
    note: str


@dataclass
class Plan:
    """How the recovered inputs follow from the known outputs, and with which guarantee.

    `verdicts` holds, for each path, its guarantee and the box of outputs that it is given for.
    """

    problem: Problem
    paths: list[Path]
    verdicts: list[Verdict]
    rules: RuleSet
    guarantee: Guarantee = field(init=False)

    def __post_init__(self) -> None:
        self.guarantee = Guarantee.weakest([verdict.guarantee for verdict in self.verdicts])

    @property
    def images(self) -> dict[str, Interval | None]:
        """Per known output the box that its values fill, None for part of space."""
        return {path.y.name or "": v.image for path, v in zip(self.paths, self.verdicts, strict=True)}

    def release(self) -> None:
        """Let go of all weights, the model's included; the table stays."""
        release_weights(self.problem, self.paths)

    @property
    def copies(self) -> bool:
        """True if the inverse runs nodes of the model forwards."""
        return any(isinstance(stage.fact, Paired) for path in self.paths for stage in path.stages)

    @property
    def condition(self) -> float:
        """The product of the stages' conditions on the worst path; infinite if an activation saturates."""
        with np.errstate(over="ignore"):
            return max(float(np.prod([stage.condition for stage in path.stages])) for path in self.paths)

    @property
    def depth(self) -> int:
        """The number of stages on the longest path."""
        return max(len(path.stages) for path in self.paths)

    @property
    def dtypes(self) -> list[ir.DataType]:
        """Every floating-point type that the paths and what they need run through, x's first."""
        return float_types(self.problem, [value for path in self.paths for value in (path.x, path.y)])

    @property
    def rows(self) -> list[Row]:
        """The plan as a table, in the order in which the inverse runs."""
        return [row for path in self.paths for row in table_rows(self.problem, self.rules, path)]

    @property
    def requirements(self) -> list[str]:
        """Conditions under which the guarantee holds: on given inputs, on the range of narrower types."""
        stages = [stage for path in self.paths for stage in path.stages]
        return [f"{stage.name}: {text}" for stage in stages if (text := requirement(stage.fact))]


class NoPromiseError(NotInvertibleError):
    """Every layer of a path can be undone, but together they keep no promise."""


def release_weights(problem: Problem, paths: Sequence[Path]) -> None:
    """Let go of the weights of a model and of its paths' stages."""
    for path in paths:
        for stage in path.stages:
            stage.release()
    for value in problem.graph.initializers.values():
        value.const_value = None


def in_the_way(ordering: Ordering, rules: RuleSet) -> list[Blocker]:
    """Why equations are not solved one after the other: what `order` found, and every node that no rule can undo."""
    return _distinct([*ordering.blockers, *refusals(ordering.problem, rules, ordering.system)])


def make_plan(
    problem: Problem, rules: RuleSet, progress: Progress | None = None, ordering: Ordering | None = None
) -> Plan:
    """State the facts of the equations in their order, measure the matrices and judge the paths.

    Raises:
        NotInvertibleError: with every node that stands in the way.
    """
    ordering = ordering or order(problem)
    if not ordering.is_complete:
        raise NotInvertibleError(in_the_way(ordering, rules))
    paths = trace(problem, ordering.solves)
    blockers = [blocker for path in paths for blocker in state_facts(problem, rules, path)]
    if blockers:
        raise NotInvertibleError(_distinct(blockers))
    for path in paths:
        path.stages = join_widened(path.stages)
    stages = [stage for path in paths for stage in path.stages]
    for number, stage in enumerate(stages):
        if progress is not None:
            progress(stage.name, number, len(stages))
        measure(stage)
    verdicts = [judge(path.stages) for path in paths]
    blockers = [blocker for verdict in verdicts for blocker in verdict.blockers]
    if blockers:
        raise NoPromiseError(_distinct(blockers))
    return Plan(problem, paths, verdicts, rules)


def _distinct(blockers: Sequence[Blocker]) -> list[Blocker]:
    return list(dict.fromkeys(blockers))


def table_rows(problem: Problem, rules: RuleSet, path: Path) -> list[Row]:
    """The lines of one path, in the order in which it is undone."""
    groups: dict[tuple[ir.Node, ...], list[Stage]] = {}
    for stage in path.stages:
        groups.setdefault(stage.nodes, []).append(stage)
    shown = {node for nodes in groups for node in nodes}
    groups |= {(solve.node,): [] for solve in path.solves if solve.node not in shown}
    position = {solve.node: index for index, solve in enumerate(path.solves)}
    ordered = sorted(groups.items(), key=lambda item: -position[item[0][0]])
    return [_row(problem, rules, nodes, stages) for nodes, stages in ordered]


def _row(problem: Problem, rules: RuleSet, nodes: tuple[ir.Node, ...], stages: list[Stage]) -> Row:
    whole = Stage(stages[0].fact, nodes) if stages else None
    matrices = [stage for stage in stages if isinstance(stage.fact, Matrix)]
    rule = rules.find(nodes[0].domain, nodes[0].op_type, problem.opset)
    conditions = [stage.condition for stage in stages]
    return Row(
        node=whole.name if whole else nodes[0].name or "",
        op=whole.op_type if whole else nodes[0].op_type,
        rule=JOINED if len(nodes) > 1 else rule.summary if rule else "",
        shapes=_shapes(nodes, problem),
        guarantee=Guarantee.of(all(stage.one_to_one for stage in stages), all(stage.onto for stage in stages)),
        rank=matrices[0].rank if matrices else None,
        condition=float(np.prod(conditions)) if conditions else None,
        lost=sum(stage.lost for stage in stages),
        note="; ".join(note for stage in stages if (note := _note(stage))),
    )


def _shapes(nodes: tuple[ir.Node, ...], problem: Problem) -> str:
    x = next(v for v in nodes[0].inputs if v is not None and v in problem.dependent)
    ends = [kind(value) for value in (x, nodes[-1].outputs[0])]
    return f"{ends[0]} → {ends[1]}"


def _note(stage: Stage) -> str:
    fact = stage.fact
    if isinstance(fact, Elementwise) and stage.branch is not None:
        if not stage.one_to_one:
            return f"branch {stage.branch.label or stage.branch.domain} chosen"
        return "" if stage.branch.image.is_reals else f"y in {stage.branch.image}"
    if isinstance(fact, Matrix) and stage.lengths is not None and stage.rank is not None:
        if stage.rank < min(stage.lengths):
            full = min(stage.lengths)
            return f"rank {stage.rank} of {full}: singular values ≤ {stage.threshold:.2g} count as 0"
        return ""
    if isinstance(fact, Convert):
        narrow = fact.target if fact.target.itemsize < fact.source.itemsize else fact.source
        return f"rounds to {narrow.name.lower()}"
    if isinstance(fact, Paired) and fact.requires:
        return f"if {fact.requires}"
    return f"{stage.lost} elements are lost, and come back as 0" if stage.lost else ""
