"""Which element of an output follows from which element of an operand, at sizes that are all known.

Every element of a tensor carries a label: 0 where its value is known, k > 0 where it follows from the unknown
element k alone, SEVERAL where it follows from more. `flow` carries labels through a node. Operations that move
elements carry them as they carry numbers; elementwise ones join those that meet; a product joins along a row
where the matrix is not zero, so that masked weights stay apart; what has no entry joins everything with
everything, which is never wrong, only less than could be known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.errors import ModelError
from onnx_invert.rules.joining import convolved, join, joined, through_matrix
from onnx_invert.rules.moving import Labels, carry, data_operands, moves
from onnx_invert.rules.static import constant, integer, integers, opset_of, shape_of, shape_of_operand

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

ELEMENTWISE_ML = frozenset({"Binarizer", "Imputer", "Scaler"})
"""The same in ai.onnx.ml: their offsets, scales and thresholds are attributes, one number each or one a column."""

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


def flow(node: ir.Node, labels: Sequence[Labels | None]) -> list[Labels]:
    """Labels of the outputs from those of the operands (None: known, whatever it is).

    Raises:
        UnsizedError: an output's shape is not known at these sizes.
    """
    shapes = [shape_of(output) for output in node.outputs]
    if node.op_type in SHAPES or not any(label is not None and np.count_nonzero(label) for label in labels):
        return [np.zeros(shape, np.int64) for shape in shapes]
    made = None
    if node.domain in {"", "ai.onnx"}:
        made = _special(node, labels, shapes)
    elif node.domain == "ai.onnx.ml" and node.op_type in ELEMENTWISE_ML:
        made = [_elementwise(node, labels, shapes[0])]
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


def _special(node: ir.Node, labels: Sequence[Labels | None], shapes: Sequence[tuple[int, ...]]) -> list[Labels] | None:
    """What is known better than that everything follows from everything."""
    op = node.op_type
    if moves(node) and not any(
        label is not None and np.count_nonzero(label) for label in labels[data_operands(node) :]
    ):
        return carry(node, labels)
    if op == "GatherElements":
        axis = integer(node, "axis", 0) % len(shapes[0])
        data = labels[0] if labels[0] is not None else np.zeros(shape_of_operand(node, 0), np.int64)
        index = labels[1] if labels[1] is not None else np.zeros(shapes[0], np.int64)
        line = joined(data, [axis])
        if any(a != axis and n != shapes[0][a] for a, n in enumerate(line.shape)):
            return None
        return [join([index, line])]
    if op in {"Gather", "GatherND"} and labels[0] is None and labels[1] is not None:
        return _looked_up(node, labels[1], len(shape_of_operand(node, 0)))
    if op in ELEMENTWISE:
        return [_elementwise(node, labels, shapes[0])]
    if op == "BatchNormalization" and not integer(node, "training_mode", 0) and labels[0] is not None:
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
        return _matmul(labels, [constant(node, 0), constant(node, 1)], shapes[0])
    if op == "Gemm":
        return _gemm(node, labels, shapes[0])
    if op == "Einsum":
        return _einsum(node, labels, shapes[0])
    if op in PER_SAMPLE and labels[0] is not None and all(label is None for label in labels[1:]):
        return _per_sample(node, labels[0], shapes)
    return None


def _looked_up(node: ir.Node, index: Labels, rank: int) -> list[Labels] | None:
    """What is known, at indices that are not: each entry of the output follows from its own index."""
    if node.op_type == "Gather":
        axis = integer(node, "axis", 0) % rank
        return [index.reshape(*index.shape, *[1] * (rank - axis - 1))]
    if integer(node, "batch_dims", 0):
        return None
    return [joined(index, [index.ndim - 1])[..., 0].reshape(*index.shape[:-1], *[1] * (rank - index.shape[-1]))]


def _fitted(line: Labels, shape: tuple[int, ...]) -> Labels:
    """A label that is the same along an axis, at the size that an output has there."""
    return np.broadcast_to(line if line.ndim == len(shape) else joined(line).reshape(()), shape)


def _elementwise(node: ir.Node, labels: Sequence[Labels | None], shape: tuple[int, ...]) -> Labels:
    parts = []
    if node.op_type == "Where" and (chosen := constant(node, 0)) is not None:
        sides = [np.zeros((), np.int64) if label is None else label for label in labels[1:]]
        return np.where(chosen, sides[0], sides[1])
    zeros = None
    for place, label in enumerate(labels):
        if label is not None:
            parts.append(label)
        elif node.op_type == "Mul" and (array := constant(node, place)) is not None and not switched_off(node):
            zeros = array == 0
    _check_sizes(node, [label.shape for label in parts], shape)
    together = np.broadcast_to(join(parts), shape)
    return together if zeros is None else np.where(zeros, 0, together)


def _check_sizes(node: ir.Node, operands: Sequence[tuple[int, ...]], shape: tuple[int, ...]) -> None:
    """A ModelError where operands are not broadcast to the shape that the model states."""
    try:
        fit = np.broadcast_shapes(*operands, shape) == shape
    except ValueError:
        fit = False
    if not fit:
        sizes = [" × ".join(map(str, size)) for size in (shape, *operands)]
        raise ModelError(
            f"Node {node.name!r} ({node.op_type}) makes {sizes[0]} numbers of {' and '.join(sizes[1:])}: "
            "they do not go together at these sizes."
        )


def switched_off(node: ir.Node) -> bool:
    """Whether a product is 0 · log x throughout: 0 only where that is finite, and a block has to see where.

    The power transforms of scikit-learn, as exported, are 0 · ∞ outside of a branch, and replace that NaN by 0.
    """
    if node.op_type != "Mul":
        return False
    arrays = [constant(node, place) for place in range(len(node.inputs))]
    if not any(array is not None and not np.count_nonzero(array) for array in arrays):
        return False
    makers = [value.producer() for value, array in zip(node.inputs, arrays, strict=True) if value and array is None]
    while makers and makers[0] is not None and makers[0].op_type in {"Neg", "Identity"}:
        behind = makers[0].inputs[0]
        makers = [None if behind is None else behind.producer()]
    return any(maker is not None and maker.op_type == "Log" for maker in makers)


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
    turned = [integer(node, "transA", 0), integer(node, "transB", 0)]
    sides = [None if side is None else side.T if turn else side for side, turn in zip(labels[:2], turned, strict=True)]
    weights = [constant(node, place) for place in (0, 1)]
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
    weight = constant(node, 1)
    if node.op_type == "Conv" and weight is not None:
        if pointwise(node, weight):
            return [np.moveaxis(through_matrix(np.moveaxis(x, 1, -1), weight.reshape(weight.shape[:2]).T), -1, 1)]
        if (windows := _windows(node, weight, x.shape[2:])) is not None:
            return [convolved(x, weight, integer(node, "group", 1), *windows)]
    line = joined(x, range(1, x.ndim))
    return [np.broadcast_to(line.reshape(-1, *[1] * (len(shape) - 1)), shape) for shape in shapes]


def _windows(
    node: ir.Node, weight: NDArray[np.generic], sizes: Sequence[int]
) -> tuple[list[tuple[int, int]], list[int], list[int]] | None:
    """Padding before and after, strides and dilations of a Conv, one for each spatial axis."""
    count = len(sizes)
    if node.attributes.get_string("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
        return None
    pads = list(integers(node, "pads")) or [0] * 2 * count
    strides = list(integers(node, "strides")) or [1] * count
    dilations = list(integers(node, "dilations")) or [1] * count
    return [(pads[axis], pads[axis + count]) for axis in range(count)], strides, dilations


def pointwise(node: ir.Node, weight: NDArray[np.generic]) -> bool:
    """Whether a Conv is a matrix on the channels of every place: kernels of size 1, steps of 1, no padding."""
    ones = all(size == 1 for size in weight.shape[2:])
    steps = all(step == 1 for step in integers(node, "strides"))
    return ones and steps and not any(integers(node, "pads")) and integer(node, "group", 1) == 1


def _axes(node: ir.Node, rank: int) -> list[int] | None:
    if not rank:
        return []
    if node.op_type in {"ArgMax", "ArgMin"}:
        return [integer(node, "axis", 0) % rank]
    attribute = node.attributes.get("axes")
    if attribute is not None:
        return [axis % rank for axis in attribute.as_ints()]
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        array = constant(node, 1)
        if array is None:
            return None
        if array.size:
            return [int(axis) % rank for axis in array.reshape(-1)]
    return [] if integer(node, "noop_with_empty_axes", 0) else list(range(rank))


def _along(node: ir.Node, rank: int) -> list[int] | None:
    if node.op_type == "CumSum":
        array = constant(node, 1)
        return None if array is None else [int(array.reshape(-1)[0]) % rank]
    old = node.op_type in {"Softmax", "LogSoftmax", "Hardmax"} and (opset_of(node) < 13)
    axis = integer(node, "axis", 1 if old else -1) % rank
    return list(range(axis, rank)) if old or node.op_type == "LayerNormalization" else [axis]
