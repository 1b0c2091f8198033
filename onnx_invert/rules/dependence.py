"""Which element of an output follows from which element of an operand, at sizes that are all known.

Every element of a tensor carries a label: 0 where its value is known, k > 0 where it follows from the unknown
element k alone, SEVERAL where it follows from more. `flow` carries labels through a node. Operations that move
elements carry them as they carry numbers; elementwise ones join those that meet; a product joins along a row
where the matrix is not zero, so that masked weights stay apart; what has no entry joins everything with
everything, which is never wrong, only less than could be known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Labels = NDArray[np.int64]

SEVERAL = -1

ELEMENTWISE = frozenset(
    {
        *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "Cast", "CastLike"),
        *("Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater"),
        *("GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log"),
        *("Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu"),
        *("Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum"),
        *("Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor"),
    }
)
"""Element i of the output follows from the elements i of the operands, broadcast."""

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

REDUCTIONS = frozenset(
    {
        *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum"),
        *("ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin"),
    }
)

ALONG = frozenset({"Softmax", "LogSoftmax", "Hardmax", "CumSum", "LpNormalization", "LayerNormalization", "TopK"})
"""Everything along an axis (from it on, for LayerNormalization) with everything."""

PER_SAMPLE = frozenset(
    {
        *("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"),
        *("GlobalLpPool", "InstanceNormalization", "GroupNormalization", "LRN", "Resize", "Upsample"),
    }
)
"""Everything in a sample, along the first axis, with everything in it."""

SHAPES = frozenset({"Shape", "Size"})


class UnsizedError(Exception):
    """The shape of an output is known only once its values are."""


def flow(node: ir.Node, labels: Sequence[Labels | None]) -> list[Labels]:
    """Labels of the outputs from those of the operands (None: known, whatever it is).

    Raises:
        UnsizedError: an output's shape is not known at these sizes.
    """
    shapes = [_shape(output) for output in node.outputs]
    if node.op_type in SHAPES or not any(label is not None and label.any() for label in labels):
        return [np.zeros(shape, np.int64) for shape in shapes]
    made = None
    if node.domain in {"", "ai.onnx"}:
        made = _special(node, labels, shapes)
    if made is None:
        whole = join([joined(label).reshape(()) for label in labels if label is not None])
        made = [np.broadcast_to(whole, shape) for shape in shapes]
    return [
        label if label.shape == shape else np.array(np.broadcast_to(label, shape))
        for label, shape in zip(made, shapes, strict=True)
    ]


def places(node: ir.Node, operand: int, shape: Sequence[int]) -> list[Labels] | None:
    """Where each element of an operand goes: its number (from 1 on) in the outputs, 0 for elements of others.

    None if the node does more than move elements, or moves them by indices that are not constant.
    """
    if node.domain not in {"", "ai.onnx"} or not moves(node):
        return None
    count = int(np.prod(shape))
    labels: list[Labels | None] = [None] * len(node.inputs)
    labels[operand] = np.arange(1, count + 1, dtype=np.int64).reshape(shape)
    return flow(node, labels)


def moves(node: ir.Node) -> bool:
    """Whether the outputs hold elements of the operands, and no more."""
    if node.op_type == "Where":
        return _constant(node, 0) is not None
    if node.op_type == "Dropout":
        return _constant(node, 2) is None
    return node.op_type in MOVES and (node.op_type in _BY_SHAPE or _indices_known(node))


def join(parts: Sequence[Labels]) -> Labels:
    """What follows from all of `parts` together, broadcast."""
    result = parts[0]
    for part in parts[1:]:
        result = np.where(result == 0, part, np.where((part == 0) | (part == result), result, SEVERAL))
    return np.asarray(result)


def joined(labels: Labels, axes: Sequence[int] | None = None) -> Labels:
    """The join along `axes` (all by default), which stay with size 1."""
    where = tuple(range(labels.ndim)) if axes is None else tuple(axes)
    if labels.size == 0:
        return np.zeros([1 if a in where else n for a, n in enumerate(labels.shape)], np.int64)
    top = labels.max(axis=where, keepdims=True)
    least = np.where(labels > 0, labels, np.iinfo(np.int64).max).min(axis=where, keepdims=True)
    several = (labels == SEVERAL).any(axis=where, keepdims=True) | ((top > 0) & (top != least))
    return np.where(several, SEVERAL, np.maximum(top, 0))


def through_matrix(labels: Labels, weight: NDArray[np.generic]) -> Labels:
    """Labels (…, K) through x @ weight, (K, M): joined where the weight is not 0."""
    nonzero = weight != 0
    if nonzero.all():
        return np.broadcast_to(joined(labels, [labels.ndim - 1]), (*labels.shape[:-1], weight.shape[1]))
    rows, back = np.unique(labels.reshape(-1, labels.shape[-1]), axis=0, return_inverse=True)
    made = np.empty((len(rows), weight.shape[1]), np.int64)
    for index, row in enumerate(rows):
        made[index] = joined(np.where(nonzero, row[:, None], 0), [0])[0]
    return made[np.asarray(back).reshape(-1)].reshape(*labels.shape[:-1], weight.shape[1])


def _special(node: ir.Node, labels: Sequence[Labels | None], shapes: Sequence[tuple[int, ...]]) -> list[Labels] | None:
    """What is known better than that everything follows from everything."""
    op = node.op_type
    if moves(node) and all(label is None or not label.any() for label in labels[_data(node) :]):
        return _carry(node, labels)
    if op == "GatherElements":
        axis = _integer(node, "axis", 0) % len(shapes[0])
        data = labels[0] if labels[0] is not None else np.zeros(_shape_of(node, 0), np.int64)
        index = labels[1] if labels[1] is not None else np.zeros(shapes[0], np.int64)
        line = joined(data, [axis])
        if any(a != axis and n != shapes[0][a] for a, n in enumerate(line.shape)):
            return None
        return [join([index, line])]
    if op in ELEMENTWISE:
        return [_elementwise(node, labels, shapes[0])]
    if op == "BatchNormalization" and not _integer(node, "training_mode", 0) and labels[0] is not None:
        return [labels[0]] if all(label is None for label in labels[1:]) else None
    if op in REDUCTIONS and labels[0] is not None:
        axes = _axes(node, labels[0].ndim)
        return None if axes is None else [joined(labels[0], axes).reshape(shapes[0])]
    if op in ALONG and labels[0] is not None and all(label is None for label in labels[1:]):
        axes = _along(node, labels[0].ndim)
        if axes is None:
            return None
        along = joined(labels[0], axes)
        return [_fitted(along, shape) for shape in shapes]
    if op == "MatMul":
        return _matmul(labels, [_constant(node, 0), _constant(node, 1)], shapes[0])
    if op == "Gemm":
        return _gemm(node, labels, shapes[0])
    if op == "Einsum":
        return _einsum(node, labels, shapes[0])
    if op in PER_SAMPLE and labels[0] is not None and all(label is None for label in labels[1:]):
        return _per_sample(node, labels[0], shapes)
    return None


def _fitted(line: Labels, shape: tuple[int, ...]) -> Labels:
    """A label that is the same along an axis, at the size that an output has there."""
    return np.broadcast_to(line if line.ndim == len(shape) else joined(line).reshape(()), shape)


def _elementwise(node: ir.Node, labels: Sequence[Labels | None], shape: tuple[int, ...]) -> Labels:
    parts = []
    if node.op_type == "Where" and (chosen := _constant(node, 0)) is not None:
        sides = [np.zeros((), np.int64) if label is None else label for label in labels[1:]]
        return np.where(chosen, sides[0], sides[1])
    zeros = np.zeros((), bool)
    for place, label in enumerate(labels):
        if label is not None:
            parts.append(label)
        elif node.op_type == "Mul" and (constant := _constant(node, place)) is not None:
            zeros = constant == 0
    return np.where(zeros, 0, np.broadcast_to(join(parts), shape))


def _matmul(
    labels: Sequence[Labels | None], constants: Sequence[NDArray[np.generic] | None], shape: tuple[int, ...]
) -> list[Labels] | None:
    left, right = labels[0], labels[1]
    if left is not None and right is None:
        weight = constants[1]
        if weight is not None and weight.ndim == 2:
            return [through_matrix(left, weight)]
        if weight is not None and weight.ndim == 1:
            return [through_matrix(left, weight[:, None])[..., 0]]
        if left.ndim == 1:
            return None
        return [np.broadcast_to(joined(left, [left.ndim - 1]), shape)] if len(shape) == left.ndim else None
    if right is not None and left is None:
        weight = constants[0]
        if right.ndim < 2:
            return None
        if weight is not None and weight.ndim == 2:
            return [np.swapaxes(through_matrix(np.swapaxes(right, -1, -2), weight.T), -1, -2)]
        return [np.broadcast_to(joined(right, [right.ndim - 2]), shape)] if len(shape) == right.ndim else None
    if left is None or right is None or left.ndim < 2 or right.ndim < 2:
        return None
    return [join([joined(left, [left.ndim - 1]), joined(right, [right.ndim - 2])])]


def _gemm(node: ir.Node, labels: Sequence[Labels | None], shape: tuple[int, ...]) -> list[Labels] | None:
    turned = [_integer(node, "transA", 0), _integer(node, "transB", 0)]
    sides = [None if side is None else side.T if turn else side for side, turn in zip(labels[:2], turned, strict=True)]
    weights = [_constant(node, place) for place in (0, 1)]
    weights = [None if w is None else w.T if turn else w for w, turn in zip(weights, turned, strict=True)]
    parts = []
    if sides[0] is not None or sides[1] is not None:
        product = _matmul(sides, weights, shape)
        if product is None:
            return None
        parts += product
    if len(labels) > 2 and labels[2] is not None:
        parts.append(np.broadcast_to(labels[2], shape))
    return [join(parts)]


def _einsum(node: ir.Node, labels: Sequence[Labels | None], shape: tuple[int, ...]) -> list[Labels] | None:
    equation = node.attributes["equation"].as_string().replace(" ", "")
    if "->" not in equation:
        return None
    left, right = equation.split("->")
    terms = left.split(",")
    free = "".join(chr(c) for c in range(ord("A"), ord("Z") + 1) if chr(c) not in equation)
    extra = len(shape) - len(right.replace("...", ""))
    right = right.replace("...", free[:extra])
    parts = []
    for term, label in zip(terms, labels, strict=True):
        if label is None:
            continue
        missing = label.ndim - len(term.replace("...", ""))
        indices = term.replace("...", free[extra - missing : extra] if missing else "")
        if len(set(indices)) != len(indices) or len(set(right)) != len(right):
            return None
        line = joined(label, [axis for axis, letter in enumerate(indices) if letter not in right])
        kept = [letter for letter in indices if letter in right]
        line = line.reshape([n for n, letter in zip(line.shape, indices, strict=True) if letter in right])
        line = np.transpose(line, [kept.index(letter) for letter in right if letter in kept])
        parts.append(
            line.reshape([line.shape[_rank(letter, right, kept)] if letter in kept else 1 for letter in right])
        )
    return [np.broadcast_to(join(parts), shape)]


def _rank(letter: str, right: str, kept: Sequence[str]) -> int:
    return [other for other in right if other in kept].index(letter)


def _per_sample(node: ir.Node, x: Labels, shapes: Sequence[tuple[int, ...]]) -> list[Labels]:
    weight = _constant(node, 1)
    if node.op_type == "Conv" and weight is not None and pointwise(node, weight):
        lines = np.moveaxis(through_matrix(np.moveaxis(x, 1, -1), weight.reshape(weight.shape[:2]).T), -1, 1)
        return [lines]
    line = joined(x, range(1, x.ndim))
    return [np.broadcast_to(line.reshape(-1, *[1] * (len(shape) - 1)), shape) for shape in shapes]


def pointwise(node: ir.Node, weight: NDArray[np.generic]) -> bool:
    """Whether a Conv is a matrix on the channels of every place: kernels of size 1, steps of 1, no padding."""
    ones = all(size == 1 for size in weight.shape[2:])
    steps = all(step == 1 for step in _list(node, "strides"))
    return ones and steps and not any(_list(node, "pads")) and _integer(node, "group", 1) == 1


def _data(node: ir.Node) -> int:
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


def _indices_known(node: ir.Node) -> bool:
    places = [1] if node.op_type in {"ScatterND", "ScatterElements", "Pad"} else range(_data(node), len(node.inputs))
    return all(_constant(node, place) is not None for place in places if node.inputs[place] is not None)


def _carry(node: ir.Node, labels: Sequence[Labels | None]) -> list[Labels]:
    """Move labels as the node moves numbers."""
    arrays: list[Any] = []
    for place, value in enumerate(node.inputs):
        label = labels[place]
        indices = place >= _data(node) or (node.op_type, place) in {
            ("ScatterND", 1), ("ScatterElements", 1), ("Pad", 1), ("Where", 0)
        }  # fmt: skip
        if label is not None and not indices:
            arrays.append(label)
        elif indices:
            arrays.append(_constant(node, place))
        else:
            arrays.append(None if value is None else np.zeros(_shape(value), np.int64))
    quick = _CARRIED.get(node.op_type)
    if quick is not None:
        return quick(node, arrays)
    return _evaluated(node, arrays)


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
    return [np.take(x, index, axis=_integer(node, "axis", 0))]


def _split(node: ir.Node, arrays: Sequence[Any]) -> list[Labels]:
    x = arrays[0]
    assert x is not None
    axis = _integer(node, "axis", 0)
    sizes = [_shape(output)[axis] for output in node.outputs]
    return np.split(x, np.cumsum(sizes)[:-1], axis=axis)


def _transposed(node: ir.Node, arrays: Sequence[Any]) -> list[Labels]:
    x = arrays[0]
    assert x is not None
    perm = node.attributes.get("perm")
    return [np.transpose(x, None if perm is None else list(perm.as_ints()))]


def _shaped(node: ir.Node, arrays: Sequence[Any]) -> list[Labels]:
    x = arrays[0]
    assert x is not None
    return [x.reshape(_shape(node.outputs[0]))] + [np.zeros(_shape(o), np.int64) for o in node.outputs[1:]]


def _concatenated(node: ir.Node, arrays: Sequence[Any]) -> list[Labels]:
    return [np.concatenate([a for a in arrays if a is not None], axis=_integer(node, "axis", 0))]


def _expanded(node: ir.Node, arrays: Sequence[Any]) -> list[Labels]:
    x = arrays[0]
    assert x is not None
    return [np.broadcast_to(x, _shape(node.outputs[0]))]


_CARRIED: dict[str, Callable[[ir.Node, Sequence[Any]], list[Labels]]] = {
    **dict.fromkeys(SAME, _shaped),
    "Transpose": _transposed,
    "Concat": _concatenated,
    "Split": _split,
    "Expand": _expanded,
    "Slice": _slice,
    "Gather": _gather,
}
_BY_SHAPE = SAME | {"Transpose", "Concat", "Split", "Expand"}
"""Their output's shape tells all; the operands that ask for it need not be constant."""


def _axes(node: ir.Node, rank: int) -> list[int] | None:
    if not rank:
        return []
    if node.op_type in {"ArgMax", "ArgMin"}:
        return [_integer(node, "axis", 0) % rank]
    attribute = node.attributes.get("axes")
    if attribute is not None:
        return [axis % rank for axis in attribute.as_ints()]
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        array = _constant(node, 1)
        if array is None:
            return None
        if array.size:
            return [int(axis) % rank for axis in array.reshape(-1)]
    return [] if _integer(node, "noop_with_empty_axes", 0) else list(range(rank))


def _along(node: ir.Node, rank: int) -> list[int] | None:
    if node.op_type == "CumSum":
        array = _constant(node, 1)
        return None if array is None else [int(array.reshape(-1)[0]) % rank]
    old = node.op_type in {"Softmax", "LogSoftmax", "Hardmax"} and (_opset(node) < 13)
    axis = _integer(node, "axis", 1 if old else -1) % rank
    return list(range(axis, rank)) if old or node.op_type == "LayerNormalization" else [axis]


def _opset(node: ir.Node) -> int:
    return node.graph.opset_imports.get("", 17) if node.graph is not None else 17


def _shape(value: ir.Value) -> tuple[int, ...]:
    if not value.name and value.shape is None:
        return ()
    dims = () if value.shape is None else value.shape.dims
    sizes = tuple(dim for dim in dims if isinstance(dim, int))
    if value.shape is None or len(sizes) != len(dims):
        raise UnsizedError(value.name or "")
    return sizes


def _shape_of(node: ir.Node, place: int) -> tuple[int, ...]:
    value = node.inputs[place]
    assert value is not None
    return _shape(value)


def _constant(node: ir.Node, place: int) -> NDArray[np.generic] | None:
    value = node.inputs[place] if place < len(node.inputs) else None
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _integer(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def _list(node: ir.Node, name: str) -> list[int]:
    attribute = node.attributes.get(name)
    return [] if attribute is None else list(attribute.as_ints())
