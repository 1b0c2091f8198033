"""Where an operator leaves the samples of a batch: along which axis of its output, or that it mixes them.

An operand that is None does not depend on the unknown, whatever it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from onnx_invert.rules.node import Dim, NodeView


@dataclass(frozen=True)
class Place:
    """Samples lie along `axis`, which has outer · N · inner numbers, sample n those at (i · N + n) · inner + j."""

    axis: int
    outer: int = 1
    inner: int = 1

    def on(self, axis: int) -> Place:
        """The same along another axis."""
        return Place(axis, self.outer, self.inner)


FIRST = Place(0)


class Undecided:
    """The state of a tensor that depends on the unknown in a way that is not followed."""


class Mixes(Exception):  # noqa: N818  no error: a verdict
    """A node mixes samples; says how."""


UNDECIDED = Undecided()
State = Place | Undecided
Follow = Callable[[NodeView, list[State | None]], State]
"""From a node and, per operand, where its samples lie (None: it does not depend on the unknown) to its outputs'."""


def _dependent(operands: Iterable[State | None]) -> list[tuple[int, Place]]:
    return [(index, state) for index, state in enumerate(operands) if isinstance(state, Place)]


def _rank(node: NodeView, index: int) -> int | None:
    value = node.operand(index)
    return None if value is None or value.shape is None else len(value.shape)


def _stays(node: NodeView, operands: list[State | None]) -> State:
    """Element by element, or windows over other axes: samples stay where they are."""
    places = _dependent(operands)
    return places[0][1] if len(places) == 1 and places[0][0] == 0 else UNDECIDED


def _broadcast(node: NodeView, operands: list[State | None]) -> State:
    """Operands meet element by element, aligned at their last axes."""
    ranks = [_rank(node, index) for index in range(len(operands))]
    widest = max((rank or 0 for rank in ranks), default=0)
    found: set[Place] = set()
    for index, place in _dependent(operands):
        rank = ranks[index]
        if rank is None or None in ranks:
            return UNDECIDED
        found.add(place.on(place.axis + widest - rank))
    return _agreed(found)


def _agreed(found: set[Place]) -> Place:
    if len(found) > 1:
        raise Mixes("every sample of one operand meets every sample of another")
    return found.pop()


def _matmul(node: NodeView, operands: list[State | None]) -> State:
    ranks = [_rank(node, 0), _rank(node, 1)]
    if ranks[0] is None or ranks[1] is None:
        return UNDECIDED
    a, b = ranks[0], ranks[1]
    rank = max(a, b, 2)
    found: set[Place] = set()
    for index, place in _dependent(operands):
        own = ranks[index] or 0
        summed = own - 1 if index == 0 or own == 1 else own - 2
        if place.axis == summed:
            raise Mixes(f"it sums along axis {place.axis} of {_name(node, index)}, where they lie")
        if a < 2 or b < 2:
            return UNDECIDED
        # Rows of the one and columns of the other are different axes of the product; the leading ones are shared.
        found.add(place.on(place.axis + rank - own))
    return _agreed(found)


def _gemm(node: NodeView, operands: list[State | None]) -> State:
    flips = (node.integer("transA", 0), node.integer("transB", 0))
    found: set[Place] = set()
    for index, place in _dependent(operands):
        if index == 2:
            rank = _rank(node, 2)
            if rank is None:
                return UNDECIDED
            found.add(place.on(place.axis + 2 - rank))
            continue
        axis = 1 - place.axis if flips[index] else place.axis
        if axis != index:
            raise Mixes(f"it sums along axis {place.axis} of {_name(node, index)}, where they lie")
        found.add(place.on(axis))
    return _agreed(found)


def _name(node: NodeView, index: int) -> str:
    value = node.operand(index)
    return repr(value.name if value is not None else "")


def _transpose(node: NodeView, operands: list[State | None]) -> State:
    ((_, place),) = _dependent(operands)
    attribute, rank = node.node.attributes.get("perm"), _rank(node, 0)
    if attribute is not None:
        return place.on(list(attribute.as_ints()).index(place.axis))
    return UNDECIDED if rank is None else place.on(rank - 1 - place.axis)


def _reshape(node: NodeView, operands: list[State | None]) -> State:
    """The numbers keep their order; sample n begins at multiples of `stride`, of which there are N · `before`."""
    places = _dependent(operands)
    x, y = node.shape(node.node.inputs[0]) if node.node.inputs[0] is not None else None, node.shape(node.y)
    if len(places) != 1 or places[0][0] != 0 or x is None or y is None:
        return UNDECIDED
    place = places[0][1]
    stride, before = _count([*x[place.axis + 1 :], place.inner]), _count([*x[: place.axis], place.outer])
    free = [axis for axis, dim in enumerate(y) if not isinstance(dim, int)]
    if len(free) == 1 and stride is not None and before is not None:
        axis = free[0]
        inner, left = divmod(stride, max(1, _count(y[axis + 1 :]) or 0))
        outer, over = divmod(before, max(1, _count(y[:axis]) or 0))
        return Place(axis, outer, inner) if not left and not over else UNDECIDED
    # Sizes that are not known: only where the axes up to the samples' own stay what they are.
    lead = place.axis + 1
    if place.outer == place.inner == 1 and x[:lead] == y[:lead]:
        return place
    return UNDECIDED


def _count(dims: Sequence[Dim]) -> int | None:
    """The product of sizes, or None where one is known only at run time."""
    return math.prod(dim for dim in dims if isinstance(dim, int)) if all(isinstance(d, int) for d in dims) else None


def _flatten(node: NodeView, operands: list[State | None]) -> State:
    ((_, place),) = _dependent(operands)
    if place == FIRST and node.integer("axis", 1) == 1:
        return place
    return _reshape(node, operands)


def _unsqueeze(node: NodeView, operands: list[State | None]) -> State:
    ((_, place),) = _dependent(operands)
    axes, rank = node.ints("axes", 1), _rank(node, 0)
    if axes is None or rank is None:
        return UNDECIDED
    inserted = {axis % (rank + len(axes)) for axis in axes}
    return place.on([axis for axis in range(rank + len(axes)) if axis not in inserted][place.axis])


def _squeeze(node: NodeView, operands: list[State | None]) -> State:
    ((_, place),) = _dependent(operands)
    axes, rank = node.ints("axes", 1), _rank(node, 0)
    if axes is None or rank is None:
        return UNDECIDED
    dropped = {axis % rank for axis in axes}
    return UNDECIDED if place.axis in dropped else place.on(place.axis - sum(axis < place.axis for axis in dropped))


def _concat(node: NodeView, operands: list[State | None]) -> State:
    places = {place for _, place in _dependent(operands)}
    rank = _rank(node, node.unknown)
    if rank is None or any(place.axis == node.integer("axis", 0) % rank for place in places):
        return UNDECIDED
    return _agreed(places)


def _off_axis(default: int) -> Follow:
    """What works along one axis and leaves the others alone, without a sum: splitting, picking."""

    def rule(node: NodeView, operands: list[State | None]) -> State:
        places, rank = _dependent(operands), _rank(node, 0)
        if rank is None or len(places) != 1 or places[0][0] != 0:
            return UNDECIDED
        return UNDECIDED if places[0][1].axis == node.integer("axis", default) % rank else places[0][1]

    return rule


def _gather(node: NodeView, operands: list[State | None]) -> State:
    places, rank, indices = _dependent(operands), _rank(node, 0), _rank(node, 1)
    if rank is None or indices is None or len(places) != 1:
        return UNDECIDED
    (operand, place), axis = places[0], node.integer("axis", 0) % rank
    if operand == 1:  # every index picks for itself, from a table that is the same for all
        return place.on(axis + place.axis)
    if place.axis == axis:
        return UNDECIDED
    return place if place.axis < axis else place.on(place.axis + indices - 1)


def _slice(node: NodeView, operands: list[State | None]) -> State:
    places, rank = _dependent(operands), _rank(node, 0)
    axes = node.ints("axes", 3)
    if rank is None or len(places) != 1 or places[0][0] != 0:
        return UNDECIDED
    if axes is None:
        starts = node.ints("starts", 1)
        if node.operand(3) is not None or starts is None:
            return UNDECIDED
        axes = tuple(range(len(starts)))
    return UNDECIDED if places[0][1].axis in {axis % rank for axis in axes} else places[0][1]


def _reduce(node: NodeView, operands: list[State | None]) -> State:
    ((_, place),) = _dependent(operands)
    axes, rank = node.ints("axes", 1), _rank(node, 0)
    if axes is None and len(node.node.inputs) > 1 and node.node.inputs[1] is not None:
        return UNDECIDED
    if not axes:
        if node.integer("noop_with_empty_axes", 0):
            return place
        raise Mixes("it reduces all axes, also that along which they lie")
    if rank is None:
        return UNDECIDED
    return _reduced(node, place, {axis % rank for axis in axes})


def _reduced(node: NodeView, place: Place, axes: set[int]) -> Place:
    if place.axis in axes:
        raise Mixes(f"it reduces axis {place.axis}, along which they lie")
    return place if node.integer("keepdims", 1) else place.on(place.axis - sum(axis < place.axis for axis in axes))


def _extreme(node: NodeView, operands: list[State | None]) -> State:
    """ArgMax and ArgMin: one axis."""
    ((_, place),), rank = _dependent(operands), _rank(node, 0)
    return UNDECIDED if rank is None else _reduced(node, place, {node.integer("axis", 0) % rank})


def _along(default: int, *, tail: int | None = None) -> Follow:
    """What sums or compares along one axis and keeps it; before opset `tail`, along all axes from there on."""

    def rule(node: NodeView, operands: list[State | None]) -> State:
        places, rank = _dependent(operands), _rank(node, 0)
        if rank is None or len(places) != 1 or places[0][0] != 0:
            return UNDECIDED
        place = places[0][1]
        old = tail is not None and node.opset < tail
        axis = node.integer("axis", 1 if old and tail == _SOFTMAX else default) % rank
        if place.axis == axis or (old and place.axis > axis):
            raise Mixes(f"it works along axis {place.axis}, where they lie")
        return place

    return rule


_SOFTMAX, _ALWAYS = 13, 1 << 30
"""From opset 13 on Softmax takes one axis; LayerNormalization always takes all from its axis on."""


def _cumsum(node: NodeView, operands: list[State | None]) -> State:
    places, rank, axis = _dependent(operands), _rank(node, 0), node.constant(1)
    if rank is None or axis is None or len(places) != 1:
        return UNDECIDED
    if places[0][1].axis == int(axis.reshape(-1)[0]) % rank:
        raise Mixes(f"it sums along axis {places[0][1].axis}, where they lie")
    return places[0][1]


def _normalised_from(first: int) -> Follow:
    """Normalised over all axes from `first` on: instances, groups, global pooling."""

    def rule(node: NodeView, operands: list[State | None]) -> State:
        places = _dependent(operands)
        if len(places) != 1 or places[0][0] != 0:
            return UNDECIDED
        if places[0][1].axis >= first:
            raise Mixes(f"it works along axis {places[0][1].axis}, where they lie")
        return places[0][1]

    return rule


def _batch_normalization(node: NodeView, operands: list[State | None]) -> State:
    places = _dependent(operands)
    if len(places) != 1 or places[0][0] != 0:
        return UNDECIDED
    if node.integer("training_mode", 0):
        raise Mixes("it is in training mode, and normalises by the mean and variance of the batch")
    return places[0][1]


def _windows(node: NodeView, operands: list[State | None]) -> State:
    """Convolutions and pooling, resizing: (N, C, …), each sample by itself."""
    places = _dependent(operands)
    if len(places) != 1 or places[0][0] != 0:
        return UNDECIDED
    place = places[0][1]
    if place.axis == 1 and node.op_type in {"Conv", "ConvTranspose"}:
        raise Mixes("it sums over axis 1, along which they lie")
    return place if place.axis == 0 else UNDECIDED


def _einsum(node: NodeView, operands: list[State | None]) -> State:
    attribute = node.node.attributes.get("equation")
    equation = "" if attribute is None else attribute.as_string().replace(" ", "")
    if "." in equation or "->" not in equation:
        return UNDECIDED
    terms, result = equation.split("->")
    letters = {(terms.split(",")[index][place.axis], place) for index, place in _dependent(operands)}
    if any(letter not in result for letter, _ in letters):
        raise Mixes("it sums over an axis along which they lie")
    return _agreed({place.on(result.index(letter)) for letter, place in letters})


def _expand(node: NodeView, operands: list[State | None]) -> State:
    places, rank, y = _dependent(operands), _rank(node, 0), node.shape(node.y)
    if rank is None or y is None or len(places) != 1 or places[0][0] != 0:
        return UNDECIDED
    return places[0][1].on(places[0][1].axis + len(y) - rank)


POINTWISE = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos"),
    *("Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf"),
    *("IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid"),
    *("Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
)
MEETING = (
    *("Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less"),
    *("LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)
_REDUCING = tuple(
    f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
)
_WINDOWS = (
    *("AveragePool", "Conv", "ConvTranspose", "DepthToSpace", "LRN", "LpPool", "MaxPool", "Resize", "SpaceToDepth"),
    "Upsample",
)

RULES: dict[tuple[str, str], Follow] = {
    **{("", op): _stays for op in POINTWISE},
    **{("", op): _broadcast for op in MEETING},
    **{("", op): _reduce for op in _REDUCING},
    **{("", op): _windows for op in _WINDOWS},
    **{("", op): _extreme for op in ("ArgMax", "ArgMin")},
    **{("", op): _normalised_from(2) for op in ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")},
    ("", "InstanceNormalization"): _normalised_from(2),
    ("", "GroupNormalization"): _normalised_from(1),
    ("", "BatchNormalization"): _batch_normalization,
    **{("", op): _along(-1, tail=_SOFTMAX) for op in ("Hardmax", "LogSoftmax", "Softmax")},
    **{("", op): _along(-1, tail=_ALWAYS) for op in ("LayerNormalization", "RMSNormalization")},
    **{("", op): _along(-1) for op in ("LpNormalization", "TopK")},
    ("", "CumSum"): _cumsum,
    ("", "MatMul"): _matmul,
    ("", "Gemm"): _gemm,
    ("", "Einsum"): _einsum,
    ("", "Transpose"): _transpose,
    ("", "Reshape"): _reshape,
    ("", "Flatten"): _flatten,
    ("", "Unsqueeze"): _unsqueeze,
    ("", "Squeeze"): _squeeze,
    ("", "Expand"): _expand,
    ("", "Concat"): _concat,
    ("", "Split"): _off_axis(0),
    ("", "Gather"): _gather,
    ("", "Slice"): _slice,
    **{("ai.onnx.ml", op): _windows for op in ("Binarizer", "Imputer", "LinearRegressor", "Normalizer", "Scaler")},
    ("ai.onnx.ml", "ArrayFeatureExtractor"): _off_axis(-1),
}
