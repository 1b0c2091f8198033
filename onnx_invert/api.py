"""The Python interface: `invert`, `check` and `explain`."""

from __future__ import annotations

import gc
import os
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.build.inverse import Inverse, build
from onnx_invert.build.newton.inverse import build_newton
from onnx_invert.build.system.inverse import build_system
from onnx_invert.collection import seldom_collected
from onnx_invert.errors import NotInvertibleError, UsageError, VerificationError
from onnx_invert.graph.read import Source
from onnx_invert.graph.write import check_target, commit_both, save, staged
from onnx_invert.inversion import Inversion
from onnx_invert.latents_given import explain_lossless, invert_with_latents
from onnx_invert.lossless import LosslessPair, make_pair
from onnx_invert.numerics.tolerance import eps
from onnx_invert.opening import ModelLike, open_model
from onnx_invert.plan.bounds import Ends
from onnx_invert.plan.choice import AnyPlan
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.plan.newton import NewtonPlan
from onnx_invert.plan.plan import Plan, Progress
from onnx_invert.plan.problem import Problem
from onnx_invert.plan.system_plan import SystemPlan
from onnx_invert.planning import Data, arrays_of, is_decoder, make_plan, some_of
from onnx_invert.rescue import with_starts
from onnx_invert.rules import RuleSet, default_rules
from onnx_invert.runtime import Session
from onnx_invert.samples import SAMPLES, cut, ports_of
from onnx_invert.separation import mixing
from onnx_invert.solving import Choices, beyond, box, decoded
from onnx_invert.stating import failure_text, metadata_of, pair_failure_text, relabel, report_of
from onnx_invert.verify import Pair
from onnx_invert.verify import verify as measure

__all__ = ["explain", "explain_lossless", "invert"]


def invert(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    recover: Sequence[str] = (),
    known: Sequence[str] = (),
    method: str = "auto",
    iterations: int | None = None,
    tolerance: float | None = None,
    unroll: int | None = None,
    residual: bool = False,
    log_det: bool = False,
    lossless: str | os.PathLike[str] | bool = False,
    latents: str = "flat",
    prior: Data | ModelLike | None = None,
    prior_kind: str | None = None,
    bounds: tuple[Any, Any] | None = None,
    opset: int | None = None,
    data: Data | None = None,
    samples: int | None = None,
    rtol: float | None = None,
    verify: bool = True,
    force: bool = False,
    rules: RuleSet | None = None,
    progress: Progress | None = None,
) -> Inversion:
    """Invert a trained network.

    Args:
        model: a path (.onnx; .keras or a SavedModel folder where TensorFlow is installed) or a ModelProto.
        output: where to write the inverse; it is written only after it passed. None keeps it in memory.
        recover: names of the inputs to recover; may be left out if one input is floating-point. The
            others stay inputs of the inverse.
        known: names of the outputs to recover them from; all by default.
        method: "closed-form", "newton" (solves f(x) = y inside the graph), or "auto": closed form where one keeps
            a promise, Newton where none does.
        iterations: Newton's at most, 100 by default.
        tolerance: relative residual at which Newton takes a sample for solved; 32 eps by default.
        unroll: write loops out, which some runtimes lack: this many of Newton's iterations; of equations, whatever the
            number, as many as they need.
        residual: give the inverse one more output, `residual`: ‖f(x) − y‖ / ‖y‖ of each sample.
        log_det: give the inverse one more output, `log_det`: log|det ∂x/∂y| of each sample. Bijections alone have it.
        lossless: where to write the network with what it loses as further outputs, the latents z; the inverse then
            takes them too, and x comes back from y and z. True keeps it in memory.
        latents: "flat" for one tensor `latent` (N, Z), "per-node" for one tensor each.
        prior: inputs of the model, as for `data`: of all x with f(x) = y Newton then looks for a plausible one. Or a
            decoder, a model (path ending in .onnx, or ModelProto) that makes x of normal numbers w: x is then one
            that it makes, of the least w.
        prior_kind: "conditional" (the default for data) centres the prior on a regression from y to x, "gaussian" on
            the data's mean.
        bounds: the least and the greatest x, two numbers or arrays in x's shape: Newton stays within them.
        opset: opset of the inverse, 13 to 23; 17 by default. Nodes of the model that it runs forwards are converted.
        data: inputs to verify on: an array or file for one input, names with arrays or an .npz for
            several. Drawn by default.
        samples: how many samples to draw (256), or to use of the data (all).
        rtol: relative tolerance, instead of the one that follows from type and condition.
        verify: False skips the round trips.
        force: write the inverse, labelled approximate, even if they fail.
        rules: the registry; `default_rules()` by default.
        progress: called with (what, done, total) as the work goes on.

    Returns:
        The plan, the report and the model.

    Raises:
        FileError, ModelError, UsageError: something is wrong with what was given.
        NotInvertibleError: no inverse can be promised; lists every node in the way.
        VerificationError: the round trips do not keep the promise; nothing was written.

        With `lossless` the first two concern the pair: where no inverse from y alone is planned, or none passes, z is
        an input that has to be given (`lossless.given` says why), unless `residual`, `log_det`, `prior` or `bounds`
        ask for such an inverse, or `force` writes the one that did not pass.
    """
    if (samples is not None and samples < 1) or (rtol is not None and not 0 <= rtol < np.inf):
        raise UsageError(f"samples has to be at least 1 and rtol a number from 0 on, not {samples} and {rtol}.")
    decoding = is_decoder(prior)
    to_fit: dict[str, NDArray[Any]] | None = None if prior is None or decoding else {}
    given = Choices(iterations, tolerance, unroll, residual, bounds, to_fit, prior_kind, decoding)
    given.check(method)
    if given.needs_newton:
        method = "newton"
    if log_det and method == "newton":
        raise UsageError("--log-det: Newton's method, a prior and bounds have no log-determinant; leave one out.")
    if latents != "flat" and lossless is False:
        raise UsageError(f"--latents {latents}: there are none without --lossless; leave one out, or give both.")
    started = time.perf_counter()
    notes: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(seldom_collected())
        source = open_model(model, stack)
        decoder = open_model(prior, stack) if is_decoder(prior) else None
        target = Path(output) if output is not None else None
        beside = None if isinstance(lossless, bool) else Path(lossless)
        if beside is not None and target is None:
            raise UsageError("lossless is a path, and the inverse has none: both are written, or neither.")
        if target is not None:
            read = [file for part in (source, decoder) if part is not None for file in part.files]
            read += [Path(file) for file in (data, prior) if isinstance(file, str | os.PathLike)]
            path = Path(model) if isinstance(model, str | os.PathLike) else None
            check_target(target, path, read)
            if beside is not None:
                check_target(beside, path, [*read, target])
        # What concerns an inverse from y alone needs one; without, a pair can do with y and z.
        with_latents = lossless is not False and not (residual or log_det or given.needs_newton)

        def latents_given(error: NotInvertibleError | VerificationError) -> Inversion:
            if not with_latents:
                raise error
            _tell(progress, "lossless pair")
            return invert_with_latents(
                model, target, beside, error, recover=recover, known=known, latents=latents, opset=opset, data=data,
                samples=samples, rtol=rtol, verify=verify, force=force, rules=rules or default_rules(),
            )  # fmt: skip

        raising = lossless is False
        try:
            plan = make_plan(
                source, recover, known, rules or default_rules(), method, progress, decoder, log_det, opset, raising
            )
        except NotInvertibleError as error:
            return latents_given(error)
        reached = plan.guarantee
        within = plan.bounds if isinstance(plan, SystemPlan) else {}
        arrays = arrays_of(data, plan.problem, stack)
        if isinstance(plan, NewtonPlan):
            if blockers := mixing(plan.solved, plan.batch, plan.solved.recovered, [p.x for p in plan.ends]):
                return latents_given(NotInvertibleError(blockers, source.name))
            if prior is not None and not is_decoder(prior):
                given = replace(given, prior=arrays_of(prior, plan.problem, stack))
            if arrays is None and given.prior is not None:
                arrays = some_of(given.prior, plan, samples or SAMPLES)
            options = given.options(plan, arrays)
            within = box(plan, options.bounds)
            if iterations is None:
                _tell(progress, "starts")
                options = with_starts(plan, options, arrays, given.prior)
            metadata = metadata_of(source, plan, options, given.kind)
            make = partial(build_newton, plan, options, opset=opset, metadata=metadata)
        else:
            if residual and lossless is not False:
                raise UsageError("--residual: a closed form that takes latents has no residual output; leave one out.")
            if isinstance(plan, SystemPlan) and plan.redundant and not residual:
                notes.append(_left_over(plan))
            iterates = isinstance(plan, SystemPlan) and plan.iterates
            if idle := given.idle(unrolled=iterates):
                notes.append(idle)
                warnings.warn(idle, stacklevel=2)
            metadata = metadata_of(source, plan)
            make = partial(
                _closed, plan, opset=opset, unroll=unroll, log_det=log_det, residual=residual, metadata=metadata
            )
        inverse = make()
        pair_of: LosslessPair | None = None
        if lossless is not False:
            _tell(progress, "lossless pair")
            ports = ports_of(plan.problem.inputs)
            first = plan.problem.recovered[0].name or ""
            pair_of = make_pair(
                plan.problem,
                rules or default_rules(),
                network=source,
                plain=lambda: make().model,
                closed_form=isinstance(plan, Plan),
                layout=latents,
                ports=ports,
                batches=None if arrays is None else list(cut(arrays, ports, first, samples)),
                data=None if data is None or arrays is None else list(cut(arrays, ports, first, None)),
                count=samples or SAMPLES,
                rtol=rtol,
                verify=verify,
                opset=opset,
                metadata=metadata,
            )
            inverse.model = pair_of.inverse
        if target is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="onnx-invert-"))
            staging = Path(folder) / "inverse.onnx"
        else:
            staging = target
        file = stack.enter_context(staged(inverse.model, staging))
        other = (
            stack.enter_context(staged(pair_of.forward, beside))
            if pair_of is not None and beside is not None
            else None
        )
        kept = inverse.model if target is None else None
        measured = None
        if verify:
            _tell(progress, "verification")
            pair = _pair(source, plan, file.path, opset, within)
            del inverse
            if target is not None:
                plan.release()
                # Graphs are full of cycles: without a collection their weights outlive them.
                gc.collect()
            batches = None if arrays is None else list(cut(arrays, pair.ports, pair.main, samples))
            if batches is None and decoder is not None and isinstance(plan, NewtonPlan):
                batches = decoded(plan, decoder, samples or SAMPLES)
            if bounds is not None and batches is not None:
                told = beyond(bounds, batches, pair.recovered, rows=pair.has_batch)
                notes += [] if told is None else [told]
            solver = isinstance(plan, NewtonPlan)
            held = rtol if rtol is not None or not solver else tolerance
            measured = measure(
                pair, plan.guarantee, plan.images, data=batches, count=samples or SAMPLES, rtol=held, solver=solver
            )
            if solver and plan.guarantee is Guarantee.LEFT and measured.only_x_fails:
                # More equations than unknowns, and yet not one-to-one: every reachable y is reproduced, by another x.
                measured = replace(measured, x=replace(measured.x, promised=False))
                reached = Guarantee.GENERALIZED
            if isinstance(plan, SystemPlan) and measured.only_drawn_fails and measured.drawn is not None:
                # A function that rises throughout need not rise to every y, and a scale that underflows divides by
                # zero: x comes back, and that is all.
                measured = replace(measured, drawn=replace(measured.drawn, promised=False))
                reached = Guarantee.GENERALIZED if plan.solves else Guarantee.LEFT
        elif isinstance(plan, SystemPlan) and plan.has_roots:
            # That every y is reached is measured, or not said.
            reached = Guarantee.GENERALIZED if plan.solves else Guarantee.LEFT
        back = None if pair_of is None else pair_of.measured
        failed = (measured is not None and not measured.passed) or (back is not None and not back.passed)
        partly = measured is not None and measured.unsolved > 0
        guarantee = Guarantee.APPROXIMATE if failed or partly else reached
        report = report_of(source, plan, guarantee, measured, given.kind, time.perf_counter() - started)
        if pair_of is not None:
            report["lossless"] = pair_of.report
        result = Inversion(plan, guarantee, measured, report, None, kept, tuple(notes), pair_of)
        if failed and measured is not None and not force:
            text = failure_text(plan, measured) if not measured.passed or back is None else pair_failure_text(back)
            failure = VerificationError(text, result)
            if back is not None and back.passed:
                return latents_given(failure)
            raise failure
        if guarantee is not plan.guarantee:
            relabel(file.path, kept, guarantee)
        if target is not None:
            commit_both(other, file)
            result.path = target
        return result


def explain(
    model: ModelLike,
    *,
    recover: Sequence[str] = (),
    known: Sequence[str] = (),
    method: str = "auto",
    prior: Data | ModelLike | None = None,
    rules: RuleSet | None = None,
    progress: Progress | None = None,
) -> AnyPlan:
    """The plan of an inversion, without building anything. Arguments and errors as for `invert`.

    Of a prior the plan knows that it takes the solver; data are not read, a decoder is.
    """
    Choices(prior=None if prior is None or is_decoder(prior) else {}, decoder=is_decoder(prior)).check(method)
    with ExitStack() as stack:
        stack.enter_context(seldom_collected())
        source = open_model(model, stack)
        decoder = open_model(prior, stack) if is_decoder(prior) else None
        method = method if prior is None else "newton"
        return make_plan(source, recover, known, rules or default_rules(), method, progress, decoder, False)


def _left_over(plan: SystemPlan) -> str:
    """Equations that x does not need hold for the y that f gives, and for no other."""
    names = [repr(node.name or node.op_type) for node in plan.redundant]
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"x is determined without {listed}; --residual  says of each sample how far a y disagrees with them"


def _closed(
    plan: Plan | SystemPlan,
    *,
    opset: int | None,
    unroll: int | None = None,
    log_det: bool = False,
    residual: bool = False,
    metadata: Mapping[str, str] | None = None,
    instrumented: bool = False,
) -> Inverse:
    """The graph of an inverse that needs no solver for the whole."""
    if isinstance(plan, Plan):
        return build(plan, opset=opset, metadata=metadata, instrumented=instrumented, residual=residual)
    return build_system(
        plan,
        opset=opset,
        unroll=unroll,
        log_det=log_det,
        metadata=metadata,
        instrumented=instrumented,
        residual=residual,
    )


def _pair(source: Source, plan: AnyPlan, path: Path, opset: int | None, within: Mapping[str, Ends]) -> Pair:
    problem = plan.problem
    instrumented = None
    shaken = path.with_name("instrumented.onnx")
    if not isinstance(plan, NewtonPlan):
        instrumented = _closed(plan, opset=opset, instrumented=True)
        save(instrumented.model, shaken)
    forward = source.path if source.path is not None else source.data
    return Pair(
        forward=partial(Session, forward, source.name),
        inverse=partial(Session, path, "the inverse"),
        instrumented=partial(Session, shaken, "the instrumented inverse") if instrumented is not None else None,
        ports=ports_of(problem.inputs),
        recovered=[value.name or "" for value in problem.recovered],
        given=[value.name or "" for value in problem.given],
        known=[value.name or "" for value in problem.known],
        dtype=np.dtype((problem.known[0].dtype or ir.DataType.FLOAT).numpy()),
        eps=max(eps(dtype.numpy()) for dtype in plan.dtypes),
        probes=instrumented.probes if instrumented is not None else (),
        eta=instrumented.eta if instrumented is not None else "",
        axes=_sample_axes(problem),
        bounds=within,
    )


def _sample_axes(problem: Problem) -> dict[str, int]:
    """Where the batch lies in known outputs that have it on another axis than the first."""
    dims = [None if isinstance(d, int) else d.value for d in problem.recovered[0].shape or ()]
    if not dims or dims[0] is None:
        return {}
    axes = {}
    for value in problem.known:
        symbols = [None if isinstance(d, int) else d.value for d in value.shape or ()]
        if dims[0] in symbols[1:] and symbols[0] != dims[0]:
            axes[value.name or ""] = symbols.index(dims[0])
    return axes


def _tell(progress: Progress | None, what: str) -> None:
    if progress is not None:
        progress(what, 1, 1)
