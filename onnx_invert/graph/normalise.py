"""One form of a graph for every exporter's: functions inlined, constants folded, shapes inferred.

Works with the passes of onnx-ir; constant nodes are computed by onnx's reference evaluator.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from onnx_invert.bodies import has_bodies
from onnx_invert.errors import ModelError
from onnx_invert.graph.checks import first_line, is_neutral
from onnx_invert.graph.fused import MAY_BE_FUSED, unfuse
from onnx_invert.graph.inference import SMALLEST, infer_shapes
from onnx_invert.graph.open_sizes import fix_sizes
from onnx_invert.graph.read import Source

NOT_FOLDED = frozenset(
    {
        *("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"),
        # The reference evaluator follows the newest BatchNormalization alone.
        "BatchNormalization",
    }
)

_OPSET = 17
"""Of the default domain in a model that imports none: what `pose` takes it for."""


def normalise(source: Source) -> None:
    """Bring `source.model` into the form that rules expect, in place.

    Afterwards: no local functions; constants are initializers, whatever chain they came from; every node
    has a name of its own; shapes and types are known as far as ONNX can infer them.

    Raises:
        ModelError: the shapes of the model contradict each other.
    """
    model = source.model
    if model.functions:
        try:
            passes.InlinePass()(model)
        except Exception as error:  # functions that call themselves, among others
            raise ModelError(f"The functions of {source.name} cannot be inlined: {first_line(error)}") from error
    graph = model.graph
    # Each pass goes through all nodes, so that of a model of thousands only those are begun that may find something.
    bodied = any(map(has_bodies, graph))
    operators = {node.op_type for node in graph}
    if bodied or any(value.name in graph.initializers for value in graph.inputs):
        passes.RemoveInitializersFromInputsPass()(model)
    if bodied or "Constant" in operators:
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    remove_unused(graph)
    name_nodes(graph)
    _name_sizes(graph)
    if not operators.isdisjoint(MAY_BE_FUSED) and unfuse(model, partial(infer_shapes, model, source.name)):
        name_nodes(graph)
        operators = {node.op_type for node in graph}
    fold(model)
    infer_shapes(model, source.name)
    while fix_sizes(graph):
        infer_shapes(model, source.name)
    if not operators.isdisjoint({"Max", "Min"}):
        _leave_out_neutral(graph)
    if "ArrayFeatureExtractor" in operators:
        _gather_features(graph)
    if not operators.isdisjoint({"Shape", "Size"}) and shapes_to_constants(graph):
        fold(model)
        infer_shapes(model, source.name)
    remove_unused(graph)


def remove_unused(graph: ir.Graph) -> None:
    """Take out nodes and weights that no output needs.

    onnx-ir's pass does more: it drops outputs of BatchNormalization that are not used, and training_mode with
    them, and what is left then normalises otherwise than the model does.
    """
    for node in reversed(list(graph)):
        if not _is_used(node):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _is_used(node: ir.Node) -> bool:
    return any(value.is_graph_output() or value.uses() for value in node.outputs)


def name_nodes(graph: ir.Graph) -> None:
    """Give every node a name of its own: messages and plans go by it."""
    taken: set[str] = set()
    for index, node in enumerate(graph):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        node.name = name
        taken.add(name)


def _name_sizes(graph: ir.Graph) -> None:
    """Name the anonymous sizes of the inputs, so that shape inference can follow them."""
    for value in graph.inputs:
        if value.shape is None:
            continue
        value.shape = ir.Shape(
            [
                dim if isinstance(dim, int) or dim.value else ("N" if axis == 0 else f"{value.name}.{axis}")
                for axis, dim in enumerate(value.shape)
            ]
        )


def _leave_out_neutral(graph: ir.Graph) -> None:
    """Make a maximum of x and −∞, as a reduction of JAX begins with, the Identity that it is; as a minimum with ∞."""
    for node in graph:
        rest = [value for value in node.inputs if not is_neutral(node, value)]
        if len(rest) != 1 or len(node.inputs) == 1 or rest[0] is None or rest[0].shape != node.outputs[0].shape:
            continue
        if rest[0].shape is not None:
            node.resize_inputs(1)
            node.replace_input_with(0, rest[0])
            node.op_type = "Identity"


def _gather_features(graph: ir.Graph) -> None:
    """Make each ArrayFeatureExtractor of constant indices the Gather along the last axis that it is.

    Of a vector it makes a matrix of one row; that is left as it stands.
    """
    for node in graph:
        if node.op_type != "ArrayFeatureExtractor" or node.domain != "ai.onnx.ml":
            continue
        x, picked = node.inputs[0], node.inputs[1]
        if x is None or x.shape is None or len(x.shape) < 2 or picked is None or picked.const_value is None:
            continue
        array = picked.const_value.numpy().reshape(-1)
        name = f"{node.name}/indices"
        while name in graph.initializers:
            name += "_"
        indices = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.INT64))
        indices.const_value = ir.Tensor(array.astype(np.int64), name=name)
        graph.register_initializer(indices)
        node.replace_input_with(1, indices)
        node.op_type, node.domain = "Gather", ""
        node.attributes["axis"] = ir.AttrInt64("axis", len(x.shape) - 1)
        if "" not in graph.opset_imports:  # a file of transformers alone imports ai.onnx.ml and nothing else
            graph.opset_imports[""] = _OPSET


def without_weights(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """The model as a message, its weights inputs but for the smallest, whose values matter to shapes; and the weights.

    The model itself stays as it is.
    """
    graph = model.graph
    weights = {value: value.const_value for value in graph.initializers.values()}
    inputs = list(graph.inputs)
    left: dict[str, ir.TensorProtocol] = {}
    try:
        for value, tensor in weights.items():
            assert tensor is not None
            value.shape, value.dtype = ir.Shape([int(n) for n in tensor.shape.numpy()]), tensor.dtype
            if tensor.size > SMALLEST:
                left[value.name or ""] = tensor
                value.const_value = None
                del graph.initializers[value.name or ""]
                graph.inputs.append(value)
        return ir.serde.serialize_model(model), left
    finally:
        graph.inputs.clear()
        graph.inputs.extend(inputs)
        for value, tensor in weights.items():
            value.const_value = tensor
            graph.register_initializer(value)


def restored(model: ir.Model, weights: dict[str, ir.TensorProtocol]) -> None:
    """Give a model that was read from such a message its weights back."""
    graph = model.graph
    for value in [value for value in graph.inputs if value.name in weights]:
        graph.inputs.remove(value)
        value.const_value = weights[value.name or ""]
        graph.register_initializer(value)


def shapes_to_constants(graph: ir.Graph) -> bool:
    """Replace Shape and Size of tensors whose shape is fixed by their value."""
    changed = False
    for node in list(graph):
        if node.op_type not in {"Shape", "Size"} or node.domain not in {"", "ai.onnx"}:
            continue
        value, made = node.inputs[0], node.outputs[0]
        if value is None or value.shape is None or not value.shape.is_static():
            continue
        if not made.uses() and not made.is_graph_output():
            continue  # nobody asks any more
        dims = np.asarray(value.shape.numpy(), dtype=np.int64)
        if node.op_type == "Size":
            array = np.asarray(np.prod(dims), dtype=np.int64)
        else:
            start, end = node.attributes.get("start"), node.attributes.get("end")
            array = dims[start.as_int() if start else 0 : end.as_int() if end else len(dims)]
        replace(graph, node.outputs[0], array)
        changed = True
    return changed


def fold(model: ir.Model) -> None:
    """Compute every node that depends on constants alone, all in one run of onnx's reference evaluator."""
    graph = model.graph
    known: set[ir.Value | None] = {None, *graph.initializers.values()}
    constant: list[ir.Node] = []
    for node in graph:
        if (
            known.issuperset(node.inputs)
            and node.domain in {"", "ai.onnx"}
            and node.op_type not in NOT_FOLDED
            and not has_bodies(node)
        ):
            constant.append(node)
            known.update(node.outputs)
    if not constant:
        return
    inside = set(constant)
    needed = [
        value
        for node in constant
        for value in node.outputs
        if value.is_graph_output() or any(user not in inside for user, _ in value.uses())
    ]
    feeds = {
        value.name or "": value.const_value.numpy()
        for node in constant
        for value in node.inputs
        if value is not None and value.const_value is not None
    }
    for value, array in zip(needed, _evaluate(model, constant, needed, feeds), strict=True):
        replace(graph, value, array)
    for node in reversed(constant):
        if not _is_used(node):
            graph.remove(node, safe=True)


def _evaluate(
    model: ir.Model, nodes: list[ir.Node], outputs: list[ir.Value], feeds: dict[str, NDArray[np.generic]]
) -> list[NDArray[np.generic]]:
    """Run `nodes` alone, with the weights as inputs so that none is copied into a model."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun
    from onnx.reference.ops.op_dequantize_linear import DequantizeLinear_19

    class DequantizeLinear(DequantizeLinear_19):
        """The evaluator has none before opset 19; that one takes what the older ones take, and means the same."""

        op_domain = ""

        def _run(self, *operands: Any, **attributes: Any) -> Any:
            kept: dict[str, Any] = {"axis": attributes["axis"]}  # the newer ones stay at their defaults
            return super()._run(*operands, **kept)

    older: list[type[OpRun]] | None = [DequantizeLinear] if model.opset_imports.get("", _OPSET) < 19 else None

    def info(name: str, array: NDArray[np.generic]) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, int(ir.DataType.from_numpy(array.dtype)), array.shape)

    graph = onnx.helper.make_graph(
        [ir.serde.serialize_node(node) for node in nodes],
        "constants",
        [info(name, array) for name, array in feeds.items()],
        [onnx.helper.make_empty_tensor_value_info(value.name or "") for value in outputs],
    )
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    proto = onnx.helper.make_model(graph, opset_imports=opsets)
    try:
        with np.errstate(all="ignore"):  # a constant may well be infinite: a mask
            arrays = ReferenceEvaluator(proto, new_ops=older).run(None, feeds)
    except Exception as error:
        names = ", ".join(repr(node.name) for node in nodes[:3])
        raise ModelError(f"The constants made by {names} cannot be computed: {error}") from error
    return [np.asarray(array) for array in arrays]


def replace(graph: ir.Graph, value: ir.Value, array: NDArray[np.generic]) -> None:
    """Make `value` an initializer, under its own name, for all who use it; an output of the graph stays one."""
    name = value.name or ""
    if value.is_graph_output():
        taken = set(graph.initializers) | {output.name for node in graph for output in node.outputs}
        name = f"{name}/constant"
        while name in taken:
            name += "_"
    else:
        value.name = f"{name}/computed"
    tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
    constant = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype))
    constant.const_value = tensor
    for user, index in tuple(value.uses()):
        user.replace_input_with(index, constant)
    if constant.uses():
        graph.register_initializer(constant)
