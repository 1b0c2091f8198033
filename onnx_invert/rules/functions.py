"""Elementary functions: exponentials, roots, trigonometric and hyperbolic functions and their inverses.

Periodic functions are inverted on their principal branch, and lose everything else; the guarantee says so.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules import expressions as ex
from onnx_invert.rules.facts import REALS, Branch, Derivative, Elementwise, Numeric
from onnx_invert.rules.interval import NON_NEGATIVE, NON_POSITIVE, POSITIVE, between, closed
from onnx_invert.rules.registry import Rule, RuleSet, quiet

rules = RuleSet()


def _over(e: Emitter, value: ir.Value) -> ir.Value:
    return e.op("Div", e.scalar(1.0), value)


def _square(e: Emitter, value: ir.Value) -> ir.Value:
    return e.op("Mul", value, value)


def _branched(
    op_type: str,
    summary: str,
    *,
    forward: Numeric,
    derivative: Derivative,
    branches: tuple[Branch, ...],
) -> None:
    fact = Elementwise(quiet(forward), derivative, branches)
    rules.add(Rule(op_type, "", 9 if op_type in {"Sinh", "Cosh"} else 7, lambda node: (fact,), summary))


rules.unary(
    "Exp",
    "x = log(y), image (0, ∞)",
    inverse=lambda e, y: e.op("Log", y),
    forward=np.exp,
    derivative=lambda e, x, y: y,
    image=POSITIVE,
)
rules.unary(
    "Log",
    "x = exp(y), domain x > 0",
    inverse=lambda e, y: e.op("Exp", y),
    forward=np.log,
    derivative=lambda e, x, y: _over(e, x),
    domain=POSITIVE,
)
rules.unary(
    "Sqrt",
    "x = y², domain x ≥ 0, image y ≥ 0",
    inverse=_square,
    forward=np.sqrt,
    derivative=lambda e, x, y: e.op("Div", e.scalar(0.5), y),
    domain=NON_NEGATIVE,
    image=NON_NEGATIVE,
)
rules.unary(
    "Sinh",
    "x = arsinh(y)",
    inverse=ex.asinh,
    forward=np.sinh,
    derivative=lambda e, x, y: ex.cosh(e, x),
    since=9,
)
rules.unary(
    "Asinh",
    "x = sinh(y)",
    inverse=ex.sinh,
    forward=np.arcsinh,
    derivative=lambda e, x, y: _over(e, ex.cosh(e, y)),
    since=9,
)
rules.unary(
    "Acosh",
    "x = cosh(y), domain x ≥ 1, image y ≥ 0",
    inverse=ex.cosh,
    forward=np.arccosh,
    derivative=lambda e, x, y: _over(e, ex.sinh(e, y)),
    domain=closed(1.0, np.inf),
    image=NON_NEGATIVE,
    since=9,
)
rules.unary(
    "Atanh",
    "x = tanh(y), domain (−1, 1)",
    inverse=lambda e, y: e.op("Tanh", y),
    forward=np.arctanh,
    derivative=lambda e, x, y: _over(e, e.op("Sub", e.scalar(1.0), _square(e, x))),
    domain=between(-1, 1),
    since=9,
)
rules.unary(
    "Atan",
    "x = tan(y), image (−π/2, π/2)",
    inverse=ex.tan,
    forward=np.arctan,
    derivative=lambda e, x, y: _over(e, e.op("Add", _square(e, x), 1.0)),
    image=between(-ex.HALF_PI, ex.HALF_PI),
)
rules.unary(
    "Asin",
    "x = sin(y), domain [−1, 1], image [−π/2, π/2]",
    inverse=lambda e, y: e.op("Sin", y),
    forward=np.arcsin,
    derivative=lambda e, x, y: _over(e, e.op("Cos", y)),
    domain=closed(-1, 1),
    image=closed(-ex.HALF_PI, ex.HALF_PI),
)
rules.unary(
    "Acos",
    "x = cos(y), domain [−1, 1], image [0, π]",
    inverse=ex.cos,
    forward=np.arccos,
    derivative=lambda e, x, y: e.op("Neg", _over(e, e.op("Sin", y))),
    domain=closed(-1, 1),
    image=closed(0, np.pi),
)
_branched(
    "Sin",
    "x = arcsin(y) on the principal branch −π/2 ≤ x ≤ π/2: a right inverse onto [−1, 1]",
    forward=np.sin,
    derivative=lambda e, x, y: e.op("Cos", x),
    branches=(Branch(closed(-ex.HALF_PI, ex.HALF_PI), closed(-1, 1), ex.asin, "−π/2 ≤ x ≤ π/2"),),
)
_branched(
    "Cos",
    "x = arccos(y) on the principal branch 0 ≤ x ≤ π: a right inverse onto [−1, 1]",
    forward=np.cos,
    derivative=lambda e, x, y: e.op("Neg", e.op("Sin", x)),
    branches=(Branch(closed(0, np.pi), closed(-1, 1), ex.acos, "0 ≤ x ≤ π"),),
)
_branched(
    "Tan",
    "x = arctan(y) on the principal branch |x| < π/2: a right inverse",
    forward=np.tan,
    derivative=lambda e, x, y: e.op("Add", _square(e, y), 1.0),
    branches=(Branch(between(-ex.HALF_PI, ex.HALF_PI), REALS, ex.atan, "|x| < π/2"),),
)
_branched(
    "Cosh",
    "x = arcosh(y) on the branch x ≥ 0: a right inverse onto y ≥ 1",
    forward=np.cosh,
    derivative=lambda e, x, y: ex.sinh(e, x),
    branches=(
        Branch(NON_NEGATIVE, closed(1.0, np.inf), ex.acosh, "x ≥ 0"),
        Branch(NON_POSITIVE, closed(1.0, np.inf), lambda e, y: e.op("Neg", ex.acosh(e, y)), "x ≤ 0"),
    ),
)
