"""The other networks trained on the digits: what each file is made of, its size, and what it does with test digits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from digits import Digits, load_digits

ROOT = Path(__file__).resolve().parents[1]
NEWTON = "tests/data/newton"


class Expected(NamedTuple):
    """What tools/README.md states of a file: accuracy or MSE on the test digits, operators, and a bound in bytes."""

    figure: float
    operators: set[str]
    size: int


DENSE = {"MatMul", "Add"}
CLASSIFIERS = {
    "models/mnist_relu": Expected(0.964, DENSE | {"Relu"}, 450_000),
    "models/mnist_lenet": Expected(0.983, DENSE | {"Conv", "MaxPool", "Relu", "Reshape"}, 400_000),
    "models/mnist_residual": Expected(
        0.965, DENSE | {"Erf", "Mul", "Neg", "Reciprocal", "ReduceMean", "Sqrt", "Sub"}, 700_000
    ),
    f"{NEWTON}/mnist_tanh": Expected(0.963, DENSE | {"Tanh"}, 450_000),
    f"{NEWTON}/mnist_wide": Expected(0.967, DENSE | {"LeakyRelu"}, 3_300_000),
}
DECODERS = {
    f"{NEWTON}/decoder_mlp": Expected(0.0273, DENSE | {"Relu", "Sigmoid"}, 1_500_000),
    f"{NEWTON}/decoder_lenet": Expected(0.0292, DENSE | {"Relu", "Sigmoid"}, 1_500_000),
}
NETWORKS = CLASSIFIERS | DECODERS


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


def path_of(name: str) -> Path:
    return ROOT / f"{name}.onnx"


def run(name: str, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(path_of(name))
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def signature(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, [size.dim_param or size.dim_value for size in tensor.shape.dim]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_is_sound_and_plain(name):
    """The full checker passes; the operators are these, of ONNX's own domain; it is no larger than it has to be."""
    model = onnx.load(path_of(name))
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} == NETWORKS[name].operators
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert next(entry.version for entry in model.opset_import if not entry.domain) <= 18
    assert model.ir_version <= 9
    assert path_of(name).stat().st_size <= NETWORKS[name].size


@pytest.mark.parametrize("name", NETWORKS)
def test_the_signature(name):
    """One input and one output of float32, and the batch has a name."""
    image = ("image", onnx.TensorProto.FLOAT, ["N", 784])
    logits = ("logits", onnx.TensorProto.FLOAT, ["N", 10])
    graph = onnx.load(path_of(name)).graph
    found = [[signature(value) for value in values] for values in (graph.input, graph.output)]
    assert found == ([[image], [logits]] if name in CLASSIFIERS else [[logits], [image]])


@pytest.mark.parametrize("name", NETWORKS)
def test_names_are_read_by_people(name):
    """`fc1/MatMul` and `fc1.weight`: nothing is left of the exporter's names, and no two nodes share one."""
    graph = onnx.load(path_of(name)).graph
    nodes = [node.name for node in graph.node]
    assert len(set(nodes)) == len(nodes)
    for node in graph.node:
        layer, operator = node.name.split("/")
        assert layer.isalnum()
        assert operator.split("_")[0] == node.op_type
    for tensor in graph.initializer:
        assert tensor.name.partition(".")[0].isalnum()
        assert not {":", "/"} & set(tensor.name)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_accuracy(name, digits):
    """As stated. No test digit's two largest logits lie closer than 2e-4, so rounding on another machine tips none."""
    logits = run(name, digits.x_test)
    accuracy = (logits.argmax(axis=1) == digits.y_test).mean()
    assert len(logits) == 1000
    assert accuracy >= CLASSIFIERS[name].figure


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_batch_size_does_not_matter(name, digits):
    """One digit by itself has the logits that it has among others."""
    x = digits.x_test[:8]
    together, alone = run(name, x), run(name, x[:1])
    # float32 sums of up to 784 terms in another order.
    assert np.abs(alone - together[:1]).max() <= 1e3 * np.finfo(np.float32).eps * np.abs(together).max()


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_error(name, digits):
    """The stated mean squared error per pixel, to the digits it is stated in."""
    classifier = f"models/mnist_{name.rpartition('_')[2]}"
    image = run(name, run(classifier, digits.x_test))
    assert image.min() >= 0
    assert image.max() <= 1
    error = np.mean((image.astype(np.float64) - digits.x_test) ** 2)
    assert error <= DECODERS[name].figure + 5e-5
