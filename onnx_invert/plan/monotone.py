"""On which interval yᵢ rises, or falls, throughout with xᵢ: tried over the range of x, all else as one run has it.

Tried, not proven: verification has the last word. A function that turns round between two points is taken for
monotone; one that turns round across several, or is not defined there, is looked at more closely: its domain is the
longest interval on which it keeps its direction, and its ends are found to the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.plan.evaluation import Part
from onnx_invert.plan.interval import Function, search
from onnx_invert.plan.steps import REALS, Domain, Mask
from onnx_invert.plan.system import System

POINTS = 41
REACH = 4.0
"""In units of the spread of x in that run, or of 1 where that is less."""


def domain_of(system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node], mask: Mask) -> Domain | None:
    """The domain of the elements in `mask`; all numbers where it could not be tried.

    None if some element of y rises and falls on it, or if the domain is not the same for all samples.
    """
    tried = _function(system, x, y, nodes, mask)
    if tried is None:
        return REALS
    function, reach = tried
    curve = [function(point) for point in np.linspace(-reach, reach, POINTS)]
    if any(values is None for values in curve):
        return REALS
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
    # A function that only saturates has no end there: a bracket may go on.
    return REALS if found is None and monotone else found


def _function(
    system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node], mask: Mask
) -> tuple[Function, float] | None:
    """y in the elements of `mask`, where all of x has one value or each element its own; and how far to try."""
    found = system.concrete.sample(system.opset)
    twins = [system.concrete.nodes.get(node.name or "") for node in nodes]
    here = found.get(x.name or "")
    if here is None or any(twin is None for twin in twins) or not np.issubdtype(here.dtype, np.floating):
        return None
    present = [twin for twin in twins if twin is not None]
    # What an operand takes that is held stays as the run has it, though x moves.
    renamed = {
        (node.name or "", place): f"{value.name}/held"
        for node, place in system.frozen
        if node in set(nodes) and (value := node.inputs[place]) is not None and value.name in found
    }
    held = {name: found[name.removesuffix("/held")] for name in renamed.values()}
    inner = {output.name for node in nodes for output in node.outputs} | {x.name}
    kept = {
        value.name or "": found[value.name or ""]
        for twin in present
        for value in twin.inputs
        if value is not None and value.name not in inner and value.const_value is None and value.name in found
    }
    part = Part(present, {**kept, **held, x.name or "": here}, [y.name or ""], system.opset, renamed=renamed)
    spread = max(1.0, float(np.std(here[mask].astype(np.float64))) if mask.any() else 1.0)

    def function(point: NDArray[np.floating] | float) -> NDArray[np.float64] | None:
        trial = np.array(np.broadcast_to(np.asarray(point, here.dtype), here.shape))
        made = part({x.name or "": trial})
        return None if made is None else made[y.name or ""].astype(np.float64)[mask]

    return function, REACH * spread
