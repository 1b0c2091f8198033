"""Small ONNX models for tests: built from arrays, from ONNX's text form, or with their weights in a file."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHT = (np.random.default_rng(0).standard_normal((4, 4)) + 3 * np.eye(4)).astype(np.float32)
BIAS = np.array([1, -2, 3, 0.5], dtype=np.float32)


def affine(opset=17, ir=8, dtype=np.float32, batch="N", weight=WEIGHT):
    """y = x @ w + b, a bijection if `weight` is square."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    n, m = weight.shape
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="mm"),
            helper.make_node("Add", ["h", "b"], ["y"], name="add"),
        ],
        "affine",
        [helper.make_tensor_value_info("x", kind, [batch, n])],
        [helper.make_tensor_value_info("y", kind, [batch, m])],
        [
            numpy_helper.from_array(weight.astype(dtype), "w"),
            numpy_helper.from_array(np.resize(BIAS, m).astype(dtype), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def text(body, opset=17, ir=8):
    """A model in ONNX's text form, without its header."""
    return onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]>\n{body}')


def external(folder, name="model.onnx", location="weights.bin", **entries):
    """Write `affine` with w in an external file; `location` and `entries` are what the model says of it."""
    model = affine()
    tensor = model.graph.initializer[0]
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def save(model, path):
    """Write the bytes of a model, sound or not; returns the path."""
    path.write_bytes(model.SerializeToString())
    return path
