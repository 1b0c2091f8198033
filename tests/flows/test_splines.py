"""Splines whose domain is an interval, or a circle: what an inverse does at its ends, and what it says of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from flow_cases import FlowCase, flow_cases

import onnx_invert
from onnx_invert.build.system.inverse import build_system
from onnx_invert.errors import VerificationError
from onnx_invert.graph.write import to_proto
from onnx_invert.plan.steps import Root
from onnx_invert.plan.system_plan import SystemPlan


def _case(name: str) -> FlowCase:
    return next(case for case in flow_cases() if case.name == name and case.exporter == "legacy")


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _plan(model: onnx.ModelProto, **options: object) -> SystemPlan:
    plan = onnx_invert.explain(model, method="closed-form", **options)  # type: ignore[arg-type]
    assert isinstance(plan, SystemPlan)
    return plan


TABLE = """
    <ir_version: 9, opset_import: ["" : 18]>
    g (float[N,2] x) => (float[N,2] y)
    <float[5] heights = {0.0, 0.1, 0.5, 0.7, 1.0}, float four = {4}, int64 one = {1}>
    {
        t = Mul(x, four)
        c = Floor(t)
        i = Cast<to=7>(c)
        k = Add(i, one)
        s = Sub(t, c)
        a = Gather(heights, i)
        b = Gather(heights, k)
        d = Sub(b, a)
        r = Mul(s, d)
        y = Add(a, r)
    }
"""
"""Piecewise linear on [0, 1): onnxruntime stops where x ≥ 1, and counts from the table's end where x < 0."""


def test_a_y_that_is_not_reached_gives_an_end_and_is_counted() -> None:
    plan = _plan(onnx.parser.parse_model(TABLE))
    (root,) = [step for step in plan.flat if isinstance(step, Root)]
    assert str(root.domain).startswith("[0, 1]")
    assert plan.guarantee is onnx_invert.Guarantee.LEFT
    built = build_system(plan, instrumented=True)
    (probe,) = built.probes
    y = np.array([[0.3, -0.2], [0.05, 1e30], [-1e30, 0.95]], np.float32)
    session = _session(to_proto(built.model))
    x, missed = session.run(["x", probe.tensor], {"y": y, built.eta: np.zeros((1, 2), np.float32)})
    assert np.isfinite(x).all()
    np.testing.assert_allclose(x[[0, 1, 2], [0, 0, 1]], [0.375, 0.125, 0.75 + 0.25 * 0.25 / 0.3], rtol=1e-5)
    assert x[0, 1] == pytest.approx(0, abs=1e-6)
    assert x[1, 1] == pytest.approx(1, abs=1e-6)
    assert x[2, 0] == pytest.approx(0, abs=1e-6)
    assert probe.outside(missed)[[0, 1, 2], [1, 1, 0]].all()
    assert not probe.outside(missed)[[0, 1, 2], [0, 0, 1]].any()


def test_x_comes_back_within_the_domain_only() -> None:
    x = np.random.default_rng(0).uniform(0, 0.99, (50, 2)).astype(np.float32)
    assert onnx_invert.invert(onnx.parser.parse_model(TABLE), data=x).guarantee is onnx_invert.Guarantee.LEFT
    beyond = x - np.float32(0.2)
    with pytest.raises(VerificationError, match=r"it is planned for what rises or falls throughout on \[0, 1\]"):
        onnx_invert.invert(onnx.parser.parse_model(TABLE), data=beyond)


def test_a_circle_says_where_x_comes_back() -> None:
    case = _case("zuko_ncsf")
    plan = _plan(case.model(), known=["z"])
    (condition,) = plan.domains
    assert "on a circle of 6.28319; 'x' comes back in [−3.14159, 3.14159]" in condition
    turned = case.arrays["x"] + np.float32(2 * np.pi) * np.array([1, 0, 0], np.float32)
    with pytest.raises(VerificationError, match="a circle"):
        onnx_invert.invert(case.model(), known=["z"], method="closed-form", data=turned)


def test_an_interval_is_in_the_table_of_the_plan() -> None:
    case = _case("nflows_linear_spline_coupling")
    rules = [row.rule for row in _plan(case.model(), known=["z"]).rows]
    assert "elementwise on [0, 1]: a root for every element, by bracketing" in rules


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_y_that_is_reached_nowhere_gives_no_nan(dtype: type[np.floating]) -> None:
    """x + sin(x)/2 over (1 + |…|) lies within ±1, whatever x is."""
    kind = "float" if dtype is np.float32 else "double"
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 18]> g ({kind}[N,2] x) => ({kind}[N,2] y)
        <{kind} half = {{0.5}}, {kind} one = {{1}}>
        {{ s = Sin(x)  h = Mul(s, half)  a = Add(x, h)  m = Abs(a)  n = Add(m, one)  y = Div(a, n) }}"""
    )
    made = onnx_invert.invert(model, method="closed-form")
    y = np.array([[0.5, 1.5], [-3.0, 1e30]], dtype)
    (x,) = _session(made.model).run(["x"], {"y": y})
    assert np.isfinite(x).all()
    assert x[0, 0] + np.sin(x[0, 0]) / 2 == pytest.approx(1, rel=1e-5)


def test_a_straight_line_ends_where_its_table_does() -> None:
    """Held within the table, the index gives straight lines at both ends: they are none of the model's."""
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 18]> g (float[N,2] x) => (float[N,2] y)
        <float[4] height = {0, 1, 3, 3.5}, float[4] slope = {1, 2, 0.5, 4}>
        { c = Floor(x)  i = Cast<to=7>(c)  a = Gather(height, i)  b = Gather(slope, i)
          s = Sub(x, c)  r = Mul(b, s)  y = Add(a, r) }"""
    )
    (root,) = [step for step in _plan(model).flat if isinstance(step, Root)]
    assert str(root.domain).startswith("[0, 4]")
    x = np.random.default_rng(0).uniform(0.01, 3.99, (50, 2)).astype(np.float32)
    made = onnx_invert.invert(model, data=x)
    assert made.guarantee is onnx_invert.Guarantee.LEFT
    y = np.array([[8.0, 100.0], [-1.0, 7.4]], np.float32)
    (back,) = _session(made.model).run(["x"], {"y": y})
    assert (back >= 0).all()
    assert (back < 4).all()  # onnxruntime does not run the model at the end


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_end_is_taken_for_a_root_where_y_is_large(dtype: type[np.floating]) -> None:
    """x √x + tanh x on [0, ∞)."""
    kind = "float" if dtype is np.float32 else "double"
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 18]> g ({kind}[N,1] x) => ({kind}[N,1] y)
        {{ a = Sqrt(x)  b = Mul(a, x)  c = Tanh(x)  y = Add(b, c) }}"""
    )
    x = (10.0 ** np.arange(-2, 13)).astype(dtype)[:, None]
    made = onnx_invert.invert(model, method="closed-form", data=x)
    (y,) = _session(model).run(["y"], {"x": x})
    inverse = _session(made.model)
    back = [inverse.run(["x"], {"y": row[None]})[0][0] for row in y]  # the search goes on for all as long as for one
    np.testing.assert_allclose(back, x, rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_y_near_the_largest_number_gives_no_nan(dtype: type[np.floating]) -> None:
    """x + tanh x is x ± 1 there."""
    kind = {np.float16: "float16", np.float32: "float", np.float64: "double"}[dtype]
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 18]> g ({kind}[N,2] x) => ({kind}[N,2] y)
        {{ a = Tanh(x)  y = Add(x, a) }}"""
    )
    made = onnx_invert.invert(model, method="closed-form")
    y = np.array([[0.9, -0.9], [0.7, 0.6]], dtype) * np.finfo(dtype).max
    (x,) = _session(made.model).run(["x"], {"y": y})
    np.testing.assert_allclose(x, y, rtol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("opset", [11, 12])
@pytest.mark.parametrize("whole", ["int32", "int64"])
def test_tables_of_old_opsets(opset: int, whole: str) -> None:
    """Indices stay held once the model is raised; inputs that it does not run on do not stop the comparison."""
    to = 6 if whole == "int32" else 7
    model = onnx.parser.parse_model(
        f"""<ir_version: 6, opset_import: ["" : {opset}]> g (float[N,2] x) => (float[N,2] y)
        <float[4] height = {{0, 1, 3, 3.5}}, float[4] slope = {{1, 2, 0.5, 4}}>
        {{ c = Floor(x)  i = Cast<to={to}>(c)  a = Gather(height, i)  b = Gather(slope, i)
          s = Sub(x, c)  t = Unsqueeze<axes=[2]>(s)  u = Squeeze<axes=[2]>(t)  r = Mul(b, u)  y = Add(a, r) }}"""
    )
    x = np.random.default_rng(0).uniform(0.01, 3.99, (50, 2)).astype(np.float32)
    made = onnx_invert.invert(model, data=x)
    assert made.guarantee is onnx_invert.Guarantee.LEFT
    (back,) = _session(made.model).run(["x"], {"y": np.array([[8.0, 7.4]], np.float32)})
    assert back[0, 0] < 4
    assert back[0, 1] == pytest.approx(3.975)
