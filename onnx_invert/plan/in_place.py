"""The nodes of a block whose every element of y follows from the element of x at its own place alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.elements import Mask
from onnx_invert.plan.enclosing import Enclosing
from onnx_invert.plan.proof import Function
from onnx_invert.plan.system import System


@dataclass(frozen=True)
class InPlace:
    """How `nodes` make y of x, which is unknown in the elements of `mask`."""

    system: System
    x: ir.Value
    y: ir.Value
    nodes: Sequence[ir.Node]
    mask: Mask

    @property
    def shape(self) -> tuple[int, ...]:
        """x's, with the sizes at which the plan is made."""
        return self.system.concrete.shapes[self.x.name or ""]

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """x's."""
        return (self.x.dtype or ir.DataType.FLOAT).numpy()

    def function(self, value: ir.Value | None = None) -> Function:
        """Bounds of a tensor of the block in x's shape, y if none is named, where x runs through cells."""
        told = self.y if value is None else value
        return Function(lambda cells: self._enclose(self.x, cells, told), self.shape, self.mask, self.dtype)

    @cached_property
    def _enclose(self) -> Enclosing:
        return Enclosing(self.system.concrete, self.nodes, self.system.frozen)
