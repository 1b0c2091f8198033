"""Constants of one number, written with as many axes as the tensors that they meet.

It says the same. But onnxruntime walks through a tensor (N, 1), or (N, 1, 8), that meets a () or a (1,) piece by
piece, up to twenty-five times as slowly as one that meets a (1, 1).
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnx_invert.bodies import bodies
from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.dependence import ELEMENTWISE

_MEETING = frozenset(
    (
        *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod"),
        *("Mul", "Or", "Pow", "Sub", "Where", "Xor"),
    )
)
"""Operators whose operands are broadcast against one another."""

_KEEPING = frozenset(
    ("CumSum", "Expand", "GatherElements", "Pad", "ScatterElements", "Slice", "Softmax", "Split", "Transpose")
)
"""Operators whose outputs have at least as many axes as their first operand, as those that work by elements have."""


def align(e: Emitter) -> None:
    """Give the constants of one number in all that was emitted as many axes as what they meet is known to have."""
    _align(e, e.nodes, {})


def _align(e: Emitter, nodes: Iterable[ir.Node], ranks: dict[ir.Value, int]) -> None:
    for node in nodes:
        for body in bodies(node):
            _align(e, body, ranks)
        if node.domain != "":
            continue
        least = _least(node, [0 if value is None else _rank(value, ranks) for value in node.inputs])
        for output in node.outputs:
            ranks[output] = least
        if node.op_type in _MEETING and least > 1:
            for place, value in enumerate(node.inputs):
                if value is not None and value.const_value is not None and value.const_value.size == 1:
                    node.replace_input_with(place, e.with_rank(value, least))


def _rank(value: ir.Value, ranks: dict[ir.Value, int]) -> int:
    """How many axes a tensor has at least."""
    return len(value.shape) if value.shape is not None else ranks.get(value, 0)


def _least(node: ir.Node, ranks: list[int]) -> int:
    """How many axes what a node makes has at least."""
    if node.op_type in _MEETING or node.op_type in ELEMENTWISE:
        return max(ranks, default=0)
    if node.op_type == "Concat":
        return max(ranks)
    if node.op_type == "Gather" and node.inputs[1] is not None and node.inputs[1].shape is not None:
        return max(0, ranks[0] + ranks[1] - 1)
    return ranks[0] if node.op_type in _KEEPING else 0
