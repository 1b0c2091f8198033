"""From a path to a graph: everything that a file can get wrong ends here, with a clear error."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnx_invert.errors import FileError, ModelError

OLDEST_OPSET = 7
KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft"})
_CHUNK = 1 << 20


@dataclass
class Source:
    """A model as it was read: the graph, where it came from and the SHA-256 of its bytes.

    `path` is None for a model given as an object; `data` then holds its bytes.
    """

    model: ir.Model
    path: Path | None
    sha256: str
    data: bytes = b""

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
    return _checked(*_parse(path), path)


def from_proto(proto: onnx.ModelProto) -> Source:
    """The same for a model held in memory; it is not changed."""
    data = proto.SerializeToString(deterministic=True)
    source = _checked(onnx.ModelProto.FromString(data), hashlib.sha256(data).hexdigest(), None)
    source.data = data
    return source


def _checked(proto: onnx.ModelProto, digest: str, path: Path | None) -> Source:
    name = path.name if path is not None else "The model"
    _check_header(proto, name)
    digest = _with_external(digest, _check_external(proto, path))
    try:
        model = ir.serde.deserialize_model(proto)
    except Exception as error:  # onnx-ir raises what the malformed part happens to trip
        raise ModelError(f"{name} is not a sound ONNX model: {_first_line(error)}") from error
    if path is not None:
        ir.external_data.set_base_dir(model.graph, path.parent)
    _own_weights(model)
    del proto
    _check_operators(model, name)
    _check_wiring(model, name)
    _check_interface(model, name)
    _check_weights(model, name)
    return Source(model, path, digest)


def file_hash(path: Path) -> str:
    """The SHA-256 that `read` states for a file: of its bytes, and of its external data's."""
    proto, digest = _parse(path)
    return _with_external(digest, _check_external(proto, path))


def _with_external(digest: str, files: Iterable[Path]) -> str:
    for file in files:
        digest = hashlib.sha256((digest + _file_digest(file)).encode()).hexdigest()
    return digest


def _parse(path: Path) -> tuple[onnx.ModelProto, str]:
    if not path.exists():
        raise FileError(f"There is no file {str(path)!r}.")
    if path.is_dir():
        raise FileError(f"{str(path)!r} is a directory, not an ONNX file.")
    proto = onnx.ModelProto()
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise ModelError(f"{path.name} is empty (0 bytes).")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                view = memoryview(data)
                try:
                    digest = hashlib.sha256(view).hexdigest()
                    proto.ParseFromString(view)  # any buffer will do
                finally:
                    view.release()
    except OSError as error:
        raise FileError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    except ModelError:
        raise
    except Exception as error:  # protobuf's DecodeError, whose class depends on its backend
        raise ModelError(
            f"{path.name} is not an ONNX file, or was cut short: its {path.stat().st_size} bytes do not parse."
        ) from error
    return proto, digest


def _check_header(proto: onnx.ModelProto, name: str) -> None:
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{name} is not an ONNX model: it has no {'opset' if proto.HasField('graph') else 'graph'}.")
    versions: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if versions.setdefault(domain, entry.version) != entry.version:
            raise ModelError(
                f"{name} imports domain {domain or 'ai.onnx'!r} twice, as opset {versions[domain]} and "
                f"{entry.version}."
            )
    del proto.opset_import[:]
    proto.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())
    opset, newest = versions.get("", OLDEST_OPSET), onnx.defs.onnx_opset_version()
    if opset < OLDEST_OPSET:
        raise ModelError(
            f"{name} has opset {opset}; {OLDEST_OPSET} and newer are read. "
            "Convert it with onnx.version_converter.convert_version."
        )
    if opset > newest:
        raise ModelError(f"{name} has opset {opset}; the installed onnx knows up to {newest}. Upgrade onnx.")


def _tensors(proto: onnx.ModelProto) -> Iterable[onnx.TensorProto]:
    graphs = [proto.graph]
    while graphs:
        graph = graphs.pop()
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)


def _check_external(proto: onnx.ModelProto, path: Path | None) -> list[Path]:
    """The files that external data lies in, each inside the model's folder and long enough."""
    files: dict[Path, None] = {}
    for tensor in _tensors(proto):
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
        try:
            offset = int(entries.get("offset", 0))
            size = _byte_size(tensor)
            length = int(entries.get("length", size))
        except (ValueError, TypeError) as error:
            raise ModelError(f"Weight {tensor.name!r} of {path.name} has unreadable offsets: {error}.") from error
        present = file.stat().st_size
        if length < size or offset + length > present:
            raise FileError(
                f"Weight {tensor.name!r} of {path.name} needs bytes {offset} to {offset + max(size, length)} of "
                f"{location!r}, which has {present}: the file was cut short or is another model's."
            )
        files[file] = None
    return list(files)


def _byte_size(tensor: onnx.TensorProto) -> int:
    return int(np.ceil(np.prod(tensor.dims, dtype=np.int64) * ir.DataType(tensor.data_type).itemsize))


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_weights(model: ir.Model) -> None:
    """Take the weights out of the parsed file, so that they are held once and it can be freed."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.TensorProtoTensor) and tensor.dtype != ir.DataType.STRING:
            try:
                array = tensor.numpy()
            except Exception as error:  # what numpy or onnx-ir says of a buffer that does not fit
                raise ModelError(f"Weight {value.name!r} cannot be read: {_first_line(error)}") from error
            value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=value.name)


def _check_operators(model: ir.Model, name: str) -> None:
    """Every operator is one that ONNX defines at the model's opset, or a function of the file."""
    local = set(model.functions)
    unknown: dict[str, None] = {}
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for body in bodies:
        for node in ir.traversal.RecursiveGraphIterator(body):
            if node.op_identifier() in local:
                continue
            domain = "" if node.domain == "ai.onnx" else node.domain
            if domain not in KNOWN_DOMAINS:
                unknown[f"node {node.name!r}: {domain}::{node.op_type} (domain {domain!r} is not ONNX's)"] = None
            elif domain in ("", "ai.onnx.ml") and not _is_defined(node.op_type, domain, model, body):
                version = model.opset_imports.get(domain)
                unknown[f"node {node.name!r}: {node.op_type} (not an operator of opset {version})"] = None
    if unknown:
        raise ModelError(
            "\n".join(
                [f"{name} uses operators that ONNX does not define, so that no runtime can run it:"]
                + [f"  {line}" for line in unknown]
            )
        )


def _is_defined(op_type: str, domain: str, model: ir.Model, body: ir.Graph | ir.Function) -> bool:
    version = body.opset_imports.get(domain) or model.opset_imports.get(domain)
    if version is None:
        return False
    return bool(onnx.defs.has(op_type, max_inclusive_version=version, domain=domain))


def _check_wiring(model: ir.Model, name: str) -> None:
    """Every tensor that is used is made somewhere, and nothing is made from itself."""
    graph = model.graph
    dangling = {
        value.name: node.name
        for node in graph
        for value in node.inputs
        if value is not None and value.producer() is None and not value.is_graph_input() and not value.is_initializer()
    }
    dangling |= {
        value.name: "the output list"
        for value in graph.outputs
        if value.producer() is None and not value.is_graph_input() and not value.is_initializer()
    }
    if dangling:
        facts = "; ".join(f"{tensor!r} (used by {user!r})" for tensor, user in list(dangling.items())[:5])
        raise ModelError(f"{name} uses tensors that nothing produces: {facts}.")
    try:
        graph.sort()
    except ValueError as error:
        raise ModelError(f"{name} has a cycle: {', '.join(map(repr, _cycle(graph)))} feed one another.") from error


def _cycle(graph: ir.Graph) -> list[str]:
    """The names of the nodes of one cycle, following producers until one repeats."""
    waiting = {node: sum(v is not None and v.producer() is not None for v in node.inputs) for node in graph}
    ready = [node for node, count in waiting.items() if count == 0]
    while ready:
        node = ready.pop()
        waiting.pop(node)
        for output in node.outputs:
            for user, _ in output.uses():
                if user in waiting:
                    waiting[user] -= 1
                    if waiting[user] == 0:
                        ready.append(user)
    node, seen = next(iter(waiting)), list[ir.Node]()
    while node not in seen:
        seen.append(node)
        node = next(
            producer
            for value in node.inputs
            if value is not None and (producer := value.producer()) is not None and producer in waiting
        )
    return [member.name or member.op_type for member in reversed(seen[seen.index(node) :])]


def _check_interface(model: ir.Model, name: str) -> None:
    if not model.graph.outputs:
        raise ModelError(f"{name} has no outputs: there is nothing to invert from.")
    seen: set[str] = set()
    for node in model.graph:
        for output in node.outputs:
            if output.name and output.name in seen:
                raise ModelError(f"{name} makes the tensor {output.name!r} twice.")
            seen.add(output.name or "")


def _check_weights(model: ir.Model, name: str) -> None:
    """Every weight has the bytes that its shape needs, and only finite numbers."""
    bad: list[str] = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        if not tensor.dtype.is_floating_point():
            continue
        array = tensor.numpy()
        count = _not_finite(array)
        if count:
            shape = "×".join(map(str, array.shape)) or "scalar"
            bad.append(f"{value.name!r} ({shape}): {count} of {array.size}")
    if bad:
        raise ModelError("\n".join([f"{name} has weights that are NaN or infinite:"] + [f"  {line}" for line in bad]))


def _not_finite(array: np.ndarray) -> int:
    flat = array.reshape(-1)
    return sum(
        int(chunk.size - np.count_nonzero(np.isfinite(chunk)))
        for start in range(0, flat.size, _CHUNK)
        for chunk in [
            flat[start : start + _CHUNK].astype(np.float64, copy=False)
            if array.dtype.kind == "V"
            else flat[start : start + _CHUNK]
        ]
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".") + "."
