"""Models of opset 7 to 12: what the solver runs forwards is converted, and held to the model as it was."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from solving import normal, residuals, run

from onnx_invert import Guarantee, ModelError, explain, invert

OPSETS = [7, 9, 11, 12]


def old(opset):
    """Flatten, Gemm, ReLU, max pooling, ReduceMean and Clip, as each opset writes them; Softmax at the end."""
    weights = {
        "k": normal(4, 2, 3, 3) / 3,
        "a": normal(16, 24, seed=1) / 3,
        "b": normal(24, seed=2) / 4,
        "c": normal(24, 5, seed=3) / 3,
    }
    clip = {"min": -4.0, "max": 4.0} if opset < 11 else {}
    bounds = [] if opset < 11 else ["low", "high"]
    if opset >= 11:
        weights |= {"low": np.array(-4.0), "high": np.array(4.0)}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["h"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["h"], ["l"], alpha=0.2),
        helper.make_node("AveragePool", ["l"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "a", "b"], ["g"]),
        helper.make_node("Clip", ["g", *bounds], ["i"], **clip),
        helper.make_node("ReduceMean", ["i"], ["m"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["i", "m"], ["s"]),
        helper.make_node("Relu", ["s"], ["r"]),
        helper.make_node("MatMul", ["r", "c"], ["o"]),
        helper.make_node("Softmax", ["o"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3 + (opset > 7))
    if opset == 7:  # IR 3 wants weights among the inputs
        for name, array in weights.items():
            graph = model.graph
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("opset", OPSETS)
def test_old_models_are_solved(opset):
    model = old(opset)
    inversion = invert(model, residual=True)
    assert inversion.report["method"] == "newton"
    assert inversion.guarantee is Guarantee.RIGHT
    assert inversion.round_trip.unsolved == 0
    onnx.checker.check_model(inversion.model, full_check=True)
    assert inversion.model.opset_import[0].version == 17
    y = run(model, x=normal(20, 2, 4, 4, seed=4).astype(np.float32))[0]
    x, told = run(inversion.model, y=y)
    measured = residuals(run(model, x=x)[0], y)
    assert measured.max() < 1e-5
    np.testing.assert_allclose(told, measured, atol=3e-7)


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_another_opset_is_converted_to(opset):
    inversion = invert(old(12), opset=opset)
    assert inversion.model.opset_import[0].version == opset
    assert inversion.round_trip.unsolved == 0


def test_a_conversion_to_another_function_is_refused():
    """Upsample's corners are not those of the Resize that ONNX's converter writes for it."""
    graph = helper.make_graph(
        [
            helper.make_node("Upsample", ["x", "scales"], ["u"], mode="linear"),
            helper.make_node("Relu", ["u"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    with pytest.raises(ModelError, match=r"opset 9; what .* computes something else: 'y' is off"):
        invert(model, method="newton", verify=False)


@pytest.mark.parametrize("opset", [8, 11])
def test_a_coupling_of_an_old_opset(opset):
    """One half runs forwards in the inverse, so that its nodes are converted, too."""
    text = f"""
        <ir_version: 6, opset_import: ["" : {opset}]>
        g (float[N,6] x, float[N,6] c) => (float[N,6] y) {{
            e = Exp(c) m = ReduceMean<axes = [1], keepdims = 1>(e) s = Softmax<axis = 1>(c) t = Mul(s, m) y = Add(x, t)
        }}"""
    model = onnx.parser.parse_model(text)
    inversion = invert(model, recover=["x"])
    assert inversion.guarantee is Guarantee.BIJECTION
    assert inversion.model.opset_import[0].version == 17
    assert explain(model, recover=["x"]).guarantee is Guarantee.BIJECTION
