"""Support vector regression as standard operators; onnxruntime's own kernel is the oracle."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import onnx_invert
from onnx_invert.graph.normalise import normalise
from onnx_invert.graph.read import from_proto

RNG = np.random.default_rng(3)
VECTORS = RNG.standard_normal((9, 4)).astype(np.float32)
X = RNG.standard_normal((16, 4)).astype(np.float32)


def regressor(kernel, params=(0.3, 0.5, 3.0), count=9, **others):
    attributes = {
        "kernel_type": kernel,
        "kernel_params": list(params),
        "n_supports": count,
        "coefficients": RNG.standard_normal(count or 4).tolist(),
        "rho": [0.7],
        **({"support_vectors": VECTORS.reshape(-1).tolist()} if count else {}),
        **others,
    }
    graph = helper.make_graph(
        [helper.make_node("SVMRegressor", ["x"], ["y"], name="node", domain="ai.onnx.ml", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
    )
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def run(model, x):
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize(("kernel", "count"), [("RBF", 9), ("LINEAR", 9), ("POLY", 9), ("SIGMOID", 9), ("LINEAR", 0)])
def test_support_vectors_are_standard_operators(kernel, count):
    model = regressor(kernel, count=count)
    source = from_proto(model)
    normalise(source)
    assert all(node.domain == "" for node in source.model.graph)
    np.testing.assert_allclose(run(ir.to_proto(source.model), X), run(model, X), rtol=2e-5, atol=2e-5)


def test_inverse_of_a_kernel_regression():
    model = regressor("RBF")
    inversion = onnx_invert.invert(model, samples=32, iterations=60)
    y = run(model, X)
    (x,) = ort.InferenceSession(inversion.model.SerializeToString()).run(None, {"y": y})
    assert np.mean(np.abs(run(model, x) - y) < 1e-5 * np.maximum(np.abs(y), 0.1)) > 0.9


def test_one_class_is_refused():
    with pytest.raises(onnx_invert.NotInvertibleError, match="SVMRegressor"):
        onnx_invert.invert(regressor("RBF", one_class=1))
