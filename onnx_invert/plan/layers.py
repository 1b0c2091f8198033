"""The tensors of a network as layers: how many dimensions of x each can hold at most.

    d(x) = numbers of x          d(h) = min(numbers of h, Σ d(operands), d(dominator))

The dominator of a tensor is the last one that everything on the way from x to it passes through. So a bottleneck
counts for all that lies behind it, however wide it grows again. It is a bound: a matrix of lower rank, or a ReLU that
is off, leaves less.
Source: K. Cooper, T. Harvey & K. Kennedy, A simple, fast dominance algorithm, Rice University TR-06-33870, 2006.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnx_invert.plan.equations import upstream
from onnx_invert.plan.problem import Problem

SAME = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that hold the numbers that they are given: a layer of their own would say nothing new."""


@dataclass(frozen=True)
class Layer:
    """A tensor that depends on x, and the one that everything on the way from x to it passes (None: x itself)."""

    value: ir.Value
    node: ir.Node
    dominator: ir.Value | None

    @property
    def is_new(self) -> bool:
        """False if it holds the numbers of its operand."""
        return self.node.op_type not in SAME


def layers(problem: Problem) -> list[Layer]:
    """Every tensor on the way from the recovered inputs to the known outputs, in running order."""
    found: dict[ir.Value, Layer] = {}
    depth: dict[ir.Value | None, int] = {None: 0, **dict.fromkeys(problem.recovered, 1)}
    above: dict[ir.Value, ir.Value | None] = dict.fromkeys(problem.recovered)
    wanted = set(upstream(problem.known))

    def meet(a: ir.Value | None, b: ir.Value | None) -> ir.Value | None:
        """The nearest tensor above both."""
        while a is not b:
            if depth[a] < depth[b]:
                a, b = b, a
            a = None if a is None else above[a]
        return a

    for node in problem.graph:
        outputs = [value for value in node.outputs if value in problem.dependent]
        if node not in wanted or not outputs:
            continue
        operands = [value for value in node.inputs if value in above]
        # What a body takes from around it is not among the operands.
        dominator = None if node in problem.capturing or not operands else operands[0]
        for other in operands[1:]:
            dominator = meet(dominator, other)
        for value in outputs:
            above[value], depth[value] = dominator, depth[dominator] + 1
            found[value] = Layer(value, node, None if dominator in problem.recovered else dominator)
    return list(found.values())


def dimensions(problem: Problem, found: list[Layer], numbers: Mapping[ir.Value, int]) -> Iterator[tuple[Layer, int]]:
    """Each layer, and at most how many dimensions of x it holds. `numbers` are those of a sample, where known."""
    bound = {value: numbers[value] for value in problem.recovered}
    whole = sum(bound.values())
    for layer in found:
        limits = [whole if layer.dominator is None else bound[layer.dominator]]
        if layer.value in numbers:
            limits.append(numbers[layer.value])
        if layer.node not in problem.capturing:
            limits.append(sum(bound[v] for v in dict.fromkeys(layer.node.inputs) if v in bound))
        bound[layer.value] = min(limits)
        yield layer, bound[layer.value]
