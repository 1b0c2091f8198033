"""Inputs and outputs to try a round trip on: drawn, or read from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert.errors import FileError, UsageError

Array = NDArray[Any]
Batch = dict[str, Array]

SEED = 20_240_607
FREE_SIZE = 5
"""The size that is tried for a symbolic axis other than the batch."""

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
    def has_batch(self) -> bool:
        """True if the first axis is symbolic: rows are samples, and any number of them runs at once."""
        return bool(self.shape) and isinstance(self.shape[0], str)


def load(path: Path) -> dict[str, Array]:
    """The arrays of an .npy (under the name "") or .npz file; objects are never unpickled.

    Raises:
        FileError: no such file, not a numpy file, objects inside.
    """
    if not path.is_file():
        raise FileError(f"There is no file {str(path)!r}.")
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"": np.asarray(loaded)}
    except Exception as error:  # numpy raises ValueError, EOFError, OSError, BadZipFile …
        why = (
            "it holds Python objects, which are not loaded"
            if "pickle" in str(error) and path.stat().st_size
            else ("it is no .npy or .npz file, or was cut short")
        )
        raise FileError(f"{str(path)!r} cannot be read: {why}.") from error
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise FileError(f"{str(path)!r} cannot be read: {name or 'it'} holds Python objects.")
    return arrays


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


def draw(ports: Sequence[Port], count: int, distribution: int, batch_of: str) -> Iterator[Batch]:
    """Batches of inputs: one of `count` rows if `batch_of` has a batch axis, else one sample a batch.

    Floating-point inputs come from the distribution, others are 0 or 1.
    """
    rng = np.random.default_rng(SEED)
    main = next(port for port in ports if port.name == batch_of)
    runs, rows = (1, count) if main.has_batch else (count, 1)
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
                batch[port.name] = sampler(rng, shape).astype(port.dtype)
            else:
                batch[port.name] = rng.integers(0, 2, shape).astype(port.dtype)
        yield batch


def cut(data: Batch, ports: Sequence[Port], batch_of: str, count: int | None) -> Iterator[Batch]:
    """The data as batches that the model takes, at most `count` samples.

    Raises:
        UsageError: an array whose shape or type does not fit its input.
    """
    main = next(port for port in ports if port.name == batch_of)
    for port in ports:
        array = data[port.name]
        rows = port.shape[1:] if port.has_batch or array.ndim == len(port.shape) else port.shape
        if array.dtype.kind not in "fiub" or (array.dtype.kind == "f") > (port.dtype.kind == "f"):
            raise UsageError(f"The data for {port.name!r} is {array.dtype}; the model takes {port.dtype}.")
        wanted = (None, *rows)
        if len(wanted) != array.ndim or any(
            isinstance(want, int) and want != have for want, have in zip(wanted, array.shape, strict=True)
        ):
            dims = ", ".join("N" if want is None else str(want) for want in wanted)
            raise UsageError(f"The data for {port.name!r} has shape {array.shape}; the model takes ({dims}).")
        if len(array) != len(data[batch_of]):
            raise UsageError(
                f"The data for {port.name!r} has {len(array)} samples, {batch_of!r} {len(data[batch_of])}."
            )
    total = min(len(data[batch_of]), count or len(data[batch_of]))
    if total == 0:
        raise UsageError("The data has no samples.")
    fixed = main.shape[0] if main.shape and isinstance(main.shape[0], int) else None
    whole_rows = fixed is not None and data[batch_of].ndim == len(main.shape)
    size = total if main.has_batch else int(fixed) if whole_rows and fixed else 1
    for start in range(0, total - size + 1, size):
        yield {
            port.name: _rows(data[port.name], start, size, port, squeeze=not (main.has_batch or whole_rows)).astype(
                port.dtype
            )
            for port in ports
        }


def _rows(array: Array, start: int, size: int, port: Port, *, squeeze: bool) -> Array:
    rows = array[start : start + size]
    return rows[0] if squeeze and rows.ndim == len(port.shape) + 1 else rows
