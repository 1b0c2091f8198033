"""The pair of networks of a lossless inversion, as `invert` and `explain_lossless` make it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from onnx_invert.graph.read import Source
from onnx_invert.inverting.request import Request
from onnx_invert.lossless import LosslessPair, make_pair
from onnx_invert.plan.problem import Problem
from onnx_invert.samples import Batch, cut, ports_of
from onnx_invert.stating import pair_metadata_of


def pair_with(
    request: Request,
    source: Source,
    problem: Problem,
    arrays: Batch | None,
    *,
    plain: Callable[[], ir.Model] | None = None,
    closed_form: bool = False,
    why: str = "",
    metadata: Mapping[str, str] | None = None,
    record: bool = True,
) -> LosslessPair:
    """Built and tried on `arrays`; with `record` it holds what given data say of plausible x.

    `plain` builds the inverse from y alone, None where there is none, and `why` says why.
    """
    ports, main = ports_of(problem.inputs), problem.recovered[0].name or ""
    known = arrays is not None and request.data is not None and record
    return make_pair(
        problem,
        request.rules,
        network=source,
        plain=plain,
        why=why,
        closed_form=closed_form,
        layout=request.latents,
        ports=ports,
        batches=request.batches(arrays, ports, main),
        data=list(cut(arrays, ports, main, None)) if known and arrays is not None else None,
        count=request.count(),
        rtol=request.rtol,
        verify=request.verify,
        opset=request.opset,
        metadata=pair_metadata_of(source) if metadata is None else metadata,
    )
