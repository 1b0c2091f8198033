"""The two files of a lossless pair: what they say of each other, and the way through both.

x → (y, z) = f⁺(x) → x̂ = g⁺(y, z)          max |x̂ − x| / max |x|, sample by sample
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert.build.lossless.latents import FLAT
from onnx_invert.errors import ModelError
from onnx_invert.runtime import Session
from onnx_invert.samples import DISTRIBUTIONS, Batch, Port, draw
from onnx_invert.trips import RoundTrip, Trip, by_sample

DIGITS = {2: 2.0**-6, 4: 2.0**-14, 8: 2.0**-37}
"""Relative error that counts as lossless, by the bytes of a number: 6, 14 and 37 binary digits stay. float32 keeps 24,
so that a condition of a thousand is allowed for; a pixel has 8."""

STATED = "onnx_invert.lossless"
PAIR = "onnx_invert.pair"
NAMES = "onnx_invert.latents"
FREE = "onnx_invert.free"
DATA = "onnx_invert.data"
LATENTS, GIVEN = "onnx_invert.latent_names", "onnx_invert.latents_given"
"""Entries of the metadata: which file of a pair it is, and of which pair; the numbers of each latent, ranges of those
that are free, what is recorded of data; the latents' names, and why they must be given (where they must)."""


@dataclass(frozen=True)
class Return:
    """How well x came back: max |x̂ − x| in its own units and relative to max |x|, one number a sample. `y_size`
    are the numbers of y, a sample."""

    absolute: NDArray[np.float64]
    relative: NDArray[np.float64]
    tolerance: float
    y_size: int

    @property
    def passed(self) -> bool:
        """True if every sample came back; NaN is none that did."""
        return bool(self.relative.size) and bool(np.all(self.relative <= self.tolerance))

    def round_trip(self, source: str) -> RoundTrip:
        """As the round trip of an inverse of f⁺, which promises x; `source` says where the samples are from."""
        held = np.full(self.relative.shape, self.tolerance)
        x = Trip(self.relative, np.ones(self.relative.shape), held, promised=True, strict=True)
        y = Trip(np.zeros(0), np.zeros(0), np.zeros(0), promised=False)
        return RoundTrip(self.relative.size, source, x, y, None)


def measure(
    f: Session,
    g: Session,
    ports: Sequence[Port],
    recovered: Sequence[str],
    known: Sequence[str],
    names: Sequence[str],
    *,
    batches: Sequence[Batch] | None = None,
    count: int = 256,
    rtol: float | None = None,
) -> Return:
    """g⁺(f⁺(x)) against x on samples, drawn where there are none. Those on which f is not finite are left out.

    Raises:
        ModelError: a file cannot be run, or the network is finite on no sample.
    """
    main = next(port for port in ports if port.name == recovered[0])
    drawn: Sequence[Batch] = batches or drawn_for(f, ports, known, count, main.name)
    tolerance = rtol if rtol is not None else DIGITS[main.dtype.itemsize]
    y_size = 0
    absolute: list[NDArray[Any]] = []
    relative: list[NDArray[Any]] = []
    for batch in drawn:
        outputs = f.run({port.name: batch[port.name] for port in ports}, [*known, *names])
        feeds = {**outputs, **{name: batch[name] for name in batch if name in g.names}}
        found = g.run({name: array for name, array in feeds.items() if name in g.names or name in g.optional})
        rows = len(batch[main.name]) if main.has_batch else 1
        seen = [by_sample(array, rows) for array in (*(batch[n] for n in recovered), *(outputs[n] for n in known))]
        y_size = sum(array.shape[1] for array in seen[len(recovered) :])
        finite = np.logical_and.reduce([np.isfinite(array).all(axis=1) for array in seen])
        worst, share = np.zeros(finite.sum()), np.zeros(finite.sum())
        if not finite.any():
            continue
        for name in recovered:
            true = by_sample(batch[name], rows)[finite].astype(np.float64)
            error = np.max(np.abs(by_sample(found[name], rows)[finite] - true), axis=1, initial=0.0)
            size = np.max(np.abs(true), axis=1, initial=0.0)
            # A sample of zeros is held to the others' size.
            floor = float(np.median(size)) or 1.0
            worst = np.maximum(worst, error)
            share = np.maximum(share, error / np.maximum(size, 1e-3 * floor))
        absolute.append(worst)
        relative.append(np.where(np.isfinite(share), share, np.inf))
    if not absolute:
        raise ModelError("The model returns NaN or infinity on all samples: give realistic inputs with --data.")
    return Return(np.concatenate(absolute), np.concatenate(relative), tolerance, y_size)


def drawn_for(f: Session, ports: Sequence[Port], known: Sequence[str], count: int, main: str) -> list[Batch]:
    """Samples from the first distribution on which the network is finite."""
    for index in range(len(DISTRIBUTIONS)):
        batches = list(draw(ports, min(count, 32) if not _batched(ports, main) else count, index, main))
        if all(np.isfinite(array).all() for batch in batches for array in f.run(batch, known).values()):
            return batches
    raise ModelError("The model returns NaN or infinity on drawn samples: give realistic inputs with --data.")


def _batched(ports: Sequence[Port], main: str) -> bool:
    return next(port for port in ports if port.name == main).has_batch


def is_pair(forward: Mapping[str, str], inverse: Mapping[str, str]) -> bool:
    """True if the metadata of two files says that they were made for each other."""
    ends = forward.get(STATED), inverse.get(STATED)
    return ends == ("forward", "inverse") and forward.get(PAIR) == inverse.get(PAIR)


def latent_names(g: Session) -> list[str]:
    """The latents that an inverse takes, in their order; none where it is no lossless one."""
    stated = g.metadata.get(LATENTS)
    if stated is not None:
        return stated.splitlines()
    return sorted(name for name in g.optional if name.startswith(FLAT))
