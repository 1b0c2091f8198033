"""Both round trips, measured against what the plan promises.

    x trip   x → y = f(x) → x̂ = g(y)          ‖x̂ − x‖ / ‖x‖    promised by left inverses and bijections
    y trip   y = f(x) → x̂ = g(y) → ŷ = f(x̂)   ‖ŷ − y‖ / ‖y‖    promised by all
    drawn y  the same for y drawn directly                      promised by right inverses and bijections

Both files run in onnxruntime, as their users will run them. Every sample is held to its own tolerance,
c · eps · κ. κ is measured on that sample: a copy of the inverse adds noise of relative size η where rounding
would, to every tensor, product and constant on its way (build/noise.py), and κ is how far that moves x (or
f(x)), relative to η. So it takes in everything that amplifies rounding: matrices, saturated activations,
cancellation. Of a solver, which has no such copy, x is solved for again with noise on y, where κ of x decides
anything. trips.py says when a promise holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert.build.clamp import Probe
from onnx_invert.build.noise import DRAWS
from onnx_invert.errors import ModelError
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.rules.interval import Interval
from onnx_invert.runtime import Recalled, Renamed, Session
from onnx_invert.samples import DISTRIBUTIONS, SEED, Port, draw, parts
from onnx_invert.trips import NOISE, Array, Batch, RoundTrip, by_sample, compare, may_hold, relative

SINGLE_RUNS = 32
"""How many samples are drawn where the model takes one at a time."""


@dataclass(frozen=True)
class Pair:
    """Two files, and which tensors are what: `recovered`, `given` and `known` are names.

    `instrumented` is the copy of the inverse with noise, None to perturb only its ends. `dtype` is that of
    the outputs, `eps` the coarsest rounding on the way, `eta` the input of `instrumented` that takes η,
    `axes` where samples lie in an output if not along the first axis, `bounds` between which ends inputs are drawn,
    `at_once` how many samples run together, None for all of a batch.
    """

    forward: Callable[[], Session]
    inverse: Callable[[], Session | Renamed | Recalled]
    instrumented: Callable[[], Session] | None
    ports: Sequence[Port]
    recovered: Sequence[str]
    given: Sequence[str]
    known: Sequence[str]
    dtype: np.dtype[Any]
    eps: float
    probes: Sequence[Probe] = ()
    eta: str = ""
    axes: Mapping[str, int] = field(default_factory=dict)
    bounds: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)
    at_once: int | None = None

    @property
    def has_batch(self) -> bool:
        """True if any number of samples runs at once, along the first axis."""
        return next(port for port in self.ports if port.name == self.main).has_batch

    @property
    def main(self) -> str:
        """The input whose first axis is the batch."""
        return self.recovered[0]

    def parts(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """The batches as they are run."""
        return batches if self.at_once is None else parts(batches, self.ports, self.main, self.at_once)


def verify(
    pair: Pair,
    guarantee: Guarantee,
    images: Mapping[str, Interval | None],
    *,
    data: Sequence[Batch] | None = None,
    count: int = 256,
    rtol: float | None = None,
    solver: bool = False,
) -> RoundTrip:
    """Measure the round trips of `pair` against `guarantee`.

    With `solver` the inverse solves equations: which y it can reach is not known, so that none are drawn.

    `images` names per known output the box that its values fill, None for part of space; `data` are the
    samples, or None to draw `count`; `rtol` replaces the tolerance.

    Raises:
        ModelError: onnxruntime cannot run one of the two files.
    """
    f = pair.forward()
    batches, outputs, source, skipped = _usable(pair, f, data, count, even=solver)
    if not batches:
        spoilt = [name for name, array in (data[0] if data else {}).items() if not np.isfinite(array).all()]
        raise ModelError(
            f"The model returns NaN or infinity on all {skipped} samples ({source}): "
            + (
                f"the data for {', '.join(map(repr, spoilt))} hold such numbers themselves."
                if spoilt
                else "give realistic inputs with --data."
            )
        )
    drawn = _draw_outputs(pair, outputs, images) if guarantee.promises_every_y and not solver else []
    del f
    given = [{name: batch[name] for name in pair.given} for batch in batches]
    given = given * 2 if drawn else given
    needed = partial(_noise_decides, pair, batches, promised=guarantee.promises_x, rtol=rtol) if solver else None
    asked = _counts(pair, [*batches, *batches][: len(given)])
    found, noisy, clamped, at_end = _recover(pair, [*outputs, *drawn], given, asked, needed)
    f = pair.forward()
    again = _forwards(pair, f, found, given)
    # A solver's residual is held to what rounding does to f alone. Under noise on y it may fail where it did not
    # before, or the other way round, and a failure must not widen its own tolerance.
    moved = [_shake(pair, found, draw) for draw in range(DRAWS)] if solver else noisy
    shaken = [_forwards(pair, f, draw, given) for draw in moved]
    rows = len(batches)
    counts = _counts(pair, batches)
    measure = partial(compare, counts=counts, eps=pair.eps, rtol=rtol)
    every_y = (
        measure(again[rows:], drawn, [draw[rows:] for draw in shaken], pair.known, promised=True) if drawn else None
    )
    return RoundTrip(
        samples=sum(counts),
        source=source,
        x=measure(
            found[:rows],
            batches,
            [draw[:rows] for draw in noisy],
            pair.recovered,
            promised=guarantee.promises_x,
            at_end=at_end[: sum(counts)],
        ),
        y=measure(
            again[:rows],
            outputs,
            [draw[:rows] for draw in shaken],
            pair.known,
            promised=guarantee.promises_reachable_y,
        ),
        drawn=every_y,
        clamped=clamped,
        skipped=skipped,
        solver=solver,
    )


def _counts(pair: Pair, batches: Sequence[Batch]) -> list[int]:
    return [_count(pair, batch) for batch in batches]


def _count(pair: Pair, batch: Batch) -> int:
    """The number of samples in a batch: its rows, or one where the model has no batch axis."""
    return len(batch[pair.main]) if pair.has_batch else 1


def _forwards(pair: Pair, f: Session, found: Sequence[Batch], given: Sequence[Batch]) -> list[Batch]:
    return [_known(pair, f, {**x, **b}) for x, b in zip(found, given, strict=True)]


def _usable(
    pair: Pair, f: Session, data: Sequence[Batch] | None, count: int, *, even: bool
) -> tuple[list[Batch], list[Batch], str, int]:
    """Samples on which f is finite, f of them, where they came from, and how many were left out."""
    if data is not None:
        kept, outputs, skipped = _finite(pair, f, pair.parts(data))
        return kept, outputs, "given data", skipped
    best: tuple[list[Batch], list[Batch], str, int] | None = None
    total = count if pair.has_batch else min(count, SINGLE_RUNS)
    failed: ModelError | None = None
    for index, (name, _) in enumerate(DISTRIBUTIONS):
        try:
            drawn = draw(pair.ports, total, index, pair.main, bounds=pair.bounds, even=even)
            kept, outputs, skipped = _finite(pair, f, pair.parts(drawn))
        except ModelError as error:  # a lookup beyond its table, where x lies outside of the model's domain
            failed = error
            continue
        if best is None or skipped < best[3]:
            where = " within the domain" if pair.bounds else ""
            best = kept, outputs, f"drawn from {name}{where}", skipped
        if skipped == 0:
            break
    if best is None:
        assert failed is not None
        raise failed
    return best


def _finite(pair: Pair, f: Session, batches: Iterable[Batch]) -> tuple[list[Batch], list[Batch], int]:
    kept, outputs, skipped = [], [], 0
    for batch in batches:
        y = _known(pair, f, batch)
        rows = _count(pair, batch)
        good = np.ones(rows, dtype=bool)
        for array in y.values():
            good &= np.isfinite(by_sample(array, rows)).all(axis=1)
        skipped += int(rows - good.sum())
        if good.all():
            kept.append(batch)
            outputs.append(y)
        elif good.any():
            batched = {port.name for port in pair.ports if port.has_batch}
            chosen = {name: array[good] if name in batched else array for name, array in batch.items()}
            kept.append(chosen)
            outputs.append(_known(pair, f, chosen))
    return kept, outputs, skipped


def _known(pair: Pair, f: Session, batch: Batch) -> Batch:
    """f of a batch, the known outputs, with the samples along the first axis."""
    found = f.run({port.name: batch[port.name] for port in pair.ports if port.name in batch}, pair.known)
    return {
        name: np.moveaxis(array, pair.axes.get(name, 0), 0) if array.ndim else array for name, array in found.items()
    }


def _draw_outputs(pair: Pair, outputs: list[Batch], images: Mapping[str, Interval | None]) -> list[Batch]:
    """Outputs that no x was chosen for: spread like f's where every y is reached, else f's own values,
    mixed between samples element by element, which stays inside any box."""
    rng = np.random.default_rng(SEED + 1)
    drawn: list[Batch] = [{} for _ in outputs]
    for name in pair.known:
        rows = [
            _count(pair, y) if pair.has_batch and y[name].ndim else 1
            for y in ({**y, pair.main: y[name]} for y in outputs)
        ]
        pool = np.concatenate([by_sample(y[name], count) for y, count in zip(outputs, rows, strict=True)])
        image = images.get(name)
        if image is not None and image.is_reals:
            spread = np.std(pool, axis=0, dtype=np.float64) * 2
            noise = rng.standard_normal(pool.shape) * np.where(spread > 0, spread, 1.0)
            pool = (np.mean(pool, axis=0, dtype=np.float64) + noise).astype(pool.dtype)
        else:
            pool = rng.permuted(pool, axis=0)
        ends = np.cumsum(rows)[:-1]
        for target, part, y in zip(drawn, np.split(pool, ends), outputs, strict=True):
            target[name] = part.reshape(y[name].shape)
    return drawn


def _feeds(pair: Pair, names: set[str], outputs: list[Batch], given: list[Batch]) -> list[Batch]:
    return [
        {
            name: np.moveaxis(array, 0, pair.axes[name]) if name in y and name in pair.axes else array
            for name, array in {**y, **b}.items()
            if name in names
        }
        for y, b in zip(outputs, given, strict=True)
    ]


def _recover(
    pair: Pair,
    outputs: list[Batch],
    given: list[Batch],
    counts: list[int],
    needed: Callable[[list[Batch]], bool] | None,
) -> tuple[list[Batch], list[list[Batch]], dict[str, int], NDArray[np.bool_]]:
    """g of the outputs, and under draws of noise; under none where what is found shows that none is `needed`.

    Beside them how many values are clamped, per node, and which of the samples, `counts` in each batch, have one.
    """
    g = pair.inverse()
    feeds = _feeds(pair, g.names, outputs, given)
    found = [g.run(feed, list(pair.recovered)) for feed in feeds]
    if pair.instrumented is None:
        noisy = [_shake_ends(pair, g, feeds, draw) for draw in range(DRAWS)] if needed is None or needed(found) else []
        return found, noisy, {}, np.zeros(sum(counts), dtype=bool)
    del g
    shaken = pair.instrumented()
    size = NOISE * pair.eps
    # Both signs: where a value is clamped, noise in one direction leaves no trace.
    etas = [(sign * size * row[None]).astype(pair.dtype) for row in np.eye(DRAWS) for sign in (1, -1)]
    noisy = [[shaken.run({**feed, pair.eta: eta}, list(pair.recovered)) for feed in feeds] for eta in etas]
    return found, noisy, *_clamps(pair, shaken, feeds, counts)


def _noise_decides(
    pair: Pair, true: Sequence[Batch], found: Sequence[Batch], *, promised: bool, rtol: float | None
) -> bool:
    """True if κ of x bears on a verdict, x̂ being what a solver `found` for y as it is.

    Under noise it solves all equations once more for each draw, of y that no x may give. A tolerance that was asked
    for needs no κ, nor does an x that is not promised, and is so far off that no κ makes it right.
    """
    if rtol is not None:
        return False
    counts = _counts(pair, true)
    return promised or all(may_hold(relative(name, found, true, true, counts)) for name in pair.recovered)


def _clamps(
    pair: Pair, shaken: Session, feeds: list[Batch], counts: list[int]
) -> tuple[dict[str, int], NDArray[np.bool_]]:
    """How many values are clamped, per node; and which samples have one."""
    clamped: dict[str, int] = {}
    marks = [np.zeros(count, dtype=bool) for count in counts]
    if pair.probes:
        still = np.zeros((1, DRAWS), dtype=pair.dtype)
        for feed, mark in zip(feeds, marks, strict=True):
            values = shaken.run({**feed, pair.eta: still}, [probe.tensor for probe in pair.probes])
            for probe in pair.probes:
                outside = probe.outside(values[probe.tensor])
                if outside.any():
                    clamped[probe.node] = clamped.get(probe.node, 0) + int(np.count_nonzero(outside))
                    np.logical_or(mark, by_sample(outside, len(mark)).any(axis=1), out=mark)
    return clamped, np.concatenate(marks)


def _shake_ends(pair: Pair, g: Session | Renamed | Recalled, feeds: list[Batch], draw: int) -> list[Batch]:
    """Noise on what goes into g and what comes out, for an inverse whose inside is not known."""
    rng = np.random.default_rng([SEED, draw])
    shaken = [{k: _perturbed(v, rng, pair) if k in pair.known else v for k, v in feed.items()} for feed in feeds]
    found = [g.run(feed, list(pair.recovered)) for feed in shaken]
    return [{name: _perturbed(array, rng, pair) for name, array in batch.items()} for batch in found]


def _shake(pair: Pair, found: Sequence[Batch], draw: int) -> list[Batch]:
    """Noise on recovered inputs."""
    rng = np.random.default_rng([SEED, draw])
    return [{name: _perturbed(array, rng, pair) for name, array in batch.items()} for batch in found]


def _perturbed(array: Array, rng: np.random.Generator, pair: Pair) -> Array:
    factor = 1 + NOISE * pair.eps * rng.uniform(0.5, 1, array.shape) * rng.choice([-1.0, 1.0], array.shape)
    return np.asarray((array * factor).astype(array.dtype))
