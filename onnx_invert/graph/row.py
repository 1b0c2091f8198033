"""The standard operators of one node that stands for several, as they are put in its place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

Attribute = int | float | str | Sequence[int]

Operand = ir.Value | NDArray[np.generic] | float | None


class Row:
    """Collects them; numbers become scalars of its floating-point type."""

    def __init__(self, node: ir.Node, dtype: ir.DataType, opset: int) -> None:
        self.node, self.opset, self.tape = node, opset, Tape()
        self._dtype, self._stem = dtype.numpy(), node.outputs[0].name

    @property
    def inputs(self) -> list[ir.Value | None]:
        """The operands, None where one is left out, also at the end."""
        return [*self.node.inputs, *[None] * 6]

    def real(self, name: str, default: float) -> float:
        """A floating-point attribute."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.as_float()

    def flag(self, name: str) -> bool:
        """An attribute that is 0 or 1, 0 by default."""
        attribute = self.node.attributes.get(name)
        return attribute is not None and attribute.as_int() != 0

    def put(self, op_type: str, *operands: Operand, **attributes: Attribute) -> ir.Value:
        """One more node, and its output."""
        values = [
            self._constant(np.asarray(v, self._dtype) if isinstance(v, float) else v)
            if isinstance(v, float | np.ndarray)
            else v
            for v in operands
        ]
        name = f"{self._stem}/{self.node.op_type}/{op_type}_{len(self.tape.nodes)}"
        label = f"{self.node.name or self._stem}/{op_type}"
        return self.tape.op(op_type, values, attributes, name=label, output=ir.Value(name=name))

    def mean(self, x: ir.Value, axes: Sequence[int]) -> ir.Value:
        """The mean over `axes`, which stay as axes of one element."""
        if self.opset < 18:
            return self.put("ReduceMean", x, axes=axes, keepdims=1)
        return self.put("ReduceMean", x, self._constant(np.asarray(axes, np.int64)), keepdims=1)

    def plus(self, *terms: ir.Value | None) -> ir.Value:
        """The sum of the operands that are there."""
        first, *others = [term for term in terms if term is not None]
        for term in others:
            first = self.put("Add", first, term)
        return first

    def _constant(self, array: np.ndarray) -> ir.Value:
        name = f"{self._stem}/{self.node.op_type}/constant_{len(self.tape.initializers)}"
        return self.tape.initializer(ir.tensor(array), name)


Made = dict[ir.Value, ir.Value] | None
"""The node's outputs and what stands for them; None where the node has no standard form."""
