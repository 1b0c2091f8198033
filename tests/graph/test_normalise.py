"""One form of a graph for every exporter's: functions inlined, constants folded, shapes inferred."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from small_models import affine, text

import onnx_invert
from onnx_invert.errors import ModelError
from onnx_invert.graph.normalise import normalise
from onnx_invert.graph.read import from_proto


def normal(model):
    source = from_proto(model)
    normalise(source)
    return source.model.graph


def ops(graph):
    return [node.op_type for node in graph]


def constant(graph, name):
    return graph.initializers[name].const_value.numpy()


W = np.array([[1, 4], [9, 16]], np.float64)

CHAINS = {
    "Constant": ("w = Constant<value = float[2,2] {1.0, 4.0, 9.0, 16.0}>()", W),
    "Cast": ("v = Constant<value = double[2,2] {1.0, 4.0, 9.0, 16.0}>() w = Cast<to = 1>(v)", W),
    "Sqrt": ("v = Constant<value = float[2,2] {1.0, 4.0, 9.0, 16.0}>() w = Sqrt(v)", np.sqrt(W)),
    "Transpose": ("v = Constant<value = float[2,2] {1.0, 4.0, 9.0, 16.0}>() w = Transpose(v)", W.T),
    "Reshape": (
        "v = Constant<value_floats = [1.0, 4.0, 9.0, 16.0]>() s = Constant<value_ints = [2, -1]>() w = Reshape(v, s)",
        W,
    ),
    "all of them": (
        """u = Constant<value = double[4] {1.0, 4.0, 9.0, 16.0}>() s = Constant<value_ints = [2, 2]>()
        t = Cast<to = 1>(u) r = Reshape(t, s) q = Sqrt(r) p = Transpose(q) i = Identity(p) w = Add(i, i)""",
        2 * np.sqrt(W).T,
    ),
    "arithmetic": (
        "v = Constant<value = float[2,2] {1.0, 4.0, 9.0, 16.0}>() o = Constant<value_float = 0.5>() w = Mul(v, o)",
        W / 2,
    ),
    "Shape of a constant": (
        """v = Constant<value = float[2,2] {1.0, 4.0, 9.0, 16.0}>() n = Shape(v)
        f = ConstantOfShape<value = float[1] {2.0}>(n) w = Sub(v, f)""",
        W - 2,
    ),
    "Unsqueeze and Concat": (
        """a = Constant<value_floats = [1.0, 4.0]>() b = Constant<value_floats = [9.0, 16.0]>()
        z = Constant<value_ints = [0]>() c = Unsqueeze(a, z) d = Unsqueeze(b, z) w = Concat<axis = 0>(c, d)""",
        W,
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_weights_behind_chains(name):
    chain, expected = CHAINS[name]
    model = text(f"g (float[N,2] x) => (float[N,2] y) {{ {chain} y = MatMul(x, w) }}")
    graph = normal(model)
    assert ops(graph) == ["MatMul"]
    np.testing.assert_allclose(constant(graph, "w"), expected.astype(np.float32))
    assert onnx_invert.invert(model).round_trip.passed


def test_a_chain_from_initializers_that_are_inputs_too():
    model = text("g (float[N,2] x) => (float[N,2] y) { w = Transpose(v) y = MatMul(x, w) }", opset=8, ir=3)
    model.graph.input.append(onnx.helper.make_tensor_value_info("v", 1, [2, 2]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(W.astype(np.float32), "v"))
    graph = normal(model)
    assert [value.name for value in graph.inputs] == ["x"]
    np.testing.assert_array_equal(constant(graph, "w"), W.T)


def test_shapes_become_constants():
    model = text(
        """g (float[1,2,3] x) => (float[1,6] y) { s = Shape(x) z = Constant<value_ints = [0]>() n = Gather(s, z)
        m = Constant<value_ints = [-1]>() c = Concat<axis = 0>(n, m) y = Reshape(x, c) }"""
    )
    graph = normal(model)
    assert ops(graph) == ["Reshape"]
    assert constant(graph, "c").tolist() == [1, -1]


@pytest.mark.parametrize(
    ("attributes", "expected"), [("", [2, 3, 4]), ("<start = 1>", [3, 4]), ("<start = -2, end = -1>", [3])]
)
def test_a_part_of_a_shape(attributes, expected):
    model = text(
        f"g (float[2,3,4] x) => (int64[K] t, float[2,3,4] y) {{ s = Shape{attributes}(x) t = Neg(s) "
        "u = Cast<to = 1>(s) v = ReduceSum<keepdims = 0>(u) y = Add(x, v) }"
    )
    graph = normal(model)
    assert constant(graph, "v") == sum(expected)


def test_a_shape_that_is_an_output_too():
    model = text(
        "g (float[2,6] x) => (int64[2] s, float[2,6] y) "
        "{ s = Shape(x) c = Cast<to = 1>(s) v = ReduceSum<keepdims = 0>(c) y = Add(x, v) }"
    )
    graph = normal(model)
    assert [value.name for value in graph.outputs] == ["s", "y"]
    assert constant(graph, "v") == 8
    assert onnx_invert.invert(model).round_trip.passed


def test_a_weight_that_is_an_output_too():
    model = text(
        "g (float[N,2] x) => (float[2,2] w, float[N,2] y) "
        "{ v = Constant<value = float[2,2] {1.0, 4.0, 9.0, 16.0}>() w = Transpose(v) y = MatMul(x, w) }"
    )
    graph = normal(model)
    assert [value.name for value in graph.outputs] == ["w", "y"]
    np.testing.assert_array_equal(constant(graph, "w/constant"), W.T)
    assert onnx_invert.invert(model).round_trip.passed


def test_a_symbolic_shape_is_left_alone():
    model = text(
        "g (float[N,2,3] x) => (float[N,6] y) { s = Shape<end = 1>(x) m = Constant<value_ints = [-1]>() "
        "c = Concat<axis = 0>(s, m) y = Reshape(x, c) }"
    )
    assert "Reshape" in ops(normal(model))
    assert onnx_invert.invert(model).round_trip.passed


def test_random_numbers_are_no_constants():
    model = text("g (float[N,2] x) => (float[N,2] y) { k = RandomNormal<shape = [2]>() y = Add(x, k) }")
    assert "RandomNormal" in ops(normal(model))


def test_what_nothing_needs_is_gone():
    model = text(
        "g (float[N,2] x) => (float[N,2] y) { unused = Exp(x) k = Constant<value_string = 'a'>() y = Neg(x) }".replace(
            "'", '"'
        )
    )
    assert ops(normal(model)) == ["Neg"]


def test_an_output_that_is_a_constant_stays():
    model = text(
        "g (float[N,2] x) => (float[N,2] y, float[1] k) { y = Neg(x) k = Constant<value = float[1] {1.0}>() }"
    )
    assert [value.name for value in normal(model).outputs] == ["y", "k"]
    assert onnx_invert.invert(model).round_trip.passed


def test_sequences_of_constants():
    model = text(
        """g (float[N,2] x) => (float[N,2] y) { k = Constant<value_floats = [1.0, 2.0]>() s = SequenceConstruct(k, k)
        i = Constant<value_int = 0>() a = SequenceAt(s, i) y = Add(x, a) }"""
    )
    assert ops(normal(model)) == ["Add"]


FUNCTIONS = {
    "one": (
        """g (float[N,2] x) => (float[N,2] y) { y = l.f(x) }
        <domain: "l", opset_import: ["" : 17]>
        f (a) => (b) { c = Constant<value = float[2] {1.0, 2.0}>() b = Add(a, c) }""",
        ["Add"],
    ),
    "nested, with attributes": (
        """g (float[N,2] x) => (float[N,2] y) { y = l.h<al = 0.25>(x) }
        <domain: "l", opset_import: ["" : 17]>
        f <al> (a) => (b) { b = LeakyRelu<alpha: float = @al>(a) }
        <domain: "l", opset_import: ["" : 17, "l" : 1]>
        h <al> (a) => (b) { c = l.f<al: float = @al>(a) b = l.f<al = 0.5>(c) }""",
        ["LeakyRelu", "LeakyRelu"],
    ),
    "used twice": (
        """g (float[N,2] x) => (float[N,2] y) { h = l.f(x) y = l.f(h) }
        <domain: "l", opset_import: ["" : 17]>
        f (a) => (b) { b = Exp(a) }""",
        ["Exp", "Exp"],
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_inlined(name):
    body, expected = FUNCTIONS[name]
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17, "l" : 1]>\n{body}')
    graph = normal(model)
    assert ops(graph) == expected
    assert len({node.name for node in graph}) == len(expected)
    x = np.array([[0.1, -0.2]], np.float32) if name != "used twice" else np.array([[-3, -2.0]], np.float32)
    assert onnx_invert.invert(model, data=x).round_trip.passed


def test_every_node_has_a_name_of_its_own():
    model = text("g (float[N,2] x) => (float[N,2] y) { a = Neg(x) b = Neg(a) c = Neg(b) y = Neg(c) }")
    for node, name in zip(model.graph.node, ["", "same", "same", "Neg_0"], strict=True):
        node.name = name
    names = [node.name for node in normal(model)]
    assert len(set(names)) == 4
    assert names[1] == "same"


def test_anonymous_sizes_get_names():
    model = affine(batch=None)
    graph = normal(model)
    assert [str(dim) for dim in graph.inputs[0].shape] == ["N", "4"]
    assert [str(dim) for dim in graph.outputs[0].shape] == ["N", "4"]


def test_shapes_follow_from_the_weights_not_from_the_file():
    model = affine()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9
    graph = normal(model)
    assert [str(dim) for dim in graph.outputs[0].shape] == ["N", "4"]


def test_shapes_that_disagree():
    model = affine()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    with pytest.raises(ModelError, match=r"^The shapes of the model disagree: node 'mm' \(MatMul\): Incompatible dim"):
        normal(model)


def test_constants_that_cannot_be_computed():
    model = text(
        "g (float[N,2] x) => (float[N,2] y) { v = Constant<value_floats = [1.0, 2.0, 3.0]>() "
        "s = Constant<value_ints = [2, 2]>() w = Reshape(v, s) y = MatMul(x, w) }"
    )
    with pytest.raises(ModelError, match=r"The constants made by 'Reshape_0' cannot be computed: "):
        normal(model)


def test_infinite_constants_make_no_noise(capfd):
    model = text(
        "g (float[N,2] x) => (float[N,2] y) { v = Constant<value_floats = [0.0, 1.0]>() l = Log(v) "
        "e = Exp(l) y = Add(x, e) }"
    )
    normal(model)
    assert capfd.readouterr() == ("", "")


def test_the_file_is_not_changed(tmp_path):
    model = affine()
    before = model.SerializeToString()
    normal(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("then", ["{ o = Neg(x) }", "{ o = Identity(a) }"])
def test_a_branch_that_a_constant_decides_is_taken(then: str) -> None:
    """Its output keeps the name of the model's."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y) <bool c = {1}> { a = Exp(x) '
        f"y = If(c)<then_branch = t () => (float[N,2] o) {then}, "
        "else_branch = e () => (float[N,2] q) { q = Relu(x) }> }"
    )
    inversion = onnx_invert.invert(model)
    assert inversion.guarantee is onnx_invert.Guarantee.BIJECTION
    assert [port.name for port in inversion.model.graph.input] == ["y"]


@pytest.mark.parametrize("opset", [10, 13, 17, 19, 21])
@pytest.mark.parametrize("zero", ["", ", z"])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weights_that_were_quantised(opset, zero, axis):
    """Of weight-only quantisation the numbers that the integers stand for are the weights; onnxruntime as oracle."""
    if axis is not None and opset < 13:
        axis = None  # one scale for all
    q = np.array([[7, -3], [1, 5]], np.int8)
    scale, z = (np.float32(0.5), np.int8(2)) if axis is None else (np.float32([0.5, 0.25]), np.int8([2, -1]))
    attribute = "" if axis is None else f"<axis = {axis}>"
    model = text(
        f"g (float[N,2] x) => (float[N,2] y) {{ w = DequantizeLinear{attribute}(q, s{zero}) y = MatMul(x, w) }}",
        opset=opset,
        ir=10,
    )
    for name, array in {"q": q, "s": scale, "z": z}.items():
        if name != "z" or zero:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    found = constant(normal(model), "w")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": np.eye(2, dtype=np.float32)})[0], found)
    assert onnx_invert.invert(model).guarantee == "bijection"


@pytest.mark.parametrize(("op", "neutral"), [("Max", -np.inf), ("Min", np.inf)])
def test_where_a_reduction_begins(op, neutral):
    """JAX writes max(x, −∞): it is x, and the infinite weight is in no one's way. max(x, ∞) is no x."""
    model = text(f"f (float[N,4] x) => (float[N,4] y) <float c = {{0.0}}> {{ h = {op}(c, x) y = Tanh(h) }}")
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.float32(neutral), "c"))
    assert ops(normal(model)) == ["Identity", "Tanh"]
    assert onnx_invert.invert(model).guarantee is onnx_invert.Guarantee.BIJECTION
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.float32(-neutral), "c"))
    with pytest.raises(ModelError, match="NaN or infinite"):
        normal(model)
