"""y by x in a block, element by element, with all else as one run of the model has it: computed at many points.

Where the samples lie along an axis of every tensor, many points are computed at once, as so many samples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.plan.concrete import COPIES
from onnx_invert.plan.elements import Mask
from onnx_invert.plan.evaluation import Arrays, Part
from onnx_invert.plan.in_place import InPlace
from onnx_invert.plan.kinks import piece, watched
from onnx_invert.plan.system import System
from onnx_invert.rules.static import before_held

Floats = NDArray[np.float64]

REACH = 4.0
"""In units of the spread of x in that run, or of 1 where that is less."""

GROWS = 1.05
"""By this a function that has no end grows between the root of the largest x and the largest: log does, atan not."""


@dataclass
class Curve:
    """y in the elements of `mask`, where all of x has one value or each element its own; `reach` says how far to try.

    `lookups` are the indices that the nodes compute, before they are held, and how long the axes are. `alone` says
    that no known tensor takes part. `crowd` computes `COPIES` points at once, if there is such a way.
    """

    part: Part
    here: NDArray[np.generic]
    names: tuple[str, str]
    mask: Mask
    reach: float
    lookups: dict[str, int]
    nodes: Sequence[ir.Node]
    alone: bool
    crowd: _Crowd | None = None

    @staticmethod
    def of(block: InPlace, spread: float = 1.0, *, closely: bool = False, wanted: Sequence[str] = ()) -> Curve | None:
        """With the known tensors of a run on inputs of the deviation `spread`; `closely`, for many points.

        `wanted` are further tensors that `at` is to tell.
        """
        system, x, nodes, mask = block.system, block.x, block.nodes, block.mask
        found = system.concrete.sample(system.opset, spread)
        present = _twins(system.concrete.nodes, nodes)
        here = found.get(x.name or "")
        if here is None or present is None or not np.issubdtype(here.dtype, np.floating):
            return None
        inside = set(nodes)
        # What an operand takes that is held stays as the run has it, though x moves.
        renamed = {
            (node.name or "", place): f"{value.name}/held"
            for node, place in system.frozen
            if node in inside and (value := node.inputs[place]) is not None and value.name in found
        }
        held = {name: found[name.removesuffix("/held")] for name in renamed.values()}
        inner = {output.name for node in nodes for output in node.outputs} | {x.name}
        kept = {
            value.name or "": found[value.name or ""]
            for twin in present
            for value in twin.inputs
            if value is not None and value.name not in inner and value.const_value is None and value.name in found
        }
        lookups = _lookups(present, inner)
        watching = watched(present, frozenset(name or "" for name in inner)) if closely else []
        watching += wanted
        asked = list(dict.fromkeys([block.y.name or "", *lookups, *(name for name in watching if name != x.name)]))
        feeds = {**kept, **held, x.name or "": here}
        part = Part(present, feeds, asked, system.opset, renamed=renamed)
        around = max(1.0, float(np.std(here[mask].astype(np.float64))) if mask.any() else 1.0)
        names = x.name or "", block.y.name or ""
        alone = not kept and not held
        trial = Curve(part, here, names, mask, REACH * around, lookups, present, alone)
        if closely:
            trial.crowd = _Crowd.of(system, nodes, feeds, asked, renamed)
            if trial.crowd is not None and not trial.agrees():
                trial.crowd = None
        return trial

    def plain(self, point: NDArray[np.floating] | float) -> Floats | None:
        """y, whatever is looked up."""
        made = self._run(point)
        return None if made is None else made[self.names[1]].astype(np.float64)[self.mask]

    def looking_up(self, point: NDArray[np.floating] | float) -> Floats | None:
        """y where every index lies within its axis, counted from its start; not a number elsewhere."""
        made = self._run(point)
        if made is None:
            return None
        values = made[self.names[1]].astype(np.float64)
        for name, size in self.lookups.items():
            index = made[name].astype(np.int64)
            missed = np.asarray((index < 0) | (index >= size))
            rank = values.ndim
            if missed.shape[:rank] == values.shape:
                missed = np.asarray(missed.reshape(*values.shape, -1).any(axis=-1), bool)
            else:
                missed = np.full(values.shape, bool(missed.any()))
            values = np.where(missed, np.nan, values)
        return np.asarray(values[self.mask])

    def several(self, points: Sequence[Floats]) -> list[Floats | None]:
        """y at several points, each in the shape of x."""
        made = self._runs(points)
        return [None if m is None else m[self.names[1]].astype(np.float64)[self.mask] for m in made]

    def at(self, points: Sequence[Floats]) -> list[Arrays | None]:
        """Tensors of the block, x among them, at several points, each in the shape of x."""
        made = zip(points, self._runs(points), strict=True)
        return [None if run is None else {**run, self.names[0]: self._typed(point)} for point, run in made]

    def pieces(self, points: Sequence[Floats]) -> list[NDArray[np.int64] | None]:
        """On which piece of the function every element lies, at several points."""
        found: list[NDArray[np.int64] | None] = []
        for point, made in zip(points, self._runs(points), strict=True):
            trial = self._typed(point)
            told = None if made is None else piece(self.nodes, {**made, self.names[0]: trial}, self.here.shape)
            found.append(None if told is None else np.where(self.mask, told, 0))
        return found

    def grows(self) -> bool:
        """Whether y goes on growing on both sides, as far as x's type goes: every y has an x then."""
        top = float(ml_dtypes.finfo(self.here.dtype).max)  # type: ignore[no-untyped-call]
        middle = self.plain(0.0)
        for side in (-1, 1):
            near, far = self.plain(side * top**0.5), self.plain(side * top / 4)
            if middle is None or near is None or far is None:
                return True
            with np.errstate(all="ignore"):
                bounded = np.abs(far - middle) < GROWS * np.abs(near - middle)
            if np.any(bounded & np.isfinite(far)):
                return False
        return True

    def agrees(self) -> bool:
        """Whether points come out as they do one by one."""
        points = [np.full(self.here.shape, -0.7 * self.reach), np.full(self.here.shape, 0.4)]
        made = None if self.crowd is None else self.crowd(self.names[0], [self._typed(point) for point in points])
        if made is None:
            return False
        together = [arrays[self.names[1]].astype(np.float64)[self.mask] for arrays in made]
        alone = [self.plain(point) for point in points]
        return all(
            one is not None and np.allclose(one, other, rtol=1e-3, atol=1e-6, equal_nan=True)
            for one, other in zip(alone, together, strict=True)
        )

    def _typed(self, point: NDArray[np.floating] | float) -> NDArray[np.generic]:
        with np.errstate(over="ignore"):
            return np.array(np.broadcast_to(np.asarray(point).astype(self.here.dtype), self.here.shape))

    def _run(self, point: NDArray[np.floating] | float) -> Arrays | None:
        return self.part({self.names[0]: self._typed(point)})

    def _runs(self, points: Sequence[Floats]) -> list[Arrays | None]:
        if self.crowd is None:
            return [self._run(point) for point in points]
        found: list[Arrays | None] = []
        for start in range(0, len(points), COPIES):
            some = [self._typed(point) for point in points[start : start + COPIES]]
            made = self.crowd(self.names[0], some)
            found += made if made is not None else [self._run(point) for point in points[start : start + COPIES]]
        return found


@dataclass
class _Crowd:
    """The nodes at `COPIES` times as many samples; the axis along which each tensor has them, None where none does."""

    part: Part
    axes: Mapping[str, int | None]

    @staticmethod
    def of(
        system: System,
        nodes: Sequence[ir.Node],
        feeds: Mapping[str, NDArray[np.generic]],
        wanted: Sequence[str],
        renamed: Mapping[tuple[str, int], str],
    ) -> _Crowd | None:
        """None where some tensor has no such axis, or the model does not run so."""
        crowd = system.concrete.crowd
        present = None if crowd is None else _twins(crowd.nodes, nodes)
        if crowd is None or present is None:
            return None
        axes: dict[str, int | None] = {}
        for name in dict.fromkeys([*feeds, *wanted]):
            plain = name.removesuffix("/held")
            few, many = system.concrete.shapes.get(plain), crowd.shapes.get(plain)
            if few is None or many is None or len(few) != len(many):
                return None
            differing = [axis for axis, pair in enumerate(zip(few, many, strict=True)) if pair[0] != pair[1]]
            if len(differing) > 1 or any(few[axis] * COPIES != many[axis] for axis in differing):
                return None
            axes[name] = differing[0] if differing else None
        tiled = {name: _repeated(array, axes[name]) for name, array in feeds.items()}
        return _Crowd(Part(present, tiled, wanted, system.opset, renamed=renamed), axes)

    def __call__(self, x: str, points: Sequence[NDArray[np.generic]]) -> list[Arrays] | None:
        axis = self.axes[x]
        if axis is None:
            return None
        filled = [*points, *[points[-1]] * (COPIES - len(points))]
        made = self.part({x: np.concatenate(filled, axis=axis)})
        if made is None:
            return None
        found: list[Arrays] = [{} for _ in points]
        for name, array in made.items():
            along = self.axes[name]
            parts = [array] * COPIES if along is None else np.split(array, COPIES, axis=along)
            for arrays, part in zip(found, parts, strict=False):
                arrays[name] = part
        return found


def _repeated(array: NDArray[np.generic], axis: int | None) -> NDArray[np.generic]:
    return array if axis is None else np.concatenate([array] * COPIES, axis=axis)


def _twins(twins: Mapping[str, ir.Node], nodes: Sequence[ir.Node]) -> list[ir.Node] | None:
    found = [twins.get(node.name or "") for node in nodes]
    present = [twin for twin in found if twin is not None]
    return present if len(present) == len(found) else None


def _lookups(nodes: Sequence[ir.Node], inner: Collection[str | None]) -> dict[str, int]:
    """The indices that are computed inside and point into one axis of a known length."""
    found: dict[str, int] = {}
    for node in nodes:
        if node.op_type not in {"GatherElements", "Gather"}:
            continue
        data, index = node.inputs[0], node.inputs[1]
        axis = node.attributes.get("axis")
        size = data.shape[axis.as_int() if axis is not None else 0] if data is not None and data.shape else None
        # What counts is where they pointed before they were held. A model that holds its own has no end there.
        index = before_held(index)
        if index is not None and index.name in inner and isinstance(size, int):
            found[index.name or ""] = min(size, found.get(index.name or "", size))
    return found
