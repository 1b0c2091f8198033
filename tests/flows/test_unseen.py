"""A fill that nobody sees keeps nothing in a root's loop; one that is seen stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from flow_cases import flow_cases

import onnx_invert
from onnx_invert.plan.steps import Root

HEAD = "g (float[N,3] x, float[N,3] c) => (float[N,3] y) <float one = {1}, float two = {2}, float zero = {0}>"

SEEN = {
    "it comes to y beside the last Where as well": """
        a = Mul(c, c) m = Greater(x, one) p = Where(m, a, zero) s = Where(m, x, zero)
        e = Exp(p) d = Sub(s, one) h = Mul(e, d) q = Add(h, one) u = Where(m, q, x) y = Add(u, p)
    """,
    "the last Where asks for something else": """
        a = Mul(c, c) m = Greater(x, one) k = Greater(x, zero) p = Where(m, a, zero) e = Exp(p) q = Mul(e, x)
        t = Mul(x, two) y = Where(k, q, t)
    """,
    "it comes by the third operand": """
        a = Mul(c, c) m = Less(x, one) p = Where(m, a, zero) e = Exp(p) h = Div(x, two) t = Mul(x, e)
        y = Where(m, h, t)
    """,
}

UNSEEN = """
    m = Greater(x, one) p = Where(m, c, zero) s = Where(m, x, zero)
    e = Exp(p) a = Sub(s, one) h = Mul(e, a) q = Add(h, one) y = Where(m, q, x)
"""


def _made(body: str) -> tuple[onnx.ModelProto, onnx_invert.Inversion]:
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {HEAD} {{ {body} }}')
    return model, onnx_invert.invert(model, recover=["x"], method="closed-form", verify=False)


def _round_trip(model: onnx.ModelProto, made: onnx_invert.Inversion) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, c = (rng.standard_normal((200, 3)).astype(np.float32) * size for size in (2, 1))
    (y,) = ort.InferenceSession(model.SerializeToString()).run(["y"], {"x": x, "c": c})
    return ort.InferenceSession(made.model.SerializeToString()).run(["x"], {"y": y, "c": c})[0], x


def _inside_loops(model: onnx.ModelProto) -> list[str]:
    """Nodes of the model that run in a loop."""
    bodies = [a.g for node in model.graph.node if node.op_type == "Loop" for a in node.attribute if a.HasField("g")]
    return [node.op_type for body in bodies for node in body.node if node.name.startswith("forward/")]


def test_what_nobody_sees_is_not_in_the_loop() -> None:
    model, made = _made(UNSEEN)
    (root,) = [step for step in made.plan.steps if isinstance(step, Root)]
    assert {node.outputs[0].name for node in root.unseen} == {"p"}
    assert "Exp" not in _inside_loops(made.model)
    back, x = _round_trip(model, made)
    np.testing.assert_allclose(back, x, atol=2e-6)


@pytest.mark.parametrize("why", SEEN)
def test_what_is_seen_stays(why: str) -> None:
    model, made = _made(SEEN[why])
    (root,) = [step for step in made.plan.steps if isinstance(step, Root)]
    assert not root.unseen
    back, x = _round_trip(model, made)
    np.testing.assert_allclose(back, x, rtol=1e-5, atol=2e-6)


def test_what_is_infinite_where_it_is_not_selected_does_no_harm() -> None:
    """exp(c) overflows in elements that m leaves out: nothing of it comes back."""
    model, made = _made(UNSEEN)
    x = np.array([[0.5, 3.0, -1.0]], np.float32)
    c = np.array([[200.0, 0.5, 1000.0]], np.float32)
    (y,) = ort.InferenceSession(model.SerializeToString()).run(["y"], {"x": x, "c": c})
    (back,) = ort.InferenceSession(made.model.SerializeToString()).run(["x"], {"y": y, "c": c})
    np.testing.assert_allclose(back, x, atol=1e-6)


@pytest.mark.parametrize("name", ["nflows_rq_coupling_lu", "nflows_quadratic_coupling", "normflows_spline_coupling"])
def test_the_tables_of_a_spline_are_made_once(name: str) -> None:
    case = next(case for case in flow_cases() if case.name == name)
    known = [port.name for port, array in zip(case.model().graph.output, case.outputs, strict=True) if array[0] == "z"]
    made = onnx_invert.invert(case.model(), recover=["x"], known=known, method="closed-form", verify=False)
    assert not {"Softmax", "Softplus", "CumSum"} & set(_inside_loops(made.model))
