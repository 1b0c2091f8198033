"""f, its derivative and g⁺ of a lossless pair, on rows of numbers: a sample is one row, whatever its shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert.comparison import ports
from onnx_invert.differentiation import jacobian
from onnx_invert.errors import NotInvertibleError, UsageError
from onnx_invert.numerics.manifold import Array
from onnx_invert.numerics.mixture import Mixture, parse
from onnx_invert.opening import ModelLike
from onnx_invert.pairs import DATA, FREE, NAMES, STATED, latent_names
from onnx_invert.runtime import Session
from onnx_invert.samples import Port
from onnx_invert.trips import by_sample

CHUNK = 1 << 24
"""Numbers of a Jacobian that are in memory at once."""


class Networks:
    """The sessions of a pair and the names that belong together.

    Attributes:
        known, given, recovered: outputs of f that g⁺ takes, inputs of f that stay given, those that g⁺ returns.
        single: True if f and g⁺ run on one sample at a time.
        size: numbers of z. `has_latents`: True if f returns them.
        free: bool (Z,), the latents that no value of which changes y.
        mixture: what the inverse recorded of its data, or None.
        note: why there is no derivative, or nothing.

    Raises:
        ModelError, UsageError: a file does not load, is no lossless inverse, or does not fit the other.
    """

    def __init__(self, forward: Path | bytes, inverse: Path | bytes, model: ModelLike, names: tuple[str, str]) -> None:
        self.f, self.g = Session(forward, names[0]), Session(inverse, names[1])
        stated = self.g.metadata
        if stated.get(STATED) != "inverse":
            raise UsageError(f"{names[1]} is no lossless inverse: make one with --lossless FORWARD.onnx.")
        inputs = ports(self.f)
        self.latent_names = latent_names(self.g)
        self.known = [name for name in self.f.outputs if name in self.g.names - set(self.latent_names)]
        self.recovered = [port for port in inputs if port.name in self.g.outputs]
        self.given = [port for port in inputs if port.name not in self.g.outputs]
        if not self.known or len(self.recovered) != len(self.g.outputs) - ("residual" in self.g.outputs):
            raise UsageError(
                f"The two files do not fit: {names[0]} makes {self.f.outputs} of {[port.name for port in inputs]}, "
                f"{names[1]} takes {sorted(self.g.names)} and returns {self.g.outputs}."
            )
        self.numbers = [int(size) for size in stated.get(NAMES, "").split()]
        self.size = sum(self.numbers)
        self.has_latents = set(self.latent_names) <= set(self.f.outputs)
        self.free = _flags(stated.get(FREE, ""), self.size)
        self.mixture = _recorded(stated.get(DATA), names[1])
        self.dtype = self.recovered[0].dtype
        self.single = not self.recovered[0].has_batch or self._turned()
        self.derivative, self.note = self._derived(model)

    def _turned(self) -> bool:
        """True if an output has the axis of samples elsewhere than in front: rows are samples of a single run then."""
        symbol = self.recovered[0].shape[0]
        outputs = {value.name: value.shape for value in self.f.output_ports}
        return any(symbol in outputs[name][1:] or isinstance(outputs[name][0], int) for name in self.known)

    def _rows_of_one(self, name: str) -> int:
        """Rows that one sample has in an output: several where they are merged with another axis, as (2 N, 1)."""
        if name not in self.known:
            return 1
        feeds = {
            port.name: np.zeros([size if isinstance(size, int) else 1 for size in port.shape], port.dtype)
            for port in ports(self.f)
        }
        return len(self.f.run(feeds, [name])[name])

    def _derived(self, model: ModelLike) -> tuple[Session | None, str]:
        try:
            made = jacobian(model, wrt=[port.name for port in self.recovered], of=self.known)
        except NotInvertibleError as error:
            return None, f"the network has no derivative ({error.blockers[0]})"
        return Session(made.SerializeToString(), "the derivative"), ""

    def at(self, y: Mapping[str, NDArray[Any]] | NDArray[Any]) -> Rows:
        """Both networks for one y, and for one value of the inputs that are given.

        Raises:
            UsageError: names, shapes or types that do not fit, several samples, numbers that are not finite.
        """
        wanted = [*self.known, *(port.name for port in self.given)]
        if not isinstance(y, Mapping):
            if len(wanted) > 1:
                raise UsageError(f"y has to be a mapping of arrays for {', '.join(map(repr, wanted))}.")
            y = {wanted[0]: y}
        if missing := [name for name in wanted if name not in y]:
            raise UsageError(f"No array for {', '.join(map(repr, missing))}. {self.g.signature()}")
        shapes = {value.name: len(value.shape) for value in (*self.f.output_ports, *self.f.inputs)}
        feeds = {}
        for name in wanted:
            array = np.asarray(y[name])
            array = array[None] if array.ndim == shapes[name] - 1 else array
            several = self.recovered[0].has_batch and array.ndim and len(array) != 1
            if several and len(array) != self._rows_of_one(name):
                raise UsageError(
                    f"The array for {name!r} has {len(array)} samples: a fibre is that of one y. Give one row of it."
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise UsageError(f"The array for {name!r} holds NaN or infinity: no x gives that.")
            feeds[name] = array
        mine = {name: array for name, array in feeds.items() if name in self.g.names}
        taken = self.g.check(mine, later=self.latent_names)
        for name, array in taken.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():  # it was given in a wider type
                raise UsageError(f"The array for {name!r} has numbers that {array.dtype} does not hold.")
        return Rows(self, {**feeds, **taken})


def _flags(text: str, size: int) -> NDArray[np.bool_]:
    """Ranges a:b as one flag for every number."""
    flags = np.zeros(size, bool)
    for part in text.split():
        start, stop = part.split(":")
        flags[int(start) : int(stop)] = True
    return flags


def _recorded(text: str | None, name: str) -> Mixture | None:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"What {name} recorded of its data cannot be read: {error}.") from error


@dataclass(frozen=True)
class Rows:
    """The networks at one y. Rows hold the recovered inputs side by side, (N, n) in float64."""

    net: Networks
    feeds: Mapping[str, NDArray[Any]]

    @property
    def n(self) -> int:
        """Numbers of a row."""
        return sum(_count(port) for port in self.net.recovered)

    @property
    def y(self) -> Array:
        """y, (m)."""
        return np.asarray(np.hstack([by_sample(self.feeds[name], 1) for name in self.net.known])[0], np.float64)

    @property
    def units(self) -> Array:
        """What |f(x) − y| is measured by, (m): the largest |y| of the same output, 1 where all are 0."""
        sizes = [np.abs(self.feeds[name]).astype(np.float64) for name in self.net.known]
        return np.concatenate([np.full(size.size, size.max(initial=0.0) or 1.0) for size in sizes])

    def rounded(self, rows: Array) -> Array:
        """Rows as the network's own type holds them."""
        with np.errstate(over="ignore"):
            return rows.astype(self.net.dtype).astype(np.float64)

    def shaped(self, rows: Array) -> dict[str, NDArray[Any]]:
        """The inputs by name, samples along a first axis."""
        found, start = {}, 0
        for port in self.net.recovered:
            sizes = [int(size) for size in port.shape[port.has_batch :]]
            stop = start + _count(port)
            found[port.name] = rows[:, start:stop].reshape(len(rows), *sizes).astype(port.dtype)
            start = stop
        return found

    def joined(self, inputs: Mapping[str, NDArray[Any]]) -> Array:
        """Rows from inputs by name: a batch, or one sample where the network takes no more."""
        parts = [inputs[port.name] for port in self.net.recovered]
        count = len(parts[0]) if self.net.recovered[0].has_batch else 1
        return np.hstack([by_sample(part, count) for part in parts]).astype(np.float64)

    def f(self, rows: Array) -> Array:
        """f(x), (N, m)."""
        return np.hstack(self._run(self.net.f, rows, self.net.known)).astype(np.float64)

    def slope(self, rows: Array) -> Array:
        """∂f/∂x, (N, m, n)."""
        assert self.net.derivative is not None
        m, n = len(self.y), self.n
        step = max(1, CHUNK // (m * n))
        parts = [
            self._run(self.net.derivative, rows[start : start + step], ["jacobian"])[0].reshape(-1, m, n)
            for start in range(0, len(rows), step)
        ]
        return np.concatenate(parts).astype(np.float64)

    def latents(self, rows: Array) -> NDArray[Any]:
        """z of inputs, (N, Z).

        Raises:
            UsageError: f does not return its latents.
        """
        if not self.net.has_latents:
            raise UsageError("Latents need the network that returns them: the file that --lossless wrote.")
        if not self.net.latent_names:
            return np.zeros((len(rows), 0), self.net.dtype)
        return np.hstack(self._run(self.net.f, rows, self.net.latent_names))

    def back(self, z: Array) -> Array:
        """g⁺(y, z), (N, n), from z (N, Z)."""
        bounds = np.cumsum([0, *self.net.numbers])
        found = []
        for part in np.split(z, len(z)) if self.net.single else [z]:
            feeds = {name: self._spread(name, array, len(part)) for name, array in self._taken().items()}
            for name, start, stop in zip(self.net.latent_names, bounds[:-1], bounds[1:], strict=True):
                feeds[name] = part[:, start:stop]
            results = self.net.g.run(self.net.g.check(feeds), [port.name for port in self.net.recovered])
            found.append(np.hstack([by_sample(array, len(part)) for array in results.values()]))
        return np.concatenate(found).astype(np.float64)

    def _taken(self) -> dict[str, NDArray[Any]]:
        return {name: array for name, array in self.feeds.items() if name in self.net.g.names}

    def _spread(self, name: str, array: NDArray[Any], count: int) -> NDArray[Any]:
        """A given array for `count` samples; what has no axis of samples is shared."""
        has_batch = self.net.recovered[0].has_batch and array.ndim and (len(array) == 1 or name in self.net.known)
        shared = any(port.name == name and not port.has_batch for port in self.net.given)
        return np.concatenate([array] * count) if has_batch and not shared else array

    def _run(self, session: Session, rows: Array, names: list[str]) -> list[NDArray[Any]]:
        """Outputs as rows; one sample at a time where the network takes no more."""
        found = []
        for part in np.split(rows, len(rows)) if self.net.single and len(rows) else [rows]:
            feeds = self.shaped(part)
            if not self.net.recovered[0].has_batch:
                feeds = {name: array[0] for name, array in feeds.items()}
            for port in self.net.given:
                feeds[port.name] = self._spread(port.name, self.feeds[port.name].astype(port.dtype), len(part))
            results = session.run({name: feeds[name] for name in session.names}, names)
            found.append([by_sample(results[name], len(part)) for name in names])
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _count(port: Port) -> int:
    sizes = port.shape[port.has_batch :]
    if unknown := [size for size in sizes if isinstance(size, str)]:
        raise UsageError(f"The sizes {unknown} of {port.name!r} are known only at run time: fix them.")
    return int(np.prod([int(size) for size in sizes]))
