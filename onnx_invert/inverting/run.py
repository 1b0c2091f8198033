"""From a request to files: plan, build, stage, try, and only then write."""

from __future__ import annotations

import tempfile
import time
import warnings
from contextlib import ExitStack
from pathlib import Path

from onnx_invert.collection import seldom_collected
from onnx_invert.errors import NotInvertibleError, VerificationError
from onnx_invert.graph.write import commit_both, staged
from onnx_invert.inversion import Inversion
from onnx_invert.inverting.draft import make_draft
from onnx_invert.inverting.pair import pair_with
from onnx_invert.inverting.request import Request
from onnx_invert.inverting.trial import tried
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.plan.plan import Plan
from onnx_invert.plan.problem import pose
from onnx_invert.planning import arrays_of, prepare
from onnx_invert.stating import failure_text, pair_failure_text, pair_report_of, relabel, report_of, why_none


def run(request: Request) -> Inversion:
    """Invert; errors and result as `invert` describes them."""
    started = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(seldom_collected())
        source, decoder = request.open(stack)
        try:
            draft = make_draft(request, source, decoder, stack)
        except NotInvertibleError as error:
            return _with_latents(request, error)
        if draft.idle:
            warnings.warn(draft.idle, stacklevel=3)
        plan, inverse, lossless = draft.plan, draft.build(), None
        if request.lossless:
            request.tell("lossless pair")
            lossless = pair_with(
                request,
                source,
                plan.problem,
                draft.arrays,
                plain=lambda: draft.build().model,
                closed_form=isinstance(plan, Plan),
                metadata=draft.metadata,
            )
            inverse.model = lossless.inverse
        target, beside = request.target, request.beside
        if target is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="onnx-invert-"))
        file = stack.enter_context(staged(inverse.model, target or Path(folder) / "inverse.onnx"))
        other = (
            stack.enter_context(staged(lossless.forward, beside))
            if lossless is not None and beside is not None
            else None
        )
        kept = inverse.model if target is None else None
        del inverse  # its weights are in the staged file
        trial = tried(request, draft, source, decoder, file.path)
        measured, back = trial.measured, None if lossless is None else lossless.measured
        failed = (measured is not None and not measured.passed) or (back is not None and not back.passed)
        partly = measured is not None and measured.unsolved > 0
        guarantee = Guarantee.APPROXIMATE if failed or partly else trial.guarantee
        report = report_of(source, plan, guarantee, measured, draft.kind, time.perf_counter() - started)
        if lossless is not None:
            report["lossless"] = lossless.report
        notes = tuple(note for note in (*draft.notes, draft.idle, trial.note) if note)
        result = Inversion(plan, guarantee, measured, report, None, kept, notes, lossless)
        if failed and measured is not None and not request.force:
            text = (
                failure_text(plan, measured, placed=request.choices.needs_newton)
                if not measured.passed or back is None
                else pair_failure_text(back)
            )
            failure = VerificationError(text, result)
            if back is not None and back.passed:
                return _with_latents(request, failure)
            raise failure
        if guarantee is not plan.guarantee:
            relabel(file.path, kept, guarantee)
        if target is not None:
            commit_both(other, file)
            result.path = target
        return result


def _with_latents(request: Request, error: NotInvertibleError | VerificationError) -> Inversion:
    """The pair alone, where `error` says why there is no inverse from y alone; `error` where that will not do.

    g⁺(f⁺(x)) = x holds by what each operation keeps, whether or not some g(y) with f(g(y)) = y is found.

    Raises:
        ModelError, UsageError: as for `invert`.
        NotInvertibleError: inputs to recover that are not floating-point.
        VerificationError: x does not come back; nothing was written.
    """
    if not request.takes_latents:
        raise error
    request.tell("lossless pair")
    started, why = time.perf_counter(), why_none(error)
    with ExitStack() as stack:
        source, _ = request.open(stack)
        prepare(source)
        problem = pose(source.model, request.recover, request.known)
        pair = pair_with(request, source, problem, arrays_of(request.data, problem, stack), why=why)
        back = pair.measured
        trip = None if back is None else back.round_trip("drawn" if request.data is None else "given data")
        failed = back is not None and not back.passed
        guarantee = Guarantee.APPROXIMATE if failed else Guarantee.LEFT
        report = pair_report_of(source, problem, pair, guarantee, trip, time.perf_counter() - started)
        notes = (f"z must be given: {pair.given}",) if pair.given else ()
        if failed:
            pair.inverse.metadata_props["onnx_invert.guarantee"] = guarantee.value
        target, beside = request.target, request.beside
        kept = pair.inverse if target is None else None
        result = Inversion(None, guarantee, trip, report, None, kept, notes, pair)
        if back is not None and failed and not request.force:
            raise VerificationError(pair_failure_text(back), result)
        if target is not None:
            file = stack.enter_context(staged(pair.inverse, target))
            commit_both(None if beside is None else stack.enter_context(staged(pair.forward, beside)), file)
            result.path = target
        return result
