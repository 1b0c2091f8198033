"""Operations that take elements, or put tensors together: z is what they leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from onnx_invert.rules.completion import Completed, Completion, Selection, cut, sample
from onnx_invert.rules.facts import UNKNOWN_RANK, NoInverse
from onnx_invert.rules.node import NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

Index = NDArray[np.int64]


def selected(node: NodeView, select: Callable[[Index], Index], axes: tuple[int, ...] = ()) -> Completion | NoInverse:
    """`select` does to the numbered elements of x what the node does to x.

    `axes` are those that it works along: the axis of samples is none of them.
    """
    x, y = node.shape(node.x), node.shape(node.y)
    sizes, made = sample(x), sample(y)
    if isinstance(sizes, NoInverse):
        return sizes
    if isinstance(made, NoInverse):
        return made
    assert x is not None
    assert y is not None
    batched = bool(x) and isinstance(x[0], str)
    if batched and (any(axis % len(x) == 0 for axis in axes) or not isinstance(y[0], str)):
        return NoInverse("it works along the axis of samples")
    count = int(np.prod(sizes))
    places = np.arange(count, dtype=np.int64).reshape((1, *sizes) if batched else sizes)
    index = select(places)
    if index.size != int(np.prod(made)):
        return NoInverse("the shape of its output is not what its attributes say")
    return (Selection(index.reshape(-1), x, y),)


@rules.completion("Slice")
def slicing(node: NodeView) -> Completion | NoInverse:
    """z = the elements outside the slice. Surplus: none."""
    starts, ends, steps = node.ints("starts", 1), node.ints("ends", 2), node.ints("steps", 4)
    if node.unknown != 0 or starts is None or ends is None:
        return NoInverse("its places are not constant")
    axes = node.ints("axes", 3) or tuple(range(len(starts)))
    steps = steps or (1,) * len(starts)

    def select(places: Index) -> Index:
        window = [slice(None)] * places.ndim
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            size = places.shape[axis]
            stop: int | None = end
            if step < 0 and end < -size:
                stop = None
            window[axis] = slice(start, stop, step)
        return places[tuple(window)]

    return selected(node, select, axes)


@rules.completion("Gather")
def gather(node: NodeView) -> Completion | NoInverse:
    """z = the elements that are not gathered. Surplus: those gathered more than once."""
    indices = node.constant(1)
    if node.unknown != 0 or indices is None:
        return NoInverse("its indices are not constant")
    axis = node.integer("axis", 0)
    return selected(node, lambda places: np.take(places, indices.astype(np.int64), axis), (axis,))


@rules.completion("Split")
def split(node: NodeView) -> Completion | NoInverse:
    """z = the parts that no other equation knows. Surplus: none."""
    axis, shape = node.integer("axis", 0), node.shape(node.x)
    if shape is None:
        return UNKNOWN_RANK
    lengths = [node.shape(output) for output in node.node.outputs]
    ends = [0]
    for length in lengths:
        size = None if length is None else length[axis % len(shape)]
        if not isinstance(size, int):
            return NoInverse("the sizes of its parts are known only at run time")
        ends.append(ends[-1] + size)
    start, stop = ends[node.output], ends[node.output + 1]
    return selected(node, lambda places: np.take(places, np.arange(start, stop), axis), (axis,))


@rules.completion("Concat")
def concat(node: NodeView) -> Completion | NoInverse:
    """x is a part of y: nothing is lost. Surplus: none once every part is wanted."""
    shapes = [None if value is None else node.shape(value) for value in node.node.inputs]
    mine = shapes[node.unknown]
    if mine is None:
        return UNKNOWN_RANK
    axis = node.integer("axis", 0) % len(mine)
    start = 0
    for shape in shapes[: node.unknown]:
        size = None if shape is None else shape[axis]
        if not isinstance(size, int):
            return NoInverse("where it lies in the output is known only at run time", "give its sizes a number")
        start += size
    length = mine[axis]
    if not isinstance(length, int):
        return NoInverse("it works along the axis of samples")
    return (Completed("", None, lambda e, y, _: cut(e, y, axis, start, start + length), made=node.shape(node.y)),)


@rules.completion("Pad")
def pad(node: NodeView) -> Completion | NoInverse:
    """x is inside y; z = what negative pads cut off. Surplus: none beyond the padding."""
    pads, given = node.ints("pads", 1), node.ints("axes", 3)
    attribute = node.node.attributes.get("mode")
    mode = "constant" if attribute is None else attribute.as_string()
    shape = node.shape(node.x)
    if node.unknown != 0 or pads is None or shape is None:
        return NoInverse("its pads are not constant")
    rank = len(shape)
    axes = tuple(axis % rank for axis in given) if given is not None else tuple(range(rank))
    before, after = dict(zip(axes, pads, strict=False)), dict(zip(axes, pads[len(axes) :], strict=True))
    used = tuple(axis for axis in axes if before[axis] or after[axis])
    kinds: dict[str, Any] = {"constant": {"constant_values": -1}, "reflect": {}, "edge": {}, "wrap": {}}
    if mode not in kinds:
        return NoInverse(f"its mode is {mode}")

    def select(places: Index) -> Index:
        for axis in used:
            size = places.shape[axis]
            kept = np.arange(max(0, -before[axis]), size - max(0, -after[axis]))
            places = np.take(places, kept, axis)
        widths = [(max(0, before.get(axis, 0)), max(0, after.get(axis, 0))) for axis in range(rank)]
        return np.asarray(np.pad(places, widths, mode=cast(Any, mode), **kinds[mode]))

    return selected(node, select, used)


@rules.completion("Tile")
def tile(node: NodeView) -> Completion | NoInverse:
    """x is the first of its copies: nothing is lost. Surplus: the other copies."""
    repeats = node.ints("repeats", 1)
    if node.unknown != 0 or repeats is None:
        return NoInverse("its repeats are not constant")
    used = tuple(axis for axis, count in enumerate(repeats) if count != 1)
    return selected(node, lambda places: np.tile(places, repeats), used)


@rules.completion("Expand")
def expand(node: NodeView) -> Completion | NoInverse:
    """x is the first of its copies: nothing is lost. Surplus: the other copies."""
    shape = node.ints("shape", 1)
    x = node.shape(node.x)
    if node.unknown != 0 or shape is None or x is None:
        return NoInverse("its shape is not constant")

    def select(places: Index) -> Index:
        return np.broadcast_to(places, np.broadcast_shapes(places.shape, shape))

    return selected(node, select)


@rules.completion("DepthToSpace")
def depth_to_space(node: NodeView) -> Completion | NoInverse:
    """Every element of x is in y once: nothing is lost."""
    b = node.integer("blocksize", 1)
    attribute = node.node.attributes.get("mode")
    columns = attribute is not None and attribute.as_string() == "CRD"

    def select(places: Index) -> Index:
        n, c, h, w = places.shape
        if columns:
            blocks = places.reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
        else:
            blocks = places.reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2)
        return blocks.reshape(n, c // b**2, h * b, w * b)

    return selected(node, select)


@rules.completion("SpaceToDepth")
def space_to_depth(node: NodeView) -> Completion | NoInverse:
    """Every element of x is in y once: nothing is lost."""
    b = node.integer("blocksize", 1)

    def select(places: Index) -> Index:
        n, c, h, w = places.shape
        blocks = places.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
        return blocks.reshape(n, c * b**2, h // b, w // b)

    return selected(node, select)
