"""Which way of inverting serves a model: closed form where one keeps a promise, Newton where none does."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from onnx_invert.errors import Blocker, ModelError, NotInvertibleError, UsageError
from onnx_invert.plan.newton import NewtonPlan, make_newton_plan
from onnx_invert.plan.plan import Plan, Progress, make_plan
from onnx_invert.plan.problem import Problem
from onnx_invert.rules import RuleSet

Method = Literal["auto", "closed-form", "newton"]
AnyPlan = Plan | NewtonPlan


def choose(problem: Problem, rules: RuleSet, method: str = "auto", progress: Progress | None = None) -> AnyPlan:
    """The plan of `method`; "auto" takes Newton only where no closed form keeps a promise.

    Raises:
        UsageError: no such method.
        NotInvertibleError: with every node in the way, of both methods where both were tried.
    """
    if method not in get_args(Method):
        raise UsageError(f"--method {method}: it is one of {', '.join(get_args(Method))}.")
    if method == "newton":
        return make_newton_plan(problem, rules)
    try:
        return make_plan(problem, rules, progress)
    except NotInvertibleError as refused:
        if method == "closed-form":
            raise
        try:
            return make_newton_plan(problem, rules)
        except NotInvertibleError as also:
            raise NotInvertibleError(_both(refused.blockers, also.blockers)) from None
        except ModelError as error:
            note = Blocker("the model", "Newton", f"its equations cannot be set up: {error}")
            raise NotInvertibleError([*refused.blockers, note]) from None


def _both(closed: tuple[Blocker, ...], newton: tuple[Blocker, ...]) -> list[Blocker]:
    """Why there is no closed form; then why Newton's method, which would need none, does not help."""
    return [*closed, *(replace(b, reason=f"nor can Newton's method take it: {b.reason}") for b in newton)]
