"""A trained Keras network to an ONNX file that a person can read: exported, renamed, checked, described.

Keras calls things `mnist_mlp_1/fc1_1/Cast/ReadVariableOp:0` and numbers them by session. Here they become
`fc1/MatMul` and `fc1/Add` with `fc1.weight` and `fc1.bias`, then `act1/LeakyRelu`, and the batch is `N`.
Nothing but names changes, and the order in which the weights are stored.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import keras
    from numpy.typing import NDArray

# What the constant inputs of an operator are called, in their order.
PARAMETERS = {
    "MatMul": ("weight",),
    "Conv": ("weight", "bias"),
    "Add": ("bias",),
    "Mul": ("scale",),
    "Reshape": ("shape",),
}


def run(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a model of one input and one output in onnxruntime, on one thread like the training."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def export(model: keras.Model, folder: Path, output_name: str, does: str, sample: NDArray[np.float32]) -> None:
    """Write `folder/NAME.keras` and `folder/NAME.onnx`, NAME being the model's, and print what was written.

    `does` becomes the model's doc_string. On `sample`, onnxruntime has to agree with Keras to float32
    rounding.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model.name}.onnx"
    model.save(path.with_suffix(".keras"))
    model.export(path, format="onnx", verbose=False)

    proto = onnx.load(path)
    rename(proto.graph, model.name, output_name)
    proto.doc_string = does
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)

    expected = model.predict(sample, verbose=0)
    difference = float(np.abs(run(path, sample) - expected).max())
    print(f"{model.name}: {does}")
    for line in describe(proto.graph):
        print(f"  {line}")
    print(f"  onnxruntime against Keras, {len(sample)} samples: largest difference {difference:.1e}")
    # Sums of up to 784 rounded terms through three layers: about 100 eps of the largest output, with room.
    if not difference <= 1e3 * np.finfo(np.float32).eps * np.abs(expected).max():
        raise SystemExit(f"{path} does not compute what Keras computes")


def rename(graph: onnx.GraphProto, name: str, output_name: str) -> None:
    """Name every node and value after its Keras layer and operator, in place.

    A layer's second Mul is `norm1/Mul_2`. A scalar, which several layers may share, is named by its value.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    names = {graph.output[0].name: output_name}
    seen: Counter[str] = Counter()
    for node in graph.node:
        layer = re.sub(r"_\d+$", "", node.name.split("/")[1])
        node.name = f"{layer}/{node.op_type}"
        seen[node.name] += 1
        if seen[node.name] > 1:
            node.name += f"_{seen[node.name]}"
        names.setdefault(node.output[0], node.name)
        parameters = [value for value in node.input if value in constants]
        for value, kind in zip(parameters, PARAMETERS.get(node.op_type, ()), strict=False):
            array = constants[value]
            names.setdefault(value, f"{layer}.{kind}" if array.ndim else f"constant.{array:.6g}")
    for node in graph.node:
        node.input[:] = [names.get(value, value) for value in node.input]
        node.output[:] = [names[value] for value in node.output]

    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    tensors = sorted(graph.initializer, key=lambda tensor: tensor.name)
    del graph.initializer[:]
    graph.initializer.extend(tensors)

    graph.output[0].name = output_name
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del graph.value_info[:]
    graph.name = name


def describe(graph: onnx.GraphProto) -> Iterator[str]:
    """One line for each weight: its shape, rank, extreme singular values and condition number.

    The kernel of a convolution counts as the matrix that it applies to one patch.
    """
    for tensor in graph.initializer:
        if tensor.name.endswith(".weight"):
            matrix = numpy_helper.to_array(tensor)
            matrix = matrix.reshape(len(matrix), -1)
            s = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
            rank = np.linalg.matrix_rank(matrix)
            yield (
                f"{tensor.name} {matrix.shape[0]}×{matrix.shape[1]}: rank {rank},"
                f" singular values {s[-1]:.3f} to {s[0]:.3f}, condition {s[0] / s[-1]:.1f}"
            )
