"""How a node that moves elements is undone, and run on what is known of its operands, whatever the batch is.

Read off where each element goes at one size of everything; what an axis of another size would move elsewhere
has no form, and such a node is not undone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Turned:
    """The output holds the operand's axes in the order `perm`."""

    perm: tuple[int, ...]


@dataclass(frozen=True)
class Whole:
    """The output holds all elements of the operand, each once: its rule's rearrangement takes them back."""


@dataclass(frozen=True)
class Pick:
    """Output number `output` holds, at `there` along an axis, what the operand has at `here` along it.

    `squeezed` says that the output lacks this axis.
    """

    output: int
    axis: int
    there: Index
    here: Index
    squeezed: bool = False


@dataclass(frozen=True)
class InPlace:
    """Output number `output` holds the elements `mask` of the operand where the operand has them."""

    output: int
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Flat:
    """Output number `output` holds, at `there` within a sample, what the operand has at `here` within it; both have
    their samples along the first axis, and all else is fixed. Or all sizes are fixed, and the whole is one sample."""

    output: int
    there: Index
    here: Index
    by_sample: bool = True


LARGEST = 1 << 16
"""Numbers up to which a tensor is taken apart element by element."""

Form = Turned | Whole | Pick | InPlace | Flat


WHOLE = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Transpose"})
"""Operators that hold all elements of the operand, each once, whichever."""


def forms_of(
    node: ir.Node, operand: int, sources: Sequence[Index], shape: Sequence[int], *, once: bool
) -> list[Form] | None:
    """How the elements of an operand lie in the outputs; None if no form says it.

    `sources` are the numbers (from 1 on) of the operand's elements in each output, 0 for others. With `once` one that
    an output repeats is listed once.
    """
    x = node.inputs[operand]
    assert x is not None
    if node.op_type == "Transpose":
        perm = node.attributes.get("perm")
        return [Turned(tuple(perm.as_ints()) if perm is not None else tuple(reversed(range(len(shape)))))]
    if node.op_type in WHOLE:
        return [Whole()]
    forms: list[Form] = []
    for output, source in enumerate(sources):
        if not np.count_nonzero(source):
            continue
        form = _form(node, output, source, shape, x, once)
        if form is None:
            return None
        forms.append(form)
    return forms


def numbered(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask of an operand, to be looked up by its elements' numbers; false at 0, what is none of them."""
    found = np.zeros(mask.size + 1, bool)
    found[1:] = mask.reshape(-1)
    return found


def _form(node: ir.Node, output: int, source: Index, shape: Sequence[int], x: ir.Value, once: bool) -> Form | None:
    y = node.outputs[output]
    if source.ndim == len(shape):
        if source.shape == tuple(shape):
            there = np.flatnonzero(source)
            if not np.count_nonzero(source.reshape(-1)[there] - 1 != there):
                return InPlace(output, source > 0)
        for axis in range(len(shape)):
            if _fixed(x, axis) and _fixed(y, axis) and (pick := _pick(output, axis, source, shape, once)):
                return pick
    if source.ndim == len(shape) - 1 and node.op_type == "Gather":
        for axis in range(len(shape)):
            if _fixed(x, axis) and (pick := _pick(output, axis, np.expand_dims(source, axis), shape, once)):
                return Pick(output, axis, pick.there, pick.here, squeezed=True)
    return _flat(output, source, shape, x, y) or _anywhere(output, source, shape, x, y)


def _pick(output: int, axis: int, source: Index, shape: Sequence[int], once: bool) -> Pick | None:
    """`source`, of the operand's rank, as a choice along `axis` alone: read off one line, then held to all others."""
    count = math.prod(shape)
    if source.shape[:axis] != tuple(shape[:axis]) or source.shape[axis + 1 :] != tuple(shape[axis + 1 :]):
        return None
    if not count or not source.size:
        return None
    first = source[tuple(slice(None) if other == axis else 0 for other in range(source.ndim))]
    there = first.nonzero()[0]
    here = (first[there] - 1) // math.prod(shape[axis + 1 :]) % shape[axis]
    lines = source.take(there, axis)
    numbers = np.arange(1, count + 1).reshape(shape).take(here, axis)
    if np.count_nonzero(lines != numbers) or np.count_nonzero(source) != lines.size:
        return None
    if once and len(set(here.tolist())) < here.size:
        chosen = np.sort(np.unique(here, return_index=True)[1])
        there, here = there[chosen], here[chosen]
    return Pick(output, axis, there, here)


def _flat(output: int, source: Index, shape: Sequence[int], x: ir.Value, y: ir.Value) -> Flat | None:
    if source.ndim < 2 or len(shape) < 2 or source.shape[0] != shape[0]:
        return None
    if not all(_fixed(value, axis) for value in (x, y) for axis in range(1, len(value.shape or ()))):
        return None
    rows = source.reshape(shape[0], -1)
    if not all(np.array_equal(row > 0, rows[0] > 0) for row in rows):
        return None
    there = np.flatnonzero(rows[0])
    here = rows[0][there] - 1
    size = math.prod(shape[1:])
    if here.max(initial=0) >= size:
        return None
    if not all(np.array_equal(row[there] - 1, here + i * size) for i, row in enumerate(rows)):
        return None
    first = np.unique(here, return_index=True)[1]
    return Flat(output, there[first], here[first])


def _anywhere(output: int, source: Index, shape: Sequence[int], x: ir.Value, y: ir.Value) -> Flat | None:
    """Where every size is fixed, samples among them, elements may go anywhere."""
    if max(source.size, int(np.prod(shape))) > LARGEST:
        return None
    if not all(_fixed(value, axis) for value in (x, y) for axis in range(len(value.shape or ()))):
        return None
    there = np.flatnonzero(source)
    here, first = np.unique(source.reshape(-1)[there] - 1, return_index=True)
    return Flat(output, there[first], here, by_sample=False)


def _fixed(value: ir.Value, axis: int) -> bool:
    return value.shape is not None and isinstance(value.shape[axis], int)
