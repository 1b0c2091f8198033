"""Sets of a tensor's elements: what is known of it, or used. Equal sets are one object.

A network repeats its layers, and a plan of thousands of nodes meets few sets: most tensors are known altogether or not
at all. So a set is looked up by its identity, and remembers what it was joined with: each union is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import and_, or_

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Shape = tuple[int, ...]


class Elements:
    """Some elements of a tensor, as a `mask` that is not to be changed; made by a `Pool`.

    `none` and `full` say that it has no element, or all; a tensor of size 0 has both.
    """

    __slots__ = ("_and", "_less", "_lines", "_or", "_pool", "_uniform", "full", "mask", "none", "shape")

    def __init__(self, pool: Pool, mask: Mask) -> None:
        count = np.count_nonzero(mask)
        self.mask, self.shape = mask, mask.shape
        self.none, self.full = not count, count == mask.size
        self._pool = pool
        self._and: dict[Elements, Elements] = {}
        self._or: dict[Elements, Elements] = {}
        self._less: dict[Elements, Elements] = {}
        self._uniform: dict[tuple[int, ...], bool] = {}
        self._lines: dict[int, tuple[bool, ...]] = {}

    def __and__(self, other: Elements) -> Elements:
        """The elements of both."""
        found = self._and.get(other)
        if found is None:
            found = self._and[other] = self._pool.of(self.mask & other.mask)
        return found

    def __or__(self, other: Elements) -> Elements:
        """The elements of either."""
        found = self._or.get(other)
        if found is None:
            found = self._or[other] = self._pool.of(self.mask | other.mask)
        return found

    def __sub__(self, other: Elements) -> Elements:
        """The elements that the other has not."""
        found = self._less.get(other)
        if found is None:
            found = self._less[other] = self._pool.of(self.mask & ~other.mask)
        return found

    def line(self, axis: int) -> tuple[bool, ...]:
        """Which it has along an axis, of a set that is the same along all others."""
        found = self._lines.get(axis)
        if found is None:
            first = self.mask[tuple([slice(None) if other == axis else 0 for other in range(self.mask.ndim)])]
            found = self._lines[axis] = tuple(first.tolist())
        return found

    def uniform(self, axes: tuple[int, ...]) -> bool:
        """Whether it is the same along every one of `axes`."""
        if self.full or not axes:
            return True
        found = self._uniform.get(axes)
        if found is None:
            lines = ((*(slice(None),) * axis, slice(1)) for axis in axes)
            same = not any(np.count_nonzero(self.mask != self.mask[line]) for line in lines)
            found = self._uniform[axes] = same
        return found


@dataclass
class Pool:
    """All sets that a plan has met."""

    _sets: dict[tuple[Shape, bytes], Elements] = field(default_factory=dict)
    _none: dict[Shape, Elements] = field(default_factory=dict)
    _all: dict[Shape, Elements] = field(default_factory=dict)
    _lines: dict[tuple[Shape, int, tuple[bool, ...]], Elements] = field(default_factory=dict)
    _met: dict[tuple[object, ...], Elements] = field(default_factory=dict)

    def of(self, mask: Mask) -> Elements:
        """The set of a mask, which is not to be changed any more."""
        key = (mask.shape, mask.tobytes())
        found = self._sets.get(key)
        if found is None:
            own = np.ascontiguousarray(mask).reshape(mask.shape)
            own.flags.writeable = False
            found = self._sets[key] = Elements(self, own)
        return found

    def none(self, shape: Shape) -> Elements:
        """No element of a tensor of a shape."""
        found = self._none.get(shape)
        if found is None:
            found = self._none[shape] = self.of(np.zeros(shape, bool))
        return found

    def all(self, shape: Shape) -> Elements:
        """All elements of a tensor of a shape."""
        found = self._all.get(shape)
        if found is None:
            found = self._all[shape] = self.of(np.ones(shape, bool))
        return found

    def line(self, shape: Shape, axis: int, line: tuple[bool, ...]) -> Elements:
        """The set that has `line` along an axis, and is the same along all others."""
        key = (shape, axis, line)
        found = self._lines.get(key)
        if found is None:
            sizes = [-1 if other == axis else 1 for other in range(len(shape))]
            mask = np.broadcast_to(np.array(line, bool).reshape(sizes), shape)
            found = self._lines[key] = self.of(mask)
        return found

    def fitted(self, elements: Elements, shape: Shape) -> Elements:
        """The set repeated along axes as numpy broadcasts; ValueError if it does not fit."""
        return elements if elements.shape == shape else self.met([elements], shape)

    def met(
        self,
        parts: Sequence[Elements],
        shape: Shape,
        others: Sequence[Elements] = (),
        along: Callable[[Mask], Mask] | None = None,
    ) -> Elements:
        """Where all of `parts` meet, or any of the `others` is, in a tensor of `shape`; `along` joins what met before.

        ValueError if the sizes do not fit.
        """
        key = (shape, along, *parts, None, *others)
        found = self._met.get(key)
        if found is None:
            joint = reduce(and_, [part.mask for part in parts])
            joint = joint if along is None else along(joint)
            joint = reduce(or_, [other.mask for other in others], joint)
            found = self._met[key] = self.of(np.broadcast_to(joint, shape))
        return found
