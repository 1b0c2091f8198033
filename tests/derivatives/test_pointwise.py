"""Functions of one element, and elementwise functions of several operands, against differences."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from finite_differences import X, check, draw, hold, ints, jacobians, one_node, positive, run
from onnx import helper

import onnx_invert

# Away from the kinks, on both sides of them.
SPREAD = np.array(
    [[-4.2, -1.7, -0.9, -0.3, 0.2, 0.45], [0.7, 1.3, 2.1, 3.4, 5.2, -2.6], [0.1, -0.1, 0.9, -0.6, 1.1, 0.6]]
)
INSIDE = SPREAD / 6
ABOVE = np.abs(SPREAD) + 1.1

UNARY = {
    **dict.fromkeys(("Relu", "Abs", "Exp", "Sin", "Cos", "Tan", "Atan", "Tanh", "Sigmoid", "Softplus"), SPREAD),
    **dict.fromkeys(("Softsign", "Erf", "Sinh", "Cosh", "Asinh", "Neg", "Identity", "Sign", "Floor", "Ceil"), SPREAD),
    **dict.fromkeys(("Round", "Reciprocal", "LeakyRelu", "Elu", "Selu", "HardSigmoid", "HardSwish"), SPREAD),
    **dict.fromkeys(("ThresholdedRelu", "Shrink", "Hardmax"), SPREAD),
    **dict.fromkeys(("Asin", "Acos", "Atanh"), INSIDE),
    **dict.fromkeys(("Log", "Sqrt", "Acosh"), ABOVE),
}


@pytest.mark.parametrize("op", UNARY)
def test_functions_of_one_element(op):
    check(op, X(UNARY[op]))


@pytest.mark.parametrize(
    ("op", "opset", "attributes"),
    [
        *(("LeakyRelu", 17, {"alpha": alpha}) for alpha in (0.3, 0.0, -0.7)),
        *(("Elu", 17, {"alpha": alpha}) for alpha in (0.4, 2.0, 0.0, -1.5)),
        ("Selu", 17, {"alpha": -1.2, "gamma": 0.8}),
        ("Selu", 17, {"alpha": 1.2, "gamma": -0.8}),
        *(("ThresholdedRelu", 17, {"alpha": alpha}) for alpha in (0.0, -1.0, 2.0)),
        ("Shrink", 17, {"lambd": 1.0, "bias": 0.3}),
        *(
            ("HardSigmoid", 17, {"alpha": alpha, "beta": beta})
            for alpha, beta in ((0.3, 0.1), (-0.2, 0.5), (1.0, 0.0))
        ),
        ("Mish", 18, {}),
        ("Gelu", 20, {}),
        ("Gelu", 20, {"approximate": "tanh"}),
        ("HardSwish", 14, {}),
        ("Elu", 22, {"alpha": 0.5}),
    ],
    ids=str,
)
def test_attributes(op, opset, attributes):
    check(op, X(SPREAD), opset=opset, **attributes)


@pytest.mark.parametrize("alpha", [1.0, 1.702, -0.5, 0.0])
def test_swish(alpha):
    model, values = one_node("Swish", X(SPREAD), opset=24, alpha=alpha)
    hold(model, values)


@pytest.mark.parametrize("shape", [(), (1,), (2, 1, 2, 1, 3)], ids=str)
def test_any_rank(shape):
    check("Tanh", X(draw(*shape), batched=False))


# What f' is far out, where 1 − y² and y (1 − y) have no digits left: computed with mpmath's closed forms.
@pytest.mark.parametrize(
    ("op", "opset", "x", "slope"),
    [
        ("Tanh", 17, 30.0, 4 * np.exp(-60.0)),
        ("Tanh", 17, -30.0, 4 * np.exp(-60.0)),
        ("Sigmoid", 17, 50.0, np.exp(-50.0)),
        ("Sigmoid", 17, -800.0, 0.0),
        ("Softplus", 17, -50.0, np.exp(-50.0)),
        ("Softplus", 17, 900.0, 1.0),
        ("Elu", 17, -40.0, np.exp(-40.0)),
        ("Elu", 17, 800.0, 1.0),
        ("Erf", 17, 5.0, 2 / np.sqrt(np.pi) * np.exp(-25.0)),
        ("Asin", 17, 1 - 2.0**-50, 1 / np.sqrt(2.0**-49 * (1 - 2.0**-51))),
        ("Acosh", 17, 1 + 2.0**-50, 1 / np.sqrt(2.0**-49 * (1 + 2.0**-51))),
        ("Acosh", 17, 1e200, 1e-200),
        ("Asinh", 17, 1e200, 1e-200),
        ("Atan", 17, 1e200, 0.0),
        ("Softsign", 17, 1e6, 1 / (1 + 1e6) ** 2),
        ("Mish", 18, -40.0, -39 * np.exp(-40.0)),
        ("Mish", 18, 900.0, 1.0),
        ("Gelu", 20, 50.0, 1.0),
        ("Gelu", 20, -50.0, 0.0),
        ("Gelu", 20, 0.0, 0.5),
    ],
)
def test_saturated(op, opset, x, slope):
    for derivative in jacobians(*one_node(op, X(np.array([[x]])), opset=opset)):
        np.testing.assert_allclose(derivative.item(), slope, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("x", [1e30, -1e30, 60.0, -60.0])
def test_the_tanh_form_of_gelu_stays_finite(x):
    for derivative in jacobians(*one_node("Gelu", X(np.array([[x]])), opset=20, approximate="tanh")):
        assert derivative.item() == (1.0 if x > 0 else 0.0)


@pytest.mark.parametrize(
    ("op", "operands", "slope"),
    [
        ("Sqrt", (), 0.0),
        ("Abs", (), 0.0),
        ("Relu", (), 1.0),
        *(("Pow", (np.array(p),), slope) for p, slope in ((2.0, 0), (3.0, 0), (1.0, 1), (0.5, 0), (0.0, 0), (1.5, 0))),
        ("Pow", (np.array([2.0]),), 0.0),
    ],
    ids=str,
)
def test_zero_gives_a_number(op, operands, slope):
    for derivative in jacobians(*one_node(op, X(np.zeros((1, 1))), *operands)):
        assert derivative.item() == slope


@pytest.mark.parametrize("x", [-1.0, 1.0])
def test_vertical_tangents_give_a_number(x):
    for op in ("Asin", "Acos"):
        for derivative in jacobians(*one_node(op, X(np.array([[x]])))):
            assert derivative.item() == 0


@pytest.mark.parametrize(
    ("slope", "batched"),
    [(positive(6), True), (-positive(6), True), (np.array(0.2), True), (np.array([0.0]), True), (draw(3, 1), False)],
    ids=["row", "negative", "scalar", "zero", "column"],
)
def test_prelu(slope, batched):
    check("PRelu", X(SPREAD, batched), slope)


def test_prelu_of_an_unknown_slope():
    check("PRelu", SPREAD, X(draw(6), False))
    check("PRelu", X(SPREAD), X(draw(3, 6)))
    check("PRelu", X(SPREAD), X(draw(3, 1)))


@pytest.mark.parametrize(
    "bounds",
    [(np.array(-1.0), np.array(1.0)), (np.array(-1.0),), (None, np.array(1.0)), ()],
    ids=["both", "lower", "upper", "none"],
)
def test_clip(bounds):
    check("Clip", X(SPREAD), *bounds)


def test_clip_to_unknown_bounds():
    check("Clip", SPREAD, X(np.array(-1.0), False), X(np.array(1.05), False))


@pytest.mark.parametrize("op", ["Max", "Min", "Sum"])  # the reference's Mean adds in place: see below
class TestSeveralOperands:
    def test_constant(self, op):
        check(op, X(SPREAD), np.array(0.25))
        check(op, np.array(0.25), X(SPREAD), draw(6))

    def test_unknown(self, op):
        check(op, X(draw(3, 4)), X(draw(3, 1)), X(draw(3, 4)))
        check(op, X(draw(2, 1, 3), False), X(draw(4, 1), False))

    def test_repeated_along_the_batch(self, op):
        check(op, X(draw(3, 1)), draw(4))

    def test_alone(self, op):
        check(op, X(draw(3, 4)))


def test_the_first_of_equal_operands_counts():
    x = np.array([[1.0, 2.0]])
    for derivative in jacobians(*one_node("Max", X(x), X(x))):
        np.testing.assert_array_equal(derivative[0], np.hstack([np.eye(2), np.zeros((2, 2))]))


@pytest.mark.parametrize("shape", [(6,), (3, 1), (1,), ()], ids=str)
def test_where(shape):
    condition = np.random.default_rng(1).random(shape) < 0.5
    check("Where", condition, X(draw(3, 6), False), draw(6))
    check("Where", condition, draw(6), X(draw(3, 6), False))
    check("Where", condition, X(draw(3, 1), False), X(draw(6), False))


def test_where_in_a_batch():
    check("Where", np.array([True, False, True]), X(draw(4, 3)), X(draw(4, 1)))


@pytest.mark.parametrize("p", [2.0, 3.0, 4.0, -1.0, -2.0, 0.0, 1.0])
def test_whole_powers(p):
    check("Pow", X(SPREAD), np.array(p))


@pytest.mark.parametrize("p", [0.5, 1.5, -0.5, 2.7, 0.1])
def test_fractional_powers(p):
    check("Pow", X(ABOVE), np.array(p))


@pytest.mark.parametrize("p", [np.array(0.5), np.array(1.5), np.array([0.3, 2.7, 0.5, 1.5, 0.5, 1.5])])
def test_powers_that_are_no_number_and_thrown_away(p):
    """scikit-learn's Yeo-Johnson computes both branches and has an Imputer replace what is no number."""
    model, values = one_node("Pow", X(SPREAD), p)
    (node,), (result,) = model.graph.node, model.graph.output
    node.output[0] = "power"
    imputed = {"imputed_value_floats": [0.0], "replaced_value_float": float("nan")}
    model.graph.node.append(helper.make_node("Imputer", ["power"], [result.name], domain="ai.onnx.ml", **imputed))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    for derivative in jacobians(model, values):
        slopes = np.where(SPREAD < 0, 0.0, p * np.abs(SPREAD) ** (p - 1.0))
        np.testing.assert_allclose(derivative.sum(axis=-1), slopes, rtol=1e-6)


def test_powers_by_element():
    check("Pow", X(ABOVE), np.array([2.0, 0.5, 0.0, -1.0, 1.0, 3.3]))
    check("Pow", X(draw(3, 1)), np.array([2.0, 3.0, 0.0, 1.0]))
    check("Pow", X(draw(3, 1)), np.array([2.0, 2.0]))
    check("Pow", X(SPREAD), ints(2))
    check("Pow", X(SPREAD), ints(0, 1, 2, 3, 4, 5))


def test_unknown_powers():
    check("Pow", np.array(2.0), X(SPREAD))
    check("Pow", X(ABOVE), X(draw(3, 6)))
    check("Pow", X(positive(3, 1)), X(draw(3, 4)))


def test_powers_of_zero_by_element_stay_finite():
    p = np.array([2.0, 1.0, 0.5, 0.0, 3.0])
    for derivative in jacobians(*one_node("Pow", X(np.zeros((1, 5))), p)):
        np.testing.assert_array_equal(derivative[0], np.diag([0.0, 1, 0, 0, 0]))
    for derivative in jacobians(*one_node("Pow", np.array([[0.0, -2.0, 2.0]]), X(np.full((1, 3), 2.0)))):
        np.testing.assert_allclose(derivative[0], np.diag([0, 0, 4 * np.log(2)]))


@pytest.mark.parametrize("b", [0.7, -1.1])
def test_mod(b):
    between = np.array([[0.31, 1.55, -2.6], [0.93, -0.25, 2.9]])  # no multiple of b: it jumps there
    check("Mod", X(between), np.array(b), fmod=1)
    check("Mod", between, X(np.array(b), False), fmod=1)


def test_mean():
    check("Mean", X(draw(3, 4)), X(draw(3, 4)), draw(1, 4))


@pytest.mark.parametrize("alpha", [0.4, 2.0, -1.5])
def test_celu_is_defined_for_float32_alone(alpha):
    check("Celu", X(SPREAD), dtype=np.float32, alpha=alpha)


def test_what_comes_of_comparisons_is_flat():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (double[N,3] x) => (double[N,3] y) {
            zero = Constant<value = double {0.0}>()
            above = Greater(x, zero)
            number = Cast<to = 11>(above)
            y = Mul(number, x)
        }""")
    hold(model, {"x": draw(4, 3)})


@pytest.mark.parametrize(
    ("op", "operands", "attributes", "reason"),
    [
        ("Cast", (), {"to": onnx.TensorProto.FLOAT}, "it changes double to float"),
        ("Shrink", (), {"lambd": -1.0}, "its lambd is -1"),
        ("Bernoulli", (), {}, "drawn anew at every run"),
    ],
)
def test_refusals(op, operands, attributes, reason):
    model, _ = one_node(op, X(draw(3, 4)), *operands, **attributes)
    if op == "Cast":
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    with pytest.raises(onnx_invert.NotInvertibleError, match=reason):
        onnx_invert.jacobian(model)


def test_in_float32():
    model, values = one_node("Tanh", X(SPREAD), dtype=np.float32)
    (y,) = run(model, values)
    for derivative in jacobians(model, values):
        assert derivative.dtype == np.float32
        np.testing.assert_allclose(np.diagonal(derivative, 0, 1, 2), 1 - y * y, atol=1e-6)


@pytest.mark.parametrize(
    ("branch", "inside", "exact"),
    [
        ("Pow(x, p)", lambda x: x > 0, lambda x: 2.5 * x**1.5),
        ("Pow(x, q)", lambda x: x > 0, lambda x: 0.3 * x**-0.7),
        ("Pow(x, each)", lambda x: x > 0, lambda x: np.array([2.5, 0.5, -1.5]) * x ** np.array([1.5, -0.5, -2.5])),
        ("Sqrt(x)", lambda x: x > 0, lambda x: 0.5 / np.sqrt(x)),
        ("Log(x)", lambda x: x > 0, lambda x: 1 / x),
        ("Asin(x)", lambda x: np.abs(x) < 1, lambda x: 1 / np.sqrt(1 - x * x)),
        ("Acos(x)", lambda x: np.abs(x) < 1, lambda x: -1 / np.sqrt(1 - x * x)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_number_and_replaced_has_no_slope(branch, inside, exact):
    """y = branch(x) where that is one, else x: the branch that is not taken must not spoil the other's slope."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x, bool[N,3] c) => (float[N,3] y)
        <float p = {{2.5}}, float q = {{0.3}}, float[3] each = {{2.5, 0.5, -1.5}}> {{
            b = {branch} y = Where(c, b, x)
        }}"""
    )
    x = np.array([[-2.0, 0.0, 0.5], [0.7, -0.3, 3.0], [0.2, 0.9, -1.0]], np.float32)
    jacobian = onnx_invert.jacobian(model, wrt=["x"]).SerializeToString()
    (found,) = ort.InferenceSession(jacobian, providers=["CPUExecutionProvider"]).run(None, {"x": x, "c": inside(x)})
    with np.errstate(all="ignore"):
        wanted = np.where(inside(x), exact(x), 1.0)
    np.testing.assert_allclose(found, wanted[:, :, None] * np.eye(3), rtol=1e-5)
