"""Which way of inverting serves a model: back along paths or through its equations where that keeps a promise,
Newton where it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import onnx_ir as ir

from onnx_invert.errors import Blocker, ModelError, NotInvertibleError, UsageError
from onnx_invert.plan.bounded import BoundedPlan
from onnx_invert.plan.equations import order
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.plan.newton import NewtonPlan, make_newton_plan
from onnx_invert.plan.plan import NoPromiseError, Plan, Progress, in_the_way, make_plan
from onnx_invert.plan.problem import Problem
from onnx_invert.plan.system_plan import SystemPlan, make_system_plan
from onnx_invert.rules import RuleSet
from onnx_invert.sized import Sized

Method = Literal["auto", "closed-form", "newton"]
AnyPlan = Plan | SystemPlan | NewtonPlan | BoundedPlan


def choose(
    small: Callable[..., Sized],
    problem: Problem,
    rules: RuleSet,
    method: str = "auto",
    progress: Progress | None = None,
    *,
    log_det: bool = False,
    bounded: bool = False,
) -> AnyPlan:
    """The plan of `method`; "auto" takes Newton only where nothing else keeps a promise.

    `small` gives the model's graph at sizes that are all known, `small(copies=…)` with more samples. With `log_det` it
    is a plan whose steps tell the log-determinant; `bounded` says that x has bounds.

    Raises:
        UsageError: no such method.
        NotInvertibleError: with every node in the way, of all methods that were tried.
    """
    if method not in get_args(Method):
        raise UsageError(f"--method {method}: it is one of {', '.join(get_args(Method))}.")
    if method == "newton":
        return make_newton_plan(problem, rules)
    if bounded:
        return _within_bounds(small, problem, rules, progress)
    if log_det:
        try:
            return make_system_plan(small, problem, rules, tried=method == "auto")
        except NotInvertibleError as refused:
            # The solver, which may be proposed, has no log-determinant.
            raise NotInvertibleError(
                [replace(b, remedy="leave out --log-det") if "newton" in b.remedy else b for b in refused.blockers]
            ) from None
    ordering = order(problem)
    found: Sequence[Blocker] = ()
    others: Sequence[Blocker] = ()
    unsized: Sequence[Blocker] = ()
    judged = False
    if ordering.is_complete:
        try:
            return make_plan(problem, rules, progress, ordering)
        except NotInvertibleError as refused:
            # Where the layers of a path were judged together, no other way of undoing them keeps more.
            found, judged = refused.blockers, isinstance(refused, NoPromiseError)
    try:
        if not judged:
            return make_system_plan(small, problem, rules, tried=method == "auto", ordering=ordering)
    except NotInvertibleError as refused:
        others = refused.blockers
    except ModelError as error:
        # No shape that follows from those sizes is known, which is what stands in the way of its nodes.
        remedy = "give its inputs the sizes that it was exported for: it may hold them as constants"
        unsized = [Blocker("the model", "sizes", str(error), remedy)]
    found = found or in_the_way(ordering, rules)
    blockers = tuple(dict.fromkeys([*unsized, *found, *_elsewhere(others, found)]))
    if method == "closed-form":
        raise NotInvertibleError(blockers)
    try:
        return make_newton_plan(problem, rules)
    except NotInvertibleError as also:
        raise NotInvertibleError(_both(blockers, also.blockers)) from None
    except ModelError as error:
        note = Blocker("the model", "Newton", f"its equations cannot be set up: {error}")
        raise NotInvertibleError([*blockers, note]) from None


def _within_bounds(
    small: Callable[..., Sized], problem: Problem, rules: RuleSet, progress: Progress | None
) -> BoundedPlan | NewtonPlan:
    """A closed form that x comes back from, with Newton's method where x lies beyond the bounds; else that alone."""
    if _numbers(problem.known) < _numbers(problem.recovered):  # as every closed form would have it
        return make_newton_plan(problem, rules)
    try:
        closed = choose(small, problem, rules, "closed-form", progress)
    except NotInvertibleError:
        return make_newton_plan(problem, rules)
    if isinstance(closed, Plan | SystemPlan) and closed.guarantee.promises_x:
        return BoundedPlan(closed, make_newton_plan(closed.problem, rules))
    return make_newton_plan(problem, rules)


def _numbers(values: Sequence[ir.Value]) -> int:
    """How many numbers tensors have together, along axes whose size is fixed."""
    return sum(math.prod(dim for dim in value.shape or () if isinstance(dim, int)) for value in values)


def _elsewhere(found: Sequence[Blocker], before: Sequence[Blocker]) -> list[Blocker]:
    """The blockers of nodes that have none yet: one reason a node is enough."""
    named = {blocker.node for blocker in before}
    return [blocker for blocker in found if blocker.node not in named]


def _both(closed: tuple[Blocker, ...], newton: tuple[Blocker, ...]) -> list[Blocker]:
    """Why there is no closed form; then why Newton's method, which would need none, does not help."""
    closed = tuple(replace(b, remedy="") if "--method newton" in b.remedy else b for b in closed)
    return [*closed, *(replace(b, reason=f"nor can Newton's method take it: {b.reason}") for b in newton)]


def tried(plan: AnyPlan) -> list[str]:
    """What a plan's guarantee rests on that is tried, not proven; empty where all is proven."""
    if isinstance(plan, NewtonPlan):
        return ["the solver finds an x with f(x) = y (measured on samples, not proven)"]
    return plan.tried if isinstance(plan, SystemPlan | BoundedPlan) else []


def stated(plan: AnyPlan, guarantee: Guarantee) -> str:
    """A guarantee in words: `bijection`, or `bijection, tried` where it rests on what is not proven.

    What a solver promises is measured by its nature; its method says so.
    """
    rests = isinstance(plan, SystemPlan | BoundedPlan) and bool(plan.tried)
    return f"{guarantee.value}, tried" if rests and guarantee is not Guarantee.APPROXIMATE else guarantee.value
