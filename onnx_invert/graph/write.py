"""Writing a model: streamed, atomic, the same bytes every time."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

from onnx_invert.errors import FileError
from onnx_invert.graph.atomic import check_target, folder_beside, real_path, uninterrupted

__all__ = [
    "LARGEST_FILE",
    "Staged",
    "check_target",
    "commit_both",
    "restate",
    "save",
    "staged",
    "to_bytes",
    "to_proto",
]

LARGEST_FILE = 2_000_000_000
"""Bytes of weights above which they go into a file of their own: protobuf ends at 2 GiB."""

_STREAMED = 1 << 12
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9


@dataclass(frozen=True)
class Staged:
    """A model written to a temporary folder beside its target; `commit` moves it into place."""

    path: Path
    target: Path

    def commit(self) -> None:
        """Move the file, and its external data first, to the target: both or none, not interrupted half-way."""
        data = self.path.with_name(self.path.name + ".data")
        place, before = self.target.with_name(data.name), data.with_name("before")
        has_data = data.exists()
        try:
            with uninterrupted():
                try:
                    if has_data and place.exists():
                        place.replace(before)
                    if has_data:
                        data.replace(place)
                    self.path.replace(self.target)
                except OSError:
                    if has_data and not data.exists():
                        place.replace(data)
                    if before.exists():
                        before.replace(place)
                    raise
                _sync(self.target.parent)
        except OSError as error:
            raise FileError(f"The output {str(self.target)!r} cannot be written: {error.strerror}.") from error


def commit_both(first: Staged | None, second: Staged) -> None:
    """Move two models to their targets: both or none, whatever fails and whenever Ctrl-C comes.

    With None for the first, the second alone is moved.

    Raises:
        FileError: one of them cannot be written; what was there before is there again.
    """
    if first is None:
        second.commit()
        return
    places = first.target, first.target.with_name(first.path.name + ".data")
    kept = [place.with_name(place.name) if place.exists() else None for place in places]
    spare = [first.path.with_name(f"before-{index}") for index in range(len(places))]
    with uninterrupted():
        for place, copy in zip(kept, spare, strict=True):
            if place is not None:
                copy.hardlink_to(place)
        first.commit()
        try:
            second.commit()
        except BaseException:
            for place, old, copy in zip(places, kept, spare, strict=True):
                if old is not None:
                    copy.replace(place)
                else:
                    place.unlink(missing_ok=True)
            raise


@contextmanager
def staged(model: ir.Model, target: Path, *, largest: int = LARGEST_FILE) -> Iterator[Staged]:
    """Write `model` beside `target` in a temporary folder; gone on leaving, unless it was committed.

    Raises:
        FileError: it cannot be written.
    """
    # External data is looked for beside the path that is opened, so there a link has to give way.
    real = target if _weight(model) > largest else real_path(target)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(folder_beside(real))
        except OSError as error:
            raise FileError(f"The output {str(target)!r} cannot be written: {error.strerror}.") from error
        save(model, folder / real.name, largest=largest)
        del model  # or this frame would hold its weights for as long as the caller works
        yield Staged(folder / real.name, real)


def save(model: ir.Model, path: Path, *, largest: int = LARGEST_FILE) -> None:
    """Write `model` and flush it to the disk; weights beside it as `<name>.data` above `largest` bytes.

    Raises:
        FileError: it cannot be written.
    """
    try:
        if _weight(model) > largest:
            data = f"{path.name}.data"
            ir.save(model, path, external_data=data)
            _sync(path.with_name(data))
        else:
            with path.open("wb") as file:
                _stream(model, file)
        _sync(path)
    except OSError as error:
        raise FileError(f"{path.name!r} cannot be written: {error.strerror or error}.") from error


def _weight(model: ir.Model) -> int:
    """The bytes of all weights."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)


def restate(path: Path, metadata: dict[str, str]) -> None:
    """Change entries of the key-value pairs of a file that `save` wrote; weights stay as they are.

    Raises:
        FileError: the file cannot be written.
    """
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.metadata_props:
        entry.value = metadata.get(entry.key, entry.value)
    try:
        path.write_bytes(proto.SerializeToString(deterministic=True))
    except OSError as error:
        raise FileError(f"The inverse cannot be written: {error.strerror}.") from error


def to_bytes(model: ir.Model) -> bytes:
    """What `save` writes, where it writes one file."""
    file = io.BytesIO()
    _stream(model, file)
    return file.getvalue()


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as a protobuf message, weights included."""
    proto: onnx.ModelProto = ir.serde.serialize_model(model)
    for tensor in proto.graph.initializer:
        weight = model.graph.initializers[tensor.name].const_value
        if isinstance(weight, ir.ExternalTensor):
            # What would be written is where it lies, beside the file that it was read from.
            tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims))
            tensor.raw_data = weight.tobytes()
    return proto


def _stream(model: ir.Model, file: BinaryIO) -> None:
    """Write the protobuf encoding with the weights straight from their arrays, none of them copied.

    A message is its fields one after another, in any order: the graph is written without its large
    tensors first, then each of those as one more `initializer` field; and so is one of any size that lies beside the
    file it was read from, of which the message would only say where.
    """
    large = [
        value
        for value in model.graph.initializers.values()
        if value.const_value is not None
        and (value.const_value.nbytes > _STREAMED or isinstance(value.const_value, ir.ExternalTensor))
    ]
    graph = model.graph
    for value in large:
        del graph.initializers[value.name or ""]
    try:
        proto = ir.serde.serialize_model(model)
    finally:
        for value in large:
            graph.register_initializer(value)
    body = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    heads = [_tensor_head(value) for value in large]
    sizes = [len(head) + value.const_value.nbytes for head, value in zip(heads, large, strict=True)]  # type: ignore[union-attr]
    total = len(body) + sum(len(_tag(_INITIALIZER)) + len(_varint(size)) + size for size in sizes)
    file.write(proto.SerializeToString(deterministic=True))
    file.write(_tag(_GRAPH) + _varint(total) + body)
    for value, head, size in zip(large, heads, sizes, strict=True):
        file.write(_tag(_INITIALIZER) + _varint(size) + head)
        array = np.ascontiguousarray(value.const_value.numpy())  # type: ignore[union-attr]
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        file.write(array.reshape(-1).view(np.uint8).data)


def _tensor_head(value: ir.Value) -> bytes:
    """A TensorProto up to and with the length of its raw data."""
    tensor = value.const_value
    assert tensor is not None
    head = onnx.TensorProto(name=value.name, data_type=int(tensor.dtype), dims=[int(n) for n in tensor.shape.numpy()])
    encoded: bytes = head.SerializeToString(deterministic=True)
    return encoded + _tag(_RAW_DATA) + _varint(tensor.nbytes)


def _tag(field: int) -> bytes:
    """The key of a length-delimited field."""
    return _varint(field << 3 | 2)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _sync(path: Path) -> None:
    """Flush a file, or the renames in a folder, to the disk; where the system cannot open folders, nothing."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
