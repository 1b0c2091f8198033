"""The latent of each link of a completion as nodes: taken on the way forwards, given back on the way home.

Latents travel as rows, (samples, numbers). What is taken uses the operations by which it is given back, on the same
numbers, so that their rounding is one and the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.build import affine
from onnx_invert.build.clamp import clamp, hold_in_domain
from onnx_invert.errors import ModelError
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.lossless.links import missing, zeros
from onnx_invert.plan.lossless.steps import Join, Link
from onnx_invert.rules.completion import Completed, Operator, Selection, target
from onnx_invert.rules.facts import Convert, Diagonal, Elementwise, Matrix, Paired, Rearrangement, Repeat
from onnx_invert.rules.node import Shape


def rows(e: Emitter, value: ir.Value, shape: Shape | None, numbers: int, *, fixed: bool) -> ir.Value:
    """A tensor as (samples, numbers)."""
    if shape is not None and len(shape) == 2 and not fixed:
        return value
    return e.op("Reshape", value, e.ints([1 if fixed else -1, numbers]))


def unrolled(e: Emitter, value: ir.Value, shape: Shape) -> ir.Value:
    """Rows in the shape of a tensor."""
    if len(shape) == 2 and isinstance(shape[0], str):
        return value
    return e.op("Reshape", value, e.ints(target(shape)))


def count(shape: Shape, *, fixed: bool) -> int:
    """The numbers of one sample."""
    return math.prod(int(size) for size in (shape if fixed else shape[1:]))


def take(e: Emitter, link: Link, u: ir.Value, v: ir.Value, *, fixed: bool) -> ir.Value:
    """z as rows, where u → v is what the link does."""
    part = link.part
    match part:
        case Matrix():
            assert link.before is not None
            z = _linear_take(e, link, _turned(e, part, u, link), _turned(e, part, v, link))
        case Operator():
            return _linear_take(e, link, _flat(e, u, link.before, fixed), _flat(e, v, link.after, fixed))
        case Diagonal():
            assert link.before is not None
            places = zeros(part, link.before, fixed=fixed)
            return e.op("Gather", _flat(e, u, link.before, fixed), e.ints(places.tolist()), axis=1)
        case Selection():
            return e.op("Gather", _flat(e, u, part.shape, fixed), e.ints(missing([part]).tolist()), axis=1)
        case Completed():
            assert part.take is not None
            z = part.take(e, u, v)
        case _:
            z = e.op("Sub", u, undone(e, link, v, []))
    return e.op("Reshape", z, e.ints([1 if fixed else -1, link.numbers]))


def give(
    e: Emitter, link: Link, v: ir.Value, z: ir.Value | None, others: Sequence[ir.Value], *, fixed: bool
) -> ir.Value:
    """u from v and the rows of z."""
    part = link.part
    match part:
        case Matrix():
            if part.weight.ndim > 2:
                return _stacked(e, part, v)
            if z is not None:
                assert link.before is not None
                z = e.op("Reshape", z, e.ints(_latent_shape(part, link.before, link)))
            return _turned(e, part, _linear_give(e, link, _turned(e, part, v, link), z, part.factor), link)
        case Operator():
            assert link.before is not None
            return unrolled(e, _linear_give(e, link, _flat(e, v, link.after, fixed), z, 1.0), link.before)
        case Diagonal():
            u = affine.emit(e, v, affine.undo_diagonal(part))
            if z is None:
                return u
            assert link.before is not None
            places = zeros(part, link.before, fixed=fixed)
            index = np.full(count(link.before, fixed=fixed), places.size)
            index[places] = np.arange(places.size)
            return e.op("Add", u, unrolled(e, _scattered(e, z, index), link.before))
        case Selection():
            return _assembled(e, [(v, part)], z, fixed=fixed)
        case Completed():
            if z is None:
                return part.give(e, v, v)
            shape = part.shape or link.before
            assert shape is not None
            return part.give(e, v, e.op("Reshape", z, e.ints(target(shape))))
        case _:
            u = undone(e, link, v, others)
            if z is None:
                return u
            assert link.before is not None
            return e.op("Add", u, unrolled(e, z, link.before))


def onwards(e: Emitter, link: Link, u: ir.Value) -> ir.Value:
    """v from u: where the tensor between two links is none of the model's.

    Raises:
        ModelError: a link that is always the last of its node.
    """
    part = link.part
    match part:
        case Rearrangement():
            return part.forward(e, u)
        case Matrix():
            weight = e.constant(part.weight, "weight")
            v = e.op("MatMul", u, weight) if part.side == "right" else e.op("MatMul", weight, u)
            return v if part.factor == 1 else e.op("Mul", v, part.factor)
        case Diagonal():
            return e.op("Add", e.op("Mul", u, e.constant(part.scale, "scale")), e.constant(part.shift, "shift"))
        case Selection():
            flat = e.op("Reshape", u, e.ints([-1, count(part.shape, fixed=not isinstance(part.shape[0], str))]))
            return unrolled(e, e.op("Gather", flat, e.ints(part.index.tolist()), axis=1), part.made)
        case Repeat():
            return _repeated(e, part, u)
        case _:
            raise ModelError(f"Node {e.scope_name!r} loses something in the middle of what it does.")


def _repeated(e: Emitter, part: Repeat, u: ir.Value) -> ir.Value:
    if part.squeezed:
        u = e.op("Unsqueeze", u, e.ints(part.squeezed))
    if part.weights is not None:
        return e.op("Mul", u, e.constant(part.weights, "weights"))
    raise ModelError(f"Node {e.scope_name!r} repeats what it loses.")


def undone(e: Emitter, link: Link, v: ir.Value, others: Sequence[ir.Value]) -> ir.Value:
    """u from v alone: what the facts say, on the principal branch."""
    part = link.part
    match part:
        case Elementwise():
            v, _ = clamp(e, v, part, part.principal, e.scope_name)
            return hold_in_domain(e, part.principal.inverse(e, v), part)
        case Convert():
            u = e.cast(v, part.source)
            u.dtype = part.source
            return u
        case Rearrangement():
            return part.inverse(e, v)
        case Paired():
            return part.inverse(e, v, others[0])
        case Repeat():
            return _first(e, part, v)
        case _:
            raise AssertionError(part)


def _first(e: Emitter, part: Repeat, v: ir.Value) -> ir.Value:
    """Least squares over the copies: their mean, weighted as they are."""
    if part.count > 1 or part.weights is not None:
        weights = np.ones(()) if part.weights is None else part.weights
        squares = (
            np.asarray(float(part.count))
            if part.weights is None
            else np.sum(np.square(weights), axis=part.axes, keepdims=True)
        )
        factor = np.where(squares > 0, weights / np.where(squares > 0, squares, 1.0), 0.0)
        v = e.op("ReduceSum", e.op("Mul", v, e.constant(factor, "factor")), e.ints(part.axes), keepdims=1)
    return e.op("Squeeze", v, e.ints(part.squeezed)) if part.squeezed else v


def joined(e: Emitter, step: Join, outputs: Sequence[ir.Value], z: ir.Value | None, *, fixed: bool) -> ir.Value:
    """A tensor from several selections of it."""
    parts = [(value, part) for value, (_, part) in zip(outputs, step.parts, strict=True)]
    return _assembled(e, parts, z, fixed=fixed)


def left_over(e: Emitter, step: Join, x: ir.Value, *, fixed: bool) -> ir.Value:
    """What no selection of a join takes, as rows."""
    flat = _flat(e, x, step.parts[0][1].shape, fixed)
    return e.op("Gather", flat, e.ints(step.missing.tolist()), axis=1)


def _assembled(
    e: Emitter, parts: Sequence[tuple[ir.Value, Selection]], z: ir.Value | None, *, fixed: bool
) -> ir.Value:
    shape = parts[0][1].shape
    index = np.concatenate([part.index for _, part in parts])
    pieces = [_flat(e, value, part.made, fixed) for value, part in parts]
    if z is not None:
        index = np.concatenate([index, missing([part for _, part in parts])])
        pieces.append(z)
    size = count(shape, fixed=fixed)
    places = np.zeros(size, np.int64)
    held = index >= 0
    places[index[held][::-1]] = np.flatnonzero(held)[::-1]  # the first copy of each
    whole = pieces[0] if len(pieces) == 1 else e.op("Concat", *pieces, axis=1)
    if not np.array_equal(places, np.arange(index.size)):
        whole = e.op("Gather", whole, e.ints(places.tolist()), axis=1)
    return unrolled(e, whole, shape)


def _scattered(e: Emitter, z: ir.Value, index: np.ndarray) -> ir.Value:
    """Rows of z at their places, 0 elsewhere."""
    nothing = e.op("Mul", e.op("Slice", z, e.ints([0]), e.ints([1]), e.ints([1])), 0.0)
    return e.op("Gather", e.op("Concat", z, nothing, axis=1), e.ints(index.tolist()), axis=1)


def _flat(e: Emitter, value: ir.Value, shape: Shape | None, fixed: bool) -> ir.Value:
    assert shape is not None
    return rows(e, value, shape, count(shape, fixed=fixed), fixed=fixed)


def _turned(e: Emitter, part: Matrix, value: ir.Value, link: Link) -> ir.Value:
    """What a matrix on the left multiplies, so that it is multiplied from the right; and back."""
    if part.side == "right":
        return value
    shape = link.before or link.after
    assert shape is not None
    rank = len(shape)
    return e.op("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])


def _latent_shape(part: Matrix, before: Shape, link: Link) -> list[int]:
    """z as a tensor: like u, with K − rank numbers in place of K."""
    assert link.coordinates is not None
    shape = list(target(before))
    if part.side == "left":
        shape[-1], shape[-2] = shape[-2], shape[-1]
    shape[-1] = part.lengths[0] - link.coordinates.rank
    return shape


def _linear_take(e: Emitter, link: Link, u: ir.Value, v: ir.Value) -> ir.Value:
    found = link.coordinates
    assert found is not None
    if found.null is not None:
        return e.op("MatMul", u, e.constant(found.null, "null_space"))
    block = found.reflector
    assert block is not None
    k = found.rank + block.blend.shape[1]
    t = _scaled(e, e.op("MatMul", v, e.constant(block.project, "project")), link)
    first, rest = _cut(e, u, 0, found.rank), _cut(e, u, found.rank, k)
    return e.op("Sub", rest, e.op("MatMul", e.op("Add", first, t), e.constant(block.blend, "blend")))


def _linear_give(e: Emitter, link: Link, v: ir.Value, z: ir.Value | None, factor: float) -> ir.Value:
    found = link.coordinates
    assert found is not None
    if found.pinv is None and found.reflector is None:
        assert z is not None
        assert found.null is not None
        return e.op("MatMul", z, e.constant(found.null.T, "null_space"))
    if found.reflector is None:
        assert found.pinv is not None
        u = e.op("MatMul", v, e.constant(found.pinv / factor, "weight"))
        if z is None:
            return u
        assert found.null is not None
        return e.op("Add", u, e.op("MatMul", z, e.constant(found.null.T, "null_space")))
    block = found.reflector
    assert z is not None
    t = _scaled(e, e.op("MatMul", v, e.constant(block.project, "project")), link)
    first = e.op(
        "Sub",
        e.op("MatMul", t, e.constant(block.top, "top")),
        e.op("MatMul", z, e.constant(block.bottom, "bottom")),
    )
    rest = e.op("Add", z, e.op("MatMul", e.op("Add", first, t), e.constant(block.blend, "blend")))
    return e.op("Concat", first, rest, axis=-1)


def _scaled(e: Emitter, t: ir.Value, link: Link) -> ir.Value:
    factor = link.part.factor if isinstance(link.part, Matrix) else 1.0
    return t if factor == 1 else e.op("Mul", t, 1 / factor)


def _cut(e: Emitter, value: ir.Value, start: int, stop: int) -> ir.Value:
    return e.op("Slice", value, e.ints([start]), e.ints([stop]), e.ints([-1]))


def _stacked(e: Emitter, part: Matrix, v: ir.Value) -> ir.Value:
    """A matrix of its own for every batch, none of which loses anything."""
    pinv = np.linalg.pinv(part.weight.astype(np.float64)) / part.factor
    weight = e.constant(pinv, "weight")
    return e.op("MatMul", v, weight) if part.side == "right" else e.op("MatMul", weight, v)
