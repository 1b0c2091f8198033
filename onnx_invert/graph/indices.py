"""Indices that a model computes from numbers, held within the axes that they point into.

A model looks up the bin that x lies in. Where an inverse tries another x on its way, or takes a y that no x gives,
the index may lie outside of its axis, and runtimes stop there. Held within it, what is looked up is some number,
as it should be: nothing of it goes on, or the y counts as one that is not reached.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from onnx_invert.errors import ModelError

INDEXED = {"GatherElements": 1, "Gather": 1, "GatherND": 1, "ScatterElements": 1, "ScatterND": 1}
"""Operations that stop a runtime where an index lies outside, by the operand that holds indices."""

OLDEST = 12
"""Clip, Max and Min of whole numbers need this opset."""

_NUMBERS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.BOOL}
)

_WHOLE = frozenset({ir.DataType.INT64, ir.DataType.INT32})

_LOOK_ALIKE = frozenset({"Shape", "Size", "NonZero", "ArgMax", "ArgMin", "TopK"})
"""Operations that make whole numbers of another kind."""

HELD = "held"
"""Notes on a node that what it makes lies within an axis."""


class Before:
    """Emits nodes before one of the graph, as long as the context lasts; `tag` tells their names from others'."""

    def __init__(self, graph: ir.Graph, node: ir.Node, tag: str = "all") -> None:
        self._graph, self._node, self._tape, self._stem = graph, node, Tape(), f"{node.outputs[0].name}/{tag}"

    def __enter__(self) -> Before:
        return self

    def __exit__(self, *_: object) -> None:
        self._graph.insert_before(self._node, list(self._tape.nodes))

    def op(self, op_type: str, *operands: ir.Value, **attributes: int) -> ir.Value:
        """One node, with a name after the node that it stands before."""
        name = f"{self._stem}/{op_type}_{len(self._tape.nodes)}"
        return self._tape.op(op_type, operands, attributes, name=name, output=ir.Value(name=name))

    def constant(self, array: np.ndarray) -> ir.Value:
        """An initializer of the graph."""
        name = f"{self._stem}/constant_{len(self._tape.initializers)}"
        value = self._tape.initializer(ir.tensor(np.asarray(array)), name)
        self._graph.register_initializer(value)
        return value

    def ints(self, values: Sequence[int]) -> ir.Value:
        """A vector of int64."""
        return self.constant(np.asarray(values, np.int64))

    def replace(self, value: ir.Value, by: ir.Value, shape: ir.Shape | None = None) -> None:
        """Put a new tensor in the place of one of the node's; an output of the graph keeps its name."""
        by.type, by.shape = value.type, shape
        if value.is_graph_output():
            value.name, by.name = f"{value.name}/packed", value.name
        ir.convenience.replace_all_uses_with(value, by, replace_graph_outputs=True)


def check_indices(model: ir.Model, name: str) -> None:
    """Hold constant indices to the axes that they point into, as far as their sizes are fixed.

    Raises:
        ModelError: an index is outside: no runtime would run the model.
    """
    wrong = []
    for node in model.graph:
        place = INDEXED.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
        data = None if place is None else node.inputs[0]
        index = None if place is None else node.inputs[place]
        if (
            data is None
            or data.shape is None
            or index is None
            or index.const_value is None
            or not index.const_value.size
        ):
            continue
        pairs = index.const_value.numpy()
        axes = _axes(node) or []
        nested = node.op_type in {"GatherND", "ScatterND"}
        for at, axis in enumerate(axes):
            size = data.shape[axis] if -len(data.shape) <= axis < len(data.shape) else None
            numbers = pairs[..., at] if nested else pairs
            low, high = int(numbers.min()), int(numbers.max())
            if isinstance(size, int) and not -size <= low <= high < size:
                outside = high if high >= size else low
                what = f"index {outside}, but axis {axis} of {data.name!r} has {size} elements"
                wrong.append(f"node {node.name!r} ({node.op_type}): {what}")
    if wrong:
        raise ModelError("\n".join([f"{name} takes elements that are not there:", *(f"  {line}" for line in wrong)]))


def hold_indices(model: ir.Model) -> None:
    """Hold every index that is computed from numbers or truths, in place."""
    graph = model.graph
    if model.opset_imports.get("", 0) < OLDEST:
        return
    computed: set[ir.Value | None] = set()
    for node in list(graph):
        if node.domain not in {"", "ai.onnx"}:
            continue
        place = INDEXED.get(node.op_type)
        if place is not None and node.inputs[place] in computed:
            hold(graph, node, place)
        source = node.inputs[0] if node.inputs else None
        cast = node.op_type == "Cast" and source is not None and source.dtype in _NUMBERS
        if cast or (node.op_type not in _LOOK_ALIKE and not computed.isdisjoint(node.inputs)):
            computed.update(output for output in node.outputs if output.dtype in _WHOLE)


def can_hold(node: ir.Node, opset: int) -> bool:
    """Whether the indices of an operation that takes some can be held."""
    return opset >= OLDEST and node.inputs[0] is not None and bool(_axes(node))


def hold(graph: ir.Graph, node: ir.Node, place: int) -> None:
    """Put indices within their axes into a node's operand `place`; those that lie there stay."""
    data, index, axes = node.inputs[0], node.inputs[place], _axes(node)
    if not axes or data is None or index is None:
        return
    maker = index.producer()
    if maker is not None and maker.meta.get(HELD):
        return
    dtype = (index.dtype or ir.DataType.INT64).numpy()
    dims = [data.shape[axis] if data.shape is not None else None for axis in axes]
    known = [dim for dim in dims if isinstance(dim, int)]
    with Before(graph, node, "held") as b:
        if len(known) == len(dims):
            sizes = np.asarray(known if len(known) > 1 else known[0], dtype)
            top, bottom = b.constant(sizes - 1), b.constant(-sizes)
        else:
            size = b.op("Gather", b.op("Shape", data), b.ints(axes))
            size = b.op("Squeeze", size) if len(dims) == 1 else size
            size = size if dtype == np.int64 else b.op("Cast", size, to=int(index.dtype or 0))
            top, bottom = b.op("Sub", size, b.constant(np.ones((), dtype))), b.op("Neg", size)
        # onnxruntime takes ten times as long for Min and Max of whole numbers; but Clip's bounds are one number each.
        held = b.op("Clip", index, bottom, top) if len(dims) == 1 else b.op("Max", b.op("Min", index, top), bottom)
        held.type, held.shape = index.type, index.shape
        made = held.producer()
        assert made is not None
        made.meta[HELD] = True
        node.replace_input_with(place, held)


def _axes(node: ir.Node) -> list[int] | None:
    """The axes that a node's indices point into; None where their number is known only at run time."""
    if node.op_type not in {"GatherND", "ScatterND"}:
        axis = node.attributes.get("axis")
        return [axis.as_int() if axis is not None else 0]
    index, batch = node.inputs[1], node.attributes.get("batch_dims")
    last = index.shape[-1] if index is not None and index.shape else None
    first = batch.as_int() if batch is not None else 0
    return list(range(first, first + last)) if isinstance(last, int) else None
