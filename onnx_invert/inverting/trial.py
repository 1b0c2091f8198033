"""The round trips of an inverse that is staged, and what they leave of its promise."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnx_invert.bounding import beyond
from onnx_invert.build.inverse import Inverse
from onnx_invert.graph.read import Source, file_hash
from onnx_invert.graph.write import save
from onnx_invert.inverting.draft import Draft
from onnx_invert.inverting.request import Request
from onnx_invert.numerics.tolerance import eps
from onnx_invert.plan.bounded import BoundedPlan
from onnx_invert.plan.choice import AnyPlan
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.plan.newton import NewtonPlan
from onnx_invert.plan.system_plan import SystemPlan
from onnx_invert.runtime import Recalled, Session
from onnx_invert.samples import ports_of, sample_axes
from onnx_invert.solving import decoded
from onnx_invert.trips import RoundTrip
from onnx_invert.verify import Pair, verify


@dataclass(frozen=True)
class Trial:
    """What was measured, None if nothing was, and the guarantee that is left: `note` says of the samples what a user
    has to know beside it."""

    measured: RoundTrip | None
    guarantee: Guarantee
    note: str | None = None


def tried(request: Request, draft: Draft, source: Source, decoder: Source | None, path: Path) -> Trial:
    """Run the model and the inverse at `path` on samples.

    Raises:
        ModelError: onnxruntime cannot run one of them, or the model is finite on no sample.
    """
    plan = draft.plan
    if not request.verify:
        # That every y is reached by a root is measured, or not said.
        return Trial(None, _without_drawn(plan) if isinstance(plan, SystemPlan) and plan.has_roots else plan.guarantee)
    request.tell("verification")
    solver = isinstance(plan, NewtonPlan | BoundedPlan)
    pair = _pair(draft, source, path)
    if request.target is not None:
        plan.release()
        # Graphs are full of cycles: without a collection their weights outlive them.
        gc.collect()
    batches = request.batches(draft.arrays, pair.ports, pair.main)
    if batches is None and decoder is not None and isinstance(plan, NewtonPlan):
        batches = decoded(plan, decoder, request.count(plan))
    note = None
    if request.choices.bounds is not None and batches is not None:
        note = beyond(draft.within, batches, rows=pair.has_batch)
    rtol = request.choices.tolerance if request.rtol is None and solver else request.rtol
    measured = verify(
        pair, plan.guarantee, plan.images, data=batches, count=request.count(plan), rtol=rtol, solver=solver
    )
    return replace(_judged(plan, measured), note=note)


def _judged(plan: AnyPlan, measured: RoundTrip) -> Trial:
    """The measurement without what turned out not to hold of more than was promised, and what is still promised."""
    solver = isinstance(plan, NewtonPlan | BoundedPlan)
    if solver and plan.guarantee is Guarantee.LEFT and measured.only_x_fails:
        # More equations than unknowns, and yet not one-to-one, or only just, so that rounding leaves nothing of x:
        # every reachable y is reproduced, by another x.
        return Trial(replace(measured, x=replace(measured.x, promised=False)), Guarantee.GENERALIZED)
    if isinstance(plan, SystemPlan) and measured.only_drawn_fails and measured.drawn is not None:
        # A function that rises throughout need not rise to every y, and a scale that underflows divides by
        # zero: x comes back, and that is all.
        return Trial(replace(measured, drawn=replace(measured.drawn, promised=False)), _without_drawn(plan))
    return Trial(measured, plan.guarantee)


def _without_drawn(plan: SystemPlan) -> Guarantee:
    """What such a plan promises of the y's that the model reaches."""
    return Guarantee.GENERALIZED if plan.solves else Guarantee.LEFT


def _pair(draft: Draft, source: Source, path: Path) -> Pair:
    """Both files, and the copy of the inverse that measures rounding, which is written beside it."""
    plan, problem = draft.plan, draft.plan.problem
    instrumented: Inverse | None = None
    shaken = path.with_name("instrumented.onnx")
    if draft.instrumented is not None:
        instrumented = draft.instrumented()
        save(instrumented.model, shaken)
    forward = source.path if source.path is not None else source.data
    inverse: Callable[[], Session | Recalled] = partial(Session, path, "the inverse")
    if draft.runs is not None and draft.runs.digest == file_hash(path):
        inverse = partial(Recalled, path, "the inverse", draft.runs)
    return Pair(
        forward=partial(Session, forward, source.name, packed=source.four_bits),
        inverse=inverse,
        instrumented=partial(Session, shaken, "the instrumented inverse") if instrumented is not None else None,
        ports=ports_of(problem.inputs),
        recovered=[value.name or "" for value in problem.recovered],
        given=[value.name or "" for value in problem.given],
        known=[value.name or "" for value in problem.known],
        dtype=np.dtype((problem.known[0].dtype or ir.DataType.FLOAT).numpy()),
        eps=max(eps(dtype.numpy()) for dtype in plan.dtypes),
        probes=instrumented.probes if instrumented is not None else (),
        eta=instrumented.eta if instrumented is not None else "",
        axes=sample_axes(problem),
        bounds=draft.within,
        at_once=plan.at_once if isinstance(plan, NewtonPlan) else None,
    )
