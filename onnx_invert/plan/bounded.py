"""The plan of an inverse within bounds whose x is a closed form's, wherever that lies within them.

g be a closed form with g(f(x)) = x for every x, a bijection's or a left inverse, and B the bounds. Then no two x have
the same y, and for y = f(x)

    x in B      g(y) = x is the only x that makes y, and the answer;
    x not in B  no x in B makes y: what is left is the least ‖f(x) − y‖ over B, which the solver looks for from the
                point of B that is nearest to g(y) on.

So g(f(x)) = x holds for x in B, and is proven where the closed form's is; B is not onto, so that nothing is promised
of every y. A right inverse says nothing of the kind: where its x lies beyond, another x of the same y may lie within.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_invert.plan.bounds import Ends, narrowed
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.plan.newton import NewtonPlan
from onnx_invert.plan.plan import Plan, Row
from onnx_invert.plan.problem import Problem
from onnx_invert.plan.steps import Affine, Place, Undo
from onnx_invert.plan.system_plan import SystemPlan
from onnx_invert.rules.facts import Diagonal, Matrix, Rearrangement, Repeat

WITHIN = "x lies within --bounds"


@dataclass
class BoundedPlan:
    """`closed` gives x, and `newton` the nearest that bounds allow where x lies beyond them: of the same problem."""

    closed: Plan | SystemPlan
    newton: NewtonPlan
    guarantee: Guarantee = field(init=False, default=Guarantee.LEFT)

    @property
    def problem(self) -> Problem:
        """Of both."""
        return self.closed.problem

    @property
    def copies(self) -> bool:
        """True: f runs forwards."""
        return True

    @property
    def affine(self) -> bool:
        """True if f is seen to be: what is left of F(x) = y has one least over the bounds then."""
        if isinstance(self.closed, Plan):
            stages = [stage for path in self.closed.paths for stage in path.stages]
        elif all(isinstance(step, Affine | Undo | Place) for step in self.closed.flat):
            stages = self.closed.stages
        else:
            return False
        return all(isinstance(stage.fact, Diagonal | Matrix | Rearrangement | Repeat) for stage in stages)

    @property
    def condition(self) -> float:
        """Of the closed form."""
        return self.closed.condition

    @property
    def rows(self) -> list[Row]:
        """The closed form's, and the solver's."""
        return [*self.closed.rows, *self.newton.rows]

    @property
    def images(self) -> dict[str, None]:
        """What f makes of the bounds is no box."""
        return dict.fromkeys(value.name or "" for value in self.problem.known)

    @property
    def requirements(self) -> list[str]:
        """The closed form's, and that x lies within the bounds."""
        return [*self.closed.requirements, WITHIN]

    @property
    def tried(self) -> list[str]:
        """What of the closed form is not proven."""
        return self.closed.tried if isinstance(self.closed, SystemPlan) else []

    @property
    def dtypes(self) -> list[ir.DataType]:
        """Every floating-point type that either runs through."""
        return list(dict.fromkeys([*self.closed.dtypes, *self.newton.dtypes]))

    def within(self, bounds: dict[str, Ends]) -> dict[str, Ends]:
        """Between which ends x lies, by input: the bounds, and what the closed form knows of the model's domain."""
        domain = self.closed.bounds if isinstance(self.closed, SystemPlan) else {}
        return {name: narrowed(ends, domain[name]) if name in domain else ends for name, ends in bounds.items()}

    def release(self) -> None:
        """Let go of the weights; the table stays."""
        self.closed.release()
        self.newton.release()
