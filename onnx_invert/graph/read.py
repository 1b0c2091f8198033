"""From a path to a graph: everything that a file can get wrong ends here, with a clear error."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir

from onnx_invert.errors import FileError, ModelError, OnnxInvertError
from onnx_invert.graph import checks
from onnx_invert.graph.lookalikes import lookalike
from onnx_invert.graph.operators import check_operators


@dataclass
class Source:
    """A model as it was read: the graph, where it came from and the SHA-256 of its bytes.

    `path` is None for a model given as an object; `data` then holds its bytes. `files` hold its external data.
    `four_bits` says that it has weights of four bits, which runtimes do not multiply exactly (runtime.py).
    """

    model: ir.Model
    path: Path | None
    sha256: str
    data: bytes = b""
    files: list[Path] = field(default_factory=list)
    four_bits: bool = False

    @property
    def name(self) -> str:
        """How messages call the model."""
        return self.path.name if self.path is not None else "the model"


def read(path: Path) -> Source:
    """Read an ONNX file. Its weights are held once; those in external files stay there, memory-mapped.

    Raises:
        FileError: the path is no readable file, or external data is missing or outside the folder.
        ModelError: the bytes are no sound ONNX model; the message says what is wrong.
    """
    return _checked(partial(_parse, path), path)


def from_proto(proto: onnx.ModelProto) -> Source:
    """The same for a model held in memory; it is not changed."""
    data = proto.SerializeToString(deterministic=True)
    source = _checked(lambda: (onnx.ModelProto.FromString(data), hashlib.sha256(data).hexdigest()), None)
    source.data = data
    return source


def _checked(parse: Callable[[], tuple[onnx.ModelProto, str]], path: Path | None) -> Source:
    name = path.name if path is not None else "The model"
    proto, digest = parse()  # here, so that no caller holds it when it is let go of below
    checks.check_header(proto, name)
    checks.check_outputs(proto, name)
    checks.leave_open(proto)
    tensors = list(checks.tensors(proto))
    checks.check_tensors(tensors, name)
    files = _external_files(tensors, path)
    four_bits = checks.four_bits(tensors)
    del tensors
    checks.check_wiring(proto, name)
    digest = _with_external(digest, files)
    try:
        model = ir.serde.deserialize_model(proto)
    except Exception as error:  # onnx-ir raises what the malformed part happens to trip
        raise ModelError(f"{name} is not a sound ONNX model: {checks.first_line(error)}") from error
    if path is not None:
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            ir.external_data.set_base_dir(graph, path.parent)
    _own_weights(model)
    del proto
    check_operators(model, name)
    checks.sort(model, name)
    checks.check_weights(model, name)
    return Source(model, path, digest, files=files, four_bits=four_bits)


def has_four_bits(path: Path) -> bool:
    """True if an ONNX file has weights of four bits; False if it is none, which others say better."""
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's own exceptions, whatever the file is
        return False
    return checks.four_bits(checks.tensors(proto))


def file_hash(path: Path) -> str:
    """The SHA-256 that `read` states for a file: of its bytes, and of its external data's."""
    proto, digest = _parse(path)
    return _with_external(digest, _external_files(checks.tensors(proto), path))


def _with_external(digest: str, files: Iterable[Path]) -> str:
    for file in files:
        digest = hashlib.sha256((digest + _file_digest(file)).encode()).hexdigest()
    return digest


def _parse(path: Path) -> tuple[onnx.ModelProto, str]:
    proto = onnx.ModelProto()
    try:
        if not path.exists():
            raise FileError(f"There is no file {str(path)!r}.")
        if path.is_dir():
            raise FileError(f"{str(path)!r} is a directory, not an ONNX file.")
        if not path.is_file():
            raise FileError(f"{str(path)!r} is a device or a pipe, no regular file: save the model to one first.")
        size = path.stat().st_size
        if size == 0:
            raise ModelError(f"{path.name} is empty (0 bytes).")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            view = memoryview(data)
            try:
                digest = hashlib.sha256(view).hexdigest()
                proto.ParseFromString(view)  # any buffer will do
            finally:
                view.release()
    except OSError as error:
        raise FileError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    except OnnxInvertError:
        raise
    except Exception as error:  # protobuf's DecodeError, whose class depends on its backend
        raise ModelError(
            _told_apart(path) or f"{path.name} is not an ONNX file, or was cut short: its {size} bytes do not parse."
        ) from error
    if not proto.HasField("graph") and (told := _told_apart(path)):  # other files parse, too, by chance
        raise ModelError(told)
    return proto, digest


def _told_apart(path: Path) -> str | None:
    told = lookalike(path)
    return told and f"{path.name} is not an ONNX file. It is {told}."


def _external_files(tensors: Iterable[onnx.TensorProto], path: Path | None) -> list[Path]:
    """The files that external data lies in, each inside the model's folder and long enough."""
    files: dict[Path, None] = {}
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        if path is None:
            raise ModelError(
                f"Weight {tensor.name!r} lies in an external file: pass the model's path, or load its data first."
            )
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        folder = path.parent.resolve()
        file = (folder / location).resolve()
        if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
            raise FileError(
                f"Weight {tensor.name!r} of {path.name} lies in {location!r}, outside the model's folder. "
                "It is not read: move the file beside the model."
            )
        if not file.is_file():
            raise FileError(f"Weight {tensor.name!r} of {path.name} lies in {location!r}, which does not exist.")
        size, present = checks.byte_size(tensor), file.stat().st_size
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
        except ValueError as error:
            raise ModelError(f"Weight {tensor.name!r} of {path.name} has unreadable offsets: {error}.") from error
        if offset < 0 or length < size:
            raise ModelError(
                f"Weight {tensor.name!r} of {path.name} states offset {offset} and length {length} in {location!r}; "
                f"its shape takes {size} bytes."
            )
        if offset + length > present:
            raise FileError(
                f"Weight {tensor.name!r} of {path.name} needs bytes {offset} to {offset + length} of "
                f"{location!r}, which has {present}: the file was cut short or is another model's."
            )
        files[file] = None
    return list(files)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_weights(model: ir.Model) -> None:
    """Take the weights out of the parsed file, so that they are held once and it can be freed."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.TensorProtoTensor) and (dtype := tensor.dtype) != ir.DataType.STRING:
            array = tensor.numpy()
            same = value.shape is not None and value.shape.dims == array.shape
            value.const_value = ir.Tensor(array, dtype=dtype, shape=value.shape if same else None, name=value.name)
