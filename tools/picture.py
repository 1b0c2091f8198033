"""The picture that `make demo` draws: rows of ten images, what they are on the left, their errors on the right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the backend is chosen: there may be no display
from matplotlib.figure import Figure

# In points, 72 to the inch.
LEFT, CELL, GAP, RIGHT, MARGIN, HEAD = 160.0, 45.0, 4.0, 138.0, 12.0, 34.0
ERROR, RESIDUAL = 48.0, RIGHT - MARGIN
DPI = 170
INK, GREY, LINE = "#1a1a1a", "#6a6a6a", "#c8c8c8"
FAR = 3.0
"""Pixels beyond −FAR or FAR are no shade between black and white any more: the row is drawn in its own range."""


@dataclass(frozen=True)
class Row:
    """Ten images (10, 784), and what they were taken from, which has the range that is stated.

    `error` is the mean squared error per pixel to the true images, `residual` ‖f(x) − y‖ / ‖y‖ of each sample.
    """

    title: str
    images: NDArray[np.float32]
    all: NDArray[np.float32]
    error: float | None = None
    residual: NDArray[np.float64] | None = None

    @property
    def span(self) -> str:
        """From the least to the greatest pixel."""
        return f"{signed(float(self.all.min()))} to {signed(float(self.all.max()))}"

    @property
    def ends(self) -> tuple[float, float]:
        """What is drawn black and white."""
        low, high = float(self.images.min()), float(self.images.max())
        return (low, high) if max(-low, high) > FAR else (0.0, 1.0)


@dataclass(frozen=True)
class Block:
    """Rows under a heading."""

    title: str
    note: str
    rows: Sequence[Row]


def draw(blocks: Sequence[Block], path: Path) -> None:
    """Draw the blocks one below the other."""
    width = MARGIN + LEFT + 10 * (CELL + GAP) + RIGHT
    height = sum(HEAD + len(block.rows) * (CELL + GAP) for block in blocks) + MARGIN / 2
    figure = plt.figure(figsize=(width / 72, height / 72), facecolor="white")
    page = _Page(figure, width, height)
    top = 0.0
    for number, block in enumerate(blocks):
        if number:
            page.rule(top + GAP)
        middle, right = top + HEAD / 2 + 3, MARGIN + LEFT + 10 * (CELL + GAP)
        page.text(MARGIN, middle, block.title, size=10.5, weight="bold")
        page.text(right - GAP, middle, block.note, size=7.5, colour=GREY, align="right")
        if any(row.error is not None for row in block.rows):
            page.text(right + ERROR, middle, "MSE to the\ntrue digit", size=7.5, colour=GREY, align="right")
        page.text(right + RESIDUAL, middle, "‖f(g(y)) − y‖ / ‖y‖,\nworst sample", size=7.5, colour=GREY, align="right")
        top += HEAD
        for row in block.rows:
            page.row(row, top)
            top += CELL + GAP
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


class _Page:
    """A figure measured in points from its upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self._figure, self._width, self._height = figure, width, height

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float,
        colour: str = INK,
        align: str = "left",
        weight: str = "normal",
        valign: str = "center",
    ) -> None:
        self._figure.text(
            x / self._width,
            1 - y / self._height,
            text,
            fontsize=size,
            color=colour,
            ha=align,
            va=valign,
            fontweight=weight,
            linespacing=1.25,
        )

    def rule(self, y: float) -> None:
        line = plt.Line2D(
            [MARGIN / self._width, 1 - MARGIN / self._width], [1 - y / self._height] * 2, color=LINE, linewidth=0.8
        )
        self._figure.add_artist(line)

    def row(self, row: Row, top: float) -> None:
        low, high = row.ends
        middle = top + CELL / 2
        own = row.ends != (0.0, 1.0)
        scale = f"pixels {row.span}" + (f"\nblack {signed(low)}, white {signed(high)}" if own else "")
        lines = row.title.count("\n") + 1
        total = 9.5 * 1.25 * lines + 7.5 * 1.25 * (scale.count("\n") + 1)
        start = middle - total / 2
        self.text(MARGIN, start, row.title, size=9.5, valign="top")
        self.text(MARGIN, start + 9.5 * 1.25 * lines + 2, scale, size=7.5, colour=GREY, valign="top")
        left = MARGIN + LEFT
        for column, image in enumerate(row.images):
            box = ((left + column * (CELL + GAP)) / self._width, 1 - (top + CELL) / self._height)
            axes = self._figure.add_axes((*box, CELL / self._width, CELL / self._height))
            axes.imshow(image.reshape(28, 28), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axes.set_axis_off()
        right = left + 10 * (CELL + GAP)
        if row.error is not None:
            self.text(
                right + ERROR,
                middle,
                f"{row.error:.3g}" if row.error > 1 else f"{row.error:.4f}",
                size=9,
                align="right",
            )
        if row.residual is not None:
            self.text(right + RESIDUAL, middle, power(float(row.residual.max())), size=9, align="right")


def signed(number: float) -> str:
    """Three digits, with a proper minus sign."""
    return f"{number:.3g}".replace("-", "−")


def power(number: float) -> str:
    """Two digits and a power of ten."""
    mantissa, exponent = f"{number:.1e}".split("e")
    return rf"{mantissa} · $10^{{{int(exponent)}}}$".replace("-", "−")
