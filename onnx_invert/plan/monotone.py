"""On which interval yᵢ rises, or falls, throughout with xᵢ: tried over the range of x, all else as one run has it.

Tried, not proven: verification has the last word. A function that turns round between two points is taken for
monotone; one that turns round across several, or is not defined there, is looked at more closely: its domain is the
longest interval on which it keeps its direction, and its ends are found to the last digit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.plan.evaluation import Part
from onnx_invert.plan.interval import search
from onnx_invert.plan.steps import REALS, Domain, Mask
from onnx_invert.plan.system import System
from onnx_invert.rules.static import before_held

POINTS = 41
REACH = 4.0
"""In units of the spread of x in that run, or of 1 where that is less."""


def domain_of(system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node], mask: Mask) -> Domain | None:
    """The domain of the elements in `mask`.

    None if some element of y rises and falls on it, if the domain is not the same for all samples, or if nothing could
    be tried: nothing is promised then.
    """
    tried = _Trial.of(system, x, y, nodes, mask)
    if tried is None:
        return None
    function, reach = tried.looking_up if tried.lookups else tried.plain, tried.reach
    curve = [function(point) for point in np.linspace(-reach, reach, POINTS)]
    if any(values is None for values in curve):
        return None
    values = np.stack([v for v in curve if v is not None])
    if np.isfinite(values).all():
        slack = 1e-4 * np.max(np.abs(values), axis=0)
        with np.errstate(invalid="ignore"):
            steps = np.diff(values, axis=0)
        rises, falls = ((sign * steps > slack).any(axis=0) for sign in (1, -1))
        monotone = not np.any(rises & falls)
        flat = not (steps[0].any() and steps[-1].any())
        if monotone and not flat:
            return REALS
    else:
        monotone = False
    free = [axis for axis, dim in enumerate(x.shape or ()) if not isinstance(dim, int)]
    found = search(function, reach, mask, free)
    if found is None and tried.lookups:
        found = search(tried.plain, reach, mask, free)
    # A function that only saturates has no end there: a bracket may go on.
    return REALS if found is None and monotone else found


@dataclass
class _Trial:
    """y in the elements of `mask`, where all of x has one value or each element its own; `reach` says how far to try.

    `lookups` are the indices that the nodes compute, before they are held, and how long the axes are.
    """

    part: Part
    here: NDArray[np.generic]
    names: tuple[str, str]
    mask: Mask
    reach: float
    lookups: dict[str, int]

    @staticmethod
    def of(system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node], mask: Mask) -> _Trial | None:
        found = system.concrete.sample(system.opset)
        twins = [system.concrete.nodes.get(node.name or "") for node in nodes]
        present = [twin for twin in twins if twin is not None]
        here = found.get(x.name or "")
        if here is None or len(present) < len(twins) or not np.issubdtype(here.dtype, np.floating):
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
        wanted = list(dict.fromkeys([y.name or "", *lookups]))
        part = Part(present, {**kept, **held, x.name or "": here}, wanted, system.opset, renamed=renamed)
        spread = max(1.0, float(np.std(here[mask].astype(np.float64))) if mask.any() else 1.0)
        return _Trial(part, here, (x.name or "", y.name or ""), mask, REACH * spread, lookups)

    def plain(self, point: NDArray[np.floating] | float) -> NDArray[np.float64] | None:
        """y, whatever is looked up."""
        made = self._run(point)
        return None if made is None else made[self.names[1]].astype(np.float64)[self.mask]

    def looking_up(self, point: NDArray[np.floating] | float) -> NDArray[np.float64] | None:
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

    def _run(self, point: NDArray[np.floating] | float) -> dict[str, NDArray[np.generic]] | None:
        trial = np.array(np.broadcast_to(np.asarray(point, self.here.dtype), self.here.shape))
        return self.part({self.names[0]: trial})


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
