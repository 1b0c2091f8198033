"""Inputs to try a round trip on: drawn, or cut out of data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.errors import UsageError
from onnx_invert.plan.problem import Problem

Array = NDArray[Any]
Batch = dict[str, Array]

SEED = 20_240_607
SAMPLES = 256
"""Round trips that are made, where nobody says how many."""

FREE_SIZE = 5
"""The size that is tried for a symbolic axis other than the batch."""

LARGEST_DRAW = 1 << 26
"""Numbers of one input that are drawn at most: half a gigabyte, before it is cast to the model's type."""

DISTRIBUTIONS: tuple[tuple[str, Callable[[np.random.Generator, tuple[int, ...]], Array]], ...] = (
    ("N(0, 1)", lambda rng, shape: rng.standard_normal(shape)),
    ("|N(0, 1)|", lambda rng, shape: np.abs(rng.standard_normal(shape))),
    ("U(−1, 1)", lambda rng, shape: rng.uniform(-1, 1, shape)),
    ("U(0, 1)", lambda rng, shape: rng.uniform(0, 1, shape)),
    ("1 + |N(0, 1)|", lambda rng, shape: 1 + np.abs(rng.standard_normal(shape))),
)
"""What inputs are drawn from: the first on which the model is finite everywhere, else the most often."""


@dataclass(frozen=True)
class Port:
    """An input as the drawing needs it: name, shape with symbols as text, numpy type."""

    name: str
    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def has_batch(self) -> bool:
        """True if the first axis is symbolic: rows are samples, and any number of them runs at once."""
        return bool(self.shape) and isinstance(self.shape[0], str)


def ports_of(values: Sequence[ir.Value]) -> list[Port]:
    """Inputs of a model as the drawing needs them."""
    return [
        Port(
            value.name or "",
            tuple(d if isinstance(d, int) else d.value or f"?{axis}" for axis, d in enumerate(value.shape or ())),
            np.dtype((value.dtype or ir.DataType.FLOAT).numpy()),
        )
        for value in values
    ]


def sample_axes(problem: Problem) -> dict[str, int]:
    """Where the batch lies in known outputs that have it on another axis than the first."""
    dims = [None if isinstance(d, int) else d.value for d in problem.recovered[0].shape or ()]
    if not dims or dims[0] is None:
        return {}
    axes = {}
    for value in problem.known:
        symbols = [None if isinstance(d, int) else d.value for d in value.shape or ()]
        if dims[0] in symbols[1:] and symbols[0] != dims[0]:
            axes[value.name or ""] = symbols.index(dims[0])
    return axes


def match(arrays: Mapping[str, Array], names: Sequence[str], path: str) -> Batch:
    """Give the arrays of a file to inputs: one array to one input, several by name.

    Raises:
        UsageError: names that do not fit.
    """
    if len(arrays) == 1 and len(names) == 1:
        return {names[0]: next(iter(arrays.values()))}
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UsageError(
            f"{path} has no array for {', '.join(map(repr, missing))}. It has: "
            f"{', '.join(repr(name) for name in arrays) or 'none'}."
        )
    return {name: arrays[name] for name in names}


def draw(
    ports: Sequence[Port],
    count: int,
    distribution: int,
    batch_of: str,
    *,
    seed: int = SEED,
    bounds: Mapping[str, tuple[Array, Array]] | None = None,
    even: bool = False,
) -> Iterator[Batch]:
    """Batches of inputs: one of `count` rows if `batch_of` has a batch axis, else one sample a batch.

    `bounds` are ends, finite or not, between which inputs lie, the whole interval alike where `even`; both broadcast
    against the input.

    Floating-point inputs come from the distribution, others are 0 or 1. Where `count` rows would be more than
    `LARGEST_DRAW` numbers, there are fewer.
    """
    rng = np.random.default_rng(seed)
    main = next(port for port in ports if port.name == batch_of)
    runs, rows = (1, count) if main.has_batch else (count, 1)
    row = math.prod(dim if isinstance(dim, int) else FREE_SIZE for dim in main.shape[main.has_batch :])
    rows = max(1, min(rows, LARGEST_DRAW // max(row, 1)))
    batch_symbol = main.shape[0] if main.has_batch else None
    sampler = DISTRIBUTIONS[distribution][1]
    for _ in range(runs):
        batch: Batch = {}
        for port in ports:
            shape = tuple(
                dim
                if isinstance(dim, int)
                else rows
                if dim == batch_symbol or (axis == 0 and batch_symbol is not None)
                else FREE_SIZE
                for axis, dim in enumerate(port.shape)
            )
            if port.dtype.kind == "f":
                drawn = np.asarray(sampler(rng, shape))
                if bounds is not None and port.name in bounds:
                    drawn = _between(drawn, *bounds[port.name], even=even)
                batch[port.name] = drawn.astype(port.dtype)
            else:
                batch[port.name] = np.asarray(rng.integers(0, 2, shape)).astype(port.dtype)
        yield batch


def _between(drawn: Array, low: Array, high: Array, *, even: bool) -> Array:
    """Numbers between ends: spread over an interval, from an end on where there is one; untouched elsewhere.

    `even` takes normal numbers all over an interval, by their distribution function (to 5e-4); otherwise few of them
    come near its ends.
    """
    share = 0.5 * (1 + drawn / (1 + np.abs(drawn)))
    if even:
        share = 0.5 * (1 + np.tanh((2 / np.pi) ** 0.5 * (drawn + 0.044715 * drawn**3)))
    with np.errstate(invalid="ignore"):
        inside = low + (high - low) * share
    inside = np.where(np.isneginf(low), high - np.abs(drawn), inside)
    inside = np.where(np.isposinf(high), low + np.abs(drawn), inside)
    return np.asarray(np.where(np.isneginf(low) & np.isposinf(high), drawn, inside))


def cut(data: Batch, ports: Sequence[Port], batch_of: str, count: int | None) -> Iterator[Batch]:
    """The data as batches that the model takes, at most `count` samples.

    Samples lie along the first axis: rows of a batch, or whole inputs where the model takes one at a time. An
    input of exactly the model's shape that has no batch axis itself is the same for all samples.

    Raises:
        UsageError: an array whose shape or type does not fit its input.
    """
    main = next(port for port in ports if port.name == batch_of)
    for port in ports:
        _check_type(data[port.name], port)
    total = len(data[batch_of]) if data[batch_of].ndim else 0
    rows = main.shape[0] if main.shape and isinstance(main.shape[0], int) and data[batch_of].ndim == main.rank else 0
    size = int(rows) or 1
    for port in ports:
        _check_shape(data[port.name], port, main, total, stacked=bool(rows))
    if total == 0:
        raise UsageError("The data has no samples.")
    total = min(total, count or total)
    if main.has_batch:
        size = total
    elif total < size:
        raise UsageError(f"The data, or --samples, gives {total} samples; the model takes {size} at a time.")
    for start in range(0, total - size + 1, size):
        yield {port.name: _rows(data[port.name], port, main, start, size) for port in ports}


def parts(batches: Iterable[Batch], ports: Sequence[Port], batch_of: str, rows: int) -> Iterator[Batch]:
    """The batches, cut into such of at most `rows` rows, as far as the model takes any number at once."""
    apart = [port.name for port in ports if port.has_batch]
    for batch in batches:
        count = len(batch[batch_of]) if batch_of in apart else 0
        if count <= rows:
            yield batch
            continue
        for start in range(0, count, rows):
            yield {name: a[start : start + rows] if name in apart else a for name, a in batch.items()}


def chunks(data: Batch, ports: Sequence[Port], batch_of: str, count: int, rows: int) -> Iterator[Batch]:
    """The first `count` samples of the data as batches of about `rows`, each read when it is asked for.

    Raises:
        UsageError: as for `cut`.
    """
    main = next(port for port in ports if port.name == batch_of)
    fixed = main.shape[0] if main.shape and data[batch_of].ndim == main.rank else 1
    size = fixed if isinstance(fixed, int) else 1
    rows = max(rows // size, 1) * size
    for start in range(0, max(count - size + 1, 1), rows):
        stop = min(start + rows, count)
        part = {p.name: data[p.name] for p in ports}
        part |= {p.name: data[p.name][start:stop] for p in ports if not _is_shared(data[p.name], p, main)}
        yield from cut(part, ports, batch_of, None)


def _check_type(array: Array, port: Port) -> None:
    if array.dtype.kind not in "fiub" or (array.dtype.kind == "f") > (port.dtype.kind == "f"):
        raise UsageError(f"The data for {port.name!r} is {array.dtype}; the model takes {port.dtype}.")


def _check_shape(array: Array, port: Port, main: Port, total: int, *, stacked: bool) -> None:
    """One array against its input; `stacked` if samples are rows of a fixed batch."""
    if _is_shared(array, port, main):
        return
    if main.has_batch and not port.has_batch:
        raise UsageError(f"The data for {port.name!r} has shape {array.shape}; the model takes {_dims(port.shape)}.")
    rows = port.shape[1:] if port.has_batch or (stacked and port.shape and array.ndim == port.rank) else port.shape
    if array.ndim != len(rows) + 1 or not _fits(array.shape[1:], rows):
        dims = _dims(("N", *rows))
        told = f"The data for {port.name!r} has shape {array.shape}; the model takes {dims}."
        raise UsageError(told + _remedy(array.shape, rows))
    if len(array) != total:
        raise UsageError(f"The data for {port.name!r} has {len(array)} samples, {main.name!r} {total}.")


def _remedy(have: Sequence[int], rows: Sequence[int | str]) -> str:
    """What makes data of shape `have` samples of the sizes `rows`; nothing where another shape is not enough."""
    sizes = [size for size in rows if not isinstance(size, str)]
    if len(sizes) < len(rows) or not have:
        return ""
    if tuple(have) == tuple(sizes):
        return f" It looks like one sample: give it a first axis, {(1, *sizes)}."
    if math.prod(have[1:]) == math.prod(sizes):
        return f" Its samples have as many numbers: reshape it to {(-1, *sizes)}."
    return ""


def _dims(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))})"


def _is_shared(array: Array, port: Port, main: Port) -> bool:
    """True for an input that is no sample's own: a mask, a scale."""
    return port is not main and not port.has_batch and array.ndim == port.rank and _fits(array.shape, port.shape)


def _fits(have: Sequence[int], want: Sequence[int | str]) -> bool:
    return all(isinstance(w, str) or w == h for h, w in zip(have, want, strict=True))


def _rows(array: Array, port: Port, main: Port, start: int, size: int) -> Array:
    if not _is_shared(array, port, main):
        array = array[start : start + size]
        if array.ndim == port.rank + 1:
            array = array[0]
    with np.errstate(over="ignore"):  # what overflows is infinite, and such samples are left out and counted
        return np.asarray(array).astype(port.dtype)
