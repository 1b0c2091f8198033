"""Running models in onnxruntime: the only code of the engine that imports it."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_invert.errors import ModelError, UsageError

Array = NDArray[Any]
Feeds = Mapping[str, Array]

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint64)": np.uint64,
    "tensor(uint32)": np.uint32,
    "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class Session:
    """A model loaded in onnxruntime's CPU provider.

    Packing weights for speed would hold every one of them twice, and is off. With `packed` it is on, as users have it:
    onnxruntime multiplies weights of four bits in another way then, where x is rounded to eight bits. `threads` is
    how many it takes, as many as there are cores where it is None: of small batches they do more waiting than work.

    Raises:
        ModelError: onnxruntime cannot load the model, or fails while it runs.
    """

    def __init__(self, model: Path | bytes, name: str, *, packed: bool = False, threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4
        options.add_session_config_entry("session.disable_prepacking", "0" if packed else "1")
        self._name = name
        try:
            source = model if isinstance(model, bytes) else _loadable(model)
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"onnxruntime cannot load {name}: {_plain(error)}") from error

    @property
    def inputs(self) -> list[Any]:
        """onnxruntime's description of the inputs."""
        return list(self._session.get_inputs())

    @property
    def names(self) -> set[str]:
        """The names of the inputs."""
        return {value.name for value in self.inputs}

    @property
    def optional(self) -> set[str]:
        """The names of inputs that have a value of their own where none is given."""
        return {value.name for value in self._session.get_overridable_initializers()}

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return [output.name for output in self._session.get_outputs()]

    @property
    def metadata(self) -> dict[str, str]:
        """The file's own key-value pairs."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run the model once; outputs by name."""
        names = list(outputs) if outputs is not None else self.outputs
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:  # as above
            raise ModelError(f"onnxruntime fails on {self._name}: {_plain(error)}") from error
        return dict(zip(names, values, strict=True))

    @property
    def output_ports(self) -> list[Any]:
        """onnxruntime's description of the outputs."""
        return list(self._session.get_outputs())

    def check(self, feeds: Feeds, later: Container[str] = ()) -> dict[str, Array]:
        """The arrays, cast where that loses nothing; inputs of `later` may still be missing.

        Raises:
            UsageError: a missing or unknown name, a wrong shape or type.
        """
        wanted = {value.name: value for value in self.inputs}
        optional = {value.name: value for value in self._session.get_overridable_initializers()}
        for name in feeds:
            if name not in wanted and name not in optional:
                raise UsageError(f"{self._name} has no input {name!r}. {self.signature()}")
        for name in wanted:
            if name not in feeds and name not in later:
                raise UsageError(f"No array for the input {name!r} of {self._name}. {self.signature()}")
        return {name: self._fit((wanted | optional)[name], array) for name, array in feeds.items()}

    def _fit(self, value: Any, array: Array) -> Array:
        shape = value.shape
        fits = len(shape) == array.ndim and all(
            not isinstance(want, int) or want == have for want, have in zip(shape, array.shape, strict=True)
        )
        if not fits:
            raise UsageError(
                f"The array for {value.name!r} has shape {_dims(array.shape)}; {self._name} takes {_dims(shape)}."
            )
        dtype = _TYPES.get(value.type)
        if dtype is None or array.dtype == dtype:
            return array
        floats = np.issubdtype(dtype, np.floating) and array.dtype.kind in "fiu"
        if floats or np.can_cast(array.dtype, dtype):
            with np.errstate(over="ignore"):
                return array.astype(dtype)
        raise UsageError(f"The array for {value.name!r} is {array.dtype}; {self._name} takes {np.dtype(dtype)}.")

    def signature(self) -> str:
        """The inputs in one line."""
        listed = "; ".join(f"{v.name} {v.type[7:-1]}{_dims(v.shape)}" for v in self.inputs)
        return f"Its inputs: {listed}."


def numpy_type(port: Any) -> np.dtype[Any]:
    """The numpy type of an input or output.

    Raises:
        UsageError: a type that no array has here, such as strings.
    """
    kind = _TYPES.get(port.type)
    if kind is None:
        raise UsageError(f"{port.name!r} is {port.type}, which cannot be drawn or read.")
    return np.dtype(kind)


class Renamed:
    """A session under other names for its inputs and outputs: an inverse that somebody else wrote."""

    def __init__(self, session: Session, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
        self._session, self._inputs, self._outputs = session, inputs, outputs

    @property
    def names(self) -> set[str]:
        """The inputs, under the new names."""
        return set(self._inputs)

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run the model once; outputs by their new names."""
        wanted = list(outputs) if outputs is not None else list(self._outputs)
        found = self._session.run(
            {self._inputs[name]: array for name, array in feeds.items()},
            [self._outputs[name] for name in wanted],
        )
        return {name: found[self._outputs[name]] for name in wanted}


@dataclass
class Runs:
    """What a model made of what it was run on: `digest` is the SHA-256 of its bytes, `names` are its inputs."""

    digest: str
    names: set[str]
    _seen: list[tuple[Feeds, dict[str, Array]]] = field(default_factory=list)

    def add(self, feeds: Feeds, found: dict[str, Array]) -> None:
        """Outputs, by name, for feeds."""
        self._seen.append((feeds, found))

    def of(self, feeds: Feeds, outputs: Sequence[str]) -> dict[str, Array] | None:
        """The outputs for the same feeds, bit for bit; None for others."""
        for seen, found in self._seen:
            if seen.keys() == feeds.keys() and all(_same(seen[name], feeds[name]) for name in feeds):
                return {name: found[name] for name in outputs} if set(outputs) <= found.keys() else None
        return None


class Recalled:
    """A file that ran before, byte for byte, on some of what it will be run on: it is loaded for what is new alone."""

    def __init__(self, path: Path, name: str, runs: Runs) -> None:
        self._path, self._name, self._runs = path, name, runs

    @property
    def names(self) -> set[str]:
        """The names of the inputs."""
        return self._runs.names

    def run(self, feeds: Feeds, outputs: Sequence[str]) -> dict[str, Array]:
        """The outputs by name."""
        known = self._runs.of(feeds, outputs)
        return self._session.run(feeds, outputs) if known is None else known

    @cached_property
    def _session(self) -> Session:
        return Session(self._path, self._name)


def _same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _dims(shape: Sequence[int | str | None]) -> str:
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in shape) + ")"


def _loadable(model: Path) -> str | bytes:
    """The path, or where onnxruntime cannot be told it (a name that is no Unicode), the file's bytes."""
    try:
        str(model).encode()
    except UnicodeEncodeError:
        return model.read_bytes()
    return str(model)


def _plain(error: Exception) -> str:
    """The first line of onnxruntime's message, without its codes and without the C++ that raised it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0])
    text = re.sub(r"Load model from .*? failed:", "", text)
    return re.sub(r"/onnxruntime_src/\S+:\d+ [^()]*\(.*?\)(?: const)? ", "", text).strip()
