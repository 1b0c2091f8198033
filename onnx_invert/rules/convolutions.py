"""Convolutions whose windows do not overlap: a matrix on the channels of every place, or of every patch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.facts import UNKNOWN_RANK, Chain, Diagonal, Matrix, NoInverse, Rearrangement
from onnx_invert.rules.layout import transposing
from onnx_invert.rules.node import NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

OVERLAP = "its windows overlap or leave gaps: there is no rule for such convolutions, only Newton's method"


@rules.rule("Conv")
def conv(node: NodeView) -> Chain | NoInverse:
    """x = W⁺ on the channels of every patch, where the patches lie side by side

    Guarantee: that of the matrix W of shape (channels of a patch, output channels)
    Refuses:   windows that overlap or leave gaps, padding, patches of an image whose size is not fixed
    Source:    ONNX Conv-1, -11
    """
    weight = _weight(node)
    if isinstance(weight, NoInverse):
        return weight
    shape = node.shape(node.x)
    sizes = weight.shape[2:]
    if shape is None or len(shape) != weight.ndim:
        return UNKNOWN_RANK
    group = node.integer("group", 1)
    out, per = weight.shape[0] // group, weight.shape[1]
    patch = int(np.prod(sizes))
    matrix = np.zeros((group * per * patch, weight.shape[0]), weight.dtype)
    for index in range(group):
        columns = slice(index * out, (index + 1) * out)
        matrix[index * per * patch : (index + 1) * per * patch, columns] = weight[columns].reshape(out, -1).T
    patched = _patches(shape[1:], sizes)
    if isinstance(patched, NoInverse):
        return patched
    rank = len(shape)
    return (*patched, Matrix(matrix), transposing([0, rank - 1, *range(1, rank - 1)]), *_bias(node, rank))


@rules.rule("ConvTranspose")
def conv_transpose(node: NodeView) -> Chain | NoInverse:
    """x = W⁺ on every patch of the output, where the patches lie side by side

    Guarantee: that of the matrix W of shape (input channels, channels of a patch)
    Refuses:   windows that overlap or leave gaps, padding, patches of an image whose size is not fixed
    Source:    ONNX ConvTranspose-1, -11
    """
    weight = _weight(node)
    if isinstance(weight, NoInverse):
        return weight
    shape = node.shape(node.y)
    sizes = weight.shape[2:]
    if shape is None or len(shape) != weight.ndim:
        return NoInverse("the rank of its output is unknown", "give the model's inputs a shape with --shape")
    if any(node.ints("output_padding", 99) or ()) or "output_shape" in node.node.attributes:
        return NoInverse(OVERLAP)
    group = node.integer("group", 1)
    patched = _patches(shape[1:], sizes)
    if isinstance(patched, NoInverse):
        return patched
    rank = len(shape)
    back = [Rearrangement(step.inverse, step.forward) for step in reversed(patched)]
    rows, columns = weight.shape[0] // group, int(np.prod(weight.shape[1:]))
    matrix = np.zeros((weight.shape[0], group * columns), weight.dtype)
    for index in range(group):
        own = slice(index * rows, (index + 1) * rows)
        matrix[own, index * columns : (index + 1) * columns] = weight[own].reshape(rows, columns)
    return (transposing([0, *range(2, rank), 1]), Matrix(matrix), *back, *_bias(node, rank))


def _weight(node: NodeView) -> NDArray[np.generic] | NoInverse:
    """The kernel, if its windows lie side by side."""
    if node.unknown != 0:
        return NoInverse("the recovered tensor is its kernel or its bias")
    weight = node.constant(1)
    if weight is None:
        return NoInverse("its kernel is not constant")
    if node.operand(2) is not None and node.constant(2) is None:
        return NoInverse("its bias is not constant")
    sizes = weight.shape[2:]
    strides = node.ints("strides", 99) or (1,) * len(sizes)
    dilations = node.ints("dilations", 99) or (1,) * len(sizes)
    padded = any(node.ints("pads", 99) or ())
    automatic = node.node.attributes.get("auto_pad")
    same = automatic is not None and automatic.as_string().startswith("SAME") and any(n > 1 for n in sizes)
    dilated = any(d != 1 and n > 1 for d, n in zip(dilations, sizes, strict=True))
    if tuple(strides) != tuple(sizes) or padded or same or dilated:
        return NoInverse(OVERLAP)
    return weight


def _patches(shape: Sequence[int | str], sizes: Sequence[int]) -> list[Rearrangement] | NoInverse:
    """(N, C, …) → (N, patches…, C·patch), a bijection where the patches cover everything."""
    rank = len(sizes)
    if all(size == 1 for size in sizes):
        return [transposing([0, *range(2, rank + 2), 1])]
    channels, *places = shape
    if isinstance(channels, str) or any(isinstance(n, str) for n in places):
        return NoInverse("its patches are of an image whose size is known only at run time", "fix the image's size")
    counts = [int(n) // size for n, size in zip(places, sizes, strict=True)]
    if any(int(n) % size for n, size in zip(places, sizes, strict=True)):
        return NoInverse("its patches leave out the last rows or columns")
    apart = [0, channels, *(n for pair in zip(counts, sizes, strict=True) for n in pair)]
    perm = [0, *range(2, 2 * rank + 2, 2), 1, *range(3, 2 * rank + 2, 2)]
    together = [0, *counts, channels * int(np.prod(sizes))]
    split = [0, *counts, channels, *sizes]
    whole = [0, channels, *(int(n) for n in places)]
    return [_reshaping(apart, whole), transposing(perm), _reshaping(together, split)]


def _reshaping(there: Sequence[int], back: Sequence[int]) -> Rearrangement:
    def forward(e: Emitter, x: ir.Value) -> ir.Value:
        return e.op("Reshape", x, e.ints(there))

    def inverse(e: Emitter, y: ir.Value) -> ir.Value:
        return e.op("Reshape", y, e.ints(back))

    return Rearrangement(forward, inverse)


def _bias(node: NodeView, rank: int) -> tuple[Diagonal, ...]:
    bias = node.constant(2)
    if bias is None:
        return ()
    return (Diagonal(shift=np.asarray(bias, np.float64).reshape(-1, *[1] * (rank - 2))),)
