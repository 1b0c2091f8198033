"""Derivatives as facts: the linear map that a node is near a point, emitted in either direction.

Tangents and cotangents carry one axis more than the tensor that they belong to: the first, of the fixed size
`seeds`. So many directions go through at once, as plain operators on larger tensors; every other axis is where
the tensor has it, and axes counted from the end keep their number.

    push   ẋ (S, *x)  →  ẏ (S, *y),   ẏ = (∂y/∂x) ẋ      forward accumulation
    pull   ȳ (S, *y)  →  x̄ (S, *x),   x̄ = (∂y/∂x)ᵀ ȳ     reverse accumulation

A node with several unknown operands has one such map for each; the engine adds what they push. Where a function
has a kink (ReLU at 0) the derivative of one side is taken; where it is flat almost everywhere (rounding, a
comparison) it is zero.
Source: A. Griewank & A. Walther, Evaluating Derivatives, 2008, chapters 3 and 10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import NodeView, Shape

Linear = Callable[[Emitter, ir.Value], ir.Value]


@dataclass(frozen=True)
class Differential:
    """∂(output)/∂(operand) at a point, as a map of tangents and its adjoint. Both may be emitted any number
    of times, also in the body of a Loop inside the graph that holds the point."""

    push: Linear
    pull: Linear


@dataclass(frozen=True)
class Point:
    """Where a node is linearised: what its operands and outputs are there, in the graph under construction.

    `inputs` has None for operands that are left out. `seeds` is S, the number of tangents that go together.
    What depends on the point alone (a slope, a mask) should be emitted with `e` when the rule is applied, once,
    and not in `push` or `pull`. `bend` is what rounding off its kink adds to the slope of the node; None where it
    is what it is. `hidden` says that y may be finite where the node's output is not.
    """

    e: Emitter
    seeds: int
    inputs: Sequence[ir.Value | None]
    outputs: Sequence[ir.Value]
    bend: ir.Value | None = None
    hidden: bool = False

    def input(self, index: int) -> ir.Value:
        """The operand at `index`, which has to be there."""
        value = self.inputs[index]
        assert value is not None
        return value

    def bent(self, slope: ir.Value) -> ir.Value:
        """The slope of a function with a kink, rounded off if it is to be."""
        return slope if self.bend is None else self.e.op("Add", slope, self.bend)

    def held(self, slope: ir.Value) -> ir.Value:
        """The slope, 0 where it is not finite and y may be all the same.

        What comes back to a branch that is not taken, or from a function that has saturated, is 0, and 0 · ∞ would be
        no number.
        """
        if not self.hidden:
            return slope
        e = self.e
        finite = e.op("Less", e.op("Abs", slope), float(np.finfo(e.dtype.numpy()).max))
        return e.op("Where", finite, slope, e.scalar(0.0))


At = Callable[[Point], Differential | None]
"""What a rule returns: given a point, the map there; None where it is zero everywhere."""

DerivativeRule = Callable[[NodeView], At | NoInverse]
"""Looks at a node and its unknown operand, shapes and attributes, and says how to differentiate it, or why not."""


def scaling(slope: ir.Value) -> Differential:
    """y = f(x), element by element and without broadcasting: both directions multiply by f′(x)."""
    return Differential(lambda e, t: e.op("Mul", t, slope), lambda e, c: e.op("Mul", c, slope))


def composed(*parts: Differential) -> Differential:
    """One map after the other, in the order in which tangents pass them."""

    def push(e: Emitter, t: ir.Value) -> ir.Value:
        for part in parts:
            t = part.push(e, t)
        return t

    def pull(e: Emitter, c: ir.Value) -> ir.Value:
        for part in reversed(parts):
            c = part.pull(e, c)
        return c

    return Differential(push, pull)


def flat(point: Point) -> None:
    """The derivative of what is constant between its jumps."""


def static(node: NodeView, *values: ir.Value) -> tuple[Shape, ...] | NoInverse:
    """The shapes of values, or the refusal where a rank is unknown."""
    shapes = []
    for value in values:
        shape = node.shape(value)
        if shape is None:
            return NoInverse(f"the rank of {value.name!r} is unknown", "give the model's inputs a shape with --shape")
        shapes.append(shape)
    return tuple(shapes)


def targets(seeds: int, shape: Shape) -> list[int] | NoInverse:
    """The operand of a Reshape to (seeds, *shape): at most one size may be known only at run time."""
    symbols = [dim for dim in shape if isinstance(dim, str)]
    if len(symbols) > 1:
        return NoInverse(
            f"the sizes {' and '.join(map(repr, symbols))} are known only at run time",
            f"give {symbols[-1]!r} a fixed size with --shape",
        )
    return [seeds, *(-1 if isinstance(dim, str) else dim for dim in shape)]


def repeated_axes(small: Shape, large: Shape) -> list[int] | NoInverse:
    """The axes of `large` along which numpy's broadcasting repeats a tensor of shape `small`.

    Two symbols are taken for one size, whatever an exporter calls it on either side.
    """
    offset = len(large) - len(small)
    axes = list(range(offset))
    for axis, dim in enumerate(small, start=offset):
        wide = large[axis]
        if dim == 1 and wide != 1:
            axes.append(axis)
        elif isinstance(dim, str) and isinstance(wide, int) and wide != 1:
            return NoInverse(
                f"the size {dim!r} of its operand, against {wide}, may be repeated or not",
                f"give {dim!r} a fixed size with --shape",
            )
    return axes


@dataclass(frozen=True)
class Broadcast:
    """How an operand of shape `x` is broadcast to `y`: the linear map and its adjoint, on tangents."""

    x: Shape
    y: Shape
    axes: tuple[int, ...]

    @staticmethod
    def of(node: NodeView, value: ir.Value) -> Broadcast | NoInverse:
        """For an operand of `node` and its output."""
        shapes = static(node, value, node.y)
        if isinstance(shapes, NoInverse):
            return shapes
        x, y = shapes
        axes = repeated_axes(x, y)
        return axes if isinstance(axes, NoInverse) else Broadcast(x, y, tuple(axes))

    def lift(self, e: Emitter, t: ir.Value) -> ir.Value:
        """(S, *x) with as many axes as (S, *y): it then broadcasts by itself against a full tensor."""
        missing = len(self.y) - len(self.x)
        return e.op("Unsqueeze", t, e.ints(list(range(1, missing + 1)))) if missing else t

    def expand(self, e: Emitter, t: ir.Value) -> ir.Value:
        """(S, *x) → (S, *y)."""
        t = self.lift(e, t)
        if not self.axes:
            return t
        # A size of 1 in the target keeps what the operand has, a symbol too.
        sizes = [dim if axis in self.axes else 1 for axis, dim in enumerate(self.y)]
        if all(isinstance(dim, int) for dim in sizes):
            return e.op("Expand", t, e.ints([1, *(int(dim) for dim in sizes)]))
        raise AssertionError("a broadcast to a size that is known only at run time needs a full tensor beside it")

    @property
    def is_static(self) -> bool:
        """True if `expand` can say every size that it repeats to."""
        return all(isinstance(self.y[axis], int) for axis in self.axes)

    def reduce(self, e: Emitter, c: ir.Value) -> ir.Value:
        """(S, *y) → (S, *x), the sum over what was repeated."""
        if not self.axes:
            return c
        missing = len(self.y) - len(self.x)
        kept = [axis + 1 for axis in self.axes if axis >= missing]
        dropped = [axis + 1 for axis in self.axes if axis < missing]
        c = e.op("ReduceSum", c, e.ints([*dropped, *kept]), keepdims=1)
        return e.op("Squeeze", c, e.ints(dropped)) if dropped else c


def weighted(broadcast: Broadcast, weight: ir.Value) -> Differential:
    """dy = weight · dx with x broadcast to y; `weight` broadcasts to y as well, and is full where x is repeated."""
    return Differential(
        lambda e, t: e.op("Mul", broadcast.lift(e, t), weight),
        lambda e, c: broadcast.reduce(e, e.op("Mul", c, weight)),
    )


def second(e: Emitter, weight: ir.Value) -> ir.Value:
    """A weight for use in the other direction, folded to a constant by every runtime.

    OpenVINO packs a constant once; where it is square, or a convolution has as many channels in as out, what is
    packed for one direction would be taken for the other too, without a word.
    """
    return e.op("Max", weight, weight)


def ones_like(e: Emitter, value: ir.Value) -> ir.Value:
    """A tensor of ones in the shape of `value`, for broadcasting to sizes that are known only at run time."""
    shape = e.op("Shape", value)
    return e.op("Expand", e.scalar(1.0), shape)


__all__ = [
    "At",
    "Broadcast",
    "DerivativeRule",
    "Differential",
    "Linear",
    "Point",
    "composed",
    "flat",
    "ones_like",
    "repeated_axes",
    "scaling",
    "second",
    "static",
    "targets",
    "weighted",
]
