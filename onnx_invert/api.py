"""The Python interface: `invert`, `explain` and `explain_lossless`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onnx_invert.collection import seldom_collected
from onnx_invert.errors import NotInvertibleError
from onnx_invert.graph.given_sizes import GivenShapes
from onnx_invert.inversion import Inversion
from onnx_invert.inverting.pair import pair_with
from onnx_invert.inverting.request import Request
from onnx_invert.inverting.run import run
from onnx_invert.lossless import LosslessPair
from onnx_invert.opening import ModelLike, open_model
from onnx_invert.plan.choice import AnyPlan
from onnx_invert.plan.plan import Progress
from onnx_invert.plan.problem import pose
from onnx_invert.planning import Data, arrays_of, is_decoder, make_plan
from onnx_invert.rules import RuleSet, default_rules
from onnx_invert.solving import Choices
from onnx_invert.stating import why_none

__all__ = ["explain", "explain_lossless", "invert"]


def invert(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    recover: Sequence[str] = (),
    known: Sequence[str] = (),
    shapes: GivenShapes | None = None,
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
        shapes: sizes of inputs to fix, by name: {"image": ("N", 3, 224, 224)}. A number fixes a size that the model
            leaves open, anything else leaves it open. The inverse is for these sizes.
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
        bounds: the least and the greatest x: two numbers, arrays in x's shape, or mappings from inputs' names to such.
            Newton stays within them. An infinite end leaves x free on that side, equal ends fix a number of it. Where
            a closed form has the only x of a y, and it lies within, it is taken.
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
    decoding = is_decoder(prior)
    # Whether there are data for a prior matters at once; they are read when the model's inputs are known.
    to_fit: dict[str, NDArray[Any]] | None = None if prior is None or decoding else {}
    return run(
        Request(
            model=model,
            recover=recover,
            known=known,
            shapes=shapes,
            target=None if output is None else Path(output),
            beside=None if isinstance(lossless, bool) else Path(lossless),
            lossless=lossless is not False,
            latents=latents,
            method=method,
            choices=Choices(iterations, tolerance, unroll, residual, bounds, to_fit, prior_kind, decoding),
            prior=prior,
            log_det=log_det,
            opset=opset,
            data=data,
            samples=samples,
            rtol=rtol,
            verify=verify,
            force=force,
            rules=rules or default_rules(),
            progress=progress,
        )
    )


def explain(
    model: ModelLike,
    *,
    recover: Sequence[str] = (),
    known: Sequence[str] = (),
    shapes: GivenShapes | None = None,
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
        source = open_model(model, stack, shapes)
        decoder = open_model(prior, stack) if is_decoder(prior) else None
        method = method if prior is None else "newton"
        return make_plan(source, recover, known, rules or default_rules(), method, progress, decoder, False)


def explain_lossless(
    model: ModelLike,
    *,
    recover: Sequence[str] = (),
    known: Sequence[str] = (),
    shapes: GivenShapes | None = None,
    data: Data | None = None,
    samples: int | None = None,
    rules: RuleSet | None = None,
) -> LosslessPair:
    """What `invert` with `lossless` would keep of x, and what that costs; nothing is written.

    The pair is built and tried. The inverse from y alone is planned only: `given` of the result says why there is
    none, and is empty where there is a plan, which `invert` then tries. Arguments and errors as for `invert`.
    """
    request = Request(
        model, shapes, recover, known, lossless=True, data=data, samples=samples, rules=rules or default_rules()
    )
    with ExitStack() as stack:
        source, _ = request.open(stack)
        why = ""
        try:
            problem = make_plan(
                source, recover, known, request.rules, "auto", None, None, False, raising=False
            ).problem
        except NotInvertibleError as error:
            why = why_none(error)
            problem = pose(source.model, recover, known)
        return pair_with(request, source, problem, arrays_of(data, problem, stack), why=why, record=False)
