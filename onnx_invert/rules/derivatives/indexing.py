"""Derivatives of what picks along an axis: Concat, Split, Slice, Pad, Gather, Compress."""

from __future__ import annotations

import numpy as np

from onnx_invert.rules.derivatives.picks import adjoint, fixed, not_constant, picking, reshaping, trimming
from onnx_invert.rules.differential import At, Differential, composed, static, targets
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import NodeView, Shape
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


@rules.derivative("Concat")
def concat(node: NodeView) -> At | NoInverse:
    """∂y holds ∂a, ∂b, … side by side.

    Refuses:   operands whose size along the axis is known only at run time
    Source:    ONNX Concat-4, -11, -13
    """
    shapes = static(node, *(value for value in node.node.inputs if value is not None))
    if isinstance(shapes, NoInverse):
        return shapes
    rank = len(shapes[0])
    axis = node.integer("axis", 1) % rank
    sizes = []
    for shape in shapes:
        size = fixed(node, shape, axis)
        if isinstance(size, NoInverse):
            return size
        sizes.append(size)
    before, size = sum(sizes[: node.unknown]), sizes[node.unknown]
    indices = np.full(sum(sizes), -1)
    indices[before : before + size] = np.arange(size)
    return lambda p: picking(rank, axis, indices, size)


@rules.derivative("Split")
def split(node: NodeView) -> At | NoInverse:
    """∂y is the part of ∂x that this output takes.

    Refuses:   a size along the axis, or a split, known only at run time
    Source:    ONNX Split-2 (sizes as an attribute), -13 (an operand), -18 (num_outputs)
    """
    shapes = static(node, node.x)
    if isinstance(shapes, NoInverse):
        return shapes
    rank = len(shapes[0])
    axis = node.integer("axis", 0) % rank
    size = fixed(node, shapes[0], axis)
    if isinstance(size, NoInverse):
        return size
    sizes = node.ints("split", 1)
    if sizes is None:
        if node.operand(1) is not None:
            return not_constant("the sizes of its parts are")
        count = node.integer("num_outputs", len(node.node.outputs))
        each = -(-size // count)
        sizes = tuple(max(min(each, size - each * index), 0) for index in range(count))
    start = sum(sizes[: node.output])
    indices = np.arange(start, start + sizes[node.output])
    return lambda p: picking(rank, axis, indices, size)


@rules.derivative("Slice")
def slice_(node: NodeView) -> At | NoInverse:
    """∂y is the same slice of ∂x.

    Refuses:   starts, ends, axes or steps known only at run time; a part of an axis whose size is
    Source:    ONNX Slice-1 (attributes), -10, -11, -13
    """
    shapes = static(node, node.x)
    if isinstance(shapes, NoInverse):
        return shapes
    shape = shapes[0]
    starts, ends, axes, steps = (node.ints(name, i) for i, name in enumerate(("starts", "ends", "axes", "steps"), 1))
    missing = [axes is None and node.operand(3) is not None, steps is None and node.operand(4) is not None]
    if starts is None or ends is None or any(missing):
        return not_constant("its starts, ends, axes or steps are")
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    parts = []
    for start, end, axis, step in zip(starts, ends, (axis % len(shape) for axis in axes), steps, strict=True):
        size = shape[axis]
        if isinstance(size, int):
            indices = (
                np.arange(size)[slice(*slice(start, end, step).indices(size))]
                if step > 0
                else np.array(list(range(*slice(start, end, step).indices(size))), dtype=np.int64)
            )
            if not np.array_equal(indices, np.arange(size)):
                parts.append(picking(len(shape), axis, indices, size))
        elif step == 1 and start >= 0 and end >= 2**31 - 1:
            parts.append(trimming(len(shape), {axis: (start, 0)}))
        elif step == 1 and start >= 0 and end < 0:
            parts.append(trimming(len(shape), {axis: (start, -end)}))
        else:
            refusal = fixed(node, shape, axis)
            assert isinstance(refusal, NoInverse)
            return refusal
    return lambda p: composed(*parts)


@rules.derivative("Pad")
def pad(node: NodeView) -> At | NoInverse:
    """∂y is ∂x, padded: by zeros for mode "constant", else by the elements of ∂x that stand there in y.

    Refuses:   pads known only at run time; a mode other than "constant" along an axis whose size is; the padding
               value as the unknown
    Source:    ONNX Pad-2 (pads as an attribute), -11, -13, -18 (axes), -19 (wrap), -21
    """
    if node.unknown == 2:
        return NoInverse("its padding value depends on the unknown", "pad with a constant")
    shapes = static(node, node.x)
    if isinstance(shapes, NoInverse):
        return shapes
    rank = len(shapes[0])
    pads, axes = node.ints("pads", 1), node.constant(3)
    if pads is None or (axes is None and node.operand(3) is not None):
        return not_constant("its pads are")
    places = list(range(rank)) if axes is None else [int(axis) % rank for axis in axes]
    widths = dict(zip(places, zip(pads[: len(places)], pads[len(places) :], strict=True), strict=True))
    attribute = node.node.attributes.get("mode")
    mode = "constant" if attribute is None else attribute.as_string()
    if mode == "constant":
        inward = {axis: (max(-before, 0), max(-after, 0)) for axis, (before, after) in widths.items()}
        outward = {axis: (max(before, 0), max(after, 0)) for axis, (before, after) in widths.items()}
        return lambda p: composed(trimming(rank, inward), adjoint(trimming(rank, outward)))
    parts = []
    for axis, (before, after) in widths.items():
        if before == 0 == after:
            continue
        size = fixed(node, shapes[0], axis)
        if isinstance(size, NoInverse):
            return size
        grown = np.pad(np.arange(size), (max(before, 0), max(after, 0)), mode=mode)  # type: ignore[call-overload]
        kept = grown[max(-before, 0) : len(grown) - max(-after, 0)]
        parts.append(picking(rank, axis, kept, size))
    return lambda p: composed(*parts)


@rules.derivative("Gather")
def gather(node: NodeView) -> At | NoInverse:
    """∂y holds ∂x at the same indices.

    Refuses:   indices known only at run time
    Source:    ONNX Gather-1, -11, -13
    """
    shapes = static(node, node.x, node.y)
    if isinstance(shapes, NoInverse):
        return shapes
    x, y = shapes
    indices = node.constant(1)
    if indices is None:
        return not_constant("its indices are")
    axis = node.integer("axis", 0) % len(x)
    size = fixed(node, x, axis)
    if isinstance(size, NoInverse):
        return size
    places = indices.astype(np.int64).reshape(-1) % size
    picked = picking(len(x), axis, places, size)
    if indices.ndim == 1:
        return lambda p: picked
    if indices.ndim == 0:
        dropped = Differential(
            lambda e, t: e.op("Squeeze", t, e.ints([axis + 1])), lambda e, c: e.op("Unsqueeze", c, e.ints([axis + 1]))
        )
        return lambda p: composed(picked, dropped)
    between: Shape = (*x[:axis], places.size, *x[axis + 1 :])
    for shape in (between, y):
        if isinstance(refusal := targets(1, shape), NoInverse):
            return refusal
    return lambda p: composed(picked, reshaping(p.seeds, between, y))


@rules.derivative("Compress")
def compress(node: NodeView) -> At | NoInverse:
    """∂y holds the elements of ∂x where the condition is true, along an axis.

    Refuses:   a condition known only at run time; no axis
    """
    shapes = static(node, node.x)
    condition, attribute = node.constant(1), node.node.attributes.get("axis")
    if isinstance(shapes, NoInverse):
        return shapes
    if condition is None or attribute is None:
        return not_constant("what it keeps is") if condition is None else NoInverse("it has no axis")
    rank = len(shapes[0])
    axis = attribute.as_int() % rank
    size = fixed(node, shapes[0], axis)
    if isinstance(size, NoInverse):
        return size
    return lambda p: picking(rank, axis, np.flatnonzero(condition), size)
