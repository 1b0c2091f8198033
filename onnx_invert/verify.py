"""Both round trips, measured against what the plan promises.

    x trip   x → y = f(x) → x̂ = g(y)          ‖x̂ − x‖ / ‖x‖    promised by left inverses and bijections
    y trip   y = f(x) → x̂ = g(y) → ŷ = f(x̂)   ‖ŷ − y‖ / ‖y‖    promised by all
    drawn y  the same for y drawn directly                      promised by right inverses and bijections

Both files run in onnxruntime, as their users will run them. The tolerance is c · eps · κ. κ is measured
on the samples: a copy of the inverse multiplies every tensor on its way by 1 + η·u, u random, and κ is how
far that moves x (or f(x)), relative to η. So it takes in everything that amplifies rounding: matrices,
saturated activations, cancellation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert.build.clamp import Probe
from onnx_invert.errors import ModelError
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.rules.interval import Interval
from onnx_invert.runtime import Renamed, Session
from onnx_invert.samples import DISTRIBUTIONS, SEED, Batch, Port, draw

Array = NDArray[Any]

SAFETY = 32.0
"""c: rounding adds up over the sums inside a product and over both directions; κ is one random draw."""

NOISE = 64.0
"""η in units of eps: far above what rounding does by itself, small enough to stay linear."""

LARGEST_TOLERANCE = 1e-2
"""Where c · eps · κ is above this, fewer than two digits survive: that is not called an inverse."""

SINGLE_RUNS = 32
"""How many samples are drawn where the model takes one at a time."""


@dataclass(frozen=True)
class Trip:
    """The relative errors of one round trip, one number a sample, and what they are held to."""

    errors: NDArray[np.float64]
    amplification: float
    tolerance: float
    promised: bool

    @property
    def median(self) -> float:
        """The median error; NaN without samples."""
        return float(np.median(self.errors)) if self.errors.size else float("nan")

    @property
    def worst(self) -> float:
        """The largest error; infinite where a result is not finite."""
        return float(np.max(self.errors)) if self.errors.size else float("nan")

    @property
    def holds(self) -> bool:
        """True if every sample is within the tolerance. No samples: nothing was shown."""
        return bool(self.errors.size) and bool(np.all(self.errors <= self.tolerance))


@dataclass(frozen=True)
class RoundTrip:
    """What was measured. `clamped` counts values outside an image, per node; `skipped` samples on which
    f itself is not finite; `source` says where the samples came from."""

    samples: int
    source: str
    x: Trip
    y: Trip
    drawn: Trip | None
    clamped: dict[str, int] = field(default_factory=dict)
    skipped: int = 0

    @property
    def trips(self) -> list[Trip]:
        """The trips that the guarantee promises."""
        return [trip for trip in (self.x, self.y, self.drawn) if trip is not None and trip.promised]

    @property
    def passed(self) -> bool:
        """True if every promised trip holds on every sample."""
        return all(trip.holds for trip in self.trips)

    @property
    def tolerance(self) -> float:
        """The largest tolerance that a promised trip was held to."""
        return max((trip.tolerance for trip in self.trips), default=float("nan"))

    @property
    def needed(self) -> float:
        """The tolerance that would have passed."""
        return max((trip.worst for trip in self.trips), default=float("nan"))


@dataclass(frozen=True)
class Pair:
    """Two files, and which tensors are what: `recovered`, `given` and `known` are names.

    `instrumented` is the copy of the inverse with noise, None to perturb only its ends. `dtype` is that of
    the outputs, `eps` the coarsest rounding on the way.
    """

    forward: Callable[[], Session]
    inverse: Callable[[], Session | Renamed]
    instrumented: Callable[[], Session] | None
    ports: Sequence[Port]
    recovered: Sequence[str]
    given: Sequence[str]
    known: Sequence[str]
    dtype: np.dtype[Any]
    eps: float
    probes: Sequence[Probe] = ()

    @property
    def main(self) -> str:
        """The input whose first axis is the batch."""
        return self.recovered[0]


def verify(
    pair: Pair,
    guarantee: Guarantee,
    images: Mapping[str, Interval | None],
    *,
    data: Sequence[Batch] | None = None,
    count: int = 256,
    rtol: float | None = None,
) -> RoundTrip:
    """Measure the round trips of `pair` against `guarantee`.

    `images` names per known output the box that its values fill, None for part of space; `data` are the
    samples, or None to draw `count`; `rtol` replaces the tolerance.

    Raises:
        ModelError: onnxruntime cannot run one of the two files.
    """
    f = pair.forward()
    batches, outputs, source, skipped = _usable(pair, f, data, count)
    if not batches:
        raise ModelError(
            f"The model returns NaN or infinity on all {skipped} samples ({source}): give realistic inputs "
            "with --data."
        )
    drawn = _draw_outputs(pair, outputs, images) if guarantee.promises_every_y else None
    del f
    both = outputs if drawn is None else [*outputs, *drawn]
    given = [{name: batch[name] for name in pair.given} for batch in batches]
    given_both = given if drawn is None else [*given, *given]
    found, noisy, clamped = _recover(pair, both, given_both)
    f = pair.forward()
    again = [_known(pair, f, {**x, **g}) for x, g in zip(found, given_both, strict=True)]
    shaken = [_known(pair, f, {**x, **g}) for x, g in zip(noisy, given_both, strict=True)]
    rows = len(batches)
    single = not next(port for port in pair.ports if port.name == pair.main).has_batch
    names = list(pair.recovered)
    x_true = [{name: batch[name] for name in names} for batch in batches]

    def trip(true: list[Batch], got: list[Batch], moved: list[Batch], keys: Sequence[str], promised: bool) -> Trip:
        counts = [1 if single else len(batch[pair.main]) for batch in batches]
        errors = _relative(got, true, true, keys, counts)
        spread = _relative(moved, got, true, keys, counts) / (NOISE * pair.eps)
        finite = spread[np.isfinite(spread)]
        amplification = max(1.0, float(finite.max())) if finite.size else np.inf
        tolerance = rtol if rtol is not None else min(SAFETY * pair.eps * amplification, LARGEST_TOLERANCE)
        return Trip(errors, amplification, tolerance, promised)

    return RoundTrip(
        samples=sum(1 if single else len(batch[pair.main]) for batch in batches),
        source=source,
        x=trip(x_true, found[:rows], noisy[:rows], names, guarantee.promises_x),
        y=trip(outputs, again[:rows], shaken[:rows], pair.known, guarantee.promises_reachable_y),
        drawn=None if drawn is None else trip(drawn, again[rows:], shaken[rows:], pair.known, True),
        clamped=clamped,
        skipped=skipped,
    )


def _usable(
    pair: Pair, f: Session, data: Sequence[Batch] | None, count: int
) -> tuple[list[Batch], list[Batch], str, int]:
    """Samples on which f is finite, f of them, where they came from, and how many were left out."""
    single = not next(port for port in pair.ports if port.name == pair.main).has_batch
    if data is not None:
        kept, outputs, skipped = _finite(pair, f, data, single)
        return kept, outputs, "given data", skipped
    best: tuple[list[Batch], list[Batch], str, int] | None = None
    total = min(count, SINGLE_RUNS) if single else count
    for index, (name, _) in enumerate(DISTRIBUTIONS):
        kept, outputs, skipped = _finite(pair, f, draw(pair.ports, total, index, pair.main), single)
        if best is None or skipped < best[3]:
            best = kept, outputs, f"drawn from {name}", skipped
        if skipped == 0:
            break
    assert best is not None
    return best


def _finite(
    pair: Pair, f: Session, batches: Sequence[Batch] | Iterator[Batch], single: bool
) -> tuple[list[Batch], list[Batch], int]:
    kept, outputs, skipped = [], [], 0
    for batch in batches:
        y = _known(pair, f, batch)
        rows = 1 if single else len(batch[pair.main])
        good = np.ones(rows, dtype=bool)
        for array in y.values():
            good &= np.isfinite(_by_sample(array, rows)).all(axis=1)
        skipped += int(rows - good.sum())
        if good.all():
            kept.append(batch)
            outputs.append(y)
        elif good.any():
            chosen = {name: array[good] if len(array) == rows else array for name, array in batch.items()}
            kept.append(chosen)
            outputs.append(_known(pair, f, chosen))
    return kept, outputs, skipped


def _known(pair: Pair, f: Session, batch: Batch) -> Batch:
    return f.run({port.name: batch[port.name] for port in pair.ports if port.name in batch}, pair.known)


def _draw_outputs(pair: Pair, outputs: list[Batch], images: Mapping[str, Interval | None]) -> list[Batch] | None:
    """Outputs that no x was chosen for: spread like f's where every y is reached, else f's own values,
    mixed between samples element by element, which stays inside any box."""
    rng = np.random.default_rng(SEED + 1)
    drawn: list[Batch] = []
    stacked = {
        name: np.concatenate(
            [
                y[name].reshape(1, -1)
                if len(outputs) > 1
                else y[name].reshape(len(y[name]) if y[name].ndim else 1, -1)
                for y in outputs
            ]
        )
        for name in pair.known
    }
    pools = {}
    for name, pool in stacked.items():
        image = images.get(name)
        if image is not None and image.is_reals:
            spread = np.std(pool, axis=0, dtype=np.float64) * 2
            noise = rng.standard_normal(pool.shape) * np.where(spread > 0, spread, 1.0)
            pools[name] = (np.mean(pool, axis=0, dtype=np.float64) + noise).astype(pool.dtype)
        else:
            pools[name] = rng.permuted(pool, axis=0)
    for index, y in enumerate(outputs):
        drawn.append(
            {
                name: (pools[name][index] if len(outputs) > 1 else pools[name]).reshape(y[name].shape)
                for name in pair.known
            }
        )
    return drawn


def _recover(pair: Pair, outputs: list[Batch], given: list[Batch]) -> tuple[list[Batch], list[Batch], dict[str, int]]:
    """g of the outputs; g with noise; and how many values were clamped, per node."""
    g = pair.inverse()
    wanted = g.names
    feeds = [
        {name: array for name, array in {**y, **b}.items() if name in wanted}
        for y, b in zip(outputs, given, strict=True)
    ]
    names = list(pair.recovered)
    found = [g.run(feed, names) for feed in feeds]
    if pair.instrumented is None:
        rng = np.random.default_rng(SEED + 2)
        noisy = [
            _shake(
                g.run({k: _perturbed(v, rng, pair) if k in pair.known else v for k, v in feed.items()}, names),
                rng,
                pair,
            )
            for feed in feeds
        ]
        return found, noisy, {}
    del g
    g = pair.instrumented()
    clamped: dict[str, int] = {}
    noisy = []
    probed = [probe.tensor for probe in pair.probes]
    port = next(name for name in g.names if name not in wanted)
    for feed in feeds:
        if probed:
            values = g.run({**feed, port: np.zeros((), pair.dtype)}, probed)
            for probe in pair.probes:
                count = probe.count(values[probe.tensor])
                if count:
                    clamped[probe.node] = clamped.get(probe.node, 0) + count
        noisy.append(g.run({**feed, port: np.asarray(NOISE * pair.eps, pair.dtype)}, names))
    return found, noisy, clamped


def _perturbed(array: Array, rng: np.random.Generator, pair: Pair) -> Array:
    factor = 1 + NOISE * pair.eps * rng.uniform(0.5, 1, array.shape) * rng.choice([-1.0, 1.0], array.shape)
    return (array * factor).astype(array.dtype)


def _shake(batch: Batch, rng: np.random.Generator, pair: Pair) -> Batch:
    return {name: _perturbed(array, rng, pair) for name, array in batch.items()}


def _relative(
    got: list[Batch], true: list[Batch], scale: list[Batch], names: Sequence[str], counts: list[int]
) -> NDArray[np.float64]:
    """‖got − true‖ / ‖scale‖ per sample over all of `names`; infinite where a result is not finite.

    A sample whose norm vanishes beside the others' is measured against a thousandth of their median.
    """
    differences, sizes = [], []
    for a, b, c, rows in zip(got, true, scale, counts, strict=True):
        square, size = np.zeros(rows), np.zeros(rows)
        for name in names:
            with np.errstate(over="ignore", invalid="ignore"):
                delta = _by_sample(a[name], rows).astype(np.float64) - _by_sample(b[name], rows)
                square += np.sum(np.square(delta), axis=1)
                size += np.sum(np.square(_by_sample(c[name], rows).astype(np.float64)), axis=1)
        differences.append(np.sqrt(square))
        sizes.append(np.sqrt(size))
    difference, norm = np.concatenate(differences), np.concatenate(sizes)
    floor = 1e-3 * float(np.median(norm)) if norm.size else 0.0
    norm = np.maximum(norm, floor if floor > 0 else 1.0)
    error = difference / norm
    return np.where(np.isfinite(error), error, np.inf)


def _by_sample(array: Array, rows: int) -> Array:
    """One row per sample, also where the batch was merged with another axis, or is not the first."""
    if rows and array.size % rows == 0:
        return np.asarray(array.reshape(rows, -1))
    return np.repeat(array.reshape(1, -1), rows, axis=0)
