"""`onnx-invert explain MODEL --data X`: what each layer holds of x, as a table, a report and a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from onnx_invert.cli import render
from onnx_invert.cli.console import console, shown
from onnx_invert.graph.atomic import check_target
from onnx_invert.graph.given_sizes import GivenShapes
from onnx_invert.leakage import leaks
from onnx_invert.report import chart, document
from onnx_invert.report.leaks import Leaks

COLUMNS = ("layer", "op", "numbers", "dims left", "lost", "variance lost", "x explained", "MSE")


def show(
    model: Path,
    data: Path,
    *,
    recover: Sequence[str],
    known: Sequence[str],
    shapes: GivenShapes,
    samples: int | None,
    report: Path | None,
    picture: Path | None,
) -> None:
    """Measure, write what was asked for, print the table.

    Raises:
        FileError, ModelError, UsageError: nothing is written then.
    """
    if picture is not None:
        check_target(picture, model, [data, *([] if report is None else [report])], what="chart")
        chart.check_chart(picture)
    with render.progress(False) as progress:
        found = leaks(model, data, recover=recover, known=known, shapes=shapes, samples=samples, progress=progress)
    if report is not None:
        document.write({**found.report, "model": str(model)}, report)
    if picture is not None:
        found.chart(picture)
    _table(found)


def _table(found: Leaks) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in COLUMNS:
        table.add_column(name, overflow="fold", justify="left" if name in {"layer", "op"} else "right")
    for row in found.rows:
        cells = (
            row.node,
            row.op,
            str(row.numbers),
            str(row.dimensions),
            str(row.lost) if row.lost else "",
            f"{100 * row.lost_variance + 0.0:.1f} %" if abs(row.lost_variance) >= 5e-4 else "",
            f"{100 * row.explained:.1f} %",
            f"{row.error:.3g}",
        )
        table.add_row(*(Text(shown(cell)) for cell in cells))
    out = console()
    out.print(table)
    said = (
        f"x has {found.numbers} numbers of variance {found.variance:.3g}; estimates fitted to {found.fitted} samples, "
        f"measured on {found.held_out} others"
    )
    out.print(shown("\n".join(["", said, *(f"note: {note}" for note in found.notes)])), soft_wrap=True)
