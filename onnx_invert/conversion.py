"""Models whose nodes go into the inverse, brought up to an opset that is written, and held to what they were."""

from __future__ import annotations

import numpy as np

from onnx_invert.build.versions import NEWEST_OPSET, OLDEST_OPSET, OPSET
from onnx_invert.errors import ModelError
from onnx_invert.graph.convert import raise_opset
from onnx_invert.graph.read import Source
from onnx_invert.graph.write import to_proto
from onnx_invert.plan.choice import AnyPlan
from onnx_invert.plan.system_plan import SystemPlan
from onnx_invert.runtime import Session
from onnx_invert.samples import DISTRIBUTIONS, draw, ports_of

SAMPLES = 16
SINGLE_RUNS = 4
"""Of each distribution; the second where each sample is a run of its own."""

APART = 1e-3
"""Relative to the largest number of an output: between rounding, which operators in other pieces change, and another
function."""


def raised(source: Source, plan: AnyPlan, wanted: int | None) -> bool:
    """Bring the model up to `wanted`, or to one that is written, if its inverse copies nodes that differ there.

    True if it was rewritten, and is to be planned anew.

    Raises:
        ModelError: ONNX's converter has no way there, or made another function of it.
    """
    before = plan.problem.opset
    target = wanted if wanted is not None else OPSET if before < OLDEST_OPSET else 0
    if not plan.copies or not max(before, OLDEST_OPSET - 1) < target <= NEWEST_OPSET:
        return False
    try:
        rewritten = raise_opset(source, target)
    except ModelError:
        if isinstance(plan, SystemPlan):  # which of its nodes run forwards shows when it is built
            return False
        raise
    if rewritten:
        _hold(source, plan, before, target)
    return rewritten


def _hold(source: Source, plan: AnyPlan, before: int, after: int) -> None:
    """Run both on drawn inputs: a converter that errs must not be taken for the model.

    Inputs that the model itself does not run on tell nothing; some must be left.
    """
    first = Session(source.path if source.path is not None else source.data, source.name)
    second = Session(to_proto(source.model).SerializeToString(), f"{source.name} at opset {after}")
    names = [value.name or "" for value in plan.problem.known]
    main = plan.problem.recovered[0].name or ""
    ports = ports_of(plan.problem.inputs)
    count = SAMPLES if next(port for port in ports if port.name == main).has_batch else SINGLE_RUNS
    compared, failed = False, None
    for distribution in range(len(DISTRIBUTIONS)):
        for feeds in draw(ports, count, distribution, main):
            try:
                theirs = first.run({n: a for n, a in feeds.items() if n in first.names})
            except ModelError as error:
                failed = error
                continue
            ours = second.run({n: a for n, a in feeds.items() if n in second.names})
            compared = True
            for name in names:
                y, z = (np.asarray(found[name], dtype=np.float64) for found in (ours, theirs))
                seen = np.isfinite(z)
                same = y.shape == z.shape
                apart = float(np.max(np.abs(y - z)[seen], initial=0.0)) if same else np.inf
                if not apart <= APART * np.max(np.abs(z[seen]), initial=0.0):
                    raise ModelError(
                        f"{source.name} has opset {before}; what ONNX's converter makes of it for opset {after} "
                        f"computes something else: {name!r} is off by {apart:.2g}. Export it again, at a newer opset."
                    )
    if failed is not None and not compared:
        raise failed
