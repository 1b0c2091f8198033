"""The work on the elements that a mask selects, as a model of its own: how many they are is an input's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from onnx_invert.graph.selections import Selection, dims

ROWS = "?rows"
"""The size that stands for how many elements are selected."""

_CHOSEN = "?chosen"


def packed_part(model: ir.Model, selection: Selection) -> tuple[ir.Model, list[str], list[str]] | None:
    """The work on packed tensors, with the names of its packed inputs and of its outputs; None if a rank is unknown.

    All of these have their rows along the first axis. Everything else that the work takes is an input or a weight.
    Every output is chosen, row by row, between what is scattered and itself, so that a node of the part makes it.
    """
    part = _Part()
    for node, mask in selection.gathers:
        shape = dims(node.inputs[0])
        if shape is None or mask.shape is None:
            return None
        part.rows(node.outputs[0], node.inputs[0], shape[len(mask.shape) :])
    for node in selection.sizes:
        if not part.size_of_places(node):
            return None
    for node in selection.region:
        if not part.copy(node, [place for user, place in selection.counts if user is node]):
            return None
    results = [part.chosen(node.inputs[2]) for node, _ in selection.scatters]
    if any(result is None for result in results):
        return None
    tape = part.tape
    graph = ir.Graph(
        part.inputs,
        [result for result in results if result is not None],
        nodes=tape.nodes,
        initializers=tape.initializers,
        name="packed",
        opset_imports=dict(model.opset_imports),
    )
    return ir.Model(graph, ir_version=model.ir_version), part.packed, [value.name or "" for value in graph.outputs]


class _Part:
    def __init__(self) -> None:
        self.tape = Tape()
        self.inputs: list[ir.Value] = []
        self.packed: list[str] = [_CHOSEN]
        self._of: dict[ir.Value, ir.Value] = {}
        self._chosen = self._port(_CHOSEN, ir.DataType.BOOL, [ROWS])
        self._count = self._op("Shape", [self._chosen])

    def rows(self, value: ir.Value, data: ir.Value | None, row: Sequence[int | str]) -> None:
        """An input for packed elements of `data`."""
        name = value.name or ""
        self._of[value] = self._port(name, data.dtype if data is not None else None, [ROWS, *row])
        self.packed.append(name)

    def size_of_places(self, node: ir.Node) -> bool:
        """The shape of places: the number of elements, and how many indices each has."""
        places = node.inputs[0]
        shape = list(places.shape) if places is not None and places.shape is not None else []
        widths = [dim for dim in shape if isinstance(dim, int)]
        if len(widths) + 1 != len(shape) or node.op_type != "Shape" or node.attributes:
            return False
        width = self._ints(widths)
        order = [width, self._count] if isinstance(shape[0], int) else [self._count, width]
        self._of[node.outputs[0]] = self._op("Concat", order, {"axis": 0})
        return True

    def copy(self, node: ir.Node, counts: Sequence[int]) -> bool:
        """A node of the work; the operands `counts` are the number of elements. False if an operand has no rank."""
        operands: list[ir.Value | None] = []
        for place, value in enumerate(node.inputs):
            if value is None:
                operands.append(None)
            elif place in counts:
                number = self._op("Reshape", [self._count, self._ints([1] * len(value.shape or ()))])
                same = value.dtype in {None, ir.DataType.INT64}
                operands.append(number if same else self._op("Cast", [number], {"to": int(value.dtype or 0)}))
            else:
                if value not in self._of and not self._take(value):
                    return False
                operands.append(self._of[value])
        made = [ir.Value(name=output.name) for output in node.outputs]
        name = f"{node.op_type}_{len(self.tape.nodes)}"
        twin = self.tape.op_multi_out(node.op_type, operands, outputs=made, name=name)
        producer = twin[0].producer()
        assert producer is not None
        producer.attributes.update(node.attributes)
        self._of.update(zip(node.outputs, twin, strict=True))
        return True

    def chosen(self, updates: ir.Value | None) -> ir.Value | None:
        """What is scattered, as an output; None if its rank is unknown."""
        if updates is None or updates.shape is None or updates not in self._of:
            return None
        which = self._op("Reshape", [self._chosen, self._ints([-1, *[1] * (len(updates.shape) - 1)])])
        return self._op("Where", [which, self._of[updates], self._of[updates]])

    def _take(self, value: ir.Value) -> bool:
        """A weight, or an input for what comes from elsewhere."""
        if value.const_value is not None:
            self._of[value] = self.tape.initializer(value.const_value, value.name)
            return True
        if value.shape is None:
            return False
        shape = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
        self._of[value] = self._port(value.name or "", value.dtype, shape)
        return True

    def _port(self, name: str, dtype: ir.DataType | None, shape: Sequence[int | str | None]) -> ir.Value:
        named = [dim if dim is not None else f"{name}.{axis}" for axis, dim in enumerate(shape)]
        value = ir.Value(name=name, shape=ir.Shape(named), type=ir.TensorType(dtype or ir.DataType.FLOAT))
        self.inputs.append(value)
        return value

    def _op(self, op_type: str, operands: Sequence[ir.Value], attributes: dict[str, int] | None = None) -> ir.Value:
        name = f"?{op_type}_{len(self.tape.nodes)}"
        return self.tape.op(op_type, operands, attributes, name=name, output=ir.Value(name=name))

    def _ints(self, values: Sequence[int]) -> ir.Value:
        return self.tape.initializer(ir.tensor(np.asarray(values, np.int64)), f"?ints_{len(self.tape.initializers)}")
