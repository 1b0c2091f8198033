"""What the layers of a network hold of its input, as a chart: shares of variance, numbers, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_invert.errors import FileError, UsageError
from onnx_invert.graph.atomic import replacing
from onnx_invert.report.images import as_images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

FORMATS = (".png", ".svg")

LONGEST = 40
"""Bars that are drawn at most: of more layers, those that lose most."""

SMALLEST_IMAGE = 8
"""Pixels of a side from which on a flat vector of a square size is drawn as an image."""

INK, FAINT, RULE = "#22313f", "#75808a", "#d9dde1"
KEPT, LOST, GONE = "#2a6f97", "#e76f51", "#eef1f3"

ROW, BARS, COUNTS, TOP, BOTTOM = 0.52, 5.2, 1.75, 1.5, 0.55
"""Inches: the height of a row, the widths of bars and of counts, and what is above and below."""

LETTER = 0.088
"""Inches that a letter takes."""


@dataclass(frozen=True, eq=False)
class Bar:
    """A layer: its name and operator, the share of variance it explains, the share it lost, numbers, lost dimensions.

    `pictures` are estimates of the same samples in every bar, in x's shape; None where they are not drawn.
    """

    name: str
    op: str
    explained: float
    lost: float
    numbers: int
    dimensions_lost: int
    pictures: NDArray[np.float64] | None = None


def check_chart(path: Path) -> None:
    """Refuse what cannot be drawn, before the work.

    Raises:
        FileError: neither .png nor .svg.
        UsageError: matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise FileError(f"The chart {str(path)!r} should end in .png or .svg: that is what is drawn.")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError("--chart needs matplotlib: pip install 'onnx-invert[chart]'") from error


def draw(title: str, subtitle: str, bars: Sequence[Bar], path: Path) -> None:
    """Draw the chart and write it, whole or not at all. The first bar is x itself.

    Raises:
        FileError, UsageError: as for `check_chart`; or the path cannot be written.
    """
    check_chart(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    layers = len(bars) - 1
    bars = _chosen(bars)
    images = _images(bars)
    columns = 0 if images is None else len(images[0])
    pictures = columns * ROW
    name_width = 0.45 + LETTER * max(sum(map(len, _label(bar))) + 2 for bar in bars)
    name_width = min(max(name_width, 1.6), 4.6)
    gap = 0.3 if columns else 0.0
    width = name_width + BARS + COUNTS + gap + pictures + 0.35
    height = TOP + ROW * len(bars) + BOTTOM
    # The same picture gives the same file.
    with mpl.rc_context({"font.family": "DejaVu Sans", "svg.hashsalt": "onnx-invert", "font.size": 9.5}):
        figure = Figure(figsize=(width, height), facecolor="white")

        def place(left: float, wide: float) -> Axes:
            axes = figure.add_axes((left / width, BOTTOM / height, wide / width, ROW * len(bars) / height))
            axes.set_ylim(len(bars), 0)
            axes.axis("off")
            return axes

        figure.text(0.3 / width, 1 - 0.32 / height, title, size=15, weight="bold", color=INK, va="top")
        which = "" if len(bars) > layers else f"; {len(bars) - 1} of {layers} layers, those that lose most"
        figure.text(0.3 / width, 1 - 0.68 / height, subtitle + which, color=FAINT, va="top")
        main = place(name_width, BARS)
        _shares(main, bars)
        _counts(place(name_width + BARS, COUNTS), bars)
        _names(main, bars, name_width)
        if images is not None:
            _sheets(place(name_width + BARS + COUNTS + gap, pictures), images)
        with replacing(path, "chart") as file:
            kind = path.suffix.lower()[1:]
            nothing = {"Date" if kind == "svg" else "Software": None}
            figure.savefig(file, format=kind, dpi=160, metadata=nothing)


def _chosen(bars: Sequence[Bar]) -> list[Bar]:
    """x, and the bars that lose something, in their order: those that lose most where there are many."""
    losing = [bar for bar in bars[1:] if abs(bar.lost) >= 5e-4 or bar.dimensions_lost]
    most = sorted(losing, key=lambda bar: -abs(bar.lost))[:LONGEST]
    return [bars[0], *(bar for bar in losing if bar in most)]


def _shares(axes: Axes, bars: Sequence[Bar]) -> None:
    axes.set_xlim(0, 1)
    for row, bar in enumerate(bars):
        kept = float(np.clip(bar.explained, 0, 1))
        lost = float(np.clip(bar.lost, 0, 1 - kept))
        for start, length, color in ((0.0, 1.0, GONE), (kept, lost, LOST), (0.0, kept, KEPT)):
            axes.barh(row + 0.5, length, height=0.62, left=start, color=color, linewidth=0)
        inside = kept > 0.14
        axes.text(
            kept - 0.012 if inside else kept + lost + 0.012,
            row + 0.5,
            f"{100 * bar.explained:.1f} %",
            ha="right" if inside else "left",
            va="center",
            color="white" if inside else INK,
            weight="bold",
            zorder=3,
        )
    for tick in (0, 0.25, 0.5, 0.75, 1):
        axes.plot([tick, tick], [0, len(bars)], color="white", linewidth=0.8, alpha=0.45, zorder=2)
        axes.text(tick, len(bars) + 0.12, f"{100 * tick:.0f} %", ha="center", va="top", color=FAINT, size=8)
    left = 0.0
    for color, text in ((KEPT, "explained from here"), (LOST, "lost in this layer"), (GONE, "lost before")):
        axes.add_patch(_square(left, -0.52, color))
        axes.text(left + 0.035, -0.38, text, color=INK, va="center", size=9)
        left += 0.36


def _square(x: float, y: float, color: str) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 0.025, 0.28, facecolor=color, edgecolor=RULE, linewidth=0.6, clip_on=False)


def _label(bar: Bar) -> tuple[str, str]:
    """The name, and the operator where the name does not hold it."""
    return bar.name, "" if bar.op.lower() in bar.name.lower() else bar.op


def _names(axes: Axes, bars: Sequence[Bar], width: float) -> None:
    longest = int((width - 0.35) / LETTER)
    for row, bar in enumerate(bars):
        name, op = _label(bar)
        room = max(longest - len(op) - 2, 8)
        name = name if len(name) <= room else "…" + name[1 - room :]
        shift = 8.0
        for text, color in ((op, FAINT), (name, INK)):
            place = (-shift, 0.0)
            axes.annotate(
                text, (0, row + 0.5), place, textcoords="offset points", ha="right", va="center", color=color
            )
            shift += 72 * LETTER * len(text) + 6 if text else 0


def _counts(axes: Axes, bars: Sequence[Bar]) -> None:
    axes.set_xlim(0, 1)
    axes.text(0.46, -0.38, "numbers", ha="right", va="center", color=INK, size=9)
    axes.text(0.97, -0.38, "dims lost", ha="right", va="center", color=LOST, size=9, weight="bold")
    for row, bar in enumerate(bars):
        axes.text(0.46, row + 0.5, f"{bar.numbers:,}".replace(",", " "), ha="right", va="center", color=INK)
        if bar.dimensions_lost:
            text = f"−{bar.dimensions_lost:,}".replace(",", " ")
            axes.text(0.97, row + 0.5, text, ha="right", va="center", color=LOST)


def _images(bars: Sequence[Bar]) -> list[NDArray[np.float64]] | None:
    """Every bar's samples as images, within the range of the true ones; None where they are none."""
    found = []
    for bar in bars:
        if bar.pictures is None or not bar.pictures.size:
            return None
        images = as_images(bar.pictures)
        if images is None or min(images.shape[1:3]) < SMALLEST_IMAGE:
            return None
        found.append(images)
    low, high = found[0].min(), found[0].max()
    return [np.clip((images - low) / (high - low or 1.0), 0, 1) for images in found]


def _sheets(axes: Axes, images: Sequence[NDArray[np.float64]]) -> None:
    count = len(images[0])
    for row, samples in enumerate(images):
        for column, picture in enumerate(samples):
            shown = picture if picture.shape[-1] == 3 else picture[..., 0]
            axes.imshow(
                shown,
                cmap="gray",
                vmin=0,
                vmax=1,
                extent=(column + 0.03, column + 0.97, row + 0.97, row + 0.03),
                interpolation="nearest",
            )
    axes.set_aspect("auto")
    axes.set_xlim(0, count)
    axes.set_ylim(len(images), 0)
    axes.text(0.03, -0.38, "x and its estimates", va="center", color=INK, size=9)
