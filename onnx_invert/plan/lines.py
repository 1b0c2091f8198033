"""Nodes that choose along one axis, where all others count samples: one line along it tells of all.

It says what `placing` says, from the numbers of one line instead of arrays of all elements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.elements import Elements, Pool, Shape
from onnx_invert.plan.moves import WHOLE, Form, InPlace, Pick
from onnx_invert.plan.placing import Placing
from onnx_invert.rules.moving import Labels

_LONGEST = 1 << 10
"""Elements of a line beyond which numpy takes less time."""

Pairs = Sequence[tuple[int, int]]
"""Where elements are in an output, and where they come from in the operand, in the order of the former."""


@dataclass(frozen=True)
class Lines:
    """Where the elements of an operand go along `axis`, in each of the outputs, whose shapes are `shapes`."""

    axis: int
    shape: Shape
    shapes: Sequence[Shape]
    pairs: Sequence[Pairs]

    @staticmethod
    def of(node: ir.Node, place: int, sources: Sequence[Labels], shape: Shape) -> Lines | None:
        """None where elements go otherwise, or some other axis has a fixed size.

        `sources` say, by numbers from 1 on, where the elements of the operand at `place` go.
        """
        axis = _only_fixed(node.inputs[place], len(shape))
        if axis is None or node.op_type in WHOLE or not 0 < shape[axis] <= _LONGEST or 0 in shape:
            return None
        found = []
        numbers = np.arange(1, math.prod(shape) + 1).reshape(shape)
        for output, source in zip(node.outputs, sources, strict=True):
            rest = source.shape[:axis] + source.shape[axis + 1 :]
            if rest != shape[:axis] + shape[axis + 1 :] or _only_fixed(output, len(shape)) != axis:
                return None
            line = source[tuple([slice(None) if other == axis else 0 for other in range(source.ndim)])]
            there = np.flatnonzero(line > 0)
            here = (line[there] - 1) // math.prod(shape[axis + 1 :]) % shape[axis]
            moved = source.take(there, axis)
            if np.count_nonzero(source > 0) != moved.size or not np.array_equal(moved, numbers.take(here, axis)):
                return None
            found.append(list(zip(there.tolist(), here.tolist(), strict=True)))
        return Lines(axis, shape, [source.shape for source in sources], found)

    def carried(self, pool: Pool, state: Elements) -> list[Elements]:
        """Which elements of the outputs are known where the operand's `state` is, and what comes from elsewhere."""
        has, found = state.line(self.axis), []
        for pairs, shape in zip(self.pairs, self.shapes, strict=True):
            lacking = _at([pair for pair in pairs if not has[pair[1]]], shape[self.axis])
            found.append(pool.line(shape, self.axis, tuple([not lacks for lacks in lacking])))
        return found

    def placing(self, pool: Pool, before: Elements, known: Sequence[Elements | None]) -> Placing | None:
        """What comes back to the operand, of which `before` is known, from what is `known` of outputs (None: all)."""
        axis, has = self.axis, before.line(self.axis)
        told: list[Pairs] = []
        for pairs, state in zip(self.pairs, known, strict=True):
            line = None if state is None else state.line(axis)
            told.append([pair for pair in pairs if not has[pair[1]] and (line is None or line[pair[0]])])
        fresh = {here for pairs in told for _, here in pairs}
        if not fresh:
            return None
        new = pool.line(self.shape, axis, tuple([here in fresh for here in range(self.shape[axis])]))
        forms: list[Form] = []
        hits = []
        for output, (pairs, shape) in enumerate(zip(told, self.shapes, strict=True)):
            hit = pool.line(shape, axis, _at(pairs, shape[axis]))
            if pairs and shape == self.shape and all(there == here for there, here in pairs):
                forms.append(InPlace(output, hit.mask))
            elif pairs:
                once = _first(pairs)
                forms.append(Pick(output, axis, np.array([t for t, _ in once]), np.array([h for _, h in once])))
            left = [pair for pair in _first(pairs) if pair[1] in fresh]  # each element is one equation
            hits.append(hit if len(left) == len(pairs) else pool.line(shape, axis, _at(left, shape[axis])))
            fresh.difference_update([here for _, here in left])
        return Placing(new, tuple(forms), tuple(hits))


def _first(pairs: Pairs) -> Pairs:
    """Of an element that is repeated the first place."""
    seen = {here: there for there, here in reversed(pairs)}
    return pairs if len(seen) == len(pairs) else sorted((there, here) for here, there in seen.items())


def _at(pairs: Pairs, size: int) -> tuple[bool, ...]:
    places = {there for there, _ in pairs}
    return tuple([there in places for there in range(size)])


def _only_fixed(value: ir.Value | None, rank: int) -> int | None:
    """The one axis whose size is fixed."""
    if value is None or value.shape is None or len(value.shape.dims) != rank:
        return None
    fixed = [axis for axis, dim in enumerate(value.shape.dims) if isinstance(dim, int)]
    return fixed[0] if len(fixed) == 1 else None
