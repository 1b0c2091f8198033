"""A plan, and all that its graph is built from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnx_invert.bench import Bench
from onnx_invert.bounding import box
from onnx_invert.build.inverse import Inverse, build
from onnx_invert.build.newton.inverse import build_newton
from onnx_invert.build.system.inverse import build_system
from onnx_invert.errors import NotInvertibleError, UsageError
from onnx_invert.graph.read import Source
from onnx_invert.inverting.request import Request
from onnx_invert.plan.bounded import BoundedPlan
from onnx_invert.plan.bounds import Ends
from onnx_invert.plan.choice import AnyPlan
from onnx_invert.plan.newton import NewtonPlan
from onnx_invert.plan.plan import Plan
from onnx_invert.plan.system_plan import SystemPlan
from onnx_invert.planning import arrays_of, is_decoder, make_plan, some_of
from onnx_invert.rescue import with_starts
from onnx_invert.runtime import Runs
from onnx_invert.samples import Batch
from onnx_invert.separation import mixing
from onnx_invert.stating import metadata_of

APART = 256.0
"""By which weights of numbers of x differ that are in different units; those of pixels do not."""


@dataclass(frozen=True)
class Draft:
    """How an inverse will be made.

    `build` makes its graph, `instrumented` the copy that measures rounding (None of a solver), `metadata` are its
    entries. `arrays` are inputs to verify on, None to draw them between the ends `within`; `kind` is that of the
    prior, `notes` what the user should hear, `idle` which options have no effect; `runs` is what a solver was tried on
    before.
    """

    plan: AnyPlan
    build: Callable[[], Inverse]
    instrumented: Callable[[], Inverse] | None
    metadata: Mapping[str, str]
    arrays: Batch | None
    within: Mapping[str, Ends]
    kind: str | None = None
    notes: Sequence[str] = ()
    idle: str = ""
    runs: Runs | None = None


def make_draft(request: Request, source: Source, decoder: Source | None, stack: ExitStack) -> Draft:
    """Plan the inversion and settle what the plan leaves open: data, priors, units and starts of a solver.

    Raises:
        ModelError, UsageError: names, data or options do not fit the model.
        NotInvertibleError: no inverse can be promised; lists every node in the way.
    """
    plan = make_plan(
        source,
        request.recover,
        request.known,
        request.rules,
        request.method,
        request.progress,
        decoder,
        request.log_det,
        request.opset,
        raising=not request.lossless,
        bounded=request.choices.bounds is not None,
    )
    arrays = arrays_of(request.data, plan.problem, stack)
    if isinstance(plan, NewtonPlan):
        return _solver(request, source, decoder, plan, arrays, stack)
    if isinstance(plan, BoundedPlan):
        return _bounded(request, source, plan, arrays)
    return _closed_form(request, source, plan, arrays)


def _bounded(request: Request, source: Source, plan: BoundedPlan, arrays: Batch | None) -> Draft:
    """Of what lies within the bounds the closed form leaves nothing unsolved: no starts are fitted."""
    newton, choices = plan.newton, request.choices
    if blockers := mixing(newton.solved, newton.batch, newton.solved.recovered, [p.x for p in newton.ends]):
        raise NotInvertibleError(blockers, source.name)
    options = replace(choices.options(newton, arrays), affine=plan.affine)
    if options.bounds is None:  # they bound nothing
        return _closed_form(request, source, plan.closed, arrays)
    metadata = metadata_of(source, plan, options)
    closed: Callable[..., Inverse]
    if isinstance(plan.closed, Plan):
        closed = partial(build, plan.closed, opset=request.opset)
        begun = closed
    else:
        closed = partial(build_system, plan.closed, opset=request.opset)
        begun = partial(closed, unroll=choices.unroll)

    def make() -> Inverse:
        return build_newton(newton, options, opset=request.opset, metadata=metadata, closed=begun())

    within = plan.within(box(newton, options.bounds))
    return Draft(plan, make, partial(closed, instrumented=True), metadata, arrays, within)


def _solver(
    request: Request,
    source: Source,
    decoder: Source | None,
    plan: NewtonPlan,
    arrays: Batch | None,
    stack: ExitStack,
) -> Draft:
    if blockers := mixing(plan.solved, plan.batch, plan.solved.recovered, [p.x for p in plan.ends]):
        raise NotInvertibleError(blockers, source.name)
    choices = request.choices
    if request.prior is not None and not is_decoder(request.prior):
        choices = replace(choices, prior=arrays_of(request.prior, plan.problem, stack))
    if arrays is None and choices.prior is not None:
        arrays = some_of(choices.prior, plan, request.count(plan))
    options = choices.options(plan, arrays)
    within = box(plan, options.bounds)
    metadata = metadata_of(source, plan, options, choices.kind)
    make = partial(build_newton, plan, opset=request.opset, metadata=metadata)
    made, runs = None, None
    if choices.iterations is None:
        request.tell("starts")
        bench = Bench(plan, source, make)
        options, made, runs = with_starts(plan, options, arrays, choices.prior, decoder, bench)
    emit = _Made(partial(make, options), made)
    placed = arrays is not None or request.choices.needs_newton
    notes = [] if placed or not (said := _in_other_units(plan)) else [said]
    return Draft(plan, emit, None, metadata, arrays, within, choices.kind, notes, runs=runs)


class _Made:
    """What makes an inverse, of which the first may be there already; it is handed over, and not kept."""

    def __init__(self, make: Callable[[], Inverse], made: Inverse | None) -> None:
        self._make, self._made = make, made

    def __call__(self) -> Inverse:
        made, self._made = self._made, None
        return self._make() if made is None else made


def _in_other_units(plan: NewtonPlan) -> str:
    """What is to be said where the first layers take x in units that no drawn x has; nothing where they do not."""
    front = plan.systems[-1].front
    if front is None:
        return ""
    weights = np.linalg.norm(front.weight, axis=1)
    first, last = np.quantile(np.log(weights[weights > 0]), (0.25, 0.75)) if weights.any() else (0.0, 0.0)
    if last - first <= np.log(APART):
        return ""
    units = f"{np.exp(first - last):.0e} to 1"
    return (
        f"the first layers take the numbers of x in units that differ ({units} between quartiles), and no sample that "
        "is drawn to verify on does: --data  gives real ones, --bounds or --prior  say where x lies and in which units"
    )


def _closed_form(request: Request, source: Source, plan: Plan | SystemPlan, arrays: Batch | None) -> Draft:
    choices = request.choices
    if choices.residual and request.lossless:
        raise UsageError("--residual: a closed form that takes latents has no residual output; leave one out.")
    notes = []
    if isinstance(plan, SystemPlan) and plan.redundant and not choices.residual:
        notes.append(_left_over(plan))
    idle = choices.idle(unrolled=isinstance(plan, SystemPlan) and plan.iterates)
    metadata = metadata_of(source, plan)
    make: Callable[..., Inverse]
    if isinstance(plan, Plan):
        make = partial(build, plan, opset=request.opset)
        asked = partial(make, metadata=metadata, residual=choices.residual)
    else:
        make = partial(build_system, plan, opset=request.opset)
        asked = partial(
            make, metadata=metadata, residual=choices.residual, unroll=choices.unroll, log_det=request.log_det
        )
    within = plan.bounds if isinstance(plan, SystemPlan) else {}
    return Draft(plan, asked, partial(make, instrumented=True), metadata, arrays, within, notes=notes, idle=idle)


def _left_over(plan: SystemPlan) -> str:
    """Equations that x does not need hold for the y that f gives, and for no other."""
    names = [repr(node.name or node.op_type) for node in plan.redundant]
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"x is determined without {listed}; --residual  says of each sample how far a y disagrees with them"
