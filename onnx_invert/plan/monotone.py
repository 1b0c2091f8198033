"""Whether yᵢ rises, or falls, throughout with xᵢ: tried over the range of x, with all else as one run has it.

Tried, not proven: verification has the last word. A function that turns round between two points is taken for
monotone; one that turns round across several is refused here, before anything is built.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.evaluation import run
from onnx_invert.plan.steps import Mask
from onnx_invert.plan.system import System

POINTS = 41
REACH = 4.0
"""In units of the spread of x in that run, or of 1 where that is less."""


def is_monotone(system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node], mask: Mask) -> bool:
    """False if some element of y in `mask` rises and falls, or is not defined; True where it could not be tried."""
    found = system.concrete.sample(system.opset)
    twins = [system.concrete.nodes.get(node.name or "") for node in nodes]
    here = found.get(x.name or "")
    if here is None or any(twin is None for twin in twins) or not np.issubdtype(here.dtype, np.floating):
        return True
    if any(node in set(nodes) for node, _ in system.frozen):
        return True  # x would move at the operands that are held, too
    inner = {output.name for node in nodes for output in node.outputs} | {x.name}
    kept = {
        value.name or "": found[value.name or ""]
        for twin in twins
        if twin is not None
        for value in twin.inputs
        if value is not None and value.name not in inner and value.const_value is None and value.name in found
    }
    spread = max(1.0, float(np.std(here[mask].astype(np.float64))) if mask.any() else 1.0)
    values = []
    for point in np.linspace(-REACH * spread, REACH * spread, POINTS):
        trial = {**kept, x.name or "": np.full(here.shape, point, here.dtype)}
        made = run([twin for twin in twins if twin is not None], trial, [y.name or ""], system.opset)
        if made is None:
            return True
        values.append(np.where(mask, made[y.name or ""].astype(np.float64), np.nan))
    curve = np.stack(values)
    if not np.isfinite(curve[:, mask]).all():
        return False  # it is not defined everywhere: the search for a root would leave its domain
    slack = 1e-4 * np.nanmax(np.abs(np.where(np.isfinite(curve), curve, 0)), axis=0)
    with np.errstate(invalid="ignore"):
        steps = np.diff(curve, axis=0)
    rises, falls = ((sign * steps > slack).any(axis=0) for sign in (1, -1))
    return not bool(np.any(rises & falls))
