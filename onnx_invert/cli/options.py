"""Options that several commands have, and what is refused of them before any work."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer


def finite(value: float | None) -> float | None:
    """The value of an option that no infinity, nor anything that is no number, may be."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.")
    return value


Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The network: .onnx; .keras or SavedModel with TensorFlow.")
]
Recover = Annotated[
    list[str] | None,
    typer.Option("--recover", metavar="INPUT", help="Input to recover; the others stay inputs. May be repeated."),
]
Known = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="OUTPUT", help="Output to recover from; all by default. May be repeated."),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="INPUT:SIZES",
        help="Fix sizes that the model leaves open: image:N,3,224,224. Repeatable; with one input its name may be "
        "left out.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="X.npy|X.npz", help="Inputs of the model to verify on; drawn by default."),
]
Samples = Annotated[
    int | None,
    typer.Option("--samples", min=1, metavar="N", help="Samples to draw (256), or to use of the data (all)."),
]
Rtol = Annotated[
    float | None,
    typer.Option(
        "--rtol",
        min=0.0,
        metavar="R",
        callback=finite,
        help="Relative tolerance; by default it follows from type and condition.",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="M",
        help="closed-form, newton (solves f(x) = y inside the graph), or auto: closed form where one keeps a promise.",
    ),
]
Report = Annotated[Path | None, typer.Option("--report", metavar="R.json", help="Write a report.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the last line only.")]


def check_targets(output: Path | None, report: Path | None, model: Path, *others: Path | None) -> None:
    """What cannot be written, or is read by this call, is refused before the work, not after."""
    from onnx_invert.errors import FileError
    from onnx_invert.graph.atomic import check_target

    read = [other for other in others if other is not None]
    if output is not None:
        check_target(output, model, read)
    if report is None:
        return
    if report.suffix != ".json":
        raise FileError(f"The report {str(report)!r} should end in .json: that is what is written.")
    check_target(report, model, [*read, *([] if output is None else [output])], what="report")


def check_graph(graph: Path, model: Path, prior: Path | None) -> None:
    """As for a report; and what draws it has to be installed."""
    from onnx_invert.errors import FileError
    from onnx_invert.graph.atomic import check_target
    from onnx_invert.report.drawing.layout import check_installed

    if graph.suffix.lower() != ".svg":
        raise FileError(f"The graph {str(graph)!r} should end in .svg: that is what is written.")
    check_target(graph, model, [] if prior is None else [prior], what="graph")
    check_installed()
