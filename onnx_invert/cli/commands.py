"""The commands. Each parses, calls the library and renders; imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_invert._version import __version__
from onnx_invert.cli.options import (
    Data,
    Known,
    Method,
    Model,
    Quiet,
    Recover,
    Report,
    Rtol,
    Samples,
    Shape,
    check_graph,
    check_targets,
    finite,
)

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Write the inverse of a trained ONNX network as another ONNX file, verified by round trips.\n\n"
    "onnx-invert MODEL -o INVERSE  is short for  onnx-invert invert MODEL -o INVERSE.\n\n"
    "Exit codes: 0 written and verified; 1 verification failed; 2 usage, file or model error; 3 not invertible; "
    "101 a bug.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onnx-invert {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Shown by --help from the application's own text."""


@app.command()
def invert(
    model: Model,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="INVERSE", help="Where to write the inverse.")
    ] = None,
    recover: Recover = None,
    known: Known = None,
    shape: Shape = None,
    method: Method = "auto",
    iterations: Annotated[
        int | None, typer.Option("--iterations", metavar="K", help="Newton iterations at most; 100 by default.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            metavar="R",
            callback=finite,
            help="Relative residual at which Newton takes a sample for solved; 32 eps by default.",
        ),
    ] = None,
    unroll: Annotated[
        int | None,
        typer.Option(
            "--unroll",
            metavar="K",
            help="Write loops out, for runtimes without Loop: K of Newton's iterations; of equations, whatever K, as "
            "many as they need.",
        ),
    ] = None,
    residual: Annotated[
        bool, typer.Option("--residual", help="Add the output residual: ‖f(x) − y‖ / ‖y‖ of each sample.")
    ] = False,
    log_det: Annotated[
        bool, typer.Option("--log-det", help="Add the output log_det: log|det ∂x/∂y| of each sample.")
    ] = False,
    lossless: Annotated[
        Path | None,
        typer.Option(
            "--lossless",
            metavar="FORWARD.onnx",
            help="Write the network with what it loses as outputs; from these x comes back.",
        ),
    ] = None,
    latents: Annotated[
        str, typer.Option("--latents", metavar="LAYOUT", help="flat: one tensor of all latents; or per-node.")
    ] = "flat",
    prior: Annotated[
        Path | None,
        typer.Option(
            "--prior",
            metavar="DATA.npy|DATA.npz|DECODER.onnx",
            help="Inputs of the model, or a network that makes them: return a plausible x (Newton).",
        ),
    ] = None,
    prior_kind: Annotated[
        str | None,
        typer.Option(
            "--prior-kind",
            metavar="KIND",
            help="Of data: conditional, around a regression from y, which is the default; or gaussian.",
        ),
    ] = None,
    bounds: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--bounds",
            metavar="LOW HIGH",
            help="Keep x within these (Newton): numbers, .npy files in x's shape, or .npz by input. inf is no end, "
            "equal ends fix a number.",
        ),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(
            "--opset", metavar="N", help="Opset of the inverse, 13 to 23; 17 by default. Copied nodes are converted."
        ),
    ] = None,
    data: Data = None,
    samples: Samples = None,
    rtol: Rtol = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Write without trying it.")] = False,
    report: Report = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but write.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write even if it fails, labelled approximate.")] = False,
    quiet: Quiet = False,
) -> None:
    """Invert MODEL and write the inverse (the default command)."""
    from onnx_invert import api
    from onnx_invert.cli import inputs, render
    from onnx_invert.errors import FileError, UsageError, VerificationError
    from onnx_invert.report import document

    if output is None and not dry_run:
        raise UsageError("Where should the inverse go? Give -o INVERSE, or --dry-run to write nothing.")
    target = None if dry_run else output
    ends = [Path(end) for end in bounds or () if end.endswith(inputs.BOUNDS)]
    check_targets(target, report, model, data, prior, *ends, *([] if target is None else [lossless]))
    failure: VerificationError | None = None
    with render.progress(quiet) as progress:
        try:
            inversion = api.invert(
                model,
                target,
                recover=recover or (),
                known=known or (),
                shapes=inputs.shapes(shape),
                method=method,
                iterations=iterations,
                tolerance=tolerance,
                unroll=unroll,
                residual=residual,
                log_det=log_det,
                lossless=lossless is not None if lossless is None or target is None else lossless,
                latents=latents,
                prior=prior,
                prior_kind=prior_kind,
                bounds=None if bounds is None else (inputs.bound(bounds[0]), inputs.bound(bounds[1])),
                opset=opset,
                data=data,
                samples=samples,
                rtol=rtol,
                verify=not no_verify,
                force=force,
                progress=progress,
            )
        except VerificationError as error:
            failure, inversion = error, error.inversion
    inversion.report["model"] = str(model)
    for note in inversion.notes:
        render.message(f"note: {note}")
    if report is not None:
        try:
            document.write(inversion.report, report)
        except FileError as error:
            written = f" The inverse itself is in {str(output)!r}." if inversion.path is not None else ""
            raise FileError(f"{error}{written}") from error
    if not quiet:
        render.inversion(inversion)
    if failure is not None:
        render.message(f"error: {failure}")
    trips = (inversion.round_trip, None if inversion.lossless is None else inversion.lossless.measured)
    failed = failure is not None or any(trip is not None and not trip.passed for trip in trips)
    render.last_line(inversion, failed=failed)
    if failed:
        raise typer.Exit(1)  # with --force too: it was written, but it was not verified


@app.command()
def check(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The network f.")],
    inverse: Annotated[Path, typer.Argument(metavar="INVERSE", help="Its inverse g, whoever wrote it.")],
    data: Data = None,
    samples: Samples = None,
    rtol: Rtol = None,
    report: Report = None,
    quiet: Quiet = False,
) -> None:
    """Measure the round trips of two files."""
    from onnx_invert.cli import render
    from onnx_invert.comparison import check as measure
    from onnx_invert.report import document

    check_targets(None, report, model, inverse, data)
    result = measure(model, inverse, data=data, samples=samples, rtol=rtol)
    if report is not None:
        document.write(result.report, report)
    render.check(result, quiet=quiet)
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def explain(
    model: Model,
    recover: Recover = None,
    known: Known = None,
    shape: Shape = None,
    method: Method = "auto",
    prior: Annotated[
        Path | None,
        typer.Option("--prior", metavar="DATA|DECODER.onnx", help="As for invert: it takes the solver."),
    ] = None,
    graph: Annotated[
        Path | None,
        typer.Option(
            "--graph", metavar="FILE.svg", help="Draw the network and, beside it, what is undone by which step."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="X.npy|X.npz", help="Inputs of the model: measure what each layer holds of x."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, metavar="N", help="Use the first N of the data; all by default.")
    ] = None,
    report: Report = None,
    lossless: Annotated[
        bool,
        typer.Option("--lossless", help="Print what --lossless would keep, and what it costs in time and memory."),
    ] = False,
    chart: Annotated[
        Path | None, typer.Option("--chart", metavar="FILE.png|svg", help="Draw what is measured on the data.")
    ] = None,
) -> None:
    """Print the plan of an inversion, or what each layer holds of x on --data; writes no model."""
    from onnx_invert import api
    from onnx_invert.cli import inputs, render
    from onnx_invert.errors import FileError, UsageError

    shapes = inputs.shapes(shape)
    if lossless:
        if chart or report or graph or prior is not None or method != "auto":
            raise UsageError(
                "--lossless is about the network itself: leave --chart, --graph, --report, --prior and --method out."
            )
        render.lossless(
            api.explain_lossless(
                model, recover=recover or (), known=known or (), shapes=shapes, data=data, samples=samples
            )
        )
        return
    if data is None and (chart or report or samples):
        raise UsageError("--chart, --report and --samples are about what is measured on data: give --data X.npy.")
    if data is not None:
        from onnx_invert.cli import leaks

        if prior is not None or method != "auto":
            raise UsageError("--data measures the network itself, of which --prior and --method say nothing.")
        if graph is not None:
            raise UsageError("--graph draws the plan, which --data does not make: leave one of them out.")
        check_targets(None, report, model, data, chart)
        leaks.show(
            model,
            data,
            recover=recover or (),
            known=known or (),
            shapes=shapes,
            samples=samples,
            report=report,
            picture=chart,
        )
        return
    if graph is not None:
        check_graph(graph, model, prior)
    if prior is not None and not prior.exists():
        raise FileError(f"There is no file {str(prior)!r}.")
    with render.progress(False) as progress:
        plan = api.explain(
            model,
            recover=recover or (),
            known=known or (),
            shapes=shapes,
            method=method,
            prior=prior,
            progress=progress,
        )
    render.plan(plan)
    render.promise(plan)
    if graph is not None:
        from onnx_invert.report.drawing import svg

        svg.write(plan, model.name, graph)
        render.message(f"{graph}: the network and its inverse")


@app.command()
def run(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file: a network or an inverse.")],
    arrays: Annotated[
        Path, typer.Option("--input", "-i", metavar="Y.npy", help="Its input; .npz by name if it takes several.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="X.npy", help="Its output; .npz if it has several.")
    ],
    image: Annotated[
        Path | None, typer.Option("--image", metavar="PNG", help="Draw the output as a sheet of images.")
    ] = None,
) -> None:
    """Run one inference, arrays in and out."""
    from onnx_invert.cli import inference, render

    render.message(inference.run(model, arrays, output, image))


@app.command()
def fibre(
    inverse: Annotated[Path, typer.Argument(metavar="INVERSE", help="A lossless inverse, made with --lossless.")],
    model: Annotated[
        Path,
        typer.Option("--model", metavar="FORWARD.onnx", help="Its network, to verify with: --lossless's, or MODEL."),
    ],
    arrays: Annotated[
        Path, typer.Option("--input", "-i", metavar="Y.npy", help="One y; .npz by name if the inverse takes several.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="X.npy", help="The inputs; .npz for their latents as well.")
    ],
    count: Annotated[int, typer.Option("--count", "-n", min=1, metavar="N", help="How many inputs.")] = 8,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="PNG", help="Draw them as a sheet of images.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="X.npy|X.npz", help="Start from these inputs, not from what INVERSE recorded."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="S", help="Of what is drawn.")] = 0,
    unbounded: Annotated[bool, typer.Option("--unbounded", help="Let x leave its range over the data.")] = False,
    spread: Annotated[
        float,
        typer.Option("--spread", metavar="S", callback=finite, help="Factor on the deviation of what starts."),
    ] = 1.0,
    apart: Annotated[
        float,
        typer.Option(
            "--apart",
            min=0.0,
            metavar="D",
            callback=finite,
            help="Least mean |x − x′| of any two inputs; draws widen for it.",
        ),
    ] = 0.0,
    candidates: Annotated[
        int,
        typer.Option(
            "--candidates",
            min=1,
            metavar="K",
            help="Tries an input, of which those far apart are taken; 1: as they come.",
        ),
    ] = 8,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            metavar="R",
            callback=finite,
            help="max |f(x) − y| that passes, beside the largest |y|: 1e-5, or 16 units of rounding of float16.",
        ),
    ] = None,
) -> None:
    """Write different inputs with one output: points of the fibre of Y, each verified by FORWARD."""
    from onnx_invert.cli import fibre as fibres

    fibres.run(
        inverse,
        model,
        arrays,
        output,
        count=count,
        image=image,
        data=data,
        seed=seed,
        bounded=not unbounded,
        spread=spread,
        apart=apart,
        candidates=candidates,
        tolerance=tolerance,
    )


@app.command()
def ops(
    op: Annotated[str | None, typer.Argument(metavar="OP", help="One operator, in full.")] = None,
) -> None:
    """List what is supported, how, and why not."""
    from onnx_invert.cli import catalogue

    catalogue.show(op)
