"""Operators that numpy has: what runs a node of a model at planning time, by one call, without an evaluator's checks.

Each does what onnx's reference evaluator does; `kernel` gives None for what is left to that one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.rules.static import integer

Array = NDArray[Any]
Kernel = Callable[..., Sequence[Array]]
"""From the operands, None for one that is left out, to the outputs."""


def kernel(node: ir.Node) -> Kernel | None:
    """What runs a node; None if it is none of these operators."""
    if node.domain not in {"", "ai.onnx"}:
        return None
    op = node.op_type
    if op in UNARY:
        return partial(_unary, UNARY[op])
    if op in BINARY:
        return partial(_binary, BINARY[op])
    made = MADE.get(op)
    return None if made is None else made(node)


def _unary(function: Callable[[Array], Any], x: Array) -> Sequence[Array]:
    y = np.asarray(function(x))
    return (y if y.dtype == x.dtype else y.astype(x.dtype),)


def _binary(function: Callable[[Array, Array], Any], a: Array, b: Array) -> Sequence[Array]:
    if a.dtype != b.dtype:
        raise TypeError(f"{a.dtype} and {b.dtype}")  # numpy would take it, and no runtime would
    return (np.asarray(function(a, b)),)


def _product(a: Array, b: Array) -> Array:
    y = np.dot(a, b) if a.ndim <= 2 and b.ndim <= 2 else np.matmul(a, b)
    return np.asarray(y, a.dtype)


UNARY: dict[str, Callable[[Array], Any]] = {
    "Abs": np.absolute,
    "Ceil": np.ceil,
    "Cos": np.cos,
    "Exp": np.exp,
    "Floor": np.floor,
    "Identity": np.copy,
    "Log": np.log,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Relu": lambda x: np.maximum(x, 0),
    "Sin": np.sin,
    "Softplus": lambda x: np.logaddexp(0, x),
    "Sqrt": np.sqrt,
    "Tanh": np.tanh,
}
"""Functions of one operand, whose type they keep."""

BINARY: dict[str, Callable[[Array, Array], Any]] = {
    "Add": np.add,
    "And": np.logical_and,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "MatMul": _product,
    "Mul": np.multiply,
    "Or": np.logical_or,
    "Sub": np.subtract,
}
"""Functions of two operands of one type."""


def _leaky_relu(node: ir.Node) -> Kernel:
    alpha = node.attributes.get("alpha")
    slope = 0.01 if alpha is None else alpha.as_float()
    return partial(_unary, lambda x: np.where(x > 0, x, x * np.asarray(slope, x.dtype)))


def _quotient(node: ir.Node) -> Kernel:
    def run(a: Array, b: Array) -> Sequence[Array]:
        if a.dtype.kind not in "iu":
            return _binary(np.divide, a, b)
        quotient, rest = np.floor_divide(a, b), np.remainder(a, b)  # whole numbers are cut off towards 0
        return (np.asarray(quotient + ((rest != 0) & ((a < 0) ^ (b < 0))).astype(a.dtype)),)

    return run


def _choice(node: ir.Node) -> Kernel:
    def run(condition: Array, x: Array, y: Array) -> Sequence[Array]:
        return _binary(lambda a, b: np.where(condition, a, b), x, y)

    return run


def _gather(node: ir.Node) -> Kernel:
    axis = integer(node, "axis", 0)
    return lambda x, index: (np.asarray(np.take(x, index, axis=axis)),)


def _concat(node: ir.Node) -> Kernel:
    axis = integer(node, "axis", 0)
    return lambda *parts: (np.concatenate(parts, axis),)


def _split(node: ir.Node) -> Kernel | None:
    """By sizes that an operand states; what attributes state differs from opset to opset."""
    axis = integer(node, "axis", 0)
    if len(node.inputs) != 2:
        return None
    return lambda x, sizes: np.split(x, np.cumsum(sizes)[:-1], axis)


def _transpose(node: ir.Node) -> Kernel:
    perm = node.attributes.get("perm")
    axes = None if perm is None else list(perm.as_ints())
    return lambda x: (np.transpose(x, axes),)


MADE: dict[str, Callable[[ir.Node], Kernel | None]] = {
    "Concat": _concat,
    "Div": _quotient,
    "Gather": _gather,
    "LeakyRelu": _leaky_relu,
    "Split": _split,
    "Transpose": _transpose,
    "Where": _choice,
}
"""Operators with attributes, or that look at types."""
