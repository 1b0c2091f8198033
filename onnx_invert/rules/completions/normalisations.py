"""Softmax and normalisations: z is what they divide out, a few numbers for every vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.completion import Completed, Completion, cut, mean, reduced, reshaping, sized, total
from onnx_invert.rules.facts import Array, Diagonal, NoInverse
from onnx_invert.rules.node import NodeView, Shape
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


def _axis(node: NodeView) -> tuple[Shape, int, int] | NoInverse:
    """The shape of x, the axis that a softmax runs along, and its length."""
    shape = sized(node.shape(node.x))
    if isinstance(shape, NoInverse):
        return shape
    if node.opset < 13 and node.integer("axis", 1) % len(shape) != len(shape) - 1:
        return NoInverse("before opset 13 it runs along several axes at once", "convert the model to opset 13")
    axis = node.integer("axis", -1 if node.opset >= 13 else 1) % len(shape)
    length = shape[axis]
    return NoInverse("it works along the axis of samples") if isinstance(length, str) else (shape, axis, length)


@rules.completion("Softmax")
def softmax(node: NodeView) -> Completion | NoInverse:
    """z = log Σ exp(x), one number a vector; x = log(y) + z. Surplus: one a vector, as Σ y = 1.

    An x that lies so far below the greatest that y rounds to 0 comes back as the least that does not.
    """
    found = _axis(node)
    if isinstance(found, NoInverse):
        return found
    return (divided_out(*found),)


def divided_out(shape: Shape, axis: int, n: int) -> Completed:
    """y = exp(x) / Σ exp(x) along an axis of n numbers; z = log Σ exp(x)."""

    def take(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
        return mean(e, e.op("Sub", x, e.op("LogSoftmax", x, axis=axis)), [axis], n)

    def give(e: Emitter, y: ir.Value, z: ir.Value) -> ir.Value:
        tiny = float(np.finfo(e.dtype.numpy()).smallest_subnormal) if e.dtype == ir.DataType.FLOAT16 else _tiny(e)
        return e.op("Add", e.op("Log", e.op("Max", y, tiny)), z)

    return Completed("log-sum-exp", take, give, reduced(shape, axis), free=True)


def _tiny(e: Emitter) -> float:
    return float(np.finfo(e.dtype.numpy()).tiny)


@rules.completion("LogSoftmax")
def log_softmax(node: NodeView) -> Completion | NoInverse:
    """z = log Σ exp(x), one number a vector; x = y + z. Surplus: one a vector."""
    found = _axis(node)
    if isinstance(found, NoInverse):
        return found
    shape, axis, n = found
    return (
        Completed(
            "log-sum-exp",
            lambda e, x, y: mean(e, e.op("Sub", x, y), [axis], n),
            lambda e, y, z: e.op("Add", y, z),
            reduced(shape, axis),
            free=True,
        ),
    )


def standardised(shape: Shape, axes: Sequence[int], epsilon: float, *, centred: bool = True) -> Completed:
    """y = (x − mean) / sqrt(variance + epsilon) over the axes; z = both, side by side along the first of them.

    Without `centred` it is y = x / sqrt(mean of squares + epsilon), and z that root alone.
    """
    count = int(np.prod([int(shape[axis]) for axis in axes]))
    first = axes[0]
    parts = 2 if centred else 1
    latent: Shape = tuple(parts if axis == first else 1 if axis in axes else size for axis, size in enumerate(shape))

    def take(e: Emitter, x: ir.Value, _: ir.Value) -> ir.Value:
        middle = mean(e, x, axes, count) if centred else None
        apart = x if middle is None else e.op("Sub", x, middle)
        square = mean(e, e.op("Mul", apart, apart), axes, count)
        scale = e.op("Sqrt", e.op("Add", square, epsilon))
        return scale if middle is None else e.op("Concat", middle, scale, axis=first)

    def give(e: Emitter, y: ir.Value, z: ir.Value) -> ir.Value:
        if not centred:
            return e.op("Mul", y, z)
        middle, scale = cut(e, z, first, 0, 1), cut(e, z, first, 1, 2)
        return e.op("Add", e.op("Mul", y, scale), middle)

    return Completed("mean and scale" if centred else "scale", take, give, latent)


def _affine(node: NodeView, shape: tuple[int, ...] | None) -> tuple[Diagonal, ...] | NoInverse:
    """The scale and bias (operands 1 and 2) after a normalisation, in `shape`."""
    if node.unknown != 0:
        return NoInverse("the recovered tensor is one of its parameters")
    arrays: list[Array] = []
    for index, neutral in ((1, 1.0), (2, 0.0)):
        array = node.constant(index)
        if array is None and node.operand(index) is not None:
            return NoInverse("its parameters are not constant")
        wide = np.asarray(neutral if array is None else array, np.float64)
        arrays.append(wide if shape is None or wide.ndim == 0 else wide.reshape(shape))
    return (Diagonal(arrays[0], arrays[1]),)


def _of_last_axes(node: NodeView, *, centred: bool) -> Completion | NoInverse:
    shape, affine = sized(node.shape(node.x)), _affine(node, None)
    if isinstance(affine, NoInverse):
        return affine
    if isinstance(shape, NoInverse):
        return shape
    axes = list(range(node.integer("axis", -1) % len(shape), len(shape)))
    if isinstance(refused := sized(shape, axes), NoInverse):
        return refused
    return (standardised(shape, axes, node.number("epsilon", 1e-5), centred=centred), *affine)


@rules.completion("LayerNormalization")
def layer_normalization(node: NodeView) -> Completion | NoInverse:
    """z = mean and scale, two numbers a vector; x = scale · (y − B) / s + mean. Surplus: two a vector."""
    return _of_last_axes(node, centred=True)


@rules.completion("RMSNormalization")
def rms_normalization(node: NodeView) -> Completion | NoInverse:
    """z = the root of the mean square, one number a vector; x = z · y / s. Surplus: one a vector."""
    return _of_last_axes(node, centred=False)


@rules.completion("InstanceNormalization")
def instance_normalization(node: NodeView) -> Completion | NoInverse:
    """z = mean and scale of every channel. Surplus: two a channel."""
    shape = sized(node.shape(node.x))
    if isinstance(shape, NoInverse):
        return shape
    affine = _affine(node, (-1, *[1] * (len(shape) - 2)))
    if isinstance(affine, NoInverse):
        return affine
    return (standardised(shape, list(range(2, len(shape))), node.number("epsilon", 1e-5)), *affine)


@rules.completion("GroupNormalization")
def group_normalization(node: NodeView) -> Completion | NoInverse:
    """z = mean and scale of every group of channels. Surplus: two a group."""
    shape = sized(node.shape(node.x))
    if isinstance(shape, NoInverse):
        return shape
    groups, channels = node.integer("num_groups", 1), int(shape[1])
    spread = (-1, *[1] * (len(shape) - 2))
    affine = _affine(node, spread)
    if isinstance(affine, NoInverse):
        return affine
    if affine[0].scale.size == groups != channels:  # until opset 21: one for each group
        each = channels // groups
        affine = (Diagonal(np.repeat(affine[0].scale, each, axis=0), np.repeat(affine[0].shift, each, axis=0)),)
    grouped: Shape = (shape[0], groups, int(np.prod([int(size) for size in shape[1:]])) // groups)
    inner = standardised(grouped, [2], node.number("epsilon", 1e-5))
    return (reshaping(shape, grouped), inner, reshaping(grouped, shape), *affine)


@rules.completion("MeanVarianceNormalization")
def mean_variance_normalization(node: NodeView) -> Completion | NoInverse:
    """z = mean and scale over its axes. Surplus: two for each."""
    axes = node.ints("axes", 9) or (0, 2, 3)
    shape = sized(node.shape(node.x), axes)
    if isinstance(shape, NoInverse):
        return shape
    return (standardised(shape, sorted(axis % len(shape) for axis in axes), 0.0),)


@rules.completion("LpNormalization")
def lp_normalization(node: NodeView) -> Completion | NoInverse:
    """z = the norm, one number a vector; x = z · y. Surplus: one a vector."""
    axis, p = node.integer("axis", -1), node.integer("p", 2)
    shape = sized(node.shape(node.x), [axis])
    if isinstance(shape, NoInverse):
        return shape
    axis %= len(shape)

    def take(e: Emitter, x: ir.Value, _: ir.Value) -> ir.Value:
        if p == 1:
            return total(e, e.op("Abs", x), [axis])
        return e.op("Sqrt", total(e, e.op("Mul", x, x), [axis]))

    return (Completed("norm", take, lambda e, y, z: e.op("Mul", y, z), reduced(shape, axis)),)
