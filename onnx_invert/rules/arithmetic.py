"""Two operands, one of them known: Add, Sub, Mul, Div, Pow; and Neg, Reciprocal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules import expressions as ex
from onnx_invert.rules.broadcast import expanded, not_finite
from onnx_invert.rules.facts import Array, Branch, Chain, Diagonal, Elementwise, NoInverse, Paired
from onnx_invert.rules.interval import NEGATIVE, NON_NEGATIVE, NON_POSITIVE, NON_ZERO, POSITIVE, REALS
from onnx_invert.rules.masks import without_mask, without_zero
from onnx_invert.rules.node import NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

ZERO, ONE = np.zeros(()), np.ones(())


def reciprocal() -> Elementwise:
    """y = 1 / x, x ≠ 0: its own inverse; y = 0 is reached by no x."""

    def inverse(e: Emitter, y: ir.Value) -> ir.Value:
        return e.op("Div", e.scalar(1.0), y)

    def forward(v: Array) -> Array:
        with np.errstate(divide="ignore"):
            return 1 / v

    return Elementwise(
        forward,
        lambda e, x, y: e.op("Neg", e.op("Mul", y, y)),
        (Branch(NON_ZERO, NON_ZERO, inverse),),
        NON_ZERO,
    )


@rules.rule("Neg")
def neg(node: NodeView) -> Chain | NoInverse:
    """x = −y, a bijection."""
    return (Diagonal(-ONE),)


@rules.rule("Reciprocal")
def reciprocal_rule(node: NodeView) -> Chain | NoInverse:
    """x = 1 / y, a bijection of the numbers other than 0."""
    return (reciprocal(),)


def _with_other(
    node: NodeView,
    constant: Callable[[Array], Chain | NoInverse],
    paired: Callable[[int], Paired],
    *,
    weights: Callable[[Array], Array] | None = None,
) -> Chain | NoInverse:
    """The chain for a constant other operand, or for one that is given when the inverse runs.

    `weights` says by what the constant multiplies x, where that is all that it does.
    """
    other = 1 - node.unknown
    value = node.operand(other)
    if value is None:
        return NoInverse("one of its two operands is missing")
    array = node.constant(other)
    if array is not None:
        w = np.asarray(array, dtype=np.float64)
        if not np.all(np.isfinite(w)):
            return not_finite(w, "its constant operand")
        repeat = expanded(node, w.shape, weights(w) if weights else None)
        if isinstance(repeat, NoInverse):
            return repeat
        if repeat and weights:
            return repeat
        chain = constant(w)
        return chain if isinstance(chain, NoInverse) else (*repeat, *chain)
    shape = node.shape(value)
    if shape is None:
        return NoInverse(f"the rank of its operand {value.name!r} is unknown")
    own = node.shape(node.x) or ()
    offset = len(own) - len(shape)
    # Two symbols on the first axis are the batch, whatever an exporter calls it on either side.
    same = tuple(
        own[axis + offset] if isinstance(dim, str) and axis == 0 == offset and isinstance(own[0], str) else dim
        for axis, dim in enumerate(shape)
    )
    repeat = expanded(
        node,
        [1 if axis + offset >= 0 and dim == own[axis + offset] else dim for axis, dim in enumerate(same)],
    )
    if isinstance(repeat, NoInverse):
        return repeat
    return (*repeat, paired(other))


@rules.rule("Add")
def add(node: NodeView) -> Chain | NoInverse:
    """x = y − b, either operand.

    Guarantee: bijection; left inverse (the mean) where x was repeated to b's shape
    Source:    ONNX Add-7, -13, -14
    """
    return _with_other(
        node,
        lambda b: (Diagonal(ONE, b),),
        lambda other: Paired(other, lambda e, y, b: e.op("Sub", y, b), lambda e, x, b: e.scalar(1.0)),
    )


@rules.rule("Sub")
def sub(node: NodeView) -> Chain | NoInverse:
    """x = y + b for x − b, x = b − y for b − x.

    Guarantee: bijection; left inverse (the mean) where x was repeated to b's shape
    Source:    ONNX Sub-7, -13, -14
    """
    if node.unknown == 0:
        return _with_other(
            node,
            lambda b: (Diagonal(ONE, -b),),
            lambda other: Paired(other, lambda e, y, b: e.op("Add", y, b), lambda e, x, b: e.scalar(1.0)),
        )
    return _with_other(
        node,
        lambda b: (Diagonal(-ONE, b),),
        lambda other: Paired(other, lambda e, y, b: e.op("Sub", b, y), lambda e, x, b: e.scalar(-1.0)),
    )


@rules.rule("Mul")
def mul(node: NodeView) -> Chain | NoInverse:
    """x = y / b, either operand.

    Guarantee: bijection where b has no zero; a zero loses its element: generalized inverse, 0 comes back;
               left inverse (least squares, Σ b·y / Σ b²) where x was repeated to b's shape
    Latent:    the elements of x that b sets to zero
    Source:    ONNX Mul-7, -13, -14
    """
    return _with_other(
        node,
        lambda b: (Diagonal(b),),
        lambda other: Paired(
            other, lambda e, y, b: e.op("Div", y, b), lambda e, x, b: b, "the other factor has no zero"
        ),
        weights=lambda b: b,
    )


def by_mask(product: Paired, name: str) -> Paired:
    """A product with a given mask, undone where the mask is not 0; elsewhere x comes back as 0."""

    def slope(e: Emitter, x: ir.Value, b: ir.Value) -> ir.Value:
        return e.op("Where", e.op("Equal", b, e.scalar(0.0)), e.scalar(1.0), b)

    return replace(product, inverse=without_mask, derivative=slope, requires=f"x is 0 wherever {name!r} is")


@rules.rule("Div")
def div(node: NodeView) -> Chain | NoInverse:
    """x = y · b for x / b, x = b / y for b / x; NaN where b is 0.

    Domain:    x ≠ 0 for b / x
    Guarantee: bijection where b has no zero; left inverse (least squares for x / b, the mean for b / x) where x
               was repeated to b's shape
    Refuses:   a constant divisor or dividend with a zero: y is then infinite, or 0, whatever x is
    Source:    ONNX Div-7, -13, -14
    """
    if node.unknown == 0:
        divisor = node.constant(1)
        if divisor is not None and not np.all(divisor):
            return NoInverse(f"its divisor has {_zeros(divisor)}: y is infinite there")
        return _with_other(
            node,
            lambda b: (Diagonal(1 / b),),
            lambda other: Paired(
                other,
                lambda e, y, b: e.op("Mul", y, without_zero(e, b)),
                lambda e, x, b: e.op("Div", e.scalar(1.0), b),
                "the divisor has no zero",
            ),
            weights=lambda b: 1 / b,
        )
    dividend = node.constant(0)
    if dividend is not None and not np.all(dividend):
        return NoInverse(f"its dividend has {_zeros(dividend)}: y is 0 there whatever x is")
    return _with_other(
        node,
        lambda b: (reciprocal(), Diagonal(b)),
        lambda other: Paired(
            other,
            lambda e, y, b: e.op("Div", without_zero(e, b), y),
            lambda e, x, b: e.op("Neg", e.op("Div", b, e.op("Mul", x, x))),
            "the dividend has no zero",
        ),
    )


def _zeros(array: NDArray[np.generic]) -> str:
    count = int(np.size(array) - np.count_nonzero(array))
    return f"{count} zero{'s' if count > 1 else ''}"


@rules.rule("Pow")
def pow_rule(node: NodeView) -> Chain | NoInverse:
    """x = y ** (1/p), with the sign of y for odd p; for even p the branch x ≥ 0, or x ≤ 0 if x is known to lie the

    Domain:    all reals for integer p > 0, x ≠ 0 for integer p < 0, x ≥ 0 (> 0) for other p > 0 (< 0)
    Guarantee: bijection for odd p and on x ≥ 0; right inverse onto y ≥ 0 for even p
    Latent:    the sign of x, for even p
    Refuses:   p = 0 or not finite, exponents of several kinds, x as the exponent, p not constant
    Source:    ONNX Pow-7, -12, -13, -15
    """
    if node.unknown != 0:
        return NoInverse("the recovered tensor is its exponent")
    exponent = node.constant(1)
    if exponent is None:
        return NoInverse("its exponent is not constant")
    repeat = expanded(node, exponent.shape)
    if isinstance(repeat, NoInverse):
        return repeat
    p = np.asarray(exponent, dtype=np.float64)
    if not np.all(np.isfinite(p)):
        return not_finite(p, "its exponent")
    if np.size(p) and np.all(p == p.reshape(-1)[0]):
        p = p.reshape(-1)[0].reshape(())
    kinds = {_kind(float(value)) for value in np.unique(p)}
    if len(kinds) != 1:
        return NoInverse(f"its exponents are of several kinds ({', '.join(sorted(kinds))})")
    kind = kinds.pop()
    if kind == "zero":
        return NoInverse("its exponent is 0: y is 1 whatever x is")
    if np.ndim(p) == 0 and p == 1:
        return (*repeat, Diagonal())
    return (*repeat, _power(p, kind))


def _kind(p: float) -> str:
    if p == 0:
        return "zero"
    sign = "positive" if p > 0 else "negative"
    if p != round(p):
        return f"{sign} fractional"
    return f"{sign} {'even' if p % 2 == 0 else 'odd'}"


def _power(p: Array, kind: str) -> Elementwise:
    """y = x ** p for one kind of exponent."""
    root = 1 / p

    def up(e: Emitter, y: ir.Value) -> ir.Value:
        return ex.power(e, y, root)

    def down(e: Emitter, y: ir.Value) -> ir.Value:
        return e.op("Neg", up(e, y))

    def odd(e: Emitter, y: ir.Value) -> ir.Value:
        return e.op("Mul", e.op("Sign", y), up(e, e.op("Abs", y)))

    def forward(v: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.power(v, p)

    def derivative(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
        lowered = e.op("Pow", x, e.constant(p - 1, "lowered_exponent"))
        return e.op("Mul", lowered, e.constant(p, "exponent"))

    branches: tuple[Branch, ...]
    match kind:
        case "positive odd":
            branches, domain = (Branch(REALS, REALS, odd),), REALS
        case "negative odd":
            branches, domain = (Branch(NON_ZERO, NON_ZERO, odd),), NON_ZERO
        case "positive even":
            branches = (
                Branch(NON_NEGATIVE, NON_NEGATIVE, up, "x ≥ 0"),
                Branch(NON_POSITIVE, NON_NEGATIVE, down, "x ≤ 0"),
            )
            domain = REALS
        case "negative even":
            branches = (Branch(POSITIVE, POSITIVE, up, "x > 0"), Branch(NEGATIVE, POSITIVE, down, "x < 0"))
            domain = NON_ZERO
        case "positive fractional":
            branches, domain = (Branch(NON_NEGATIVE, NON_NEGATIVE, up),), NON_NEGATIVE
        case _:
            branches, domain = (Branch(POSITIVE, POSITIVE, up),), POSITIVE
    return Elementwise(forward, derivative, branches, domain)
