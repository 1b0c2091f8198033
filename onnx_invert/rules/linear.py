"""Products with a constant matrix, and batch normalisation."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.broadcast import expanded, not_finite
from onnx_invert.rules.facts import UNKNOWN_RANK, Chain, Diagonal, Fact, Matrix, NoInverse, Paired, Rearrangement
from onnx_invert.rules.layout import squeezing, transposing, unsqueezing
from onnx_invert.rules.node import NodeView, Shape
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

Weight = NDArray[np.generic]


@rules.rule("MatMul")
def matmul(node: NodeView) -> Chain | NoInverse:
    """x = y @ W⁺ for x @ W, x = W⁺ @ y for W @ x, batched like numpy.matmul.

    Shapes:    x (…, N, K), W (…, K, M) → y (…, N, M); vectors as in numpy
    Guarantee: bijection if W is square and regular; right inverse if its rank is M; left inverse if K;
               generalized inverse below both. Where W's batch axes repeat x, the copies are one wider
               matrix, [W₁ W₂ …].
    Latent:    coordinates in the left null space of W, K − rank per vector
    Refuses:   W not constant
    Source:    ONNX MatMul-1, -9, -13; G. Golub & C. Van Loan, Matrix Computations, 5.5
    """
    weight = node.constant(1 - node.unknown)
    if weight is None:
        return NoInverse("its other operand is not constant")
    shape = node.shape(node.x)
    if shape is None:
        return UNKNOWN_RANK
    if node.unknown == 0 or len(shape) == 1:
        if node.unknown == 1 and weight.ndim > 1:
            weight = np.swapaxes(weight, -1, -2)
        return _vectors(shape, weight, "right")
    return _vectors(shape, weight, "left")


def _vectors(shape: Shape, weight: Weight, side: Literal["right", "left"]) -> Chain | NoInverse:
    """Give one-dimensional operands the axis of size one that numpy.matmul gives them."""
    before: list[Fact] = []
    after: list[Fact] = []
    x_is_vector, w_is_vector = len(shape) == 1, weight.ndim == 1
    if x_is_vector:
        before.append(unsqueezing((0,)))
        shape = (1, *shape)
    if w_is_vector:
        weight = weight[:, None] if side == "right" else weight[None, :]
    y_rank = max(len(shape), weight.ndim)
    dropped = sorted(
        ([y_rank - 2] if x_is_vector or (w_is_vector and side == "left") else [])
        + ([y_rank - 1] if w_is_vector and side == "right" else [])
    )
    if dropped:
        after.append(squeezing(tuple(dropped)))
    product = _product(shape, weight, side)
    return product if isinstance(product, NoInverse) else (*before, *product, *after)


def _product(shape: Shape, weight: Weight, side: Literal["right", "left"]) -> Chain | NoInverse:
    """x and W of rank 2 or more: where W's batch axes repeat x, stack the copies into one matrix."""
    rank = max(len(shape), weight.ndim)
    batch = rank - 2
    x = (None,) * (rank - len(shape)) + shape
    weight = weight.reshape((1,) * (rank - weight.ndim) + weight.shape)
    if weight.size == 0:
        return NoInverse(f"its matrix is empty ({'×'.join(map(str, weight.shape))})")
    inner = x[-1] if side == "right" else x[-2]
    expected = weight.shape[-2] if side == "right" else weight.shape[-1]
    if isinstance(inner, int) and inner != expected:
        return NoInverse(f"its input has {inner} numbers per vector where its matrix takes {expected}")
    repeated = []
    for axis in range(batch):
        size = weight.shape[axis]
        if x[axis] is None or (x[axis] == 1 and size > 1):
            repeated.append(axis)
        elif isinstance(x[axis], str) and size > 1:
            return NoInverse(
                f"axis {axis} of its input has the unknown size {x[axis]!r} against {size}: it may be repeated",
                f"give {x[axis]!r} a fixed size with --shape",
            )
    if not repeated:
        if all(size == 1 for size in weight.shape[:-2]):
            weight = weight.reshape(weight.shape[-2:])
        return (Matrix(weight, side),)
    if side == "left":
        swap = (*range(batch), rank - 1, rank - 2)
        x_swap = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
        swapped = (*shape[:-2], shape[-1], shape[-2])
        inner_chain = _stacked(swapped, np.swapaxes(weight, -1, -2), x, repeated)
        return (transposing(x_swap), *inner_chain, transposing(swap))
    return _stacked(shape, weight, x, repeated)


def _stacked(shape: Shape, weight: Weight, x: tuple[int | str | None, ...], repeated: list[int]) -> Chain:
    """y[…, r, …, n, m] = x[…, n, :] @ W[r]: one product with [W₁ W₂ …], then its columns dealt out."""
    rank = len(x)
    kept = [axis for axis in range(rank - 2) if axis not in repeated]
    columns = weight.shape[-1]
    counts = [weight.shape[axis] for axis in repeated]
    order = (*kept, rank - 2, *repeated, rank - 1)
    wide = weight.transpose(order).reshape([weight.shape[a] for a in kept] + [weight.shape[-2], -1])
    if all(size == 1 for size in wide.shape[:-2]):
        wide = wide.reshape(wide.shape[-2:])
    offset = rank - len(shape)
    ones = tuple(axis - offset for axis in repeated if x[axis] is not None)
    lead = [0] * (len(kept) + 1)
    total = int(np.prod(counts)) * columns

    def forward(e: Emitter, value: ir.Value) -> ir.Value:
        split = e.op("Reshape", value, e.ints([*lead, *counts, columns]))
        return e.op("Transpose", split, perm=[int(i) for i in np.argsort(order)])

    def inverse(e: Emitter, value: ir.Value) -> ir.Value:
        gathered = e.op("Transpose", value, perm=list(order))
        return e.op("Reshape", gathered, e.ints([*lead, total]))

    chain: tuple[Fact, ...] = (Matrix(wide), Rearrangement(forward, inverse))
    return (squeezing(ones), *chain) if ones else chain


@rules.rule("Gemm")
def gemm(node: NodeView) -> Chain | NoInverse:
    """A = (y − beta·C) @ op(B)⁺ / alpha, B = op(A)⁺ @ (y − beta·C) / alpha, C = (y − alpha·op(A)·op(B)) / beta.

    Shapes:    op(A) (N, K), op(B) (K, M), C broadcast to (N, M) → y (N, M)
    Guarantee: bijection if the matrix is square and regular; right inverse if rank = M; left inverse if
               rank = K; for C a left inverse (the mean) where it is broadcast
    Latent:    coordinates in the left null space of op(B), (N, K − rank)
    Refuses:   two unknown factors, alpha = 0 (beta = 0 for C)
    Source:    ONNX Gemm-7, -9, -11, -13; G. Golub & C. Van Loan, Matrix Computations, 5.5
    """
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    flips = bool(node.integer("transA", 0)), bool(node.integer("transB", 0))
    factors = [node.constant(index) for index in (0, 1)]
    factors = [None if f is None else f.T if flip else f for f, flip in zip(factors, flips, strict=True)]
    if node.unknown == 2:
        return _gemm_bias(node, factors, alpha, beta)
    other = factors[1 - node.unknown]
    if other is None:
        return NoInverse("its other factor is not constant")
    if alpha == 0:
        return NoInverse("its alpha is 0: y does not depend on the product")
    if 0 in other.shape:
        return NoInverse(f"its matrix is empty ({'×'.join(map(str, other.shape))})")
    chain: list[Fact] = [transposing((1, 0))] if flips[node.unknown] else []
    chain.append(Matrix(other, "right" if node.unknown == 0 else "left", alpha))
    bias = node.operand(2)
    if bias is not None and beta != 0:
        array = node.constant(2)
        if array is not None and not np.all(np.isfinite(array)):
            return not_finite(np.asarray(array, dtype=np.float64), "its C")
        if array is not None:
            chain.append(Diagonal(shift=beta * np.asarray(array, dtype=np.float64)))
        else:
            chain.append(
                Paired(
                    2,
                    lambda e, y, c: e.op("Sub", y, c if beta == 1 else e.op("Mul", c, beta)),
                    lambda e, x, c: e.scalar(1.0),
                )
            )
    return tuple(chain)


def _gemm_bias(node: NodeView, factors: list[Weight | None], alpha: float, beta: float) -> Chain | NoInverse:
    """C of y = alpha·op(A)·op(B) + beta·C."""
    a, b = factors
    if a is None or b is None:
        return NoInverse("one of its factors is not constant")
    if beta == 0:
        return NoInverse("its beta is 0: y does not depend on C")
    repeat = expanded(node, (a.shape[0], b.shape[1]))
    if isinstance(repeat, NoInverse):
        return repeat
    product = alpha * (a.astype(np.float64) @ b.astype(np.float64))
    return (*repeat, Diagonal(np.asarray(beta, dtype=np.float64), product))


@rules.rule("BatchNormalization")
def batch_normalization(node: NodeView) -> Chain | NoInverse:
    """x = (y − B) / s + mean with s = scale / sqrt(var + epsilon), per channel (axis 1).

    Guarantee: bijection where no scale is 0; such a channel is lost: generalized inverse
    Refuses:   training mode, parameters that are not constant, var + epsilon ≤ 0
    Source:    ONNX BatchNormalization-7, -9, -14, -15
    """
    if node.unknown != 0:
        return NoInverse("the recovered tensor is one of its parameters")
    if node.integer("training_mode", 0) or any(v.uses() or v.is_graph_output() for v in node.node.outputs[1:]):
        return NoInverse("it is in training mode: it normalises by the batch", "export the model for inference")
    arrays = [node.constant(index) for index in (1, 2, 3, 4)]
    shape = node.shape(node.x)
    if any(array is None for array in arrays):
        return NoInverse("its parameters are not constant")
    if shape is None:
        return UNKNOWN_RANK
    scale, bias, mean, variance = (np.asarray(array, dtype=np.float64) for array in arrays)
    for array, what in ((scale, "scale"), (bias, "bias"), (mean, "mean"), (variance, "variance")):
        if not np.all(np.isfinite(array)):
            return not_finite(array, f"its {what}")
    spread = variance + node.number("epsilon", 1e-5)
    if np.any(spread <= 0):
        return NoInverse(f"{int(np.sum(spread <= 0))} of its variances plus epsilon are not positive")
    slope = scale / np.sqrt(spread)
    # Until opset 8, spatial = 0 gives every element parameters of its own.
    per_channel = scale.shape if not node.integer("spatial", 1) else (-1,) + (1,) * (len(shape) - 2)
    return (Diagonal(slope.reshape(per_channel), (bias - slope * mean).reshape(per_channel)),)


LONGEST = 1024
"""Numbers along an axis up to which their running sums are undone by a matrix."""


@rules.rule("CumSum", since=11)
def cum_sum(node: NodeView) -> Chain | NoInverse:
    """x₁ = y₁, xᵢ = yᵢ − yᵢ₋₁ along an axis; from the other end with reverse = 1.

    Guarantee: bijection; with exclusive = 1 the last number (reverse: the first) is lost, and y's first one is 0:
               generalized inverse
    Latent:    the lost number
    Refuses:   an axis known only at run time, or whose size is, or of more than 1,024
    Source:    ONNX CumSum-11, -14
    """
    axis_operand, shape = node.constant(1), node.shape(node.x)
    if node.unknown != 0 or axis_operand is None:
        return NoInverse("its axis is known only at run time", "use a constant")
    if shape is None:
        return UNKNOWN_RANK
    axis = int(axis_operand.reshape(-1)[0]) % len(shape)
    size = shape[axis]
    if not isinstance(size, int):
        return NoInverse(
            f"the size {size!r} that it sums along is known only at run time",
            f"give {size!r} a fixed size with --shape",
        )
    if not 0 < size <= LONGEST:
        return NoInverse(f"it sums along {size} numbers, and is undone along 1 to {LONGEST}")
    weight = np.triu(np.ones((size, size), np.float32), node.integer("exclusive", 0))
    if node.integer("reverse", 0):
        weight = weight.T
    if len(shape) == 1:
        return (unsqueezing((0,)), Matrix(weight), squeezing((0,)))
    if axis == len(shape) - 1:
        return (Matrix(weight),)
    swap = list(range(len(shape)))
    swap[axis], swap[-1] = swap[-1], swap[axis]
    return (transposing(swap), Matrix(weight), transposing(swap))
