"""Operations that move elements or change their type, and those that do nothing at inference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.facts import UNKNOWN_RANK, Chain, Convert, NoInverse, Rearrangement
from onnx_invert.rules.node import FLOATS, NodeView, Shape
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


def transposing(perm: Sequence[int]) -> Rearrangement:
    """Transpose by `perm`, and back."""
    back = [int(i) for i in np.argsort(perm)]
    return Rearrangement(
        lambda e, x: e.op("Transpose", x, perm=list(perm)), lambda e, y: e.op("Transpose", y, perm=back)
    )


def unsqueezing(axes: Sequence[int]) -> Rearrangement:
    """Insert axes of size 1 (indices in y, not negative), and take them out."""
    return Rearrangement(
        lambda e, x: e.op("Unsqueeze", x, e.ints(axes)), lambda e, y: e.op("Squeeze", y, e.ints(axes))
    )


def squeezing(axes: Sequence[int]) -> Rearrangement:
    """Take out axes of size 1 (indices in x, not negative), and put them back."""
    there = unsqueezing(axes)
    return Rearrangement(there.inverse, there.forward)


def target_shape(source: Shape, target: Shape) -> list[int] | NoInverse:
    """The operand of a Reshape from `source` to `target`: 0 copies a size, one −1 is worked out."""
    unknown = [axis for axis, dim in enumerate(target) if isinstance(dim, str)]
    if 0 in target:
        return NoInverse("its input is empty")
    copied: list[int] = []
    if len(unknown) > 1:
        copied = [axis for axis in unknown if axis < len(source) and source[axis] == target[axis]]
    free = [axis for axis in unknown if axis not in copied]
    if len(free) > 1:
        sizes = " and ".join(repr(target[axis]) for axis in free)
        return NoInverse(
            f"its output no longer tells the sizes {sizes} of its input apart",
            f"give {target[free[-1]]!r} a fixed size with --shape",
        )
    return [0 if axis in copied else -1 if isinstance(dim, str) else dim for axis, dim in enumerate(target)]


def _reshaped(node: NodeView) -> Chain | NoInverse:
    """y is x in another shape."""
    if node.unknown != 0:
        return NoInverse("the recovered tensor is its shape")
    x, y = node.shape(node.x), node.shape(node.y)
    if x is None:
        return UNKNOWN_RANK
    back = target_shape(y or (), x)
    if isinstance(back, NoInverse):
        return back
    there = target_shape(x, y) if y is not None else NoInverse("")

    def forward(e: Emitter, value: ir.Value) -> ir.Value:
        assert not isinstance(there, NoInverse)
        return e.op("Reshape", value, e.ints(there))

    return (Rearrangement(forward, lambda e, value: e.op("Reshape", value, e.ints(back))),)


@rules.rule("Reshape")
def reshape(node: NodeView) -> Chain | NoInverse:
    """x = y in x's own shape, a bijection.

    Refuses:   an input with several sizes that the output's shape no longer tells
    Source:    ONNX Reshape-5, -13, -14
    """
    return _reshaped(node)


@rules.rule("Flatten")
def flatten(node: NodeView) -> Chain | NoInverse:
    """x = y in x's own shape, a bijection.

    Refuses:   an input with several sizes that the output's shape no longer tells
    Source:    ONNX Flatten-1, -9, -11, -13
    """
    return _reshaped(node)


@rules.rule("Transpose")
def transpose(node: NodeView) -> Chain | NoInverse:
    """x = y with the axes put back, a bijection."""
    attribute = node.node.attributes.get("perm")
    if attribute is not None:
        return (transposing(tuple(attribute.as_ints())),)
    shape = node.shape(node.x)
    if shape is None:
        return UNKNOWN_RANK
    return (transposing(tuple(reversed(range(len(shape))))),)


@rules.rule("Unsqueeze")
def unsqueeze(node: NodeView) -> Chain | NoInverse:
    """x = y without the inserted axes, a bijection."""
    axes, shape = node.ints("axes", 1), node.shape(node.x)
    if node.unknown != 0 or axes is None:
        return NoInverse("its axes are not constant")
    if shape is None:
        return UNKNOWN_RANK
    rank = len(shape) + len(axes)
    return (unsqueezing(sorted(axis % rank for axis in axes)),)


@rules.rule("Squeeze")
def squeeze(node: NodeView) -> Chain | NoInverse:
    """x = y with the axes of size 1 put back, a bijection.

    Refuses:   no axes given and a size known only at run time, which may be 1
    """
    shape = node.shape(node.x)
    if shape is None:
        return UNKNOWN_RANK
    axes = node.ints("axes", 1)
    if node.unknown != 0 or (axes is None and node.operand(1) is not None):
        return NoInverse("its axes are not constant")
    if axes is None:
        symbols = [dim for dim in shape if isinstance(dim, str)]
        if symbols:
            return NoInverse(
                f"it drops every axis of size 1, and {symbols[0]!r} may be 1 or not",
                f"give {symbols[0]!r} a fixed size with --shape",
            )
        axes = tuple(axis for axis, dim in enumerate(shape) if dim == 1)
    return (squeezing(sorted(axis % len(shape) for axis in axes)),)


@rules.rule("Identity")
def identity(node: NodeView) -> Chain | NoInverse:
    """x = y."""
    return ()


@rules.rule("Dropout")
def dropout(node: NodeView) -> Chain | NoInverse:
    """x = y: at inference nothing is dropped.

    Refuses:   training mode, and a mask that is used
    Source:    ONNX Dropout-7, -10, -12, -13
    """
    training = node.constant(2)
    if node.operand(2) is not None and training is None:
        return NoInverse("whether it is in training mode is known only at run time")
    if training is not None and bool(np.any(training)):
        return NoInverse("it is in training mode: what it drops is drawn anew", "export the model for inference")
    if any(output.uses() or output.is_graph_output() for output in node.node.outputs[1:]):
        return NoInverse("its mask is used")
    return ()


@rules.rule("Cast")
def cast(node: NodeView) -> Chain | NoInverse:
    """x = y in x's own type; between floating-point types only.

    Guarantee: bijection up to the rounding of the narrower type
    Latent:    what rounding takes
    Source:    ONNX Cast-6, -9, -13, -19
    """
    source, target = node.dtype, ir.DataType(node.integer("to", 0))
    if target not in FLOATS:
        return NoInverse(f"it casts {source.name} to {target.name}: what rounding takes does not come back")
    if source == target:
        return ()
    return (Convert(source, target),)
