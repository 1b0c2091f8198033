"""Shapes and types of all tensors, by onnx's shape inference and by what it leaves out."""

from __future__ import annotations

import re

import onnx
import onnx_ir as ir

from onnx_invert.errors import ModelError
from onnx_invert.protos import add_node

SMALLEST = 64
"""Numbers up to which a weight may tell of shapes: sizes, axes, scales."""

KEEPS_SHAPE = frozenset({"Binarizer", "GroupNormalization", "Imputer", "LinearRegressor", "Normalizer", "Scaler"})
"""Operators of which ONNX infers no shape: the output has the input's, or for LinearRegressor one column a target."""


def infer_shapes(model: ir.Model, name: str, *, first: bool = True) -> None:
    """Infer shapes from the inputs and weights alone.

    What the file claims about inner tensors and outputs is put aside: exporters leave it vague, or wrong
    (scikit-learn's multi-output networks), and it must not win over what follows from the weights.
    """
    for node in model.graph:
        for value in node.outputs:
            if first or node.op_type not in KEEPS_SHAPE:
                value.shape = None
    try:
        # onnx-ir's pass logs a failure and goes on; a contradiction has to be told.
        inferred = _c_api_infer(model)
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        facts = next((line for line in lines if "op_type" in line or "node name" in line), lines[0])
        facts = re.sub(r"\[\w+Error\] (Inference error\(s\): )?", "", facts)
        facts = re.sub(r"\(op_type:(\w+), node name: (.*?)\):", r"node '\2' (\1):", facts)
        raise ModelError(f"The shapes of {name} disagree: {facts}") from error
    for value, (shape, kind) in inferred.items():
        value.shape, value.type = shape, kind or value.type
    if _pass_shapes_on(model.graph):
        infer_shapes(model, name, first=False)


def _pass_shapes_on(graph: ir.Graph) -> bool:
    """Give the outputs of operators of which ONNX infers nothing the shape of their input; True if any got one."""
    changed = False
    for node in graph:
        if node.op_type not in KEEPS_SHAPE or node.outputs[0].shape is not None:
            continue
        x = node.inputs[0]
        if x is None or x.shape is None:
            continue
        dims = list(x.shape)
        if node.op_type == "LinearRegressor":
            targets = node.attributes.get("targets")
            dims = [*dims[:-1], targets.as_int() if targets is not None else 1]
        output = node.outputs[0]
        output.shape = ir.Shape(dims)
        if output.type is None:
            same = node.domain in {"", "ai.onnx"} or node.op_type == "Imputer"
            output.type = ir.TensorType(x.dtype if same and x.dtype else ir.DataType.FLOAT)
        changed = True
    return changed


def _c_api_infer(model: ir.Model) -> dict[ir.Value, tuple[ir.Shape | None, ir.TypeProtocol | None]]:
    """Shape and type of every value of which onnx's shape inference tells either; the weights stay out of the call.

    The question holds what bears on shapes alone, and the answer is read off its messages: serialising all of the
    model, or making a second graph of the answer, would take longer than the inference.
    """
    result = onnx.shape_inference.infer_shapes(_question(model), check_type=True, strict_mode=True, data_prop=True)
    found = {info.name: info.type for info in (*result.graph.value_info, *result.graph.output)}
    told: dict[bytes, tuple[ir.Shape | None, ir.DataType]] = {}  # many tensors have one shape
    read: dict[ir.Value, tuple[ir.Shape | None, ir.TypeProtocol | None]] = {}
    for node in model.graph:
        for value in node.outputs:
            inferred = found.get(value.name or "")
            if inferred is None:
                continue
            if inferred.HasField("tensor_type"):
                key = inferred.SerializeToString()
                if key not in told:
                    told[key] = _tensor(inferred.tensor_type)
                shape, dtype = told[key]
                read[value] = shape, ir.TensorType(dtype) if dtype else None
            elif (shape := ir.serde.deserialize_type_proto_for_shape(inferred)) is not None:
                read[value] = shape, ir.serde.deserialize_type_proto_for_type(inferred)
    return read


def _tensor(told: onnx.TypeProto.Tensor) -> tuple[ir.Shape | None, ir.DataType]:
    """The shape, which tensors may share, None if the rank is unknown; and the type of an element."""
    dtype = ir.DataType(told.elem_type)
    if not told.HasField("shape"):
        return None, dtype
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in told.shape.dim]
    return ir.Shape(dims, frozen=True), dtype


def _question(model: ir.Model) -> onnx.ModelProto:
    """A model as shape inference has to see it: nodes, types and shapes; the larger weights are inputs."""
    # Before IR 4 inference takes no weight that is no input too.
    proto = onnx.ModelProto(ir_version=max(4, model.ir_version))
    proto.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in model.opset_imports.items())
    graph = proto.graph
    graph.name = model.graph.name or "model"
    for value in model.graph.inputs:
        ir.serde.serialize_value_into(graph.input.add(), value)
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None
        if (value.shape is not tensor.shape and value.shape != tensor.shape) or value.dtype != tensor.dtype:
            value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
        if tensor.size > SMALLEST:
            kind = onnx.helper.make_tensor_type_proto(int(tensor.dtype), tensor.shape.numpy())
            graph.input.add(name=name, type=kind)
        elif tensor.dtype == ir.DataType.STRING:
            ir.serde.serialize_tensor_into(graph.initializer.add(), tensor)
            graph.initializer[-1].name = name
        else:
            dims, data = tensor.shape.numpy(), tensor.tobytes()
            graph.initializer.add(name=name, data_type=int(tensor.dtype), dims=dims, raw_data=data)
    for value in model.graph.outputs:
        ir.serde.serialize_value_into(graph.output.add(), value)
    for node in model.graph:
        add_node(graph, node)
        for value in node.outputs:
            if value.type is None or not value.name or value.is_graph_output():
                continue
            info = graph.value_info.add()
            if value.shape is None and isinstance(value.type, ir.TensorType):
                info.name, info.type.tensor_type.elem_type = value.name, int(value.type.dtype)
            else:
                ir.serde.serialize_value_into(info, value)
    return proto
