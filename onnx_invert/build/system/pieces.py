"""Tensors of the model of which some elements are known, and how they are put together.

Of a tensor that is known along an axis only the list is kept, of which element of which value stands where: moving
elements changes the list and emits nothing. A value is emitted where somebody needs one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.build.system.columns import Column, columns_of, join
from onnx_invert.graph.emit import Emitter

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Piece:
    """`value` holds elements of a tensor: all of them; those at `index` along `axis`; or, in the tensor's own shape,
    those where `mask` is set, and anything elsewhere.

    Along `axis` they stand at `at` in the value, which has `width` elements there; by default side by side.
    """

    value: ir.Value
    axis: int | None = None
    index: Index | None = None
    mask: Mask | None = None
    at: Index | None = None
    width: int | None = None

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

    def columns(self, size: int) -> list[tuple[int, Column]]:
        """Its elements along its axis, which has `size` in the tensor: where, and what stands there."""
        if self.index is None:
            return list(enumerate(columns_of(self.value, range(size), size)))
        at = range(len(self.index)) if self.at is None else self.at
        width = len(self.index) if self.width is None else self.width
        return list(zip(map(int, self.index), columns_of(self.value, at, width), strict=True))


@dataclass
class Pieces:
    """What is known of one tensor, of this shape at the sizes that the plan was made at."""

    shape: tuple[int, ...]
    parts: list[Piece]
    _merged: tuple[int, ir.Value] | None = field(default=None, repr=False)
    _lines: dict[int, tuple[int, list[Column | None]]] = field(default_factory=dict, repr=False)

    def add(self, piece: Piece) -> None:
        """One more; of what overlaps the newer counts."""
        self.parts.append(piece if piece.mask is None else masked(piece.value, self._full(piece.mask)))

    @property
    def known(self) -> Mask:
        """The elements that are known."""
        found = np.zeros(self.shape, bool)
        for part in self.parts:
            found |= part.covers(self.shape)
        return found

    @property
    def axis(self) -> int | None:
        """The axis along which all pieces lie, if there is just one."""
        if any(part.mask is not None for part in self.parts):
            return None
        axes = {part.axis for part in self.parts if part.axis is not None}
        return next(iter(axes)) if len(axes) == 1 else None

    def whole(self, e: Emitter, mask: Callable[[Mask], ir.Value]) -> ir.Value:
        """The tensor, with anything where it is not known."""
        if self.parts[-1].is_whole:
            return self.parts[-1].value
        if self._merged is not None and self._merged[0] == len(self.parts):
            return self._merged[1]
        if self.axis is not None:
            value = self._joined(e, self.axis, self.parts)
        else:
            value = self._spread(e, self.parts[0])
            for part in self.parts[1:]:
                value = e.op("Where", mask(part.covers(self.shape)), self._spread(e, part), value)
        self._merged = (len(self.parts), value)
        return value

    def along(self, e: Emitter, axis: int, index: Sequence[int], mask: Callable[[Mask], ir.Value]) -> list[Column]:
        """The elements at `index` along `axis`; nothing is emitted for them as long as all pieces lie along it."""
        line = self.line(axis)
        if line is not None:
            found = [column for here in index if (column := line[here]) is not None]
            if len(found) == len(index):
                return found
        return columns_of(self.whole(e, mask), index, self.shape[axis])

    def line(self, axis: int) -> list[Column | None] | None:
        """What stands where along an axis, None where nothing is known; None if the pieces do not lie along it."""
        if self.axis != axis and not self.parts[-1].is_whole:
            return None
        if self._lines.get(axis, (0, []))[0] != len(self.parts):
            self._lines[axis] = (len(self.parts), self._line(axis, self.parts))
        return self._lines[axis][1]

    def _line(self, axis: int, parts: Sequence[Piece]) -> list[Column | None]:
        line: list[Column | None] = [None] * self.shape[axis]
        for part in parts:
            for here, column in part.columns(len(line)):
                line[here] = column
        return line

    def _joined(self, e: Emitter, axis: int, parts: Sequence[Piece]) -> ir.Value:
        """The pieces along an axis as one value, with others of their elements where nothing is known."""
        line = self._line(axis, parts)
        wide = [part for part in parts if part.width == len(line)]
        column = next(column for column in line if column is not None)
        found = []
        for here, there in enumerate(line):
            if there is not None:
                column = there
            elif wide:
                # What a node made of all elements has something there.
                column = Column(wide[-1].value, here, len(line))
            elif column.at + 1 < column.width:
                column = Column(column.value, column.at + 1, column.width)
            found.append(column)
        return join(e, axis, found, inner=self.shape[axis + 1 :])

    def _spread(self, e: Emitter, part: Piece) -> ir.Value:
        return part.value if part.axis is None else self._joined(e, part.axis, [part])

    def _full(self, mask: Mask) -> Mask:
        return np.broadcast_to(mask, self.shape)


def masked(value: ir.Value, mask: Mask) -> Piece:
    """A tensor of which the elements in `mask` are known."""
    if mask.all():
        return Piece(value)
    line = line_of(mask)
    if line is None:
        return Piece(value, mask=mask)
    axis, index = line
    return Piece(value, axis, index, at=index, width=mask.shape[axis])


def line_of(mask: Mask) -> tuple[int, Index] | None:
    """The axis along which alone a mask varies, and where along it the mask is set; None if there is none."""
    for axis in range(mask.ndim):
        line = np.moveaxis(mask, axis, 0).reshape(len(mask) if axis == 0 else mask.shape[axis], -1)
        if line.size and np.array_equal(line, np.broadcast_to(line[:, :1], line.shape)) and line[:, 0].any():
            return None if mask.all() else (axis, np.flatnonzero(line[:, 0]))
    return None


def grouped(columns: Sequence[Column], axis: int, index: Iterable[int]) -> list[Piece]:
    """Elements of several values as pieces of a tensor that has them at `index` along `axis`."""
    groups: dict[ir.Value, list[tuple[int, Column]]] = {}
    for here, column in zip(index, columns, strict=True):
        groups.setdefault(column.value, []).append((int(here), column))
    return [
        Piece(
            value,
            axis,
            np.array([here for here, _ in group], np.int64),
            at=np.array([column.at for _, column in group], np.int64),
            width=group[0][1].width,
        )
        for value, group in groups.items()
    ]
