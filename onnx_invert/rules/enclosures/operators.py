"""What each operator makes of enclosures. What does not stand here may be anything.

Elements that move are no matter of these: the caller moves bounds as it moves elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnx_invert.rules.enclosures import functions as fn
from onnx_invert.rules.enclosures.enclosure import (
    Enclosure,
    Pair,
    absolute,
    add,
    anything,
    between,
    larger,
    less,
    made,
    multiply,
    negative,
    outwards,
    plus,
    reciprocal,
    smaller,
    steps,
    times,
    within,
)
from onnx_invert.rules.static import constant, integer, integers

MOST_TERMS = 64
"""A product of longer rows is not worked out."""

Operands = Sequence[Enclosure | None]
Operator = Callable[[ir.Node, Operands], Enclosure | None]
"""The output of a node from its operands, all of one rank; None where nothing is known of it."""


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.as_float())


def _two(function: Callable[[Enclosure, Enclosure], Enclosure]) -> Operator:
    def operator(node: ir.Node, operands: Operands) -> Enclosure | None:
        a, b = operands[0], operands[1]
        return None if a is None or b is None else function(a, b)

    return operator


def _one(function: Callable[[ir.Node, Enclosure], Enclosure | None]) -> Operator:
    def operator(node: ir.Node, operands: Operands) -> Enclosure | None:
        return None if operands[0] is None else function(node, operands[0])

    return operator


def _several(function: Callable[[Enclosure, Enclosure], Enclosure]) -> Operator:
    def operator(node: ir.Node, operands: Operands) -> Enclosure | None:
        return reduce(function, [a for a in operands if a is not None])

    return operator


def _product(node: ir.Node, operands: Operands) -> Enclosure | None:
    a, b = operands[0], operands[1]
    if a is None or b is None:
        return None
    if node.inputs[0] is node.inputs[1]:
        return fn.power(a, 2)
    return multiply(a, b)


def _difference(node: ir.Node, operands: Operands) -> Enclosure | None:
    a, b = operands[0], operands[1]
    if a is None or b is None:
        return None
    if node.inputs[0] is node.inputs[1]:
        return within(a.low.ndim - 1, 0.0, 0.0)
    return add(a, negative(b))


def _power(node: ir.Node, operands: Operands) -> Enclosure | None:
    exponent = constant(node, 1)
    if operands[0] is None or exponent is None or np.unique(exponent).size != 1:
        return None
    return fn.power(operands[0], float(np.ravel(exponent)[0]))


def _clip(node: ir.Node, operands: Operands) -> Enclosure | None:
    a = operands[0]
    if a is None:
        return None
    rank = a.low.ndim - 1
    low, high = (operands[place] if place < len(operands) else None for place in (1, 2))
    if len(node.inputs) == 1:  # before opset 11
        low = within(rank, *[_number(node, "min", -np.inf)] * 2) if "min" in node.attributes else None
        high = within(rank, *[_number(node, "max", np.inf)] * 2) if "max" in node.attributes else None
    a = a if low is None else larger(a, low)
    return a if high is None else smaller(a, high)


def _where(node: ir.Node, operands: Operands) -> Enclosure | None:
    condition, a, b = operands
    if condition is None or a is None or b is None:
        return None
    return between(condition.value, a, b, condition)


def _not(node: ir.Node, a: Enclosure) -> Enclosure:
    return add(within(a.low.ndim - 1, 1.0, 1.0), negative(a))


def _equal(a: Enclosure, b: Enclosure) -> Enclosure:
    gap = add(a, negative(b))
    apart = (gap.low > 0) | (gap.high < 0)
    if gap.moves:
        moving = ~gap.jumps & ((gap.slope[0] > 0) | (gap.slope[1] < 0)) & (gap.low < gap.high)
        apart = apart | moving  # but at one point of a cell
    same = (gap.low == 0) & (gap.high == 0)
    low, high = np.where(same, 1.0, 0.0), np.where(apart, 0.0, 1.0)
    zero = np.zeros_like(low)
    jump = (low != high) | (apart & (gap.low <= 0) & (gap.high >= 0))
    return made((low, high), (zero, zero), a, b, jump=jump)


def _cast(node: ir.Node, a: Enclosure) -> Enclosure | None:
    target = ir.DataType(node.attributes["to"].as_int())
    if target.is_floating_point():
        return a
    source = node.inputs[0]
    if source is None or source.dtype is None:
        return None
    if target is ir.DataType.BOOL:
        return None
    if not target.is_integer():
        return None
    limits = ml_dtypes.iinfo(target.numpy())  # type: ignore[no-untyped-call]
    whole = steps(a, np.trunc) if source.dtype.is_floating_point() else a
    outside = (a.low < float(limits.min)) | (a.high > float(limits.max))  # whole numbers wrap round, or are anything
    value = np.where(outside, float(limits.min), whole.low), np.where(outside, float(limits.max), whole.high)
    return made(value, whole.slope if a.moves else None, whole, jump=outside)


def _swish(node: ir.Node, a: Enclosure) -> Enclosure:
    alpha = _number(node, "alpha", 1.0)
    return multiply(a, fn.sigmoid(multiply(a, within(a.low.ndim - 1, alpha, alpha))))


def _gelu(node: ir.Node, a: Enclosure) -> Enclosure:
    rank = a.low.ndim - 1
    approximate = node.attributes.get("approximate")
    if approximate is not None and approximate.as_string() == "tanh":
        cube = fn.power(a, 3)
        assert cube is not None
        inner = add(a, multiply(cube, within(rank, 0.044715, 0.044715)))
        root = float(2 * np.sqrt(2 / np.pi))
        return multiply(a, fn.sigmoid(multiply(inner, within(rank, root, root))))
    share = fn.erf(multiply(a, within(rank, np.sqrt(0.5), np.sqrt(0.5))))
    return multiply(a, multiply(add(share, within(rank, 1.0, 1.0)), within(rank, 0.5, 0.5)))


def _hard_sigmoid(node: ir.Node, a: Enclosure, alpha: float | None = None) -> Enclosure:
    rank = a.low.ndim - 1
    alpha = _number(node, "alpha", 0.2) if alpha is None else alpha
    beta = 0.5 if node.op_type == "HardSwish" else _number(node, "beta", 0.5)
    line = add(multiply(a, within(rank, alpha, alpha)), within(rank, beta, beta))
    return smaller(larger(line, within(rank, 0.0, 0.0)), within(rank, 1.0, 1.0))


def _prelu(node: ir.Node, operands: Operands) -> Enclosure | None:
    a, slope = operands[0], operands[1]
    if a is None or slope is None or slope.moves:
        return None
    zero = within(a.low.ndim - 1, 0.0, 0.0)
    return between(less(zero, a).value, a, multiply(a, slope), within(a.low.ndim - 1, 0.0, 1.0))


def _reduced(node: ir.Node, operands: Operands) -> Enclosure | None:
    """A sum, or mean, over axes."""
    a, sizes = operands[0], _sizes(node.inputs[0])
    if a is None or sizes is None:
        return None
    rank = len(sizes)
    given = constant(node, 1)
    if given is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        return None
    axes = [int(axis) % rank for axis in (given.reshape(-1) if given is not None else integers(node, "axes"))]
    if not axes:
        if integer(node, "noop_with_empty_axes", 0):
            return a
        axes = list(range(rank))
    count = float(np.prod([sizes[axis] for axis in axes]))
    kept = bool(integer(node, "keepdims", 1))
    whole = a.mapped(lambda v: np.broadcast_to(v, (v.shape[0], *_spread(v.shape[1:], sizes, axes))))

    def folded(pair: Pair) -> Pair:
        total = pair
        for axis in axes:
            low, high = total
            count_here = low.shape[axis + 1]
            total = reduce(plus, [(low.take([i], axis + 1), high.take([i], axis + 1)) for i in range(count_here)])
        if node.op_type == "ReduceMean":
            share = np.asarray(1 / count)
            total = times(total, (share, share) if count == 1 else outwards(share, share))
        return total

    value = folded(whole.value)
    jump = np.asarray(whole.jumps.any(axis=tuple(axis + 1 for axis in axes), keepdims=True))
    found = made(value, folded(whole.slope) if whole.moves else None, whole, jump=None)
    found = Enclosure(found.low, found.high, found.fall, found.rise, jump if found.moves else None)
    if kept:
        return found
    return found.mapped(lambda v: v.squeeze(tuple(axis + 1 for axis in axes)))


def _spread(have: Sequence[int], sizes: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """The shape with the axes to sum over at their full sizes."""
    return tuple(sizes[axis] if axis in axes else have[axis] for axis in range(len(sizes)))


def _matrix(node: ir.Node, operands: Operands) -> Enclosure | None:
    """The sum over k of columns k times rows k, where one of the two is constant."""
    a, b = operands[0], operands[1]
    left, right = constant(node, 0), constant(node, 1)
    sizes = [_sizes(value) for value in node.inputs]
    if a is None or b is None or (left is None) == (right is None) or any(size is None for size in sizes):
        return None
    (first, second) = sizes
    assert first is not None
    assert second is not None
    if len(first) < 2 or len(second) < 2 or first[-1] > MOST_TERMS:
        return None
    a = a.mapped(lambda v: np.broadcast_to(v, (*v.shape[:-1], first[-1])))
    b = b.mapped(lambda v: np.broadcast_to(v, (*v.shape[:-2], second[-2], v.shape[-1])))
    terms = [
        multiply(a.mapped(lambda v, k=k: v[..., k : k + 1]), b.mapped(lambda v, k=k: v[..., k : k + 1, :]))  # type: ignore[misc]
        for k in range(first[-1])
    ]
    return reduce(add, terms)


def _sizes(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(size) for size in value.shape.numpy())


def _gather(node: ir.Node, operands: Operands) -> Enclosure | None:
    """Elements of a constant list, at an index that is computed."""
    table, index = constant(node, 0), operands[1]
    if table is None or table.ndim != 1 or index is None or not index.moves:
        return None
    values = table.astype(np.float64)
    first = np.clip(index.low, -len(values), len(values) - 1).astype(np.int64)
    last = np.clip(index.high, -len(values), len(values) - 1).astype(np.int64)
    same = (index.low == index.high) & (np.abs(index.low) < len(values))
    low = np.where(same, values[first], values.min())
    high = np.where(same, values[last], values.max())
    zero = np.zeros_like(low)
    return Enclosure(low, high, zero, zero, index.jumps | ~same)


def _share(node: ir.Node, operands: Operands) -> Enclosure | None:
    """Softmax of what does not follow from x: positive, below 1."""
    a = operands[0]
    return None if a is None or a.moves else fn.sigmoid(anything(a.low.ndim - 1, moves=False))


OPERATORS: dict[str, Operator] = {
    "Identity": _one(lambda node, a: a),
    "Add": _two(add),
    "Sub": _difference,
    "Mul": _product,
    "Div": _two(lambda a, b: multiply(a, reciprocal(b))),
    "Neg": _one(lambda node, a: negative(a)),
    "Reciprocal": _one(lambda node, a: reciprocal(a)),
    "Abs": _one(lambda node, a: absolute(a)),
    "Sum": _several(add),
    "Max": _several(larger),
    "Min": _several(smaller),
    "Clip": _clip,
    "Pow": _power,
    "Where": _where,
    "Cast": _one(_cast),
    "Sin": _one(lambda node, a: fn.wave(a, 0.0)),
    "Cos": _one(lambda node, a: fn.wave(a, np.pi / 2)),
    "Relu": _one(lambda node, a: larger(a, within(a.low.ndim - 1, 0.0, 0.0))),
    "LeakyRelu": _one(lambda node, a: fn.bent(a, _number(node, "alpha", 0.01))),
    "PRelu": _prelu,
    "Elu": _one(lambda node, a: fn.exponential_unit(a, _number(node, "alpha", 1.0), 1.0, 1.0)),
    "Selu": _one(
        lambda node, a: fn.exponential_unit(
            a, _number(node, "alpha", 1.6732632423543772), _number(node, "gamma", 1.0507009873554805), 1.0
        )
    ),
    "Celu": _one(
        lambda node, a: fn.exponential_unit(a, _number(node, "alpha", 1.0), 1.0, _number(node, "alpha", 1.0))
    ),
    "Swish": _one(_swish),
    "Gelu": _one(_gelu),
    "HardSigmoid": _one(_hard_sigmoid),
    "HardSwish": _one(lambda node, a: multiply(a, _hard_sigmoid(node, a, 1 / 6))),
    "Mish": _one(lambda node, a: multiply(a, fn.tanh(fn.softplus(a)))),
    "Sign": _one(lambda node, a: steps(a, np.sign)),
    "Floor": _one(lambda node, a: steps(a, np.floor)),
    "Ceil": _one(lambda node, a: steps(a, np.ceil)),
    "Round": _one(lambda node, a: steps(a, np.round)),
    "Less": _two(less),
    "LessOrEqual": _two(lambda a, b: less(a, b, equal=True)),
    "Greater": _two(lambda a, b: less(b, a)),
    "GreaterOrEqual": _two(lambda a, b: less(b, a, equal=True)),
    "Equal": _two(_equal),
    "Not": _one(_not),
    "And": _two(smaller),
    "Or": _two(larger),
    "ReduceSum": _reduced,
    "ReduceMean": _reduced,
    "Gather": _gather,
    "MatMul": _matrix,
    "Softmax": _share,
    **{name: _one(lambda node, a, f=function: f(a)) for name, function in fn.FUNCTIONS.items()},  # type: ignore[misc]
}
"""By operator."""
