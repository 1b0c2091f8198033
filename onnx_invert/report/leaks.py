"""What the layers of a network hold of its input, as `leaks` measured it: rows, a report, a chart."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert._version import __version__
from onnx_invert.report import chart, document


@dataclass(frozen=True)
class Leak:
    """What a layer holds of x.

    `numbers` are the layer's, a sample. At most `dimensions` of x's survive in it, `lost` fewer than before it. A
    linear function of it explains the share `explained` of x's variance, with the mean squared error `error` a number;
    `lost_variance` is the share that was explained before the layer and is not after it (below 0: it became linear).
    `alpha` is the ridge, `projected` says that the layer was too wide to be taken whole: then `explained` is what is
    left at least. `shown` are estimates of the first held-out samples.
    """

    node: str
    op: str
    tensor: str
    numbers: int
    dimensions: int
    lost: int
    explained: float
    lost_variance: float
    error: float
    alpha: float
    projected: bool
    shown: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Leaks:
    """What a network's layers hold of x, in running order.

    `variance` is that of x, the mean over its numbers; `shown` are the first held-out samples. `skipped` names layers
    that could not be measured, each with the reason; `notes` say what the figures rest on, where that needs saying.
    """

    name: str
    rows: tuple[Leak, ...]
    skipped: tuple[tuple[str, str], ...]
    numbers: int
    fitted: int
    held_out: int
    variance: float
    shape: tuple[int, ...]
    shown: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def report(self) -> dict[str, Any]:
        """The same as JSON (docs/report.md)."""
        return {
            "model": self.name,
            "samples": {"fitted": self.fitted, "held_out": self.held_out},
            "numbers": self.numbers,
            "variance": document.number(self.variance),
            "layers": [
                {
                    "node": row.node,
                    "op": row.op,
                    "tensor": row.tensor,
                    "numbers": row.numbers,
                    "dimensions": row.dimensions,
                    "lost": row.lost,
                    "explained": document.number(row.explained),
                    "lost_variance": document.number(row.lost_variance),
                    "mean_squared_error": document.number(row.error),
                    "alpha": document.number(row.alpha),
                    "projected": row.projected,
                }
                for row in self.rows
            ],
            "skipped": [{"node": name, "reason": why} for name, why in self.skipped],
            "version": __version__,
        }

    def chart(self, path: str | os.PathLike[str]) -> None:
        """Draw it as .png or .svg, with estimates of some samples where x is an image.

        Raises:
            FileError: another ending, or the path cannot be written.
            UsageError: matplotlib is not installed (the extra `chart`).
        """

        def pictures(flat: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
            return None if flat is None else flat.reshape(-1, *self.shape)

        bars = [chart.Bar("x", "", 1.0, 0.0, self.numbers, 0, pictures(self.shown))]
        bars += [
            chart.Bar(r.node, r.op, r.explained, r.lost_variance, r.numbers, r.lost, pictures(r.shown))
            for r in self.rows
        ]
        subtitle = (
            f"share of x’s variance that a linear estimate from each layer explains; {self.held_out} samples, "
            f"none of the {self.fitted} it was fitted to"
        )
        chart.draw(f"What {self.name} keeps of its input", subtitle, bars, Path(path))
