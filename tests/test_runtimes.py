"""An inverse gives the same output wherever it runs: onnxruntime, onnx's evaluator, tract and OpenVINO."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_invert import invert

TOLERANCE = 1e-5
SHIPPED = ["mnist_mlp", "seed_mlp", "widening", "bijective", "autoencoder"]

# Operator, attributes, what x is drawn from.
REALS, POSITIVE, UNIT, FROM_ONE = "reals", "positive", "unit", "from one"
ACTIVATIONS = [
    ("Tanh", {}, REALS),
    ("Sigmoid", {}, REALS),
    ("Softplus", {}, REALS),
    ("Softsign", {}, REALS),
    ("Erf", {}, REALS),
    ("LeakyRelu", {"alpha": 0.2}, REALS),
    ("LeakyRelu", {"alpha": 3.0}, REALS),
    ("LeakyRelu", {"alpha": -0.5}, POSITIVE),
    ("Elu", {"alpha": 0.5}, REALS),
    ("Selu", {}, REALS),
    ("Celu", {"alpha": 2.0}, REALS),
    ("Exp", {}, REALS),
    ("Log", {}, POSITIVE),
    ("Sqrt", {}, POSITIVE),
    ("Reciprocal", {}, POSITIVE),
    ("Neg", {}, REALS),
    ("Sinh", {}, REALS),
    ("Asinh", {}, REALS),
    ("Cosh", {}, POSITIVE),
    ("Acosh", {}, FROM_ONE),
    ("Atanh", {}, UNIT),
    ("Atan", {}, REALS),
    ("Sin", {}, UNIT),
    ("Cos", {}, UNIT),
    ("Tan", {}, UNIT),
    ("Asin", {}, UNIT),
    ("Acos", {}, UNIT),
]
SECOND = {
    "PRelu": np.array([0.1, 0.5, 1.0, 2.0], np.float32),
    "Pow 2": np.asarray(2.0, np.float32),
    "Pow 3": np.asarray(3.0, np.float32),
    "Pow 0.5": np.asarray(0.5, np.float32),
}


def onnxruntime_runs(path: Path, y: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: y})[0]


def evaluator_runs(path: Path, y: np.ndarray) -> np.ndarray:
    session = ReferenceEvaluator(str(path))
    return session.run(None, {session.input_names[0]: y})[0]


def tract_runs(path: Path, y: np.ndarray) -> np.ndarray:
    import tract

    model = tract.onnx().load(path)
    model.set_input_fact(0, ",".join([*map(str, y.shape), "f32"]))
    return model.into_model().into_runnable().run([y])[0].to_numpy()


def openvino_runs(path: Path, y: np.ndarray) -> np.ndarray:
    import openvino

    # By default it computes in bf16 on processors that have it.
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled([y])[compiled.output(0)]


OTHERS = [evaluator_runs, tract_runs, openvino_runs]


def assert_same_everywhere(path: Path, y: np.ndarray) -> None:
    expected = onnxruntime_runs(path, y)
    assert np.isfinite(expected).all()
    for runtime in OTHERS:
        got = runtime(path, y)
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        error = np.linalg.norm(got.astype(np.float64) - expected) / np.linalg.norm(expected)
        assert error <= TOLERANCE, f"{runtime.__name__}: {error:.2g}"


def draw(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(1)
    match kind:
        case "positive":
            x = 0.1 + np.abs(rng.standard_normal(shape))
        case "unit":
            x = rng.uniform(-0.9, 0.9, shape)
        case "from one":
            x = 1.05 + np.abs(rng.standard_normal(shape))
        case _:
            x = rng.standard_normal(shape)
    return x.astype(np.float32)


def one_node(op: str, second: np.ndarray | None = None, **attributes: float) -> onnx.ModelProto:
    names = ["x"] if second is None else ["x", "second"]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], name=op.lower(), **attributes)],
        op,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [] if second is None else [numpy_helper.from_array(second, "second")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def assert_inverse_portable(model: onnx.ModelProto, x: np.ndarray, folder: Path) -> None:
    path = folder / "inverse.onnx"
    invert(model, path, data=x)
    y = ReferenceEvaluator(model).run(None, {"x": x})[0]
    assert_same_everywhere(path, y)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models(name, models, tmp_path):
    path = tmp_path / "inverse.onnx"
    invert(models / f"{name}.onnx", path)
    width = onnx.load(models / f"{name}.onnx").graph.input[0].type.tensor_type.shape.dim[1].dim_value
    y = onnxruntime_runs(models / f"{name}.onnx", draw(REALS, (8, width)))
    assert_same_everywhere(path, y)


@pytest.mark.parametrize(("op", "attributes", "kind"), ACTIVATIONS, ids=str)
def test_activations(op, attributes, kind, tmp_path):
    assert_inverse_portable(one_node(op, **attributes), draw(kind, (16, 4)), tmp_path)


@pytest.mark.parametrize("name", SECOND)
def test_activations_with_a_parameter(name, tmp_path):
    kind = POSITIVE if name.startswith("Pow") else REALS
    assert_inverse_portable(one_node(name.split()[0], SECOND[name]), draw(kind, (16, 4)), tmp_path)


def test_layout_and_left_products(tmp_path):
    """Transpose, Reshape, Squeeze, Unsqueeze and W @ x on rank 3."""
    rng = np.random.default_rng(0)
    weights = {
        "left": rng.standard_normal((5, 4)).astype(np.float32),
        "right": rng.standard_normal((3, 6)).astype(np.float32),
        "axes": np.array([1], np.int64),
        "shape": np.array([-1, 30], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["left", "x"], ["a"], name="left_product"),
        helper.make_node("MatMul", ["a", "right"], ["b"], name="right_product"),
        helper.make_node("Transpose", ["b"], ["c"], name="transpose", perm=[0, 2, 1]),
        helper.make_node("Reshape", ["c", "shape"], ["d"], name="reshape"),
        helper.make_node("Unsqueeze", ["d", "axes"], ["e"], name="unsqueeze"),
        helper.make_node("Tanh", ["e"], ["y"], name="tanh"),
    ]
    graph = helper.make_graph(
        nodes,
        "layout",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1, 30])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert_inverse_portable(model, 0.1 * draw(REALS, (8, 4, 3)), tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_version_and_domains(name, models):
    """Opset 17, IR 8, standard operators, float32 throughout, unique node names, constants as initializers."""
    model = invert(models / f"{name}.onnx").model
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert {node.domain for node in model.graph.node} == {""}
    assert "Constant" not in {node.op_type for node in model.graph.node}
    assert {tensor.data_type for tensor in model.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert not {value.name for value in model.graph.output} & {value.name for value in model.graph.input}
