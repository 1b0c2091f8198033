"""log|det ∂z/∂x| of a flow by central differences, the model computed in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

STEP = 1e-6


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with float64 in place of float32: ports, weights, constants and casts."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    _widen_graph(wide.graph)
    for function in wide.functions:
        _widen_nodes(function.node)
    return wide


def _widen_graph(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for port in (*graph.input, *graph.output):
        if port.type.tensor_type.elem_type == TensorProto.FLOAT:
            port.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _widen(tensor)
    _widen_nodes(graph.node)


def _widen_nodes(nodes: Any) -> None:
    made = []
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
            elif attribute.HasField("g"):
                _widen_graph(attribute.g)
            elif node.op_type == "Constant" and attribute.name == "value_float":
                tensor = numpy_helper.from_array(np.asarray(attribute.f, np.float64))
                attribute.CopyFrom(helper.make_attribute("value", tensor))
            elif node.op_type in {"Cast", "EyeLike"} and attribute.name in {"to", "dtype"}:
                attribute.i = TensorProto.DOUBLE if attribute.i == TensorProto.FLOAT else attribute.i
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
        if node.op_type == "Softplus":  # onnxruntime has none in float64: it is −log σ(−x)
            steps = [
                node.input[0],
                *(f"{node.output[0]}/{step}" for step in ("neg", "sigmoid", "log")),
                node.output[0],
            ]
            for op_type, before, after in zip(("Neg", "Sigmoid", "Log", "Neg"), steps[:-1], steps[1:], strict=True):
                made.append(helper.make_node(op_type, [before], [after]))
            continue
        made.append(node)
    made = [onnx.NodeProto.FromString(node.SerializeToString()) for node in made]
    del nodes[:]
    nodes.extend(made)


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def log_det(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Of the first output by the only input, for every row of x (N, n)."""
    session = ort.InferenceSession(in_float64(model).SerializeToString(), providers=["CPUExecutionProvider"])
    port, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    wide = x.astype(np.float64)
    columns = []
    for unit in STEP * np.eye(x.shape[1]):
        above, below = (session.run([output], {port: wide + side * unit})[0] for side in (1, -1))
        columns.append((above - below) / (2 * STEP))
    return np.asarray(np.linalg.slogdet(np.stack(columns, axis=-1))[1])
