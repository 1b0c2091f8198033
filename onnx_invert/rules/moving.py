"""Operations that move elements: labels of elements carried to where the elements go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.errors import ModelError
from onnx_invert.rules.static import constant, integer, shape_of

Labels = NDArray[np.int64]

SAME = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
"""The elements in their order, in another shape."""

MOVES = SAME | frozenset(
    {
        *("Transpose", "Expand", "Tile", "Slice", "Split", "Concat", "Gather", "GatherElements", "GatherND", "Pad"),
        *("ScatterND", "ScatterElements", "DepthToSpace", "SpaceToDepth", "ReverseSequence", "Trilu", "Compress"),
        "CenterCropPad",
    }
)
"""Every element of the output is an element of an operand, whichever: what the indices say."""


def moves(node: ir.Node) -> bool:
    """Whether the outputs hold elements of the operands, and no more."""
    op = node.op_type
    if op == "Where":
        return constant(node, 0) is not None
    if op == "Dropout":
        return constant(node, 2) is None
    return op in MOVES and (op in _BY_SHAPE or _indices_known(node))


def data_operands(node: ir.Node) -> int:
    """How many operands hold elements to move; those after them hold indices, sizes, axes."""
    match node.op_type:
        case "Concat":
            return len(node.inputs)
        case "ScatterND" | "ScatterElements" | "Where":
            return 3
        case "Pad":
            return 3
        case _:
            return 1


def holds_data(node: ir.Node, place: int) -> bool:
    """Whether an operand holds elements to move."""
    if node.op_type == "Where":
        return place > 0
    if node.op_type in {"ScatterND", "ScatterElements", "Pad"}:
        return place in {0, 2}
    return place < data_operands(node)


def _indices_known(node: ir.Node) -> bool:
    middle = node.op_type in {"ScatterND", "ScatterElements", "Pad"}
    places = [1] if middle else range(data_operands(node), len(node.inputs))
    return all(constant(node, place) is not None for place in places if node.inputs[place] is not None)


def carry(node: ir.Node, labels: Sequence[Labels | None]) -> list[Labels]:
    """Move labels as the node moves numbers.

    Raises:
        ModelError: a constant index is beyond the operand.
    """
    arrays: list[Any] = []
    for place, value in enumerate(node.inputs):
        label = labels[place]
        if not holds_data(node, place):
            arrays.append(constant(node, place))
        elif label is not None:
            arrays.append(label)
        else:
            arrays.append(None if value is None else np.zeros(shape_of(value), np.int64))
    carried = CARRIED.get(node.op_type, _evaluated)
    try:
        return carried(node, arrays)
    except IndexError as error:
        raise ModelError(
            f"Node {node.name!r} ({node.op_type}) takes an element that is not there: {error}."
        ) from error


def _evaluated(node: ir.Node, arrays: Sequence[Any]) -> list[Labels]:
    """The node itself, run on labels by onnx's reference evaluator."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    feeds = {f"i{place}": array for place, array in enumerate(arrays) if array is not None}
    proto = onnx.helper.make_node(
        node.op_type,
        [f"i{place}" if array is not None else "" for place, array in enumerate(arrays)],
        [f"o{place}" for place in range(len(node.outputs))],
    )
    proto.attribute.extend(ir.serde.serialize_attribute(a) for a in node.attributes.values())
    graph = onnx.helper.make_graph(
        [proto],
        "labels",
        [
            onnx.helper.make_tensor_value_info(name, int(ir.DataType.from_numpy(array.dtype)), array.shape)
            for name, array in feeds.items()
        ],
        [onnx.helper.make_empty_tensor_value_info(name) for name in proto.output],
    )
    version = node.version or (node.graph.opset_imports.get("", 17) if node.graph is not None else 17)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
    return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, feeds)]


def _slice(node: ir.Node, arrays: Sequence[Any]) -> list[Labels]:
    x = arrays[0]
    assert x is not None
    if len(arrays) == 1:
        return _evaluated(node, arrays)
    starts, ends = (np.asarray(arrays[place]).reshape(-1) for place in (1, 2))
    given = arrays[3] if len(arrays) > 3 else None
    axes = np.arange(len(starts)) if given is None else given.reshape(-1)
    by = arrays[4] if len(arrays) > 4 else None
    steps = np.ones(len(starts), np.int64) if by is None else by.reshape(-1)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[int(axis)]
        first, last = (int(v) + size if v < 0 else int(v) for v in (start, end))
        if step > 0:
            chosen = np.arange(min(max(first, 0), size), min(max(last, 0), size), int(step))
        else:
            chosen = np.arange(min(max(first, -1), size - 1), min(max(last, -1), size - 1), int(step))
        x = np.take(x, chosen, axis=int(axis))
    return [x]


def _gather(node: ir.Node, arrays: Sequence[Any]) -> list[Labels]:
    x, index = arrays[0], arrays[1]
    assert x is not None
    assert index is not None
    return [np.take(x, index, axis=integer(node, "axis", 0))]


def _split(node: ir.Node, arrays: Sequence[Any]) -> list[Labels]:
    x = arrays[0]
    assert x is not None
    axis = integer(node, "axis", 0)
    sizes = [shape_of(output)[axis] for output in node.outputs]
    return np.split(x, np.cumsum(sizes)[:-1], axis=axis)


def _transposed(node: ir.Node, arrays: Sequence[Any]) -> list[Labels]:
    x = arrays[0]
    assert x is not None
    perm = node.attributes.get("perm")
    return [np.transpose(x, None if perm is None else list(perm.as_ints()))]


def _shaped(node: ir.Node, arrays: Sequence[Any]) -> list[Labels]:
    x = arrays[0]
    assert x is not None
    return [x.reshape(shape_of(node.outputs[0]))] + [np.zeros(shape_of(o), np.int64) for o in node.outputs[1:]]


def _concatenated(node: ir.Node, arrays: Sequence[Any]) -> list[Labels]:
    return [np.concatenate([a for a in arrays if a is not None], axis=integer(node, "axis", 0))]


def _expanded(node: ir.Node, arrays: Sequence[Any]) -> list[Labels]:
    x = arrays[0]
    assert x is not None
    wanted = shape_of(node.outputs[0])
    try:
        return [np.broadcast_to(x, wanted)]
    except ValueError as error:
        # Shape inference takes an open size for one that fits.
        raise ModelError(
            f"It does not run at other sizes than it was exported for: node {node.name!r} (Expand) makes {wanted} of "
            f"{np.shape(x)}."
        ) from error


CARRIED: dict[str, Callable[[ir.Node, Sequence[Any]], list[Labels]]] = {
    **dict.fromkeys(SAME, _shaped),
    "Transpose": _transposed,
    "Concat": _concatenated,
    "Split": _split,
    "Expand": _expanded,
    "Slice": _slice,
    "Gather": _gather,
}
"""How labels are carried without onnx's reference evaluator."""

_BY_SHAPE = SAME | {"Transpose", "Concat", "Split", "Expand"}
"""Their output's shape tells all; the operands that ask for it need not be constant."""
