"""Completions as facts: what a node loses of an operand, as a latent z that makes it a bijection x ↔ (y, z).

A completion is a chain like that of an inverse (facts.py), of the same facts and of three more:

    Completed    y loses what z keeps: the negative part of ReLU, the mean and the scale of a normalisation
    Selection    y holds chosen elements of x; z are the others
    Operator     y = x @ W on whole samples: a convolution small enough to be a matrix; z as for `Matrix`

What the other facts lose follows from them: a `Matrix` its left null space, a `Diagonal` the elements that it
multiplies by 0, an `Elementwise` the remainder x − h(y) beside the principal branch h, a narrowing `Convert` the
rounding. With z = 0 every completion is the inverse that its facts state, or the nearest to it.

The law: `give(y, take(x, y)) = x`. Where y and z hold more numbers than x, the difference is the surplus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.facts import UNKNOWN_RANK, Fact, NoInverse, Rearrangement
from onnx_invert.rules.node import NodeView, Shape

Two = Callable[[Emitter, ir.Value, ir.Value], ir.Value]


@dataclass(frozen=True)
class Completed:
    """x ↔ (y, z) as a pair of emitters: `take(e, x, y)` is z, `give(e, y, z)` is x again.

    `latent` says what z is, `shape` is its shape with x's own symbols, None where it is x's. `made` is the shape
    of y, None where it is x's. Without `take` there is no z, and `give` gets y twice: x is a part of y.

    With `free` every z is that of some x with the same y; with `onto` every y is made by some x.
    """

    latent: str
    take: Two | None
    give: Two
    shape: Shape | None = None
    made: Shape | None = None
    free: bool = False
    onto: bool = False


@dataclass(frozen=True, eq=False)
class Selection:
    """y[i] = x[index[i]], a constant where the index is −1; both are one sample, flattened.

    `shape` is x's and `made` y's, with the axis of samples in front where there is one.
    """

    index: NDArray[np.int64]
    shape: Shape
    made: Shape


@dataclass(frozen=True)
class Operator:
    """y = x @ matrix() on samples laid out as rows: K numbers in, M out. `made` is the shape of y."""

    numbers: tuple[int, int]
    matrix: Callable[[], NDArray[np.generic]]
    made: Shape


Completion = tuple[Fact | Completed | Selection | Operator, ...]

CompletionRule = Callable[[NodeView], Completion | NoInverse]
"""Looks at a node and its unknown operand, and says how it is completed, or why only x itself would do."""


def remainder(undone: Callable[[Emitter, ir.Value], ir.Value] | None = None, latent: str = "remainder") -> Completed:
    """z = x − h(y), for any h: the identity by default. One number for every number of x."""

    def h(e: Emitter, y: ir.Value) -> ir.Value:
        return y if undone is None else undone(e, y)

    return Completed(
        latent,
        lambda e, x, y: e.op("Sub", x, h(e, y)),
        lambda e, y, z: e.op("Add", h(e, y), z),
    )


def sample(shape: Shape | None) -> tuple[int, ...] | NoInverse:
    """The sizes of one sample: all but those of a symbolic first axis."""
    if shape is None:
        return UNKNOWN_RANK
    sizes = shape[1:] if shape and isinstance(shape[0], str) else shape
    unknown = [size for size in sizes if isinstance(size, str)]
    if unknown:
        named = " and ".join(map(repr, unknown))
        return NoInverse(f"its sizes {named} are known only at run time", "give them fixed sizes with --shape")
    return tuple(int(size) for size in sizes)


def sized(shape: Shape | None, axes: Sequence[int] = ()) -> Shape | NoInverse:
    """A shape whose sizes are all known but a symbolic first one, which is none of `axes`."""
    if isinstance(sizes := sample(shape), NoInverse):
        return sizes
    assert shape is not None
    if shape and isinstance(shape[0], str) and any(axis % len(shape) == 0 for axis in axes):
        return NoInverse("it works along the axis of samples")
    return shape


def reduced(shape: Shape, axis: int) -> Shape:
    """The shape with size 1 along an axis."""
    return (*shape[:axis], 1, *shape[axis + 1 :])


def reshaping(before: Shape, after: Shape) -> Rearrangement:
    """The same numbers in another shape."""
    return Rearrangement(
        lambda e, u: e.op("Reshape", u, e.ints(target(after))),
        lambda e, v: e.op("Reshape", v, e.ints(target(before))),
        after,
    )


def target(shape: Shape) -> list[int]:
    """The operand of a Reshape to `shape`, whose first size alone may be a symbol."""
    return [-1 if isinstance(size, str) else size for size in shape]


def total(e: Emitter, x: ir.Value, axes: Sequence[int]) -> ir.Value:
    """Σ x over axes, which stay with size 1."""
    return e.op("ReduceSum", x, e.ints(axes), keepdims=1)


def mean(e: Emitter, x: ir.Value, axes: Sequence[int], count: int) -> ir.Value:
    """The mean over axes of `count` numbers, which stay with size 1."""
    return e.op("Mul", total(e, x, axes), 1.0 / count)


def cut(e: Emitter, x: ir.Value, axis: int, start: int, stop: int) -> ir.Value:
    """x[start:stop] along an axis."""
    return e.op("Slice", x, e.ints([start]), e.ints([stop]), e.ints([axis]))
