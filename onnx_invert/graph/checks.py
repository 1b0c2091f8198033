"""What a file that parses can still get wrong: each check ends in an error that names the place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from onnx_invert.bodies import has_bodies
from onnx_invert.errors import ModelError

OLDEST_OPSET = 7
LARGEST_INPUT = 1 << 40
"""Numbers of an input beyond which no machine holds one sample."""

_TYPES = frozenset(map(int, ir.DataType)) - {onnx.TensorProto.UNDEFINED}
_BITS = {int(kind): kind.bitwidth for kind in ir.DataType if kind not in {ir.DataType.UNDEFINED, ir.DataType.STRING}}
_CHUNK = 1 << 20


def check_header(proto: onnx.ModelProto, name: str) -> None:
    """A graph, and one opset a domain that is neither too old nor too new; repeated imports are joined."""
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


def leave_open(proto: onnx.ModelProto) -> None:
    """Take away what exporters write for a size that is open: -1 for a number, and names such as `?`.

    Two axes that are both called `?` are not the same size for that.
    """
    for graph in _graphs(proto):
        if isinstance(graph, onnx.GraphProto):
            for value in (*graph.input, *graph.output, *graph.value_info):
                for dim in value.type.tensor_type.shape.dim:
                    if dim.dim_value == -1 or dim.dim_param in _NO_NAMES:
                        dim.ClearField("value")


_NO_NAMES = frozenset({"?", "-1", "None"})


def check_outputs(proto: onnx.ModelProto, name: str) -> None:
    """No output of maps, as classifiers have by skl2onnx's default: their numbers are of no use to other nodes."""
    for node in proto.graph.node:
        if node.op_type == "ZipMap" and node.domain == "ai.onnx.ml":
            raise ModelError(
                f"{name}: node {node.name!r} (ZipMap) makes a map of the numbers {node.input[0]!r}, which no inverse "
                f"takes. Export the classifier with options={{'zipmap': False}}, and name the output with --from."
            )


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the file: initializers and attributes, in subgraphs and functions too."""
    for graph in _graphs(proto):
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def four_bits(of: Iterable[onnx.TensorProto]) -> bool:
    """True if a tensor holds whole numbers of four bits."""
    return any(tensor.data_type in {onnx.TensorProto.INT4, onnx.TensorProto.UINT4} for tensor in of)


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            waiting.extend(_subgraphs(node))


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    if not node.attribute:
        return []
    found = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return found + [graph for attribute in node.attribute for graph in attribute.graphs]


def check_tensors(tensors: Iterable[onnx.TensorProto], name: str) -> None:
    """Every tensor has a type, and the bytes that its shape needs."""
    for tensor in tensors:
        label = f"Weight {tensor.name!r} of {name}" if tensor.name else f"A constant of {name}"
        if tensor.data_type not in _TYPES:
            raise ModelError(f"{label} has no type that ONNX knows (data_type {tensor.data_type}).")
        if any(dim < 0 for dim in tensor.dims):
            raise ModelError(f"{label} has the shape {list(tensor.dims)}: a size is negative.")
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
            continue
        if tensor.HasField("raw_data"):
            if len(tensor.raw_data) != byte_size(tensor):
                raise ModelError(
                    f"{label} has the shape {list(tensor.dims)}, which takes {byte_size(tensor)} bytes; the file "
                    f"has {len(tensor.raw_data)}."
                )
        else:
            try:
                onnx.numpy_helper.to_array(tensor)
            except Exception as error:  # what numpy says of a field that does not fit
                raise ModelError(f"{label} cannot be read: {first_line(error)}") from error


def byte_size(tensor: onnx.TensorProto) -> int:
    """The bytes that the tensor's shape and type take."""
    count = 1
    for dim in tensor.dims:
        count *= dim
    return -(-count * _BITS[tensor.data_type] // 8)


def check_wiring(proto: onnx.ModelProto, name: str) -> None:
    """Inputs and outputs that make sense, and no tensor that is made twice or nowhere."""
    graph = proto.graph
    if not graph.output:
        raise ModelError(f"{name} has no outputs: there is nothing to invert from.")
    inputs = {value.name for value in graph.input}
    if all(value.name in inputs for value in graph.output):
        same = ", ".join(repr(value.name) for value in graph.output)
        raise ModelError(f"{name} returns its input {same} unchanged: there is nothing to invert.")
    if graph.sparse_initializer:
        sparse = ", ".join(repr(tensor.values.name) for tensor in graph.sparse_initializer)
        raise ModelError(f"{name} has sparse weights, which are not read: {sparse}. Store them as dense ones.")
    for value in graph.input:
        _check_input(value, name)
    made = [output for node in graph.node for output in node.output if output]
    for names in ([value.name for value in graph.input], made):
        if len(set(names)) < len(names):
            repeated = next(key for key, count in Counter(names).items() if count > 1)
            raise ModelError(f"{name} makes the tensor {repeated!r} twice.")
    dangling = _dangling(graph, set(made))
    for function in proto.functions:
        dangling |= _dangling(function, _made(function) | set(function.input))
    if dangling:
        facts = "; ".join(f"{tensor!r} (used by {user})" for tensor, user in list(dangling.items())[:5])
        raise ModelError(f"{name} uses tensors that nothing produces: {facts}.")


def _check_input(value: onnx.ValueInfoProto, name: str) -> None:
    fixed = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
    shape = "[" + ",".join(dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim) + "]"
    if any(size < 0 for size in fixed):
        raise ModelError(f"The input {value.name!r} of {name} has the shape {shape}: a size is negative.")
    if 0 in fixed:
        raise ModelError(f"The input {value.name!r} of {name} has the shape {shape}: it holds no numbers.")
    if np.prod(fixed, dtype=np.float64) > LARGEST_INPUT:
        raise ModelError(f"The input {value.name!r} of {name} has the shape {shape}: no memory holds one sample.")


def _made(graph: onnx.GraphProto | onnx.FunctionProto) -> set[str]:
    return {output for node in graph.node for output in node.output}


def _dangling(
    graph: onnx.GraphProto | onnx.FunctionProto, made: set[str], outer: Sequence[set[str]] = ()
) -> dict[str, str]:
    """Tensors that are used and neither `made` by the nodes of the graph nor known around it, with who uses them
    first."""
    known = set(made)
    outputs: Sequence[str]
    if isinstance(graph, onnx.GraphProto):
        known |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        known |= {sparse.values.name for sparse in graph.sparse_initializer}
        outputs = [value.name for value in graph.output]
    else:
        outputs = list(graph.output)
    found: dict[str, str] = {}
    for node in graph.node:
        for tensor in node.input:
            if tensor not in known and tensor and not any(tensor in names for names in outer):
                found.setdefault(tensor, f"node {node.name or node.op_type!r}")
        for inner in _subgraphs(node):
            found |= _dangling(inner, _made(inner), (known, *outer))
    for tensor in outputs:
        if tensor not in known and not any(tensor in names for names in outer):
            found.setdefault(tensor, "the output list")
    return found


def sort(model: ir.Model, name: str) -> None:
    """Put the nodes in an order in which they can run; an error if some feed one another."""
    if _in_order(model.graph):
        return
    try:
        model.graph.sort()
    except ValueError as error:
        cycle = ", ".join(map(repr, _cycle(model.graph)))
        raise ModelError(f"{name} has a cycle: {cycle} feed one another.") from error


def _in_order(graph: ir.Graph) -> bool:
    """Whether each node takes what is made before it; that is not looked into where nodes have bodies."""
    made: set[ir.Node] = set()
    for node in graph:
        for value in node.inputs:
            maker = None if value is None else value.producer()
            if maker is not None and maker not in made:
                return False
        if has_bodies(node):
            return False
        made.add(node)
    return True


MOST_NAMES = 10


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
    node, seen = next(iter(waiting)), dict[ir.Node, int]()
    while node not in seen:
        seen[node] = len(seen)
        node = next(
            producer
            for value in node.inputs
            if value is not None and (producer := value.producer()) is not None and producer in waiting
        )
    names = [member.name or member.op_type for member in seen][seen[node] :][::-1]
    return names if len(names) <= MOST_NAMES else [*names[:MOST_NAMES], f"and {len(names) - MOST_NAMES} more"]


def check_weights(model: ir.Model, name: str) -> None:
    """Every weight has only finite numbers, unless it only stands by: a branch that may never be chosen, a bound."""
    bad: list[str] = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        array = tensor.numpy()
        count = _not_finite(array)
        if count and not _stands_by(value):
            shape = "×".join(map(str, array.shape)) or "scalar"
            bad.append(f"{value.name!r} ({shape}): {count} of {array.size}")
    if bad:
        raise ModelError("\n".join([f"{name} has weights that are NaN or infinite:"] + [f"  {line}" for line in bad]))


_STANDS_BY = {"Where": {1, 2}, "Pad": {2}, "Clip": {1, 2}, "IsNaN": {0}, "IsInf": {0}}
"""The operands that may be NaN or infinite and leave no trace: what is chosen from, padding, bounds."""

_NEUTRAL = {"Max": -np.inf, "Min": np.inf}
"""What changes nothing: a reduction that starts from it, as JAX writes one."""

_PASSES_ON = frozenset({"Identity", "Expand", "Reshape", "Cast", "Unsqueeze", "Squeeze", "Tile"})


def _stands_by(value: ir.Value) -> bool:
    """Whether all that takes a tensor takes it as such an operand."""
    waiting, seen = [value], set[ir.Value]()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        if one.is_graph_output() or not one.uses():
            return False
        for node, place in one.uses():
            if node.op_type in _PASSES_ON and place == 0:
                waiting.extend(node.outputs)
            elif not is_neutral(node, value) and place not in _STANDS_BY.get(node.op_type, ()):
                return False
    return True


def is_neutral(node: ir.Node, value: ir.Value | None) -> bool:
    """Whether an operand is a constant that changes nothing: of a maximum −∞ throughout."""
    if node.op_type not in _NEUTRAL or value is None or value.const_value is None:
        return False
    return bool((value.const_value.numpy() == _NEUTRAL[node.op_type]).all())


def _not_finite(array: np.ndarray) -> int:
    flat = array.reshape(-1)
    count = 0
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        if chunk.dtype.kind != "f":  # bfloat16 and narrower, which numpy's functions may not know
            chunk = chunk.astype(np.float64)
        count += int(chunk.size - np.count_nonzero(np.isfinite(chunk)))
    return count


def first_line(error: BaseException) -> str:
    """The first line of what went wrong at the bottom of a chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".") + "."
