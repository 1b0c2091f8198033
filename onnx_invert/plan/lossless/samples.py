"""Which axes count samples, and how many numbers a sample of a tensor has."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnx_invert.plan.batch import follow
from onnx_invert.plan.batch_rules import Place
from onnx_invert.plan.problem import Problem
from onnx_invert.rules.node import Shape


def shape_of(value: ir.Value) -> Shape | None:
    """The shape, with a name for every size that is known only at run time."""
    if value.shape is None:
        return None
    return tuple(
        dim if isinstance(dim, int) else (dim.value or f"?{value.name}.{axis}") for axis, dim in enumerate(value.shape)
    )


class Samples:
    """Which first axes count samples. Other symbols than the input's come from a Reshape that keeps each sample."""

    def __init__(self, problem: Problem) -> None:
        shape = shape_of(problem.recovered[0])
        self.fixed = not (shape and isinstance(shape[0], str))
        self._symbols = set() if shape is None or self.fixed else {shape[0]}
        for node in problem.graph:
            for output in node.outputs:
                self._follow(node, output)
        self._places = {} if self.fixed else follow(problem.recovered, problem.known, problem.opset).places

    def _follow(self, node: ir.Node, output: ir.Value) -> None:
        shape = shape_of(output)
        source = node.inputs[0] if node.inputs else None
        if self.fixed or not shape or not isinstance(shape[0], str) or shape[0] in self._symbols or source is None:
            return
        if node.op_type in {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}:
            before, sizes = self.numbers(shape_of(source)), shape[1:]
            known = before is not None and all(isinstance(size, int) for size in sizes)
            if known and math.prod(int(size) for size in sizes) == before:
                self._symbols.add(shape[0])

    def numbers(self, shape: Shape | None) -> int | None:
        """The numbers in one sample, None where the tensor has no sample of its own size."""
        if shape is None:
            return None
        if not self.fixed:
            if not shape or shape[0] not in self._symbols:
                return None
            shape = shape[1:]
        return None if any(isinstance(size, str) for size in shape) else math.prod(int(size) for size in shape)

    def place(self, value: ir.Value) -> Place | None:
        """Along which axis a tensor's samples lie, several entries for each where other axes are merged with it; None
        where that is not known."""
        place = self._places.get(value)
        if isinstance(place, Place):
            return place
        shape = shape_of(value)
        return Place(0) if not self.fixed and shape and shape[0] in self._symbols else None

    def size(self, value: ir.Value) -> int | None:
        """The numbers that one sample has in a tensor, in however many rows; None where that is not known."""
        shape = shape_of(value)
        if shape is None or self.fixed:
            return self.numbers(shape)
        place = self.place(value)
        if place is None:
            return None
        others = [size for axis, size in enumerate(shape) if axis != place.axis]
        if any(isinstance(size, str) for size in others):
            return None
        return place.outer * place.inner * math.prod(int(size) for size in others)
