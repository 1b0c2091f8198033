"""Division by a given factor that may be 0, a mask: x = y / m where m is not 0, and 0 where it is.

Of a y that is finite the same is told by one division, by m with ∞ in place of 0, without a Where over all of y. What
is infinite or NaN would come out as NaN: so that is done where y is made, by operations that keep numbers finite as
long as nothing overflows, of what is finite where m is 0; never with a y as somebody gives it.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.node import FLOATS

_KEEPING = frozenset(
    {
        *("Abs", "Add", "Concat", "Conv", "Elu", "Erf", "Expand", "Flatten", "Gather", "Gemm", "HardSigmoid"),
        *("Identity", "LeakyRelu", "MatMul", "Max", "Min", "Mul", "Neg", "Relu", "Reshape", "Sigmoid", "Slice"),
        *("Softmax", "Split", "Squeeze", "Sub", "Tanh", "Tile", "Transpose", "Unsqueeze"),
    }
)
"""Operators that make finite numbers of finite numbers, short of overflow. Exp grows too fast, but for that of a
product with the mask itself, which is 1 where the mask is 0."""


def without_mask(e: Emitter, y: ir.Value, mask: ir.Value) -> ir.Value:
    """y / m where m is not 0, and 0 elsewhere."""
    if is_finite(e, y, mask):
        x = e.op("Div", y, _held(e, mask, math.inf))
    else:
        x = e.op("Where", _none(e, mask), e.scalar(0.0), e.op("Div", y, _held(e, mask, 1.0)))
    e.finite.add((x, mask))
    return x


def without_zero(e: Emitter, factor: ir.Value) -> ir.Value:
    """A divisor or dividend as given, with NaN in place of 0: no x can be told then, and 0 · y would look like one."""
    return _held(e, factor, math.nan)


def is_finite(e: Emitter, value: ir.Value, mask: ir.Value) -> bool:
    """Whether a value is finite where `mask` is 0, if what is given beside y is and nothing overflows.

    What was divided by the same mask before is 0 there; elsewhere it is an element that counts.
    """
    waiting, seen = [value], {value}
    while waiting:
        made = waiting.pop()
        whole = made.dtype is not None and made.dtype not in FLOATS
        if whole or (made, mask) in e.finite or made in e.given:
            continue
        if made.const_value is not None:
            if made.dtype in FLOATS and not np.isfinite(made.const_value.numpy()).all():
                return False
            continue
        node = made.producer()
        if node is None or node.domain != "":
            return False
        operands = [operand for operand in node.inputs if operand is not None]
        if node.op_type == "Exp" and (other := _factor(operands[0], mask)) is not None:
            operands = [other]
        elif not (node.op_type in _KEEPING or (node.op_type == "Div" and _is_one(operands[1], mask))):
            return False
        operands = [operand for operand in operands if operand not in seen]
        waiting += operands
        seen.update(operands)
    e.finite.update((made, mask) for made in seen)
    return True


def _is_one(value: ir.Value, mask: ir.Value) -> bool:
    """Whether a value is e⁰ where `mask` is 0, if it is finite there."""
    node = value.producer()
    return (
        node is not None
        and node.op_type == "Exp"
        and node.inputs[0] is not None
        and _factor(node.inputs[0], mask) is not None
    )


def _factor(value: ir.Value, mask: ir.Value) -> ir.Value | None:
    """The other factor of a product with the mask, or of a part of one along axes on which the mask is the same."""
    node = value.producer()
    while node is not None and node.op_type in {"Slice", "Split"}:
        if mask.shape is None or not all(
            axis is not None and mask.shape[axis] == 1 for axis in _axes(node, len(mask.shape))
        ):
            return None
        source = node.inputs[0]
        node = None if source is None else source.producer()
    if node is None or node.op_type != "Mul" or mask not in node.inputs:
        return None
    whole = node.outputs[0].shape
    if mask.shape is None or whole is None or len(mask.shape) != len(whole):
        return None  # axes are counted from the first
    return node.inputs[1 - node.inputs.index(mask)]


def _axes(node: ir.Node, rank: int) -> list[int | None]:
    """The axes along which a Slice or a Split takes a part, None for what is not told."""
    if node.op_type == "Split":
        axis = node.attributes.get("axis")
        found = [0 if axis is None else axis.as_int()]
    elif len(node.inputs) > 3 and node.inputs[3] is not None and node.inputs[3].const_value is not None:
        found = [int(axis) for axis in node.inputs[3].const_value.numpy()]
    else:
        return [None]
    return [axis if -rank <= axis < rank else None for axis in found]


def _none(e: Emitter, mask: ir.Value) -> ir.Value:
    key = ("masked", mask)
    if key not in e.made:
        e.made[key] = e.op("Equal", mask, e.scalar(0.0))
    return e.made[key]


def _held(e: Emitter, mask: ir.Value, instead: float) -> ir.Value:
    """The mask with another number in place of 0."""
    key = ("held", mask, instead)
    if key not in e.made:
        e.made[key] = e.op("Where", _none(e, mask), e.scalar(instead), mask)
    return e.made[key]
