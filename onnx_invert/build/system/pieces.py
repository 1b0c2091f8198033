"""Tensors of the model of which some elements are known, and how they are put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Piece:
    """`value` holds elements of a tensor: all of them; those at `index` along `axis`, side by side; or, in the
    tensor's own shape, those where `mask` is set, and anything elsewhere."""

    value: ir.Value
    axis: int | None = None
    index: Index | None = None
    mask: Mask | None = None

    @property
    def is_whole(self) -> bool:
        """True if it holds every element."""
        return self.axis is None and self.mask is None

    def covers(self, shape: Sequence[int]) -> Mask:
        """The elements that it holds."""
        if self.mask is not None:
            return np.broadcast_to(self.mask, tuple(shape))
        found = np.ones(tuple(shape), bool)
        if self.axis is not None and self.index is not None:
            line = np.zeros(shape[self.axis], bool)
            line[self.index] = True
            found &= line.reshape([-1 if axis == self.axis else 1 for axis in range(len(shape))])
        return found


@dataclass
class Pieces:
    """What is known of one tensor, of this shape at the sizes that the plan was made at."""

    shape: tuple[int, ...]
    parts: list[Piece]
    _merged: tuple[int, ir.Value] | None = None

    def add(self, piece: Piece) -> None:
        """One more; of what overlaps the newer counts."""
        self.parts.append(piece)

    @property
    def known(self) -> Mask:
        """The elements that are known."""
        found = np.zeros(self.shape, bool)
        for part in self.parts:
            found |= part.covers(self.shape)
        return found

    def whole(self, e: Emitter, mask: Callable[[Mask], ir.Value]) -> ir.Value:
        """The tensor, with anything where it is not known."""
        if len(self.parts) == 1 and self.parts[0].is_whole:
            return self.parts[0].value
        if self._merged is not None and self._merged[0] == len(self.parts):
            return self._merged[1]
        side_by_side = self._side_by_side(e)
        if side_by_side is not None:
            self.parts, self._merged = [Piece(side_by_side)], None
            return side_by_side
        value = None
        for part in self.parts:
            mine = part.value if part.axis is None else _spread(e, part, self.shape)
            value = mine if value is None else e.op("Where", mask(part.covers(self.shape)), mine, value)
        assert value is not None
        if self.known.all():
            self.parts, self._merged = [Piece(value)], None
        else:
            self._merged = (len(self.parts), value)
        return value

    def along(self, e: Emitter, axis: int, index: Index, mask: Callable[[Mask], ir.Value]) -> ir.Value:
        """The elements at `index` along `axis`."""
        for part in self.parts:
            if part.axis == axis and part.index is not None:
                places = {int(here): place for place, here in enumerate(part.index)}
                if all(int(here) in places for here in index):
                    return pick(e, part.value, axis, [places[int(here)] for here in index], len(part.index))
        return pick(e, self.whole(e, mask), axis, [int(here) for here in index], self.shape[axis])

    def _side_by_side(self, e: Emitter) -> ir.Value | None:
        """The pieces joined along an axis, if they are all of it and each is there once."""
        axes = {part.axis for part in self.parts}
        if len(axes) != 1 or None in axes:
            return None
        axis = next(iter(axes))
        assert axis is not None
        parts = sorted(self.parts, key=lambda part: int(part.index[0]) if part.index is not None else 0)
        order = np.concatenate([part.index for part in parts if part.index is not None])
        if len(order) != self.shape[axis] or len(np.unique(order)) != len(order):
            return None
        value = parts[0].value if len(parts) == 1 else e.op("Concat", *(part.value for part in parts), axis=axis)
        return pick(e, value, axis, [int(i) for i in np.argsort(order)], len(order))


def masked(value: ir.Value, mask: Mask) -> Piece:
    """A tensor of which the elements in `mask` are known."""
    return Piece(value) if mask.all() else Piece(value, mask=mask)


def pick(e: Emitter, value: ir.Value, axis: int, index: Sequence[int], size: int) -> ir.Value:
    """The elements at `index` along an axis of this size."""
    if list(index) == list(range(size)):
        return value
    first, last = index[0], index[-1]
    if list(index) == list(range(first, last + 1)):
        return e.op("Slice", value, e.ints([first]), e.ints([last + 1]), e.ints([axis]))
    return e.op("Gather", value, e.ints(list(index)), axis=axis)


def _spread(e: Emitter, part: Piece, shape: Sequence[int]) -> ir.Value:
    """A piece along an axis, in the tensor's own shape, with zeros between."""
    assert part.axis is not None
    assert part.index is not None
    count = len(part.index)
    rank = len(shape)
    ends = [0] * (2 * rank)
    ends[rank + part.axis] = 1
    padded = e.op("Pad", part.value, e.ints(ends), e.scalar(0.0))
    back = np.full(shape[part.axis], count)
    back[part.index] = np.arange(count)
    return e.op("Gather", padded, e.ints([int(i) for i in back]), axis=part.axis)
