"""Which equation determines which tensor, in which order, and what stands in the way."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from closed_form import explain, invert
from onnx import parser

from onnx_invert import ModelError, NotInvertibleError, UsageError
from onnx_invert.plan.equations import equations, order
from onnx_invert.plan.problem import pose
from onnx_invert.plan.steps import Solve, Sweep


def model(body: str, inputs: str = "float[N,3] x", outputs: str = "float[N,3] y") -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {body} }}'
    proto = parser.parse_model(text)
    for node in proto.graph.node:
        node.name = f"make_{node.output[0]}"
    return onnx.shape_inference.infer_shapes(proto)


def problem(proto: onnx.ModelProto, recover=(), known=()):
    return pose(ir.from_proto(proto), recover, known)


def blockers(proto: onnx.ModelProto, **kw) -> dict[str, str]:
    with pytest.raises(NotInvertibleError) as error:
        explain(proto, **kw)
    return {blocker.node: blocker.reason for blocker in error.value.blockers}


def test_a_chain_is_solved_from_the_output_back():
    found = order(problem(model("a = Tanh(x) b = Exp(a) y = Neg(b)")))
    assert not found.blockers
    assert [(solve.node.op_type, solve.operand) for solve in found.solves] == [("Neg", 0), ("Exp", 0), ("Tanh", 0)]


def test_the_unknown_operand_is_found():
    found = order(problem(model("a = Sub(c, x) y = Tanh(a)", "float[N,3] c, float[N,3] x"), recover=["x"]))
    assert [(solve.node.op_type, solve.operand) for solve in found.solves] == [("Tanh", 0), ("Sub", 1)]


def test_nodes_beside_the_path_are_no_equations():
    """What only given inputs feed is known; what no known output needs is left out."""
    body = "d = Exp(c) e = Tanh(d) y = Add(x, e) unused = Relu(x)"
    posed = problem(model(body, "float[N,3] x, float[N,3] c"), recover=["x"])
    assert {node.name for node in equations(posed)} == {"make_y"}
    assert [solve.node.name for solve in order(posed).solves] == ["make_y"]


def stuck(body):
    """Why no path leads back."""
    return {blocker.node: blocker.reason for blocker in order(problem(model(body))).blockers}


@pytest.mark.parametrize("body", ["y = Mul(x, x)", "a = Tanh(x) y = Add(a, a)"])
def test_a_tensor_used_twice_by_a_node(body):
    assert "2 times: one equation for several unknowns" in stuck(body)["make_y"]


def test_what_falls_and_rises_is_no_block():
    assert "2 times: one equation for several unknowns" in blockers(model("y = Mul(x, x)"))["make_y"]


@pytest.mark.parametrize(
    "body", ["a = Tanh(x) y = Add(a, a)", "a = Tanh(x) y = Add(x, a)", "a = Neg(x) y = Sub(a, x)"]
)
def test_what_rises_or_falls_throughout_is_a_block(body):
    assert invert(model(body)).round_trip.passed


def test_two_unknown_operands():
    reasons = stuck("a = Tanh(x) y = Add(x, a)")
    assert (
        reasons["make_y"] == "its operands 'a' and 'x' both depend on the unknown: one equation for several unknowns"
    )


def test_every_node_without_an_inverse_is_listed_too():
    reasons = blockers(model("a = Relu(x) b = Softmax(x) y = Add(a, b)"))
    assert set(reasons) == {"make_y", "make_a", "make_b"} | ({"x"} & set(reasons))
    assert "one dimension is lost" in reasons["make_b"]


def test_a_long_branch_that_joins_again():
    """Linear in the number of nodes: 2,000 of them in two branches are refused at once."""
    steps = " ".join(f"a{i + 1} = Neg(a{i}) b{i + 1} = Neg(b{i})" for i in range(1000))
    reasons = stuck(f"a0 = Neg(x) b0 = Tanh(x) {steps} y = Add(a1000, b1000)")
    assert "both depend on the unknown" in reasons["make_y"]


def test_two_outputs_of_one_tensor_need_from():
    proto = model("y = Tanh(x) z = Exp(x)", outputs="float[N,3] y, float[N,3] z")
    with pytest.raises(NotInvertibleError) as error:
        explain(proto)
    assert "determined 2 times" in str(error.value)
    assert "--from NAME  with one of: y, z" in str(error.value)
    for name in ("y", "z"):
        plan = explain(proto, known=[name])
        assert [value.name for value in plan.problem.known] == [name]
        assert [value.name for value in plan.problem.unused] == [{"y": "z", "z": "y"}[name]]


def test_an_output_on_the_way_to_another():
    """y is known twice over: by itself and through z. --from says which to use."""
    proto = model("y = Tanh(x) z = Exp(y)", outputs="float[N,3] y, float[N,3] z")
    assert "make_y" in blockers(proto)
    assert len(explain(proto, known=["z"]).rows) == 2
    assert len(explain(proto, known=["y"]).rows) == 1


def test_outputs_that_do_not_depend_on_what_is_recovered_are_left_out():
    proto = model("y = Tanh(x) z = Exp(c)", "float[N,3] x, float[N,3] c", "float[N,3] y, float[N,3] z")
    plan = explain(proto, recover=["x"])
    assert [value.name for value in plan.problem.unused] == ["z"]
    assert [value.name for value in plan.problem.given] == ["c"]
    with pytest.raises(UsageError, match="does not depend on 'x'"):
        explain(proto, recover=["x"], known=["z"])


def test_two_inputs_from_two_outputs():
    proto = model("y = Tanh(x) z = Exp(c)", "float[N,3] x, float[N,3] c", "float[N,3] y, float[N,3] z")
    inversion = invert(proto, recover=["x", "c"])
    assert [port.name for port in inversion.model.graph.output] == ["x", "c"] or {
        port.name for port in inversion.model.graph.output
    } == {"x", "c"}
    assert inversion.round_trip.passed


def test_one_output_for_two_inputs():
    proto = model("y = Add(x, c)", "float[N,3] x, float[N,3] c")
    assert "make_y" in blockers(proto, recover=["x", "c"])


def test_given_inputs_stay_inputs():
    """A network of the given input runs forwards inside the inverse."""
    proto = model("d = Exp(c) a = Mul(x, d) y = Tanh(a)", "float[N,3] x, float[N,3] c")
    inversion = invert(proto, recover=["x"])
    assert {port.name for port in inversion.model.graph.input} == {"y", "c"}
    assert "Exp" in {node.op_type for node in inversion.model.graph.node}
    assert inversion.plan.requirements == ["make_a: the other factor has no zero"]


def test_names_that_do_not_exist():
    proto = model("y = Tanh(x)")
    with pytest.raises(UsageError, match="no such input"):
        explain(proto, recover=["nobody"])
    with pytest.raises(UsageError, match="no such output"):
        explain(proto, known=["nobody"])


def test_an_output_that_hangs_on_nothing():
    proto = model("y = Tanh(c)", "float[N,3] x, float[N,3] c")
    with pytest.raises(ModelError, match="No output depends on 'x'"):
        explain(proto, recover=["x"])


def test_values_that_follow_from_the_shape_alone_are_known():
    """Shape(x) is the same whatever x is: a Reshape by it is no second use of x."""
    proto = model("s = Shape(x) a = Tanh(x) y = Reshape(a, s)", outputs="float[N,3] y")
    inversion = invert(proto)
    assert inversion.guarantee.value == "bijection"
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    session = onnx.reference.ReferenceEvaluator(inversion.model)
    assert np.allclose(session.run(None, {"y": np.tanh(x)})[0], x, atol=1e-5)


def test_a_residual_that_is_no_contraction_for_x_is_not_called_one():
    """y = x/2 + g(x), g of constant 0.7: the sweep x ← 2 (y − g(x)) stretches distances by up to 1.4.

    It is one-to-one all the same: det(I + D K) = 1 + 1.4³ d₁ d₂ d₃ for the slopes d ≥ 0 of tanh.
    """
    half = "h = Constant<value = float {0.5}>() s = Mul(x, h) "
    turn = "w = Constant<value = float[3,3] {0, 0.7, 0, 0, 0, 0.7, 0.7, 0, 0}>() a = MatMul(x, w) t = Tanh(a) "
    plan = explain(model(f"{half} {turn} y = Add(s, t)"))
    assert [type(step) for step in plan.flat if isinstance(step, Solve | Sweep)] == [Solve]
    assert invert(model(f"{half} {turn} y = Add(s, t)")).round_trip.passed
    assert blockers(model(f"{half} {turn} u = Neg(t) y = Add(s, u)"))  # 1 − 1.4³ d₁ d₂ d₃ changes its sign
    assert invert(model(f"{turn} y = Add(x, t)")).round_trip.passed


def test_a_mean_over_the_samples_is_no_affine_block():
    body = "m = ReduceMean<axes = [0]>(x) y = Sub(x, m)"
    assert blockers(model(body))
