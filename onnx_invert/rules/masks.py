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
"""Operators that make finite numbers of finite numbers, short of overflow. Exp is none: it grows too fast."""


def without_mask(e: Emitter, y: ir.Value, mask: ir.Value) -> ir.Value:
    """y / m where m is not 0, and 0 elsewhere."""
    if is_finite(e, y, mask):
        x = e.op("Div", y, _held(e, mask, math.inf))
    else:
        x = e.op("Where", _none(e, mask), e.scalar(0.0), e.op("Div", y, _held(e, mask, 1.0)))
    e.finite.add((x, mask))
    return x


def is_finite(e: Emitter, value: ir.Value, mask: ir.Value) -> bool:
    """Whether a value is finite where `mask` is 0, if what is given beside y is and nothing overflows.

    What was divided by the same mask before is 0 there; elsewhere it is an element that counts.
    """
    waiting, seen = [value], {value}
    while waiting:
        made = waiting.pop()
        if (made, mask) in e.finite or made in e.given:
            continue
        if made.const_value is not None:
            if made.dtype in FLOATS and not np.isfinite(made.const_value.numpy()).all():
                return False
            continue
        node = made.producer()
        if node is None or node.domain != "" or node.op_type not in _KEEPING:
            return False
        operands = [operand for operand in node.inputs if operand is not None and operand not in seen]
        waiting += operands
        seen.update(operands)
    e.finite.update((made, mask) for made in seen)
    return True


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
