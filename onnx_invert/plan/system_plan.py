"""The plan of an inverse that solves the model's equations piece by piece and block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnx_invert.describe import kind
from onnx_invert.errors import Blocker, ModelError, NotInvertibleError
from onnx_invert.plan.blocks import solve, stuck
from onnx_invert.plan.bounds import Ends, bounds_of
from onnx_invert.plan.concrete import Concrete
from onnx_invert.plan.conditions import is_bounded, is_tried, on_domain, said_of, strategy, what_is_tried
from onnx_invert.plan.equations import Ordering, equations, float_types
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.plan.plan import Row
from onnx_invert.plan.problem import Problem
from onnx_invert.plan.stages import Stage, not_available
from onnx_invert.plan.steps import Affine, Coupled, Forward, Place, Root, Scale, Solve, Step, Sweep, Tear, Undo
from onnx_invert.plan.system import System
from onnx_invert.plan.together import taken_together
from onnx_invert.rules import RuleSet
from onnx_invert.rules.facts import Paired, requirement
from onnx_invert.rules.interval import REALS, Interval
from onnx_invert.sized import Sized


@dataclass
class SystemPlan:
    """The steps that find the recovered inputs, in order, and what they promise.

    Every step gives one x and no other, so that x comes back: a left inverse. Where moreover no equation is left
    over and every step fills its outputs, all equations hold for every y: a bijection. `sizes` says where the
    inverse finds every symbolic size: an input of it, and an axis. `bounds` are the ends between which inputs lie.
    """

    problem: Problem
    rules: RuleSet
    concrete: Concrete
    steps: list[Step]
    redundant: list[ir.Node]
    sizes: dict[str, tuple[ir.Value, int]]
    guarantee: Guarantee = field(init=False)
    bounds: dict[str, Ends] = field(init=False)

    def __post_init__(self) -> None:
        self.bounds = bounds_of(self.problem.recovered, self.flat, self.concrete, self.rules, self.problem.opset)
        # What Newton's method solves without a proof may have other solutions: then f(x) = y is all that is said.
        self.guarantee = Guarantee.RIGHT if self.solves else Guarantee.of(True, self.onto)

    @property
    def onto(self) -> bool:
        """True if all equations hold for every y."""
        roots = [step for step in self.flat if isinstance(step, Root)]
        used = not self.redundant and all(stage.onto for stage in self.stages)
        return used and all(step.domain.is_reals and step.evidence.onto for step in roots)

    @property
    def solves(self) -> bool:
        """True if a block is solved of which it is not proven that it has one solution."""
        return any(isinstance(step, Solve) and not step.proof for step in self.flat)

    @cached_property
    def flat(self) -> Sequence[Step]:
        """All steps, those of sweeps included."""
        found: list[Step] = []
        waiting = list(reversed(self.steps))
        while waiting:
            step = waiting.pop()
            found.append(step)
            if isinstance(step, Sweep | Tear | Coupled):
                waiting.extend(reversed(step.inner))
        return found

    @property
    def stages(self) -> list[Stage]:
        """The facts of all steps."""
        return [stage for step in self.flat if isinstance(step, Undo | Affine) for stage in step.stages]

    @property
    def has_roots(self) -> bool:
        """True if that every y is reached is measured: by functions that grow beyond all bounds, factors that are
        not 0."""
        return any(isinstance(step, Root | Scale) or is_tried(step) for step in self.flat)

    @property
    def tried(self) -> list[str]:
        """What the guarantee rests on and nobody proved: conditions of blocks, each with how it was tried."""
        return [text for step in self.flat if (text := what_is_tried(step))]

    @property
    def has_masks(self) -> bool:
        """True if a given mask multiplies what is recovered."""
        given = {value for stage in self.stages if isinstance(stage.fact, Paired) for value in _factor(stage)}
        return any(value not in self.problem.dependent for value in given)

    @property
    def iterates(self) -> bool:
        """True if some steps are iterations: roots, or sweeps."""
        return any(isinstance(step, Root | Tear | Coupled | Solve | Sweep) for step in self.steps)

    @property
    def images(self) -> dict[str, Interval | None]:
        """Per known output all of space, or None for part of it."""
        box = REALS if self.guarantee is Guarantee.BIJECTION else None
        return {value.name or "": box for value in self.problem.known}

    @property
    def copies(self) -> bool:
        """True if the inverse may run nodes of the model forwards."""
        return True

    @property
    def condition(self) -> float:
        """The largest condition number of a step; infinite if an activation saturates."""
        return max((stage.condition for stage in self.stages), default=1.0)

    @property
    def depth(self) -> int:
        """The number of steps."""
        return len(self.steps)

    @property
    def dtypes(self) -> list[ir.DataType]:
        """Every floating-point type that the equations run through, x's first."""
        return float_types(self.problem, (*self.problem.recovered, *self.problem.known))

    @property
    def requirements(self) -> list[str]:
        """Conditions under which the guarantee holds."""
        found = [f"{stage.name}: {text}" for stage in self.stages if (text := requirement(stage.fact))]
        sweeps = (step for step in self.flat if isinstance(step, Sweep))
        found += [f"{step.name}: {name!r} lies within [−1, 1]" for step in sweeps for name in step.within]
        found += self.tried
        found += [f"{step.name}: {on_domain(step)}" for step in self.flat if is_bounded(step)]
        return list(dict.fromkeys(found))

    @property
    def domains(self) -> list[str]:
        """The conditions of roots that do not take all numbers."""
        return list(dict.fromkeys(f"{on_domain(step)} ({step.name})" for step in self.flat if is_bounded(step)))

    @property
    def rows(self) -> list[Row]:
        """The plan as a table, in the order in which the inverse runs. What runs forwards is counted, what only moves
        elements is left out."""
        rows = []
        forwards = 0
        for step in self.steps:
            if isinstance(step, Forward):
                forwards += 1
                continue
            if isinstance(step, Place):
                continue
            rows.append(_row(step, self, forwards))
            forwards = 0
        return rows

    def release(self) -> None:
        """Let go of all weights; the table stays."""
        for stage in self.stages:
            stage.release()
        for value in self.problem.graph.initializers.values():
            value.const_value = None
        self.concrete = Concrete({}, {})


def _factor(stage: Stage) -> list[ir.Value]:
    """The other operand of a product."""
    node = stage.nodes[0]
    other = node.inputs[stage.fact.other] if isinstance(stage.fact, Paired) and node.op_type == "Mul" else None
    return [other] if other is not None else []


def make_system_plan(
    small: Callable[..., Sized],
    problem: Problem,
    rules: RuleSet,
    *,
    tried: bool = False,
    ordering: Ordering | None = None,
) -> SystemPlan:
    """Spread what is known of the outputs through the equations; outputs that are not needed are left out.

    `small` gives the model's graph at sizes that are all known, `small(copies=…)` with more samples. With `tried` a
    block of as many equations as unknowns may be solved without a proof that it has one solution, if all equations
    are used and every other step is onto. `ordering` has the equations of `problem`, if they were looked at before.

    Raises:
        NotInvertibleError: with every place where nothing more follows.
        ModelError: the model does not run at small sizes.
    """
    if problem.capturing:
        raise NotInvertibleError([_captures(node) for node in problem.capturing])
    concrete = Concrete.of(small(), small)
    refused: list[Blocker] = []
    for known in _choices(problem, concrete):
        chosen = replace(problem, known=known, unused=tuple(v for v in problem.graph.outputs if v not in known))
        involved = ordering.system if ordering is not None and known == problem.known else equations(chosen)
        nodes = [node for node in problem.graph if node in involved]
        if unfit := _unfit(chosen, nodes):
            raise NotInvertibleError(unfit)
        sizes = _sizes(chosen)
        system = System.between(concrete, rules, problem.opset, nodes, problem.recovered, frozenset(sizes))
        system.square = _numbers(known, concrete) == _numbers(problem.recovered, concrete)
        for value in known:
            if value in system.known:
                system.learn(value, system.pool.all(system.known[value].shape))
        if solve(system, problem.recovered, tried=tried):
            if size := _untold(problem, sizes):
                raise ModelError(f"The size {size!r} is told by no output that is known: give it a fixed value.")
            steps = taken_together(system.steps)
            plan = SystemPlan(chosen, rules, concrete, steps, system.redundant(), sizes)
            if not plan.solves or plan.onto:
                return plan
            refused = refused or [_not_onto(plan)]
            continue
        refused = refused or _blockers(system, problem)
    raise NotInvertibleError(refused)


def _unfit(problem: Problem, nodes: Sequence[ir.Node]) -> list[Blocker]:
    """Operands that the inverse cannot have: drawn anew at every run, or made in the body of a node."""
    sound: set[ir.Node] = set()
    others = {
        value: node
        for node in nodes
        for value in node.inputs
        if value is not None and value not in problem.dependent and value.const_value is None
    }
    reasons = ((node, not_available(problem, value, sound, sized=True)) for value, node in others.items())
    return [Blocker(node.name or "", node.op_type, reason) for node, reason in reasons if reason]


def _captures(node: ir.Node) -> Blocker:
    return Blocker(node.name or "", node.op_type, "its body uses the unknown, and is not undone")


def _not_onto(plan: SystemPlan) -> Blocker:
    block = next(step for step in plan.flat if isinstance(step, Solve))
    what = "it may have several solutions, and other equations of the model would hold for one of them only"
    return Blocker(block.name, f"{len(block.nodes)} nodes", what, "--method newton  solves all equations together")


def _choices(problem: Problem, concrete: Concrete) -> list[tuple[ir.Value, ...]]:
    """Sets of outputs to start from: the largest ones that together have as many numbers as x; then all."""

    def size(value: ir.Value) -> int:
        return _numbers([value], concrete)

    needed = _numbers(problem.recovered, concrete)
    enough = [value.name or "" for value in problem.known if size(value) >= needed]
    if len(enough) > 1:
        reason = f"the outputs {', '.join(map(repr, enough))} each have as many numbers as what is recovered"
        remedy = f"--from NAME  with one of: {', '.join(enough)}"
        raise NotInvertibleError([Blocker("the outputs", "output", reason, remedy)])
    floats = sorted(problem.known, key=size, reverse=True)
    chosen: list[ir.Value] = []
    for value in floats:
        if _numbers(chosen, concrete) >= needed:
            break
        chosen.append(value)
    order = [tuple(value for value in problem.known if value in chosen), problem.known]
    return list(dict.fromkeys(order))


def _numbers(values: Iterable[ir.Value], concrete: Concrete) -> int:
    """How many numbers tensors have together, at the sizes of the plan."""
    return sum(math.prod(concrete.shapes.get(value.name or "", (0,))) for value in values)


def _sizes(problem: Problem) -> dict[str, tuple[ir.Value, int]]:
    """Where the inverse reads every symbolic size."""
    found: dict[str, tuple[ir.Value, int]] = {}
    for value in (*problem.known, *problem.given):
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int):
                found.setdefault(str(dim.value), (value, axis))
    return found


def _untold(problem: Problem, sizes: Mapping[str, tuple[ir.Value, int]]) -> str | None:
    """A size of what is recovered that no input of the inverse tells."""
    dims = (dim for value in problem.recovered for dim in value.shape or () if not isinstance(dim, int))
    return next((str(dim.value) for dim in dims if str(dim.value) not in sizes), None)


def _blockers(system: System, problem: Problem) -> list[Blocker]:
    found = []
    for y, nodes in stuck(system):
        last = nodes[-1]
        reasons = [refusal.reason for edge, refusal in system.refused.items() if edge[0] in nodes]
        blocked = next((system.blocked[o] for node in nodes for o in node.outputs if o in system.blocked), None)
        if blocked is not None:
            name = f"{nodes[0].name} … {last.name}" if len(nodes) > 1 else last.name or ""
            found.append(Blocker(name, f"{len(nodes)} nodes", blocked.reason, blocked.remedy))
            continue
        together = f"{len(nodes)} nodes determine their input only together, and are" if len(nodes) > 1 else "it is"
        unlike = f"{together} neither affine, nor elementwise, nor triangular, nor a contraction"
        reason = reasons[0] if reasons else unlike
        found.append(
            Blocker(
                last.name or "",
                last.op_type,
                reason,
                "--method newton  solves for it without a promise",
                (f"{y.name!r} is known, {nodes[0].name!r} … {last.name!r} are not undone",),
            )
        )
    if not found:
        found = [
            Blocker(value.name or "", "input", "no known output determines it", "--recover  names the others")
            for value in problem.recovered
            if not system.is_known(value)
        ]
    return found


def _row(step: Step, plan: SystemPlan, forwards: int) -> Row:
    evidence = ""
    before = f"; {forwards} node{'s' if forwards > 1 else ''} run forwards first" if forwards else ""
    problem = plan.problem
    match step:
        case Undo():
            node = step.node
            x, y = node.inputs[step.operand], node.outputs[0]
            name, op = node.name or "", node.op_type
            rule = plan.rules.find(node.domain, node.op_type, problem.opset)
            summary = rule.summary if rule else ""
            stages: Sequence[Stage] = step.stages
        case Affine() | Root() | Scale() | Tear() | Coupled() | Solve() | Sweep() as block:
            name, op, x, y = block.name, f"{len(block.nodes)} nodes", block.x, block.y
            evidence = said_of(block)
            stages = block.stages if isinstance(block, Affine) else ()
            summary = strategy(block)
        case _:
            raise AssertionError(step)
    mask = getattr(step, "mask", None)
    partial = "" if mask is None or mask.all() else f"{mask.mean():.0%} of its elements"
    needs = [s.fact.requires for s in stages if isinstance(s.fact, Paired) and s.fact.requires]
    note = "; ".join(part for part in (partial, evidence, *(f"if {n}" for n in needs)) if part) + before
    conditions = [stage.condition for stage in stages]
    ranks = [stage.rank for stage in stages if stage.rank is not None]
    assert x is not None
    return Row(
        node=name,
        op=op,
        rule=summary,
        shapes=f"{kind(x)} → {kind(y)}",
        guarantee=Guarantee.RIGHT
        if isinstance(step, Solve) and not step.proof
        else Guarantee.of(True, all(stage.onto for stage in stages)),
        rank=ranks[0] if ranks else None,
        condition=float(np.prod(conditions)) if conditions else None,
        lost=0,
        note=note.removeprefix("; "),
    )
