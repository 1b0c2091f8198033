"""What data say of plausible x with a given y, in few numbers: Gaussians around clusters of y, of low rank.

    p(k | y) ∝ w_k N(y; c_k, diag s_k²)          x = μ_k + w A_k,  w ~ N(0, I)

The clusters are those of k-means on the standardised y. Every one keeps the mean of its x and the first directions of
their covariance; what the directions leave is one variance a number, for all clusters. A draw has some y of its own,
near the one that is asked for: numerics/manifold.py carries it there.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

import numpy as np
import scipy.cluster.vq
import scipy.linalg
from numpy.typing import NDArray

from onnx_invert.numerics.manifold import Metric

Array = NDArray[np.float64]

CLUSTERS, DIRECTIONS = 10, 48
"""At most. A y of m numbers takes m directions away from a draw: there have to be more of them."""

MEMBERS = 32
"""Samples for every cluster, on average."""

BUDGET = 1 << 18
"""Bytes of means (two each) and directions (one each) in all: 350 kB as text."""

REST = 0.01
"""Share of the variance outside the directions that corrections may use, and draws do not."""

NARROW = 1e-3
"""The least standard deviation of an output within a cluster, in units of the whole."""


@dataclass(frozen=True)
class Mixture:
    """Shapes: weights (K), centres and spreads of y (K, m), means (K, n), factors (K, r, n), rest, low, high (n)."""

    weights: Array
    centres: Array
    spreads: Array
    means: Array
    factors: Array
    rest: Array
    low: Array
    high: Array

    def draw(self, y: Array, count: int, spread: float, rng: np.random.Generator) -> tuple[Array, Metric]:
        """x (count, n) of clusters that are likely for y (m), w ~ N(0, spread²), and the covariance about each.

        The y of a cluster spread by the same factor, so that wider draws are of more clusters too.
        """
        squares = np.sum(np.square((y - self.centres) / self.spreads), axis=1)
        with np.errstate(over="ignore"):  # of next to no spread the nearest cluster is the likely one
            apart = (squares - squares.min()) / spread / spread
        logs = np.log(self.weights) - 0.5 * apart - np.sum(np.log(self.spreads), axis=1)
        shares = np.exp(logs - logs.max())
        chosen = rng.choice(len(shares), size=count, p=shares / shares.sum())
        w = spread * rng.standard_normal((count, self.factors.shape[1]))
        x = self.means[chosen] + np.einsum("cr,crn->cn", w, self.factors[chosen])
        return np.clip(x, self.low, self.high), Metric(self.factors[chosen], REST * self.rest[None])

    def text(self) -> str:
        """The mixture as ASCII: a line of JSON, and numbers in base64."""
        width = np.where(self.high > self.low, self.high - self.low, 1.0)
        directions = self.factors / width
        # A whole number of 8 bits for each: 1/127 of the largest of its direction.
        scales = np.maximum(np.abs(directions).max(axis=2), np.finfo(np.float32).tiny) / 127
        parts = {
            "weights": self.weights.astype("<f4"),
            "centres": self.centres.astype("<f4"),
            "spreads": self.spreads.astype("<f4"),
            "low": self.low.astype("<f4"),
            "high": self.high.astype("<f4"),
            # In units of the range half precision keeps three digits, more than the data can tell.
            "means": ((self.means - self.low) / width).astype("<f2"),
            "scales": scales.astype("<f4"),
            "factors": np.rint(directions / scales[..., None]).astype("i1"),
            "rest": np.sqrt(self.rest / np.square(width)).astype("<f2"),
        }
        shapes = {name: [array.dtype.str, *array.shape] for name, array in parts.items()}
        numbers = b"".join(array.tobytes() for array in parts.values())
        return json.dumps(shapes, separators=(",", ":")) + "\n" + base64.b64encode(numbers).decode("ascii")


def parse(text: str) -> Mixture:
    """What `Mixture.text` wrote.

    Raises:
        ValueError: it is something else, or was cut short.
    """
    head, _, body = text.partition("\n")
    numbers = base64.b64decode(body, validate=True)
    arrays: dict[str, Array] = {}
    start = 0
    try:
        for name, (kind, *shape) in json.loads(head).items():
            if kind not in {"|i1", "<f2", "<f4"}:
                raise ValueError(f"numbers of type {kind}")
            size = int(np.prod(shape)) * int(kind[-1])
            found = np.frombuffer(numbers[start : start + size], kind)
            arrays[name] = found.reshape(shape).astype(np.float64)
            start += size
        low, high = arrays["low"], arrays["high"]
        width = np.where(high > low, high - low, 1.0)
        arrays["means"] = low + arrays["means"] * width
        arrays["factors"] = arrays["factors"] * arrays.pop("scales")[..., None] * width
        arrays["rest"] = np.square(arrays["rest"] * width)
        return Mixture(**arrays)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no mixture: {error}") from error


def fit(x: Array, y: Array) -> Mixture | None:
    """From data x (N, n) and y (N, m); None where they are fewer than two, or a mean alone exceeds the budget.

    Raises:
        ValueError: numbers that are not finite.
    """
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("the data, or what the network makes of them, are not finite")
    count, n = x.shape
    clusters = max(1, min(CLUSTERS, count // MEMBERS, BUDGET // (4 * n + 8 * y.shape[1])))
    directions = min(DIRECTIONS, count - 1, n, BUDGET // (clusters * n) - 2)
    if count < 2 or directions < 1:
        return None
    scale = np.std(y, axis=0)
    scale = np.where(scale > 0, scale, np.maximum(np.abs(y).max(axis=0), 1.0))
    members = _cluster((y - y.mean(axis=0)) / scale, clusters)
    groups = [rows for k in range(clusters) if (rows := np.flatnonzero(members == k)).size > 1]
    low, high = x.min(axis=0), x.max(axis=0)
    means = np.stack([x[rows].mean(axis=0) for rows in groups])
    factors = np.zeros((len(groups), directions, n))
    variance = np.zeros(n)
    for k, rows in enumerate(groups):
        apart = x[rows] - means[k]
        factor = principal(apart, directions)
        factors[k, : len(factor)] = factor
        variance += np.sum(np.square(apart), axis=0) / len(x)
        variance -= len(rows) / len(x) * np.sum(np.square(factor), axis=0)
    sizes = np.array([len(rows) for rows in groups], np.float64)
    return Mixture(
        sizes / sizes.sum(),
        np.stack([y[rows].mean(axis=0) for rows in groups]),
        np.stack([np.maximum(y[rows].std(axis=0), NARROW * scale) for rows in groups]),
        means,
        factors,
        np.maximum(variance, 0.0),
        low,
        high,
    )


def principal(apart: Array, directions: int) -> Array:
    """A (r, n) with AᵀA the covariance of centred rows, as far as `directions` of them go."""
    _, values, vectors = scipy.linalg.svd(apart, full_matrices=False, check_finite=False)
    return np.asarray(values[:directions, None] * vectors[:directions] / np.sqrt(len(apart)))


def _cluster(points: Array, clusters: int) -> NDArray[np.int64]:
    if clusters == 1:
        return np.zeros(len(points), np.int64)
    _, members = scipy.cluster.vq.kmeans2(points, clusters, minit="++", seed=0, missing="warn")
    return np.asarray(members, np.int64)
