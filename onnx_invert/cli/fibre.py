"""`onnx-invert fibre`: different inputs with one output, every one of them verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.table import Table

from onnx_invert.arrays import load
from onnx_invert.cli.console import console, shown
from onnx_invert.cli.inference import sheet, write_npz
from onnx_invert.errors import FibreError, FileError, UsageError
from onnx_invert.fibres.fibre import Fibre, open_networks
from onnx_invert.fibres.points import Points
from onnx_invert.graph.atomic import check_target, replacing
from onnx_invert.samples import match


def run(
    inverse: Path,
    model: Path,
    arrays: Path,
    output: Path,
    *,
    count: int,
    image: Path | None,
    data: Path | None,
    seed: int,
    bounded: bool,
    spread: float,
    apart: float,
    candidates: int,
    tolerance: float | None,
) -> None:
    """Sample a fibre, write the points, and say how each was verified.

    Raises:
        FileError, ModelError, UsageError: something is wrong with what was given.
        FibreError: fewer came to the fibre than were asked for; nothing is written then.
    """
    read = [model, arrays, *([] if data is None else [data])]
    check_target(output, inverse, read)
    if output.suffix not in {".npy", ".npz"}:
        raise FileError(f"The output {str(output)!r} should end in .npy or .npz: that is what is written.")
    if image is not None:
        check_target(image, inverse, [*read, output], what="image")
        if image.suffix.lower() != ".png":
            raise FileError(f"The image {str(image)!r} should end in .png: that is what is written.")
    networks = open_networks(inverse, model)
    if len(networks.recovered) > 1 and output.suffix != ".npz":
        names = ", ".join(port.name for port in networks.recovered)
        raise UsageError(f"{inverse.name} recovers {names}: write them to an .npz file.")
    wanted = [*networks.known, *(port.name for port in networks.given)]
    fibre = Fibre(networks.at(match(load(arrays), wanted, arrays.name)), tolerance=tolerance)
    source = fibre.source(data, bounded=bounded, spread=spread, seed=seed)
    try:
        points = fibre.sample(count, seed=seed, source=source, apart=apart, candidates=candidates)
    except FibreError as error:
        _show(fibre, error.points, source.name)
        console().print(f"FAILED  {len(error.points)} of {count} points, nothing written", soft_wrap=True)
        raise
    picture = sheet(next(iter(points.inputs.values()))) if image is not None else None
    with replacing(output) as file:
        if output.suffix == ".npz":
            write_npz(file, points.inputs | ({} if points.z is None else {"latent": points.z}))
        else:
            np.save(file, points.x, allow_pickle=False)
        if image is not None and picture is not None:
            with replacing(image, "image") as drawing:
                picture.save(drawing, format="PNG")
    _show(fibre, points, source.name)
    line = f"PASSED  {count} points, max |f(x) − y| {points.error.max():.2g}, relative {points.relative.max():.2g} of "
    line += f"{fibre.tolerance:g}  → {output}{'' if image is None else f', {image}'}"
    console().print(shown(line), soft_wrap=True)


def _show(fibre: Fibre, points: Points, source: str) -> None:
    """Every point: how near its y is, how it came there, how far the nearest other is."""
    out = console()
    if len(points):
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("point", "max |f(x) − y|", "relative", "corrections", "mean |Δx| to the nearest"):
            table.add_column(name, justify="right")
        distances = points.distances + np.diag(np.full(len(points), np.inf))
        for row in range(len(points)):
            nearest = distances[row].min()
            table.add_row(
                str(row + 1),
                f"{points.error[row]:.2g}",
                f"{points.relative[row]:.2g}",
                str(points.steps[row]),
                f"{nearest:.3g}" if np.isfinite(nearest) else "",
            )
        out.print(table)
    said = f"started from {source}: {points.passed} of {points.proposed} proposals came to y ({points.acceptance:.0%})"
    out.print(shown(said), soft_wrap=True)
    if len(points) > 1:
        said = f"any two of the points differ by {points.apart:.3g} or more in the mean"
        if points.wider > 1:
            said += f"; for that they were drawn up to {points.wider:g} times as widely"
        out.print(said, soft_wrap=True)
    out.print(f"{int(fibre.free.sum())} of {fibre.size} latents may take any value", soft_wrap=True)
