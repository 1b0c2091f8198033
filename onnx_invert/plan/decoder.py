"""A decoder as a prior: x = d(w), so that the equations are f(d(w)) = y, solved for w of least norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_invert.plan.equations import upstream
from onnx_invert.plan.layout import Layout
from onnx_invert.plan.problem import Problem


@dataclass(frozen=True)
class Decoder:
    """`problem` is that of the joined model, whose unknown is w; `x` the tensor in it that the decoder makes.

    `name` and `sha256` tell which file it came from.
    """

    problem: Problem
    x: ir.Value
    name: str
    sha256: str

    @property
    def w(self) -> ir.Value:
        """What is solved for."""
        return self.problem.recovered[0]

    @property
    def nodes(self) -> Sequence[ir.Node]:
        """d, in running order."""
        return upstream([self.x], {self.w})

    @property
    def size(self) -> int:
        """How many numbers w has."""
        return Layout.of(self.w).size
