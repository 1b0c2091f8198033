"""What a rule sees of a node: attributes, constants, shapes; never files, never other nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Dim = int | str
Shape = tuple[Dim, ...]

FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class NodeView:
    """A node of the normalised graph, seen from the operand that is to be recovered.

    `unknown` is that operand's index, `opset` the version of the node's domain that the model imports,
    `output` the index of the output that it is seen from.
    """

    node: ir.Node
    unknown: int
    opset: int
    output: int = 0

    @property
    def name(self) -> str:
        """The node's name, unique in the graph."""
        return self.node.name or ""

    @property
    def op_type(self) -> str:
        """The operator's name."""
        return self.node.op_type

    def operand(self, index: int) -> ir.Value | None:
        """The operand at `index`, None where it is left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    @property
    def x(self) -> ir.Value:
        """The operand to recover."""
        value = self.node.inputs[self.unknown]
        assert value is not None
        return value

    @property
    def y(self) -> ir.Value:
        """The output that the node is seen from."""
        return self.node.outputs[self.output]

    def constant(self, index: int) -> NDArray[np.generic] | None:
        """The operand's array, or None if it is left out or not constant."""
        value = self.operand(index)
        if value is None or value.const_value is None:
            return None
        return value.const_value.numpy()

    def ints(self, name: str, index: int) -> tuple[int, ...] | None:
        """A list of integers that is an attribute up to some opset and an operand after it."""
        attribute = self.node.attributes.get(name)
        if attribute is not None:
            return tuple(attribute.as_ints())
        array = self.constant(index)
        return None if array is None else tuple(int(v) for v in array.reshape(-1))

    def number(self, name: str, default: float) -> float:
        """A float attribute; those are float32, defaults too."""
        attribute = self.node.attributes.get(name)
        return float(np.float32(default if attribute is None else attribute.as_float()))

    def integer(self, name: str, default: int) -> int:
        """An int attribute."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else int(attribute.as_int())

    def shape(self, value: ir.Value) -> Shape | None:
        """The shape of a value; unnamed sizes get a name of their own; None if the rank is unknown."""
        if value.shape is None:
            return None
        return tuple(
            dim if isinstance(dim, int) else (dim.value or f"?{value.name}.{axis}")
            for axis, dim in enumerate(value.shape)
        )

    @property
    def dtype(self) -> ir.DataType:
        """The type of the recovered operand."""
        return self.x.dtype or ir.DataType.FLOAT
