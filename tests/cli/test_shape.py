"""`--shape`: sizes that a model leaves open and an inverse needs."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from small_models import save, text

from onnx_invert import UsageError, explain, invert, jacobian

KERNEL = np.array([[0, 0.1, 0], [0.1, 1, -0.1], [0, 0.1, 0]], np.float32)[None, None]


def picture(sizes=("N", 1, "height", "width"), names=("height", "width")):
    """A convolution over pictures of any size, and a tanh."""
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["h"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["h"], ["y"], name="tanh"),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "picture",
        [helper.make_tensor_value_info("x", kind, sizes)],
        [helper.make_tensor_value_info("y", kind, [sizes[0], 1, *names])],
        [numpy_helper.from_array(KERNEL, "k")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_sizes_are_fixed_and_the_file_stays(call):
    save(picture(), Path("p.onnx"))
    before = Path("p.onnx").read_bytes()
    refused = call("p.onnx", "-o", "g.onnx")
    assert refused.code == 3
    assert "with --shape" in refused.err
    done = call("p.onnx", "-o", "g.onnx", "--shape", "x:N,1,5,6")
    assert done.code == 0, done.err
    assert Path("p.onnx").read_bytes() == before
    f, g = (onnxruntime.InferenceSession(name) for name in ("p.onnx", "g.onnx"))
    assert g.get_inputs()[0].shape == ["N", 1, 5, 6]
    x = np.random.default_rng(0).standard_normal((7, 1, 5, 6)).astype(np.float32)
    (back,) = g.run(None, {"y": f.run(None, {"x": x})[0]})
    np.testing.assert_allclose(back, x, atol=1e-4)
    checked = call("check", "p.onnx", "g.onnx")
    assert checked.code == 0, checked.err


def test_the_name_may_be_left_out(call):
    save(picture(), Path("p.onnx"))
    assert "float32[N,1,4,4]" in call("explain", "p.onnx", "--shape", "N,1,4,4").out.replace(" ", "")


def test_a_name_is_one_size_wherever_it_is():
    model = text("f (float[N,k] a, float[N,k] b) => (float[N,k] y) { y = Add(a, b) }")
    plan = explain(model, recover=["a"], shapes={"a": ("N", 3)})
    assert [list(value.shape) for value in plan.problem.inputs] == [["N", 3], ["N", 3]]


def test_a_shape_for_an_input_that_has_none():
    model = text("f (float[N,4] x) => (float[N,4] y) { y = Tanh(x) }")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    plan = explain(model, shapes={"x": ("N", np.int64(4))})
    assert list(plan.problem.inputs[0].shape) == ["N", 4]


def test_jacobian_at_a_size():
    derivative = jacobian(picture(), shapes={"x": ("N", 1, 3, 3)})
    assert [dim.dim_value for dim in derivative.graph.output[0].type.tensor_type.shape.dim[1:]] == [9, 9]


BAD = {
    "no such input": ("z:1,2", "there is no input 'z'. Inputs: x float32[N,1,height,width]."),
    "other axes": ("x:1,2", "x float32[N,1,height,width] cannot be [1,2]."),
    "another size": ("x:N,3,4,4", "axis 1 of x float32[N,1,height,width] is 1, and cannot be 3."),
    "a size of nothing": ("x:N,1,0,4", "cannot be [N,1,0,4]."),
    "a negative size": ("x:N,1,-1,4", "cannot be [N,1,-1,4]."),
    "no sizes": ("x:", "the form is INPUT:N,3,224,224"),
    "a gap": ("x:N,,4,4", "the form is INPUT:N,3,224,224"),
    "no memory": ("x:N,1,900000000,900000000", "no memory holds one sample"),
}


@pytest.mark.parametrize("name", BAD)
def test_sizes_that_do_not_fit(name, call, files):
    save(picture(), Path("p.onnx"))
    before = files()
    shape, message = BAD[name]
    done = call("p.onnx", "-o", "g.onnx", "--shape", shape)
    assert done.code == 2
    assert message in done.err
    assert files() == before


def test_two_sizes_of_one_name():
    model = text("f (float[N,k,k] x) => (float[N,k,k] y) { y = Tanh(x) }")
    with pytest.raises(UsageError, match="'k' cannot be both 3 and 4"):
        explain(model, shapes={"x": ("N", 3, 4)})


@pytest.mark.parametrize("open_size", [-1, "?"])
def test_what_exporters_write_for_an_open_size(open_size):
    """Two axes that are both called `?` need not have one size."""
    model = picture(("N", 1, open_size, open_size), (open_size, open_size))
    inversion = invert(model, shapes={"x": ("N", 1, 3, 4)})
    assert inversion.round_trip.passed
