"""Roots in closed form: rational functions in pieces, and what stands in where a closed form does not fit."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from flow_cases import FlowCase, flow_cases

import onnx_invert
from onnx_invert.build.system import quadratic, root
from onnx_invert.build.system.inverse import build_system
from onnx_invert.build.system.rational import Guess
from onnx_invert.graph.emit import Emitter
from onnx_invert.graph.write import to_proto
from onnx_invert.plan.steps import Root
from onnx_invert.plan.system_plan import SystemPlan

KNOTS = np.array([-2, -1, 0.5, 2], np.float32)
HEIGHTS = np.array([-2, -1.5, 1, 2], np.float32)
STARTS = np.array([1.5, 0.5, 1.2], np.float32)

SPLINE = """
    <ir_version: 9, opset_import: ["" : 18]>
    g (float[N,3] x) => (float[N,3] y)
    <float[4] knots = {-2.0, -1.0, 0.5, 2.0}, float[4] heights = {HEIGHTS}, float[3] starts = {1.5, 0.5, 1.2},
     int64[1] last = {-1}, int64 zero = {0}, int64 one = {1}, int64 two = {2}, float unit = {1},
     float low = {-2}, float high = {2}>
    {
        u = Unsqueeze(x, last)
        c = GreaterOrEqual(u, knots)
        n = Cast<to=7>(c)
        k = ReduceSum<keepdims=0>(n, last)
        j = Sub(k, one)
        i = Clip(j, zero, two)
        next = Add(i, one)
        knot = Gather(knots, i)
        end = Gather(knots, next)
        height = Gather(heights, i)
        top = Gather(heights, next)
        start = Gather(starts, i)
        w = Sub(end, knot)
        h = Sub(top, height)
        d = Sub(x, knot)
        t = Div(d, w)
        left = Sub(unit, start)
        bend = Mul(left, t)
        slope = Add(start, bend)
        part = Mul(t, slope)
        rise = Mul(h, part)
        s = Add(height, rise)
        above = GreaterOrEqual(x, low)
        below = LessOrEqual(x, high)
        inside = And(above, below)
        y = Where(inside, s, x)
    }
"""
"""A spline of degree 2 on [-2, 2], the identity beyond."""

CLIP = """
    <ir_version: 9, opset_import: ["" : 18]>
    g (float[N,2] x) => (float[N,2] y)
    <float five = {5}, float one = {1}>
    { r = Div(x, five) a = Abs(r) q = Add(a, one) y = Div(x, q) }
"""
"""Within (-5, 5)."""


def _spline(heights: np.ndarray) -> onnx.ModelProto:
    return onnx.parser.parse_model(SPLINE.replace("{HEIGHTS}", "{" + ", ".join(map(str, heights)) + "}"))


def _plan(model: onnx.ModelProto) -> SystemPlan:
    plan = onnx_invert.explain(model, method="closed-form")
    assert isinstance(plan, SystemPlan)
    return plan


def _root(model: onnx.ModelProto) -> Root:
    (step,) = [step for step in _plan(model).flat if isinstance(step, Root)]
    return step


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def _quadratic(x: np.ndarray) -> np.ndarray:
    k = np.clip(np.searchsorted(KNOTS, x, side="right") - 1, 0, 2)
    t = (x - KNOTS[k]) / (KNOTS[k + 1] - KNOTS[k])
    inside = HEIGHTS[k] + (HEIGHTS[k + 1] - HEIGHTS[k]) * t * (STARTS[k] + (1 - STARTS[k]) * t)
    return np.where(np.abs(x) <= 2, inside, x)


def _x(count: int = 4000) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.uniform(-2.5, 2.5, (count, 3))
    x[0], x[1] = KNOTS[:3], KNOTS[1:]  # at the knots themselves
    return x.astype(np.float32)


@pytest.mark.parametrize("trust", [True, False], ids=["in closed form", "whatever the guess is"])
def test_a_spline_comes_back(monkeypatch: pytest.MonkeyPatch, trust: bool) -> None:
    model = _spline(HEIGHTS)
    step = _root(model)
    assert step.rational is not None
    assert not step.rational.exact
    if not trust:
        right = root.guess

        def wrong(*args: object) -> Guess | None:
            found = right(*args)  # type: ignore[arg-type]
            e = args[0]
            return found and Guess(e.op("Add", found.x, 0.01), found.size)  # type: ignore[attr-defined]

        monkeypatch.setattr(root, "guess", wrong)
    inverse = onnx_invert.invert(model, method="closed-form", verify=False).model
    x = _x()
    (found,) = _run(inverse, {"y": _quadratic(x.astype(np.float64)).astype(np.float32)})
    np.testing.assert_allclose(found, x, atol=2e-6)
    odd = np.array([[np.inf, -np.inf, np.nan], [0, 0, 0], [1e30, -1e30, 7]], np.float32)
    (found,) = _run(inverse, {"y": odd})
    np.testing.assert_array_equal(found[[0, 2]], odd[[0, 2]])
    np.testing.assert_allclose(_quadratic(found[1].astype(np.float64)), 0, atol=1e-6)


def test_no_search_runs_where_the_closed_form_fits() -> None:
    model = onnx_invert.invert(_spline(HEIGHTS), method="closed-form", verify=False).model
    (loop,) = [node for node in model.graph.node if node.op_type == "Loop"]
    (going,) = [node for node in model.graph.node if loop.input[1] in node.output]
    model.graph.output.append(onnx.helper.make_tensor_value_info(going.output[0], onnx.TensorProto.BOOL, []))
    x = _x()[2:]  # at the last knot itself rounding may tell another piece, and the search runs
    y = _quadratic(x.astype(np.float64)).astype(np.float32)
    assert not _run(model, {"y": y})[1]
    y[7, 1] = np.nan
    assert _run(model, {"y": y})[1]


def test_heights_that_are_not_those_at_the_knots_are_no_help() -> None:
    # The block looks its heights up one by one, but they are shifted: y at a knot is none of them.
    text = SPLINE.replace("s = Add(height, rise)", "s0 = Add(height, rise) s = Mul(s0, unit)")
    text = text.replace("float unit = {1}", "float unit = {1}, float half = {0.5}").replace(
        "Mul(s0, unit)", "Mul(s0, half)"
    )
    text = text.replace("{HEIGHTS}", "{-4.0, -1.5, 1.0, 4.0}")
    step = _root(onnx.parser.parse_model(text))
    assert step.rational is None


def test_a_soft_clip_is_proven_and_written_without_a_loop() -> None:
    model = onnx.parser.parse_model(CLIP)
    plan = _plan(model)
    step = _root(model)
    assert step.evidence.proven
    assert not step.evidence.onto
    assert plan.guarantee is onnx_invert.Guarantee.LEFT
    inverse = onnx_invert.invert(model, method="closed-form", verify=False).model
    assert not any(node.op_type == "Loop" for node in inverse.graph.node)
    x = np.random.default_rng(1).standard_cauchy((2000, 2)).astype(np.float32)
    x[0] = 0
    wide = x.astype(np.float64)
    y = (wide / (1 + np.abs(wide) / 5)).astype(np.float32)
    (found,) = _run(inverse, {"y": y})
    # Nearer to the ends y has fewer digits of x.
    slope = 1 / (1 + np.abs(wide) / 5) ** 2
    assert (np.abs(found - x) <= 4 * np.finfo(np.float32).eps * np.abs(y) / slope).all()
    beyond = np.array([[5, -5], [7, -1e30], [np.inf, -np.inf], [np.nan, 1]], np.float32)
    (found,) = _run(inverse, {"y": beyond})
    assert (np.sign(found[:3]) == [[1, -1]]).all()
    assert (np.abs(found[:3]) > 1e8).all()
    assert np.isfinite(found[:2]).all()
    assert np.isinf(found[2]).all()
    assert np.isnan(found[3, 0])
    assert found[3, 1] == pytest.approx(1.25)
    # What verification counts.
    built = build_system(plan, instrumented=True)
    (probe,) = built.probes
    (missed,) = _run(to_proto(built.model), {"y": beyond, built.eta: np.zeros((1, 2), np.float32)})[1:]
    assert probe.outside(missed)[1:3].all()
    assert not probe.outside(missed)[3, 1]


SLOW = ("nflows_rq_autoregressive", "normflows_spline_coupling", "zuko_ncsf", "freia_elementwise", "zuko_nsf.legacy")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.sweep] if str(case) in SLOW or case.name in SLOW else [], id=str(case))
        for case in flow_cases()
        if case.name in {*SLOW, "zuko_nsf", "zuko_softclip"}
    ],
)
def test_flows_that_have_a_closed_form(case: FlowCase) -> None:
    plan = onnx_invert.explain(case.model(), recover=["x"], method="closed-form")
    assert isinstance(plan, SystemPlan)
    steps = [step for step in plan.flat if isinstance(step, Root)]
    exact = case.name in {"zuko_softclip", "freia_elementwise"}
    assert steps
    assert all(step.rational is not None and step.rational.exact == exact for step in steps)


def test_roots_of_quadratic_equations_are_those_of_numpy() -> None:
    rng = np.random.default_rng(2)
    p, q, t = rng.uniform(0.1, 2, (3, 50)), rng.uniform(0.1, 2, (3, 50)), rng.uniform(-3, 3, 50)
    e = Emitter(ir.DataType.DOUBLE)
    names = ["p0", "p1", "p2", "q0", "q1", "q2", "t"]
    ports = [ir.Value(name=n, shape=ir.Shape([50]), type=ir.TensorType(ir.DataType.DOUBLE)) for n in names]
    outputs = [value for value in quadratic.root(e, ports[:3], ports[3:6], ports[6]) if isinstance(value, ir.Value)]
    graph = ir.Graph(ports, outputs, nodes=e.nodes, initializers=e.initializers, opset_imports={"": 17}, name="root")
    for output in outputs:
        output.shape = ir.Shape([50])
    model = ir.to_proto(ir.Model(graph, ir_version=8))
    u, slope = _run(model, dict(zip(names, [*p, *q, t], strict=True)))
    for i in range(50):
        roots = np.roots((p - t[i] * q)[::-1, i])
        if np.isreal(roots).all():
            rising = np.polyval(np.polyder((p - t[i] * q)[::-1, i]), roots) > 0
            assert u[i] == pytest.approx(float(roots[rising][0]), rel=1e-9)
            assert slope[i] == pytest.approx(np.polyval(np.polyder((p - t[i] * q)[::-1, i]), u[i]), rel=1e-6)
