"""Named examples: each was once planned, built or verified wrongly."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import onnx_invert
from onnx_invert import Guarantee, ModelError, NotInvertibleError, UsageError, VerificationError
from onnx_invert.plan.newton import NewtonPlan


def text(body, opset=17):
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{body}')


def images(model, **options):
    inversion = onnx_invert.invert(model, **options)
    return inversion.guarantee.value, inversion.report["images"]["y"]


@pytest.mark.parametrize(
    ("body", "guarantee", "image"),
    [
        ("h = Tanh(x) y = Reciprocal(h)", "left-inverse", None),
        ("h = Sigmoid(x) l = Log(h) y = Reciprocal(l)", "bijection", "(-inf, 0)"),
        ("h = Sigmoid(x) l = Log(h) r = Reciprocal(l) y = Mul(r, r1)", "bijection", "(-inf, 0)"),
    ],
)
def test_a_pole_splits_a_box(body, guarantee, image):
    model = text(f"g (float[N,4] x) => (float[N,4] y) <float r1 = {{2.0}}> {{ {body} }}")
    assert images(model) == (guarantee, image)


def test_the_side_of_a_pole_settles_the_branch():
    body = "h = Sigmoid(x) l = Log(h) r = Reciprocal(l) y = Pow(r, p)"
    assert images(text(f"g (float[N,4] x) => (float[N,4] y) <float p = {{2.0}}> {{ {body} }}"))[0] == "bijection"


def test_weights_that_repeat_nothing_still_move_the_box():
    model = text(
        "g (float[4] x) => (float[1,4] y) <float[1,4] w = {-1.0,-1.0,-1.0,-1.0}> { h = Exp(x) y = Mul(h, w) }"
    )
    assert images(model) == ("bijection", "(-inf, 0)")


def test_a_hole_that_differs_between_elements_is_not_stated():
    model = text(
        "g (float[N,2] x) => (float[N,2] y) <float c = {-1.0}, float[2] s = {0.5, 0.25}> "
        "{ r = Reciprocal(x) a = Add(r, c) y = PRelu(a, s) }"
    )
    assert images(model) == ("left-inverse", None)


def test_a_large_tensor_does_not_hide_a_small_one():
    rng = np.random.default_rng(0)
    data = {"a": 1e7 * rng.standard_normal((200, 4)), "b": 10 * rng.standard_normal((200, 4))}
    model = text("g (float[N,4] a, float[N,4] b) => (float[N,4] u, float[N,4] v) { u = Neg(a) v = Tanh(b) }")
    with pytest.raises(VerificationError, match="less than two digits"):
        onnx_invert.invert(model, recover=["a", "b"], data={k: v.astype(np.float32) for k, v in data.items()})


def test_norms_below_the_root_of_the_smallest_number():
    model = text("g (double[N,1] x) => (double[N,3] y) <double[3] w = {1e-170,2e-170,1e-170}> { y = Mul(x, w) }")
    inversion = onnx_invert.invert(model)
    assert inversion.guarantee == "left-inverse"
    assert inversion.round_trip.x.worst < 1e-14


@pytest.mark.parametrize(
    ("node", "constants", "reason"),
    [
        ("z = Dropout(c, r, t)", "<float r = {0.5}, bool t = {1}>", "drawn anew"),
        ("z = RandomNormalLike(c)", "", "drawn anew"),
        (
            "z = If(b)<then_branch=a () => (float[N,4] p) { p = Exp(c) }, "
            "else_branch=b () => (float[N,4] q) { q = Tanh(c) }>",
            "",
            "comes out of the body",
        ),
    ],
)
def test_an_operand_that_cannot_be_had_again(node, constants, reason):
    model = text(f"g (float[N,4] x, float[N,4] c, bool b) => (float[N,4] y) {constants} {{ {node} y = Add(x, z) }}")
    with pytest.raises(NotInvertibleError, match=reason):
        onnx_invert.explain(model, recover=["x"], method="closed-form")
    with pytest.raises(NotInvertibleError):  # nor does Newton's method take it
        onnx_invert.explain(model, recover=["x"])


def test_a_body_that_uses_the_unknown():
    model = text(
        "g (float[N,2] x, bool c) => (float[N,2] y) { y = If(c)<then_branch=a () => (float[N,2] p) { p = Exp(x) }, "
        "else_branch=b () => (float[N,2] q) { q = Neg(x) }> }"
    )
    with pytest.raises(NotInvertibleError, match="its body uses the unknown"):
        onnx_invert.explain(model)


def test_a_detour_through_half_precision_names_its_range():
    model = text("g (float[N,4] x) => (float[N,4] y) { h = Cast<to = 10>(x) y = Cast<to = 1>(h) }")
    assert any("float16" in line for line in onnx_invert.invert(model).report["requirements"])


HALF = text(
    "g (float[N,4] x) => (float[N,4] y) { h = Cast<to = 10>(x) a, b = Split<axis = 1, num_outputs = 2>(h) "
    "c = Sin(b) k = Add(a, c) d = Mul(k, k) f = Add(b, d) z = Concat<axis = 1>(k, f) s = Softsign(z) w = Add(s, z) "
    "v = Cast<to = 1>(w) y = Mul(v, r) } ",
    opset=18,
)
HALF.graph.initializer.append(numpy_helper.from_array(np.array([0.5, -2, 3, 1], np.float32), "r"))


def test_a_block_in_half_precision_behind_casts():
    """Every step rounds to float16, so that this is what its errors are measured by, not the float32 of both ends."""
    inversion = onnx_invert.invert(HALF, samples=64)
    assert inversion.report["method"] == "equations"
    assert any("float16" in line for line in inversion.report["requirements"])
    assert 1e-5 < inversion.report["round_trip"]["x_error"]["max"] < 1e-2


def test_the_log_determinant_through_half_precision():
    """y = r (z + z / (1 + |z|)), and z is a shear of x: log|det ∂y/∂x| = Σ log|r (1 + (1 + |z|)⁻²)|."""
    inversion = onnx_invert.invert(HALF, samples=64, log_det=True)
    y = np.array([[0.4, -1, 2, 0.3], [-0.2, 0.6, -3, 1.5]], np.float32)
    found = ort.InferenceSession(inversion.model.SerializeToString()).run(["log_det"], {"y": y})[0]
    w = np.abs(y / [0.5, -2, 3, 1])
    z = (w - 2 + np.sqrt((w - 2) ** 2 + 4 * w)) / 2  # w = z + z / (1 + z)
    wanted = -np.log(np.abs([0.5, -2, 3, 1]) * (1 + (1 + z) ** -2.0)).sum(1)
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 2e-3


def test_an_attribute_of_the_wrong_type():
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("LeakyRelu", ["x"], ["y"], alpha=1)], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match="'alpha' is INT, not FLOAT"):
        onnx_invert.explain(model)


COPIED = "g (float[N,4] x, float[N,4] c) => (float[N,4] y) { m = ReduceMean<axes = [1]>(c) y = Add(x, m) }"


def test_copies_keep_the_opset_that_they_mean_the_same_in():
    raised = onnx_invert.invert(text(COPIED), recover=["x"], opset=20).model
    onnx.checker.check_model(raised, full_check=True)
    assert raised.opset_import[0].version == 20
    down = text(COPIED.replace("ReduceMean<axes = [1]>", "ReduceMean"))
    down.opset_import[0].version = 20
    with pytest.raises(UsageError, match="is defined otherwise in 17"):
        onnx_invert.invert(down, recover=["x"], opset=17)
    model = onnx_invert.invert(text(COPIED), recover=["x"]).model
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 17


def test_a_model_that_uses_the_name_of_the_noise():
    body = "g (float[N,4] onnx_invert_eta) => (float[N,4] y) { y = Tanh(onnx_invert_eta) }"
    assert onnx_invert.invert(text(body)).guarantee == "bijection"


def test_samples_along_another_axis_of_the_output():
    model = text(
        "g (float[N,4] x) => (float[4,N] y) <float[4,1] s = {1.0,-1.0,0.5,0.0}> "
        "{ t = Transpose<perm = [1,0]>(x) y = PRelu(t, s) }"
    )
    assert images(model) == ("right-inverse", "an interval per element")


def test_the_recovered_operand_is_the_second():
    model = text("g (float[N,1] x, float[N,4] b) => (float[N,4] y) { y = Sub(b, x) }")
    assert onnx_invert.invert(model, recover=["x"]).guarantee == "left-inverse"


def test_two_unknown_sizes_are_not_taken_for_one():
    model = text("g (float[N,T] x, float[N,S] b) => (float[N,K] y) { y = Add(x, b) }")
    with pytest.raises(NotInvertibleError, match="may be repeated"):
        onnx_invert.explain(model, recover=["x"])


@pytest.mark.parametrize(
    "body",
    [
        "g (float[N,2] x) => (float[N,2] y) <float a = {1e30}> { h = Mul(x, a) y = Mul(h, a) }",
        "g (float[N,2] x) => (float[N,2] y) <float[2] a = {1e-40,1.0}> { y = Mul(x, a) }",
    ],
)
def test_factors_that_the_type_cannot_hold(body):
    with pytest.raises(ModelError, match="can hold"):
        onnx_invert.invert(text(body), verify=False)


def test_an_output_that_is_an_input():
    model = text("g (float[N,3] x) => (float[N,3] y, float[N,3] x) { y = Exp(x) }")
    assert onnx_invert.invert(model).guarantee == "bijection"
    with pytest.raises(UsageError, match="is the input itself"):
        onnx_invert.invert(model, known=["x"])


def test_an_inverse_labelled_approximate_promises_nothing(tmp_path):
    model, inverse = tmp_path / "f.onnx", tmp_path / "g.onnx"
    onnx.save(text("g (float[N,3] x) => (float[N,3] y) { y = Tanh(x) }"), model)
    onnx_invert.invert(model, inverse, rtol=1e-12, force=True)
    result = onnx_invert.check(model, inverse)
    assert result.claim is None
    assert "promises nothing" in result.note
    assert not onnx_invert.check(model, inverse, rtol=1e-12).passed


def test_outputs_without_numbers():
    empty = "h = Tanh(x) e = MatMul(x, w)"
    both = text(f"g (float[N,4] x) => (float[N,4] h, float[N,0] e) <float[4,0] w = {{}}> {{ {empty} }}")
    assert onnx_invert.invert(both).report["unused_outputs"] == ["e"]
    with pytest.raises(UsageError, match=r"--from e: this output holds no numbers: e float32\[N,0\]"):
        onnx_invert.invert(both, known=["e"])
    only = text("g (float[N,4] x) => (float[N,0] e) <float[4,0] w = {}> { e = MatMul(x, w) }")
    with pytest.raises(ModelError, match=r"The outputs hold no numbers. Outputs: e float32\[N,0\]"):
        onnx_invert.invert(only)


def test_data_that_are_not_finite_are_named():
    model = text("g (float[N,4] x) => (float[N,4] y) { y = Tanh(x) }")
    with pytest.raises(ModelError, match="the data for 'x' hold such numbers themselves"):
        onnx_invert.invert(model, data=np.full((5, 4), np.nan, np.float32))


def test_a_few_other_x_with_the_same_y_are_no_unsolved_samples():
    """y = (x², x³ − x) crosses itself at x = ±1: there alone another x has the same y."""
    model = text(
        "g (float[N,1] x) => (float[N,2] y) { s = Mul(x, x) t = Mul(s, x) d = Sub(t, x) y = Concat<axis=1>(s, d) }"
    )
    x = np.linspace(0.2, 2.0, 46, dtype=np.float32)[:, None]
    assert onnx_invert.invert(model, method="newton", data=x).guarantee.value == "left-inverse"
    twice = np.concatenate([x, [[-1.0]]]).astype(np.float32)
    made = onnx_invert.invert(model, method="newton", data=twice)
    assert (made.guarantee.value, made.round_trip.unsolved) == ("generalized-inverse", 0)
    assert made.round_trip.x.unsolved == 1


@pytest.mark.parametrize("index", [9, -9])
def test_a_lookup_beyond_its_operand(index):
    gather = f"<int64[2] i = {{0, {index}}}> {{ y = Gather<axis = 1>(x, i) }}"
    with pytest.raises(ModelError, match=f"index {index}, but axis 1 of 'x' has 4 elements"):
        onnx_invert.invert(text(f"g (float[N,4] x) => (float[N,2] y) {gather}"))


def test_data_too_large_for_a_prior():
    model = text("g (double[N,2] x) => (double[N,1] y) <double[2,1] w = {1, 2}> { h = MatMul(x, w) y = Tanh(h) }")
    x = np.random.default_rng(0).standard_normal((20, 2)) * 1e150
    with pytest.raises(UsageError, match=r"its numbers go up to .*e\+150, of which the fourth power is infinite"):
        onnx_invert.invert(model, prior={"x": x})


@pytest.mark.parametrize("body", ["Sub(x, x)", "Div(x, x)"])
def test_an_output_that_x_leaves_no_trace_in(body):
    """The slope is 0 wherever it is tried: neither a direction nor a determinant that keeps its sign is claimed."""
    plan = onnx_invert.explain(text(f"g (float[N,4] x) => (float[N,4] y) {{ y = {body} }}"))
    assert isinstance(plan, NewtonPlan)
    assert not plan.requirements


def test_weights_of_four_bits(tmp_path):
    """onnxruntime multiplies by them with x rounded to eight bits, as users have it: f(g(y)) = y does not hold then.
    A session that holds weights once, and multiplies exactly, must not say that it does."""
    rng = np.random.default_rng(0)
    weights = helper.make_tensor("q", TensorProto.INT4, (32, 32), rng.integers(-8, 8, 32 * 32))
    scale = numpy_helper.from_array(np.full((1, 32), 0.1, np.float32), "s")
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 32]) for name in "xy"]
    graph = helper.make_graph(nodes, "four_bits", ends[:1], ends[1:], [weights, scale])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)

    x = rng.standard_normal((8, 32)).astype(np.float32)
    (y,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    exact = x @ (numpy_helper.to_array(weights).astype(np.float32) * np.float32(0.1))
    assert np.max(np.abs(y - exact)) > 1e-4 * np.max(np.abs(exact))

    with pytest.raises(VerificationError):
        onnx_invert.invert(path)
    inverse = tmp_path / "inverse.onnx"
    assert onnx_invert.invert(path, inverse, force=True).guarantee is Guarantee.APPROXIMATE
    assert onnx_invert.check(path, inverse, rtol=1e-4).found is not Guarantee.BIJECTION
