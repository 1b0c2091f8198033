"""The law of completions, operator by operator: x comes back from y and z, and z has the numbers that it should."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pairs import back, pair

RNG = np.random.default_rng(5)
W = RNG.standard_normal


def node(op, shape, constants=(), opset=17, dtype=np.float32, outputs=("y",), **attributes):
    """One node on x (N, *shape)."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    arrays = [np.asarray(c, dtype) if np.asarray(c).dtype.kind == "f" else np.asarray(c) for c in constants]
    names = [f"c{i}" for i in range(len(arrays))]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], list(outputs), name="node", **attributes)],
        "case",
        [helper.make_tensor_value_info("x", kind, ["N", *shape])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True)],
    )
    graph.output[0].type.tensor_type.elem_type = attributes.get("to", kind)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    inferred = onnx.shape_inference.infer_shapes(probe, data_prop=True)
    model.graph.output[0].CopyFrom(next(v for v in inferred.graph.value_info if v.name == "y"))
    return model


# (node, numbers of z, surplus)
CASES = {
    "MatMul narrow": (node("MatMul", (6,), [W((6, 4))]), 2, 0),
    "MatMul wide": (node("MatMul", (4,), [W((4, 6))]), 0, 2),
    "MatMul rank 3": (node("MatMul", (3, 6), [W((6, 4))]), 6, 0),
    "MatMul large": (node("MatMul", (300,), [W((300, 40))]), 260, 0),
    "MatMul deficient": (node("MatMul", (5,), [W((5, 2)) @ W((2, 5))]), 3, 3),
    "Gemm": (node("Gemm", (6,), [W((4, 6)), W((4,))], transB=1, alpha=0.5), 2, 0),
    "Mul with zeros": (node("Mul", (4,), [np.array([1.0, 0, 2, 0])]), 2, 2),
    "Relu": (node("Relu", (5,)), 5, 5),
    "LeakyRelu": (node("LeakyRelu", (5,), alpha=0.3), 0, 0),
    "Abs": (node("Abs", (5,)), 5, 5),
    "Clip": (node("Clip", (5,), [np.float32(-0.5), np.float32(0.5)]), 5, 5),
    "Cosh": (node("Cosh", (5,)), 5, 5),
    "square": (node("Pow", (5,), [np.float32(2)]), 5, 5),
    "HardSigmoid": (node("HardSigmoid", (5,)), 5, 5),
    "HardSwish": (node("HardSwish", (5,)), 5, 5),
    "Gelu": (node("Gelu", (5,), opset=20), 5, 5),
    "Gelu tanh": (node("Gelu", (5,), opset=20, approximate="tanh"), 5, 5),
    "Mish": (node("Mish", (5,), opset=18), 5, 5),
    "Round": (node("Round", (5,)), 5, 5),
    "Cast": (node("Cast", (5,), to=TensorProto.INT32), 5, 5),
    "QuantizeLinear": (None, 5, 5),
    "Softmax": (node("Softmax", (5,)), 1, 1),
    "LogSoftmax": (node("LogSoftmax", (5,)), 1, 1),
    "LayerNormalization": (node("LayerNormalization", (3, 5), [W(5), W(5)]), 6, 6),
    "InstanceNormalization": (node("InstanceNormalization", (2, 3, 4), [W(2), W(2)]), 4, 4),
    "LpNormalization": (node("LpNormalization", (5,)), 1, 1),
    "MaxPool": (node("MaxPool", (2, 4, 4), kernel_shape=[2, 2], strides=[2, 2]), 24, 0),
    "MaxPool with a rest": (node("MaxPool", (1, 5, 4), kernel_shape=[2, 2], strides=[2, 2]), 16, 0),
    "MaxPool overlapping": (node("MaxPool", (1, 4, 4), kernel_shape=[3, 3]), 16, 4),
    "AveragePool": (node("AveragePool", (2, 4, 4), kernel_shape=[2, 2], strides=[2, 2]), 24, 0),
    "AveragePool overlapping": (node("AveragePool", (1, 4, 4), kernel_shape=[3, 3]), 12, 0),
    "GlobalAveragePool": (node("GlobalAveragePool", (2, 3, 3)), 16, 0),
    "GlobalMaxPool": (node("GlobalMaxPool", (2, 3, 3)), 16, 0),
    "ReduceMean": (node("ReduceMean", (3, 4), axes=[2], keepdims=0), 9, 0),
    "ReduceSum": (node("ReduceSum", (3, 4), [np.array([1])]), 8, 0),
    "ReduceMax": (node("ReduceMax", (3, 4), axes=[1], keepdims=1), 8, 0),
    "ReduceMin": (node("ReduceMin", (3, 4), axes=[2], keepdims=0), 9, 0),
    "ReduceLogSumExp": (node("ReduceLogSumExp", (3, 4), axes=[2], keepdims=0), 9, 0),
    "Conv": (node("Conv", (2, 5, 5), [W((3, 2, 3, 3)), W(3)]), 23, 0),
    "Conv grouped": (node("Conv", (4, 4, 4), [W((4, 2, 3, 3))], group=2, pads=[1, 1, 1, 1]), 0, 0),
    "Conv 1×1": (node("Conv", (4, 3, 3), [W((2, 4, 1, 1)), W(2)]), 18, 0),
    "Conv on patches": (node("Conv", (1, 4, 4), [W((2, 1, 2, 2))], strides=[2, 2]), 8, 0),
    "ConvTranspose": (node("ConvTranspose", (2, 3, 3), [W((2, 3, 2, 2)), W(3)], strides=[2, 2]), 0, 90),
    "Slice": (node("Slice", (6,), [np.array([1]), np.array([6]), np.array([1]), np.array([2])]), 3, 0),
    "Gather": (node("Gather", (6,), [np.array([4, 0, 4])], axis=1), 4, 1),
    "Pad": (node("Pad", (4,), [np.array([0, 1, 0, -1])]), 1, 1),
    "Pad reflected": (node("Pad", (4,), [np.array([0, 1, 0, 2])], mode="reflect"), 0, 3),
    "Tile": (node("Tile", (3,), [np.array([1, 2])]), 0, 3),
    "DepthToSpace": (node("DepthToSpace", (4, 2, 2), blocksize=2), 0, 0),
}
del CASES["QuantizeLinear"]


@pytest.mark.parametrize("name", CASES)
def test_x_comes_back_and_the_count_is_as_stated(name):
    model, numbers, surplus = CASES[name]
    plan, forward, inverse = pair(model)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = (2 * np.random.default_rng(1).standard_normal((7, *shape))).astype(np.float32)
    assert np.abs(back(forward, inverse, x) - x).max() < 2e-6 * max(10, plan.condition)
    assert (plan.size, plan.surplus) == (numbers, surplus)
    assert plan.kept == (16 if name == "MaxPool overlapping" else 0)


TEXTS = {
    "quantized": """q (float[N,4] x) => (float[N,4] y)
        <float s = {0.05}, int8 z = {3}> { a = QuantizeLinear(x, s, z) y = DequantizeLinear(a, s, z) }""",
    "split and concatenated": """c (float[N,4] x) => (float[N,4] y) <int64[2] l = {1, 3}>
        { a, b = Split<axis = 1>(x, l) c = Neg(a) y = Concat<axis = 1>(b, c) }""",
    "coupling": """c (float[N,4] x) => (float[N,4] y) <int64[2] l = {2, 2}>
        { a, b = Split<axis = 1>(x, l) s = Exp(a) m = Mul(b, s) c = Add(m, a) y = Concat<axis = 1>(a, c) }""",
    "slices": """c (float[N,4] x) => (float[N,4] y)
        <int64[1] o = {0}, int64[1] i = {2}, int64[1] e = {4}, int64[1] k = {1}>
        { a = Slice(x, o, i, k) b = Slice(x, i, e, k) c = Neg(a) y = Concat<axis = 1>(b, c) }""",
    "residual": """r (float[N,4] x) => (float[N,4] y) { a = Relu(x) y = Add(x, a) }""",
    "norm": """r (float[N,4] x) => (float[N,4] y) { m = ReduceMean<axes = [1]>(x) d = Sub(x, m) s = Mul(d, d)
        v = ReduceMean<axes = [1]>(s) r = Sqrt(v) y = Div(d, r) }""",
    "no axis of samples": """r (float[2,3] x) => (float[2,3] y) { y = Relu(x) }""",
    "two layers of latents in double": """r (double[N,4] x) => (double[N] y)
        { a = Relu(x) y = ReduceMax<axes = [1], keepdims = 0>(a) }""",
}
COUNTS = {"quantized": 4, "split and concatenated": 0, "coupling": 0, "slices": 0, "residual": 4, "norm": 2}


@pytest.mark.parametrize("per_node", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_small_networks(name, per_node):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {TEXTS[name]}')
    plan, forward, inverse = pair(model, per_node=per_node)
    double = "double" in TEXTS[name]
    shape = (2, 3) if name.startswith("no axis") else (9, 4)
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float64 if double else np.float32)
    assert np.abs(back(forward, inverse, x) - x).max() < (1e-14 if double else 1e-5)
    if name in COUNTS:
        assert plan.size == COUNTS[name]
