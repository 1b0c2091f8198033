"""What is said of an inversion: in the file's metadata, in the report, in the message when it fails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_invert._version import __version__
from onnx_invert.build.newton.inverse import Options
from onnx_invert.errors import NotInvertibleError, VerificationError
from onnx_invert.graph.read import Source
from onnx_invert.graph.write import restate
from onnx_invert.lossless import LosslessPair
from onnx_invert.pairs import Return
from onnx_invert.plan.bounded import BoundedPlan
from onnx_invert.plan.choice import AnyPlan, tried
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.plan.newton import NewtonPlan
from onnx_invert.plan.problem import Problem, left_out
from onnx_invert.plan.system_plan import SystemPlan
from onnx_invert.report import document
from onnx_invert.trips import RoundTrip, round_up


def metadata_of(
    source: Source, plan: AnyPlan, options: Options | None = None, prior: str | None = None
) -> dict[str, str]:
    """The entries of the inverse's metadata."""
    entries = {
        "onnx_invert.version": __version__,
        "onnx_invert.model_sha256": source.sha256,
        "onnx_invert.guarantee": plan.guarantee.value,
        "onnx_invert.evidence": _evidence(plan),
        "onnx_invert.method": method_of(plan),
    }
    if plan.requirements:
        entries["onnx_invert.requirements"] = "\n".join(plan.requirements)
    if options is not None:
        entries["onnx_invert.iterations"] = str(options.unroll or options.iterations)
        entries["onnx_invert.tolerance"] = f"{options.solved(plan.dtypes[0]):.3g}"
    if prior is not None:
        entries["onnx_invert.prior"] = prior
    if isinstance(plan, NewtonPlan) and plan.decoder is not None:
        entries["onnx_invert.decoder_sha256"] = plan.decoder.sha256
    return entries


def pair_metadata_of(source: Source) -> dict[str, str]:
    """The entries of an inverse that is one of y and z only: x comes back from both, by what its operations lose."""
    return {
        "onnx_invert.version": __version__,
        "onnx_invert.model_sha256": source.sha256,
        "onnx_invert.guarantee": Guarantee.LEFT.value,
        "onnx_invert.evidence": "proven",
        "onnx_invert.method": "closed-form",
    }


def pair_report_of(
    source: Source,
    problem: Problem,
    pair: LosslessPair,
    guarantee: Guarantee,
    measured: RoundTrip | None,
    seconds: float,
) -> dict[str, Any]:
    """The JSON report of such an inversion: guarantee and round trip are those of f⁺ and g⁺."""
    return {
        "model": str(source.path) if source.path is not None else "",
        "sha256": source.sha256,
        "guarantee": guarantee.value,
        "planned_guarantee": Guarantee.LEFT.value,
        "evidence": "proven",
        "tried": [],
        "method": "closed-form",
        "prior": None,
        "requirements": pair.plan.requirements,
        "images": {value.name: None for value in problem.known},
        "condition": document.number(pair.plan.condition),
        "plan": [],
        **_ends(problem),
        "known": pair.known,
        "unused_outputs": [value.name for value in problem.graph.outputs if value.name not in pair.known],
        "lossless": pair.report,
        "round_trip": None if measured is None else document.round_trip(measured),
        "seconds": round(seconds, 3),
        "version": __version__,
    }


def why_none(error: NotInvertibleError | VerificationError) -> str:
    """Why there is no inverse from y alone, in a line."""
    if isinstance(error, NotInvertibleError):
        first = error.blockers[0]
        more = f" (and {len(error.blockers) - 1} more)" if len(error.blockers) > 1 else ""
        return f"no inverse from y alone is planned: node {first.node!r} ({first.op}): {first.reason}{more}"
    measured, plan = error.inversion.round_trip, error.inversion.plan
    assert measured is not None
    assert plan is not None
    bad = max(trip.broken + trip.lost for trip in measured.promised)
    return (
        f"the inverse from y alone does not pass: {plan.guarantee.equation} ({plan.guarantee.value}) fails on {bad} "
        f"of {measured.samples} samples, the worst error is {max(trip.worst for trip in measured.promised):.2g}"
    )


def method_of(plan: AnyPlan) -> str:
    """The method as metadata and report name it."""
    if isinstance(plan, NewtonPlan):
        return "newton"
    if isinstance(plan, BoundedPlan):
        return f"{method_of(plan.closed)}+newton"
    return "equations" if isinstance(plan, SystemPlan) and plan.iterates else "closed-form"


def report_of(
    source: Source,
    plan: AnyPlan,
    guarantee: Guarantee,
    measured: RoundTrip | None,
    prior: str | None,
    seconds: float,
) -> dict[str, Any]:
    """The JSON report of an inversion."""
    problem = plan.problem
    return {
        "model": str(source.path) if source.path is not None else "",
        "sha256": source.sha256,
        "guarantee": guarantee.value,
        "planned_guarantee": plan.guarantee.value,
        "evidence": _evidence(plan),
        "tried": tried(plan),
        "method": method_of(plan),
        "prior": prior,
        **_ends(problem),
        "left_out": left_out(problem),
        "requirements": plan.requirements,
        "images": {name: None if image is None else str(image) for name, image in plan.images.items()},
        "condition": document.number(plan.condition),
        "plan": document.plan_rows(plan),
        "round_trip": None if measured is None else document.round_trip(measured),
        "seconds": round(seconds, 3),
        "version": __version__,
    }


def _ends(problem: Problem) -> dict[str, list[str | None]]:
    return {
        "recovered": [value.name for value in problem.recovered],
        "known": [value.name for value in problem.known],
        "given": [value.name for value in problem.given],
        "unused_outputs": [value.name for value in problem.unused],
    }


def failure_text(plan: AnyPlan, measured: RoundTrip, *, placed: bool) -> str:
    """Why the verification failed, with the figures and what to do; `placed` if a prior or bounds say where x lies."""
    lines = [f"The inverse does not keep {plan.guarantee.equation} on all {measured.samples} samples."]
    names = {"x": measured.x, "y": measured.y, "drawn y": measured.drawn}
    for name, trip in names.items():
        if trip is not None and trip.promised and not trip.holds:
            total = trip.errors.size
            if trip.strict:
                lines.append(f"  {name}: {trip.broken} of {total} samples are above {trip.tolerance:.2g}")
            elif trip.broken:
                lines.append(f"  {name}: {trip.broken} of {total} samples are off by more than rounding explains")
            else:
                lines.append(f"  {name}: rounding leaves less than two digits of {trip.lost} of {total} samples")
            lines.append(
                f"  {name}: the worst error is {trip.worst:.3g}; rounding is amplified "
                f"{np.median(trip.amplification):.2g} times (median), up to {np.max(trip.amplification):.2g}"
            )
    if measured.solver:
        ways = [] if measured.source == "given data" else ["realistic inputs with --data"]
        ways += [] if placed else ["--bounds or --prior, which say where x lies and in which units"]
        lines.append(f"  try  {', '.join([*ways, 'more --iterations'])}, or --force to write it as approximate")
        return "\n".join(lines)
    if isinstance(plan, SystemPlan):
        lines += [f"  it is planned for what {text}" for text in plan.domains]
    if measured.clamped:
        lines.append(f"  {sum(measured.clamped.values())} values lay outside an image: {_listed(measured.clamped)}")
    finite = bool(np.isfinite(measured.needed))
    if not finite:
        lines += [f"  some of it is not finite; the guarantee rests on  {text}" for text in plan.requirements]
    wider = f"--rtol {round_up(measured.needed)}, " if finite else ""
    lines.append(f"  try  realistic inputs with --data, a float64 model, {wider}or --force to write it as approximate")
    return "\n".join(lines)


def pair_failure_text(back: Return) -> str:
    """Why the verification of a lossless pair failed."""
    bad = int(np.sum(~(back.relative <= back.tolerance)))
    return (
        f"x does not come back from y and the latents: {bad} of {back.relative.size} samples are off by more than "
        f"{back.tolerance:.2g} of the largest |x|, the worst by {back.relative.max():.2g}.\n"
        "  try  realistic inputs with --data, a float64 model, a larger --rtol, or --force to write it as approximate"
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} at {name!r}" for name, count in counts.items())


def _evidence(plan: AnyPlan) -> str:
    """What the guarantee rests on."""
    return "tried" if tried(plan) else "proven"


def relabel(path: Path, model: ir.Model | None, guarantee: Guarantee) -> None:
    """A file that failed must not carry the guarantee that was planned."""
    entry = {"onnx_invert.guarantee": guarantee.value}
    restate(path, entry)
    if model is not None:
        model.metadata_props.update(entry)
