"""Convolutions and pooling: matrices on patches or on whole images, and the losers of a maximum.

Windows that do not overlap are small matrices, one a patch. Others are one matrix on the whole image, as long as
that is small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product as all_of

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.completion import Completed, Completion, Operator, Selection, cut, reshaping, target
from onnx_invert.rules.derivatives.windows import Windows, automatic, fixed_sizes, integers
from onnx_invert.rules.facts import UNKNOWN_RANK, Diagonal, Matrix, NoInverse, Rearrangement
from onnx_invert.rules.layout import transposing
from onnx_invert.rules.node import NodeView, Shape
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

LARGEST = 1 << 22
"""Numbers of a matrix on whole images: 16 MB in float32."""

Weight = NDArray[np.generic]


def _image(node: NodeView) -> tuple[Shape, Shape] | NoInverse:
    """The shapes of x and y, the sizes of the image fixed."""
    if node.unknown != 0:
        return NoInverse("the recovered tensor is one of its parameters")
    x, y = node.shape(node.x), node.shape(node.y)
    if x is None or y is None:
        return UNKNOWN_RANK
    for shape in (x, y):
        if isinstance(sizes := fixed_sizes(shape[1:]), NoInverse):
            return sizes
    return x, y


def _size(shape: Shape) -> int:
    """The numbers of one image."""
    return int(np.prod([int(size) for size in shape[1:]]))


def _places(windows: Windows) -> list[tuple[tuple[int, ...], NDArray[np.int64], NDArray[np.int64]]]:
    """For every place in the kernel: the windows that have it inside the image, and where it lies, flattened."""
    found = []
    for place in all_of(*map(range, windows.kernel)):
        inside, lies = [], []
        for axis, k in enumerate(place):
            o = np.arange(windows.counts[axis])
            at = o * windows.strides[axis] + k * windows.dilations[axis] - windows.before[axis]
            good = (at >= 0) & (at < windows.sizes[axis])
            inside.append(o[good])
            lies.append(at[good])
        outputs = np.ravel_multi_index(np.meshgrid(*inside, indexing="ij"), windows.counts).reshape(-1)
        inputs = np.ravel_multi_index(np.meshgrid(*lies, indexing="ij"), windows.sizes).reshape(-1)
        found.append((place, outputs, inputs))
    return found


def _dense(windows: Windows, weight: Weight, group: int) -> Weight:
    """The matrix (C · sizes, M · counts) of a convolution with `weight` (M, C / group, *kernel)."""
    m, per_group = weight.shape[:2]
    c = per_group * group
    n, o = int(np.prod(windows.sizes)), int(np.prod(windows.counts))
    matrix = np.zeros((c, n, m, o), weight.dtype)
    for flat, (_, outputs, inputs) in enumerate(_places(windows)):
        for g in range(group):
            rows, columns = slice(g * per_group, (g + 1) * per_group), slice(g * m // group, (g + 1) * m // group)
            part = weight[columns].reshape(-1, per_group, int(np.prod(windows.kernel)))[..., flat]
            # Two index arrays with a slice between them: their axis comes first.
            matrix[rows, inputs, columns, outputs] += part.T[None]
    return matrix.reshape(c * n, m * o)


def _do_not_overlap(windows: Windows) -> bool:
    """Each place of the image in one window at most, none of them padded."""
    return (
        windows.kernel == windows.strides
        and all(d == 1 for d in windows.dilations)
        and not any(windows.before)
        and all(c * k <= s for c, k, s in zip(windows.counts, windows.kernel, windows.sizes, strict=True))
    )


def _cropped(x: Shape, windows: Windows) -> tuple[tuple[Selection, ...], Shape]:
    """The image without what no window reaches, and its shape."""
    inner = tuple(c * k for c, k in zip(windows.counts, windows.kernel, strict=True))
    if inner == windows.sizes:
        return (), x
    shape = (*x[:2], *inner)
    lead = [int(size) for size in (x[1:2] if isinstance(x[0], str) else x[:2])]
    places = np.arange(int(np.prod([*lead, *windows.sizes]))).reshape(*lead, *windows.sizes)
    index = places[(*(slice(None) for _ in lead), *(slice(size) for size in inner))]
    return (Selection(index.reshape(-1), x, shape),), shape


def _patches(x: Shape, kernel: Sequence[int], *, channels: bool) -> Rearrangement:
    """(N, C, …) → (N, counts…, C · kernel), or (N, C, counts…, kernel) with the channels apart."""
    rank = len(kernel)
    counts = [int(size) // k for size, k in zip(x[2:], kernel, strict=True)]
    split = [*target(x[:2]), *(part for pair in zip(counts, kernel, strict=True) for part in pair)]
    outer, inner = [2 + 2 * i for i in range(rank)], [3 + 2 * i for i in range(rank)]
    perm = [0, *outer, 1, *inner] if channels else [0, 1, *outer, *inner]
    size = int(np.prod(kernel))
    made: Shape = (x[0], *counts, int(x[1]) * size) if channels else (*x[:2], *counts, size)
    back = [int(i) for i in np.argsort(perm)]
    turned = [split[i] for i in perm]

    def forward(e: Emitter, value: ir.Value) -> ir.Value:
        blocks = e.op("Reshape", value, e.ints(split))
        return e.op("Reshape", e.op("Transpose", blocks, perm=perm), e.ints(target(made)))

    def inverse(e: Emitter, value: ir.Value) -> ir.Value:
        blocks = e.op("Reshape", value, e.ints(turned))
        return e.op("Reshape", e.op("Transpose", blocks, perm=back), e.ints(target(x)))

    return Rearrangement(forward, inverse, made)


def _weighted(node: NodeView) -> tuple[Shape, Shape, Weight, tuple[Diagonal, ...]] | NoInverse:
    """The shapes of x and y, the weight, and the bias as a shift."""
    shapes, weight, bias = _image(node), node.constant(1), node.constant(2)
    if isinstance(shapes, NoInverse):
        return shapes
    if weight is None or (node.operand(2) is not None and bias is None):
        return NoInverse("its weight is not constant")
    x, y = shapes
    shift = () if bias is None else (Diagonal(shift=bias.astype(np.float64).reshape(-1, *[1] * len(y[2:]))),)
    return x, y, weight, shift


def _too_large(rows: int, columns: int) -> NoInverse:
    return NoInverse(f"its matrix on whole images is {rows}×{columns}, too large to be written out")


def _whole(x: Shape, y: Shape, matrix: Callable[[], Weight], shift: tuple[Diagonal, ...]) -> Completion | NoInverse:
    """One matrix on whole images, and a shift."""
    numbers = _size(x), _size(y)
    return _too_large(*numbers) if numbers[0] * numbers[1] > LARGEST else (Operator(numbers, matrix, y), *shift)


@rules.completion("Conv")
def conv(node: NodeView) -> Completion | NoInverse:
    """z = coordinates in the null space of the matrix that it is: on patches, or on whole small images.

    Surplus: none where it narrows; where it widens, what y holds more than x.
    """
    found = _weighted(node)
    if isinstance(found, NoInverse):
        return found
    x, y, weight, shift = found
    windows = Windows.of(node, x[2:], y[2:], weight.shape[2:])
    if isinstance(windows, NoInverse):
        return windows
    group = node.integer("group", 1)
    if group == 1 and _do_not_overlap(windows):
        crop, inner = _cropped(x, windows)
        rank = len(y)
        back = transposing((0, rank - 1, *range(1, rank - 1)))
        moved = Rearrangement(back.forward, back.inverse, y)
        patch = _patches(inner, windows.kernel, channels=True)
        return (*crop, patch, Matrix(weight.reshape(len(weight), -1).T), moved, *shift)
    return _whole(x, y, lambda: _dense(windows, weight, group), shift)


@rules.completion("ConvTranspose")
def conv_transpose(node: NodeView) -> Completion | NoInverse:
    """z = coordinates in the null space of the matrix that it is on whole small images."""
    found = _weighted(node)
    if isinstance(found, NoInverse):
        return found
    x, y, weight, shift = found
    if automatic(node) or integers(node, "output_shape", ()):
        return NoInverse("its padding follows from the size of its output", "export with pads")
    windows = Windows.of(node, y[2:], x[2:], weight.shape[2:])
    if isinstance(windows, NoInverse):
        return windows
    group = node.integer("group", 1)
    return _whole(x, y, lambda: np.ascontiguousarray(_dense(windows, weight, group).T), shift)


def _pooling(node: NodeView) -> tuple[Shape, Shape, Windows] | NoInverse:
    shapes = _image(node)
    if isinstance(shapes, NoInverse):
        return shapes
    x, y = shapes
    kernel = integers(node, "kernel_shape", ())
    windows = Windows.of(node, x[2:], y[2:], kernel)
    return windows if isinstance(windows, NoInverse) else (x, y, windows)


def squeezed(shape: Shape) -> Rearrangement:
    """(…, 1) → `shape`, and back."""
    return reshaping((*shape, 1), shape)


@rules.completion("AveragePool")
def average_pool(node: NodeView) -> Completion | NoInverse:
    """z = coordinates in the null space of the means: k − 1 a window of k where windows do not overlap."""
    found = _pooling(node)
    if isinstance(found, NoInverse):
        return found
    x, y, windows = found
    if _do_not_overlap(windows):
        crop, inner = _cropped(x, windows)
        return (*crop, _of_patches(inner, windows.kernel)[0], _mean(node, windows.kernel), squeezed(y))
    if node.integer("ceil_mode", 0):
        return NoInverse("its windows overlap or reach beyond the image")
    n, o = int(np.prod(windows.sizes)), int(np.prod(windows.counts))
    if n * o > LARGEST:
        return _too_large(n, o)
    matrix = np.zeros((n, o))
    for _, outputs, inputs in _places(windows):
        matrix[inputs, outputs] += 1
    padded = node.integer("count_include_pad", 0)
    matrix /= float(np.prod(windows.kernel)) if padded else np.maximum(matrix.sum(axis=0), 1)
    flat: Shape = (*x[:2], n)
    return (
        reshaping(x, flat),
        Matrix(matrix.astype(node.dtype.numpy())),
        reshaping((*y[:2], o), y),
    )


def greatest(shape: Shape) -> tuple[Completed, ...]:
    """y = the maximum of u (…, k) along its last axis; z (…, k − 1) are the others' distances from the first.

    Whatever z is, the maximum of u = y − max(0, z) + (0, z) is y: a bijection, with no number more than u has.
    """
    made, k = shape[:-1], int(shape[-1])
    if k == 1:
        return ()
    axis = len(shape) - 1
    others: Shape = (*made, k - 1)

    def take(e: Emitter, u: ir.Value, y: ir.Value) -> ir.Value:
        return e.op("Sub", cut(e, u, axis, 1, k), cut(e, u, axis, 0, 1))

    def give(e: Emitter, y: ir.Value, z: ir.Value) -> ir.Value:
        rows = e.op("Reshape", z, e.ints([-1, 1, k - 1]))
        top = e.op("MaxPool", rows, kernel_shape=[k - 1])
        first = e.op("Sub", e.op("Reshape", y, e.ints([-1, 1, 1])), e.op("Max", top, 0.0))
        whole = e.op("Concat", first, e.op("Add", rows, first), axis=2)
        return e.op("Reshape", whole, e.ints(target(shape)))

    return (Completed("losers of the maximum", take, give, others, made, free=True, onto=True),)


def peak(shape: Shape) -> tuple[Completed | Rearrangement, ...]:
    """(…, k) → (…), the maximum along the last axis."""
    return greatest(shape) or (squeezed(shape[:-1]),)


def _of_patches(x: Shape, kernel: Sequence[int]) -> tuple[Rearrangement, Shape]:
    """An image as (N, C, counts…, kernel), and that shape."""
    patches = _patches(x, kernel, channels=False)
    assert patches.shape is not None
    return patches, patches.shape


def _mean(node: NodeView, kernel: Sequence[int]) -> Matrix:
    """The mean of what lies in a window."""
    size = int(np.prod(kernel))
    return Matrix(np.full((size, 1), 1.0 / size, node.dtype.numpy()))


@rules.completion("MaxPool")
def max_pool(node: NodeView) -> Completion | NoInverse:
    """z = the distances within each window from its first element, which hold the losers and who won.

    Surplus: none. Refuses windows that overlap or are padded.
    """
    if any(output.uses() or output.is_graph_output() for output in node.node.outputs[1:]):
        return NoInverse("its indices are used")
    found = _pooling(node)
    if isinstance(found, NoInverse):
        return found
    x, _, windows = found
    if not _do_not_overlap(windows):
        return NoInverse("its windows overlap or are padded")
    crop, inner = _cropped(x, windows)
    patches, shape = _of_patches(inner, windows.kernel)
    return (*crop, patches, *peak(shape))


@rules.completion("GlobalAveragePool")
def global_average_pool(node: NodeView) -> Completion | NoInverse:
    """z = coordinates in the null space of the mean, one less than a channel has numbers. Surplus: none."""
    shapes = _image(node)
    if isinstance(shapes, NoInverse):
        return shapes
    x, y = shapes
    kernel = [int(size) for size in x[2:]]
    return (_of_patches(x, kernel)[0], _mean(node, kernel), squeezed(y))


@rules.completion("GlobalMaxPool")
def global_max_pool(node: NodeView) -> Completion | NoInverse:
    """z = the distances in each channel from its first element. Surplus: none."""
    shapes = _image(node)
    if isinstance(shapes, NoInverse):
        return shapes
    x, _ = shapes
    patches, shape = _of_patches(x, [int(size) for size in x[2:]])
    return (patches, *peak(shape))
