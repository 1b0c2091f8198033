"""Small models to solve, and what they return."""

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper


def layers(*steps, width, dtype=np.float32):
    """x (N, width) through matrices (MatMul) and operators by name."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes, weights, value, size = [], [], "x", width
    for index, step in enumerate(steps):
        name = "y" if index == len(steps) - 1 else f"h{index}"
        if isinstance(step, str):
            nodes.append(helper.make_node(step, [value], [name], name=f"{step}_{index}"))
        else:
            weights.append(numpy_helper.from_array(step.astype(dtype), f"w{index}"))
            nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [name], name=f"mm_{index}"))
            size = step.shape[1]
        value = name
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", kind, ["N", width])],
        [helper.make_tensor_value_info("y", kind, ["N", size])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model, **feeds):
    """All outputs, in onnxruntime."""
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def residuals(got, true):
    """‖got − true‖ / ‖true‖ of each row."""
    difference = np.linalg.norm(got.astype(np.float64) - true, axis=1)
    return difference / np.linalg.norm(true.astype(np.float64), axis=1)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)
