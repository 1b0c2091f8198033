"""Where points of a fibre are looked for: inputs near y, draws of what was recorded, or latents drawn blindly.

A proposal is an x with a covariance C about it: along C it is carried to the fibre (numerics/manifold.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_invert.errors import UsageError
from onnx_invert.fibres.networks import Rows
from onnx_invert.numerics.manifold import Array, Box, Metric, identity
from onnx_invert.numerics.mixture import REST, Mixture
from onnx_invert.samples import cut, match

NEIGHBOURS = 48
"""Data are drawn with a weight that falls with the distance of their y, as far as about so many of them reach."""


@dataclass(frozen=True)
class Proposals:
    """x (N, n), the covariance about each, and the range that x is kept in."""

    x: Array
    metric: Metric
    box: Box | None = None


class Source(Protocol):
    """Where proposals come from. `name` says it in words, `remedy` what helps where too few of them succeed."""

    name: str
    remedy: str

    def draw(self, count: int, wider: float = 1.0) -> Proposals:
        """`count` proposals, or as many as there are left, with `wider` times the spread of the first."""


class Recorded:
    """Draws of the mixture that the inverse holds, of the clusters that are likely for y."""

    name = "what INVERSE recorded of its data"
    remedy = "inputs near y with --data, --unbounded, a smaller --apart, or a y that plausible inputs have"

    def __init__(self, mixture: Mixture, y: Array, *, bounded: bool, spread: float, rng: np.random.Generator) -> None:
        self._mixture, self._y, self._spread, self._rng = mixture, y, spread, rng
        self._box = (mixture.low, mixture.high) if bounded else None

    def draw(self, count: int, wider: float = 1.0) -> Proposals:
        """Independent draws."""
        return Proposals(*self._mixture.draw(self._y, count, wider * self._spread, self._rng), self._box)


class Neighbours:
    """Inputs of data, each at most once: at random, those with a y near the one that is asked for first.

    Each number of x is moved in units of its own deviation among the near ones. With their covariance an input would
    be moved farther (half as far again, on digits), and all of them towards the same few directions.
    """

    name = "the data"
    remedy = "more data, --unbounded, a smaller --apart, or a y that plausible inputs have"

    def __init__(self, rows: Rows, x: Array, *, bounded: bool, spread: float, rng: np.random.Generator) -> None:
        y = rows.f(x)
        good = np.isfinite(y).all(axis=1) & np.isfinite(x).all(axis=1)
        x, y = x[good], y[good]
        if not len(x):
            raise UsageError("The data are not finite, or the network makes nothing finite of them.")
        deviation = np.std(y, axis=0)
        apart = np.sum(np.square((y - rows.y) / np.where(deviation > 0, deviation, 1.0)), axis=1)
        near = apart - apart.min()
        self._near = near / max(float(np.sort(near)[min(NEIGHBOURS, len(near)) - 1]), 1e-30)
        self._spread, self._noise = spread, rng.gumbel(size=len(near))
        self._left = np.ones(len(near), bool)
        self._box = (x.min(axis=0), x.max(axis=0)) if bounded else None
        self._x = x

    def draw(self, count: int, wider: float = 1.0) -> Proposals:
        """The next ones. A spread s takes those too whose y lies s times farther off, and x as μ + s (x − μ), μ their
        mean."""
        spread = wider * self._spread
        with np.errstate(over="ignore"):  # of next to no spread the nearest are taken
            logs = -0.5 * (self._near / spread / spread)
        weights = np.exp(logs) / np.sum(np.exp(logs))
        mean = weights @ self._x
        variance = weights @ np.square(self._x - mean) + REST * np.var(self._x, axis=0)
        # The largest of log p + Gumbel noise, one after the other: draws without replacement.
        order = np.argsort(-(logs + self._noise), kind="stable")
        chosen = order[self._left[order]][:count]
        self._left[chosen] = False
        x = self._x[chosen] if spread == 1 else mean + spread * (self._x[chosen] - mean)
        x = x if self._box is None else np.clip(x, *self._box)
        return Proposals(x, Metric(np.zeros((1, 0, x.shape[1])), variance[None]), self._box)


class Blind:
    """g⁺(y, z) for z ~ N(0, spread²): nothing is known of plausible x."""

    name = "latents drawn from N(0, spread²)"
    remedy = "an inverse made with --data, inputs near y with --data, or another --spread or --apart"

    def __init__(self, rows: Rows, *, spread: float, rng: np.random.Generator) -> None:
        self._rows, self._spread, self._rng = rows, spread, rng

    def draw(self, count: int, wider: float = 1.0) -> Proposals:
        """Independent draws."""
        z = wider * self._spread * self._rng.standard_normal((count, self._rows.net.size))
        return Proposals(self._rows.back(z), identity(self._rows.n))


def data_rows(rows: Rows, data: Mapping[str, NDArray[Any]], name: str) -> Array:
    """Inputs of the model as rows.

    Raises:
        UsageError: they do not fit the inputs.
    """
    wanted = rows.net.recovered
    arrays = match(data, [port.name for port in wanted], name)
    return np.concatenate([rows.joined(batch) for batch in cut(arrays, wanted, wanted[0].name, None)])
