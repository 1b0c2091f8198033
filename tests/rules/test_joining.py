"""Which element of a convolution's input each element of its output follows from, against differences."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnx_invert
from onnx_invert.rules.dependence import flow
from onnx_invert.rules.joining import SEVERAL

CASES = {
    "plain": ((2, 2, 6), (3, 2, 3), {}),
    "causal": ((1, 1, 7), (2, 1, 3), {"pads": [2, 0]}),
    "stride and dilation": ((1, 2, 9), (2, 2, 2), {"strides": [2], "dilations": [3], "pads": [1, 2]}),
    "groups": ((1, 4, 5), (4, 2, 3), {"group": 2, "pads": [1, 1]}),
    "kernel of one place, padded": ((1, 2, 4), (2, 2, 1), {"pads": [1, 0]}),
    "image": ((1, 2, 4, 5), (4, 1, 3, 2), {"group": 2, "pads": [1, 0, 1, 1], "strides": [1, 2]}),
}


def convolution(shape, weight, **attributes):
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, shape)],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def differences(run, shape):
    """The label of every element of run(x) (0 at first), told from one unit vector of x after the other."""
    found = np.zeros(run(np.zeros(shape)).shape, np.int64)
    for number, unit in enumerate(np.eye(int(np.prod(shape))), start=1):
        moved = run(unit.reshape(shape)) != 0
        found = np.where(moved, np.where(found == 0, number, SEVERAL), found)
    return found


@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("case", CASES)
def test_a_convolution_joins_what_its_windows_reach(case, zeros):
    shape, kernel, attributes = CASES[case]
    rng = np.random.default_rng(len(case))
    weight = rng.uniform(0.5, 1, kernel) * (rng.random(kernel) >= zeros)
    model = convolution(shape, weight, **attributes)
    evaluator = ReferenceEvaluator(model)
    node = next(iter(ir.from_proto(model).graph))
    made = flow(node, [np.arange(1, int(np.prod(shape)) + 1).reshape(shape), None])[0]
    assert np.array_equal(made, differences(lambda x: evaluator.run(None, {"x": x})[0], shape))


def test_a_causal_convolution_is_solved_place_by_place():
    """y = x eˢ + t with s, t of the places before: proven to have one x, found sweep by sweep."""
    body = (
        "g (float[N,6] x) => (float[N,6] y) { u = Unsqueeze(x, one) before = Slice(u, zero, last, two) "
        "p = Pad(before, pads) c = Conv(p, w) s, t = Split<axis = 1, num_outputs = 2>(c) l = Squeeze(s, one) "
        "m = Squeeze(t, one) h = Tanh(l) e = Exp(h) v = Mul(x, e) y = Add(v, m) }"
    )
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{body}')
    weight = np.random.default_rng(0).normal(size=(2, 1, 2)).astype(np.float32)
    numbers = {"one": [1], "zero": [0], "last": [-1], "two": [2], "pads": [0, 0, 2, 0, 0, 0]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v), k) for k, v in numbers.items())
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    inversion = onnx_invert.invert(model, samples=32)
    assert (inversion.report["guarantee"], inversion.report["evidence"]) == ("bijection", "proven")
