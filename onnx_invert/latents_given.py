"""Lossless pairs of networks without an inverse from y alone: z must be given, and x from both is the promise.

g⁺(f⁺(x)) = x holds by what each operation keeps, whether or not some g(y) with f(g(y)) = y is found.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from onnx_invert.errors import NotInvertibleError, VerificationError
from onnx_invert.graph.read import Source
from onnx_invert.graph.write import commit_both, staged
from onnx_invert.inversion import Inversion
from onnx_invert.lossless import LosslessPair, make_pair
from onnx_invert.opening import ModelLike, open_model
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.plan.problem import Problem, pose
from onnx_invert.planning import Data, arrays_of, make_plan, prepare
from onnx_invert.rules import RuleSet, default_rules
from onnx_invert.samples import SAMPLES, cut, ports_of
from onnx_invert.stating import pair_failure_text, pair_metadata_of, pair_report_of, why_none


def invert_with_latents(
    model: ModelLike,
    target: Path | None,
    beside: Path | None,
    error: NotInvertibleError | VerificationError,
    *,
    recover: Sequence[str],
    known: Sequence[str],
    latents: str,
    opset: int | None,
    data: Data | None,
    samples: int | None,
    rtol: float | None,
    verify: bool,
    force: bool,
    rules: RuleSet,
) -> Inversion:
    """The pair alone, where `error` says why there is no inverse from y alone. g⁺ goes to `target`,
    f⁺ to `beside`.

    Raises:
        ModelError, UsageError: as for `invert`.
        NotInvertibleError: inputs to recover that are not floating-point.
        VerificationError: x does not come back; nothing was written.
    """
    started, why = time.perf_counter(), why_none(error)
    with ExitStack() as stack:
        source = open_model(model, stack)
        prepare(source)
        problem = pose(source.model, recover, known)
        pair = _pair(
            stack,
            source,
            problem,
            rules,
            why,
            data,
            samples,
            latents,
            record=True,
            rtol=rtol,
            verify=verify,
            opset=opset,
        )
        back = pair.measured
        trip = None if back is None else back.round_trip("drawn" if data is None else "given data")
        failed = back is not None and not back.passed
        guarantee = Guarantee.APPROXIMATE if failed else Guarantee.LEFT
        report = pair_report_of(source, problem, pair, guarantee, trip, time.perf_counter() - started)
        notes = (f"z must be given: {pair.given}",) if pair.given else ()
        if failed:
            pair.inverse.metadata_props["onnx_invert.guarantee"] = guarantee.value
        kept = pair.inverse if target is None else None
        result = Inversion(None, guarantee, trip, report, None, kept, notes, pair)
        if back is not None and failed and not force:
            raise VerificationError(pair_failure_text(back), result)
        if target is not None:
            file = stack.enter_context(staged(pair.inverse, target))
            commit_both(None if beside is None else stack.enter_context(staged(pair.forward, beside)), file)
            result.path = target
        return result


def explain_lossless(
    model: ModelLike,
    *,
    recover: Sequence[str] = (),
    known: Sequence[str] = (),
    data: Data | None = None,
    samples: int | None = None,
    rules: RuleSet | None = None,
) -> LosslessPair:
    """What `invert` with `lossless` would keep of x, and what that costs; nothing is written.

    The pair is built and tried. The inverse from y alone is planned only: `given` of the result says why there is
    none, and is empty where there is a plan, which `invert` then tries. Arguments and errors as for `invert`.
    """
    rules = rules or default_rules()
    with ExitStack() as stack:
        source = open_model(model, stack)
        why = ""
        try:
            problem = make_plan(source, recover, known, rules, "auto", None, None, False, raising=False).problem
        except NotInvertibleError as error:
            why = why_none(error)
            problem = pose(source.model, recover, known)
        return _pair(stack, source, problem, rules, why, data, samples, "flat")


def _pair(
    stack: ExitStack,
    source: Source,
    problem: Problem,
    rules: RuleSet,
    why: str,
    data: Data | None,
    samples: int | None,
    layout: str,
    *,
    record: bool = False,
    rtol: float | None = None,
    verify: bool = True,
    opset: int | None = None,
) -> LosslessPair:
    """Built without an inverse from y alone and tried; with `record` it holds what data say of plausible x."""
    ports, arrays = ports_of(problem.inputs), arrays_of(data, problem, stack)
    first = problem.recovered[0].name or ""
    return make_pair(
        problem,
        rules,
        network=source,
        plain=None,
        why=why,
        closed_form=False,
        layout=layout,
        ports=ports,
        batches=None if arrays is None else list(cut(arrays, ports, first, samples)),
        data=None if arrays is None or not record else list(cut(arrays, ports, first, None)),
        count=samples or SAMPLES,
        rtol=rtol,
        verify=verify,
        opset=opset,
        metadata=pair_metadata_of(source),
    )
