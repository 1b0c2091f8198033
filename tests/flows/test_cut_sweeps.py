"""Each sweep of a triangular block runs on the elements that it finds, whatever layout the block works in."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

import onnx_invert
from onnx_invert.build.system.inverse import build_system
from onnx_invert.plan.steps import Sweep

HEAD = (
    "g (double[N,4] x) => (double[N,4] y) <double[4,4] w = {0, 1, 2, -1, 0, 0, -2, 1, 0, 0, 0, 0.5, 0, 0, 0, 0},"
    " double[4] v = {1, 2, 0.5, 1.5}, double one = {1}, double two = {2}, int64[1] last = {-1}, int64[1] zero = {0},"
    " int64[2] back = {-1, 4}, int64[1] flat = {-1}, int64[3] wide = {-1, 4, 1}, int64[3] four = {1, 4, 3},"
    " double[3] knots = {-1, 0, 1}, double[4,3] table = {0, 1, 2, 3, 1, 2, 1, 1, 1, 2, 0, 1},"
    " double[4,2,1] each = {1, 2, 3, 0.5, 1, 1, 2, 0.1}, int64[2] ends = {2, 3}>"
)

BLOCKS = {
    "element by element": "s = MatMul(x, w) e = Exp(s) t = Tanh(x) h = Mul(t, e) a = Add(x, h) y = Mul(a, v)",
    "flattened": """
        s = MatMul(x, w) e = Exp(s) p = Reshape(e, flat) q = Reshape(x, flat) t = Tanh(q) h = Mul(t, p) a = Add(q, h)
        y = Reshape(a, back)
    """,
    "an axis behind, and knots": """
        s = MatMul(x, w) e = Exp(s) u = Unsqueeze(x, last) d = Sub(u, knots) r = Tanh(d) p = Unsqueeze(e, last)
        k = Mul(p, r) z = Mul(k, table) b = ReduceSum<keepdims = 0>(z, last) c = Add(b, x) y = Mul(c, v)
    """,
    "looked up": """
        s = MatMul(x, w) e = Exp(s) u = Unsqueeze(x, last) m = Greater(u, knots) n = Cast<to = 7>(m)
        i = ReduceSum<keepdims = 1>(n, last) p = Unsqueeze(e, last) g = Expand(p, four) o = Concat<axis = -1>(p, g)
        c = GatherElements<axis = 2>(o, i) f = Squeeze(c, last) t = Tanh(x) h = Mul(f, t) y = Add(h, x)
    """,
    "a matrix for each element": """
        s = MatMul(x, w) e = Exp(s) u = Unsqueeze(x, last) c = Unsqueeze(u, last) h = MatMul(each, c) t = Tanh(h)
        b = ReduceSum<keepdims = 0>(t, ends) d = Mul(b, e) y = Add(d, x)
    """,
    "turned over": """
        s = MatMul(x, w) e = Exp(s) a = Transpose<perm = [1, 0]>(x) b = Transpose<perm = [1, 0]>(e) t = Tanh(a)
        h = Mul(b, t) c = Add(h, a) y = Transpose<perm = [1, 0]>(c)
    """,
}


def _made(body: str, head: str = HEAD, **options: object) -> tuple[onnx.ModelProto, onnx_invert.Inversion]:
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {head} {{ {body} }}')
    return model, onnx_invert.invert(model, recover=["x"], method="closed-form", verify=False, **options)


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options)


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return _session(model).run(None, feeds)


def _sweep(made: onnx_invert.Inversion) -> Sweep:
    (step,) = (step for step in made.plan.steps if isinstance(step, Sweep))
    return step


@pytest.mark.parametrize("block", BLOCKS)
def test_x_comes_back(block: str) -> None:
    model, made = _made(BLOCKS[block])
    step = _sweep(made)
    assert step.cut is not None
    assert step.cut.rounds.lanes.tolist() == [[0], [1], [2], [3]]
    x = np.random.default_rng(0).standard_normal((7, 4)) * 2
    (y,) = _run(model, {"x": x})
    (back,) = _run(made.model, {"y": y})
    np.testing.assert_allclose(back, x, atol=1e-10)
    with np.errstate(divide="ignore", invalid="ignore"):
        (reference,) = ReferenceEvaluator(made.model).run(None, {"y": y})
    np.testing.assert_allclose(reference, back, atol=1e-11)


def test_it_is_verified_as_a_whole_sweep_is() -> None:
    """The copy with noise is cut down in the same way."""
    model, _ = _made(BLOCKS["flattened"])
    made = onnx_invert.invert(model, method="closed-form")
    assert made.round_trip is not None
    assert made.round_trip.passed


@pytest.mark.parametrize("block", ["flattened", "looked up"])
def test_it_runs_without_a_loop(block: str) -> None:
    """As many steps are written out as float32 takes."""
    model, _ = _made(BLOCKS[block])
    made = onnx_invert.invert(model, unroll=1, verify=False)
    assert all(node.op_type != "Loop" for node in made.model.graph.node)
    x = np.random.default_rng(0).standard_normal((7, 4)) / 2
    (y,) = _run(model, {"x": x})
    np.testing.assert_allclose(_run(made.model, {"y": y})[0], x, atol=1e-5)


def test_rounds_of_several_elements() -> None:
    """Elements 2 and 0 first, then 3, then 1 and 4."""
    weight = np.zeros((5, 5))
    weight[[2, 0], 3] = 1, -2
    weight[[2, 3, 0, 3], [1, 1, 4, 4]] = 0.5, 1, 1, -1
    numbers = ", ".join(map(str, weight.reshape(-1)))
    head = f"g (double[N,2,5] x) => (double[N,2,5] y) <double[5,5] w = {{{numbers}}}>"
    model, made = _made(BLOCKS["element by element"].replace("y = Mul(a, v)", "y = Neg(a)"), head)
    step = _sweep(made)
    assert step.rounds == 3
    assert step.cut is not None
    assert [sorted(set(row)) for row in step.cut.rounds.lanes.tolist()] == [[0, 2], [3], [1, 4]]
    x = np.random.default_rng(0).standard_normal((6, 2, 5))
    (y,) = _run(model, {"x": x})
    np.testing.assert_allclose(_run(made.model, {"y": y})[0], x, atol=1e-10)


@pytest.mark.parametrize("apart", ["-1", "12, -1"])
def test_an_axis_of_any_length_behind_the_elements(apart: str) -> None:
    """In one axis with it, elements lie as far apart as it is long: that is no distance to be written down."""
    head = HEAD.replace("double[N,4]", "double[3,4,T]").replace("flat = {-1}", f"flat = {{{apart}}}")
    head = head.replace("int64[1] flat", f"int64[{len(apart.split(','))}] flat")
    body = """
        a = Transpose<perm = [0, 2, 1]>(x) b = MatMul(a, w) s = Transpose<perm = [0, 2, 1]>(b) e = Exp(s)
        p = Reshape(e, flat) q = Reshape(x, flat) t = Tanh(q) h = Mul(t, p) c = Add(q, h) i = Shape(x)
        y = Reshape(c, i)
    """
    model, made = _made(body, head)
    for length in (1, 2, 4, 7):
        x = np.random.default_rng(0).standard_normal((3, 4, length))
        (y,) = _run(model, {"x": x})
        np.testing.assert_allclose(_run(made.model, {"y": y})[0], x, atol=1e-10)


@pytest.mark.parametrize("layout", ["-1", "-1, 3, 8", "-1, 12, 2", "-1, 24"])
@pytest.mark.parametrize("samples", [0, 1, 5])
def test_elements_within_an_axis(layout: str, samples: int) -> None:
    head = HEAD.replace("double[N,4]", "double[N,3,4,2]").replace("[2] back = {-1, 4}", "[4] back = {-1, 3, 4, 2}")
    head = head.replace("int64[1] flat = {-1}", f"int64[{len(layout.split(','))}] flat = {{{layout}}}")
    body = """
        a = Transpose<perm = [0, 1, 3, 2]>(x) b = MatMul(a, w) s = Transpose<perm = [0, 1, 3, 2]>(b) e = Exp(s)
        p = Reshape(e, flat) q = Reshape(x, flat) t = Tanh(q) h = Mul(t, p) c = Add(q, h) y = Reshape(c, back)
    """
    model, made = _made(body, head)
    assert _sweep(made).cut is not None
    x = np.random.default_rng(0).standard_normal((samples, 3, 4, 2))
    (y,) = _run(model, {"x": x})
    np.testing.assert_allclose(_run(made.model, {"y": y})[0], x, atol=1e-10)


def test_a_node_that_is_not_followed_leaves_the_sweep_whole() -> None:
    """A product with a diagonal matrix keeps elements apart; only its zeros tell."""
    diagonal = "double[4,4] m = {1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4}>"
    body = "s = MatMul(x, w) e = Exp(s) t = Tanh(x) h = Mul(t, e) c = MatMul(h, m) y = Add(c, x)"
    model, made = _made(body, HEAD[:-1] + f", {diagonal}")
    assert _sweep(made).cut is None
    x = np.random.default_rng(0).standard_normal((5, 4))
    (y,) = _run(model, {"x": x})
    np.testing.assert_allclose(_run(made.model, {"y": y})[0], x, atol=1e-10)


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("lanes", [2, 5])
def test_what_a_root_in_a_sweep_does_not_reach_counts(cut: bool, lanes: int) -> None:
    """y = tanh 2x + sigmoid 2x + tanh s lies between tanh s − 1 and tanh s + 2."""
    before = ", ".join("1" if i < j else "0" for i in range(lanes) for j in range(lanes))
    diagonal = ", ".join("2" if i == j else "0" for i in range(lanes) for j in range(lanes))
    sizes = f"double[{lanes},{lanes}]"
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 18]> g (double[N,{lanes}] x) => (double[N,{lanes}] y)
        <{sizes} w = {{{before}}}, {sizes} m = {{{diagonal}}}, double two = {{2}}>
        {{ s = MatMul(x, w) t = Tanh(s) o = {"Mul(x, two)" if cut else "MatMul(x, m)"} a = Tanh(o) b = Sigmoid(o)
          c = Add(a, b) y = Add(c, t) }}"""
    )
    plan = onnx_invert.explain(model, method="closed-form")
    (step,) = (step for step in plan.steps if isinstance(step, Sweep))
    assert (step.cut is not None) == cut
    made = build_system(plan, instrumented=True, residual=True)
    (probe,) = made.probes
    y = np.full((3, lanes), 0.25)
    y[1, 0] = 3.5
    y[2, -1] = -3
    session = _session(ir.to_proto(made.model))
    quiet = np.zeros((1, 2))
    x, residual, missed = session.run(["x", "residual", probe.tensor], {"y": y, made.eta: quiet})
    assert np.isfinite(x).all()
    assert residual[0] < 1e-12
    assert (residual[1:] > 0.1).all()
    assert probe.outside(missed)[[1, 2], [0, lanes - 1]].all()
    assert not probe.outside(missed)[0].any()


TABLES = """
    s = MatMul(x, w) r = Reshape(s, wide) m = Mul(r, table) h = Softmax<axis = 2>(m) q = Pad(h, pads, one) e = Exp(q)
    u = Unsqueeze(x, last) d = Sub(u, knots) t = Tanh(d) k = Mul(e, t) b = ReduceSum<keepdims = 0>(k, last)
    y = Add(b, x)
"""
"""Weights of functions of x, made by Reshape, Softmax, Pad and Exp of what a matrix makes."""


def test_tables_are_made_of_the_elements_that_are_found() -> None:
    """Nodes that make what the loop takes run on one element in each sweep."""
    head = HEAD.replace("int64[1] zero", "int64[6] pads = {0, 0, 0, 0, 0, 0}, int64[1] zero")
    model, made = _made(TABLES, head)
    assert _sweep(made).cut is not None
    x = np.random.default_rng(1).standard_normal((9, 4))
    (y,) = _run(model, {"x": x})
    np.testing.assert_allclose(_run(made.model, {"y": y})[0], x, atol=1e-10)
    (loop,) = (node for node in made.model.graph.node if node.op_type == "Loop")
    (sweep,) = (attribute.g for attribute in loop.attribute if attribute.name == "body")
    (softmax,) = (node for node in sweep.node if node.op_type == "Softmax")
    shapes = {value.name: value.type.tensor_type.shape.dim for value in sweep.value_info}
    assert shapes[softmax.output[0]][1].dim_value == 1


BEHIND = {
    "of the size of x": """
        s = MatMul(x, w) e = Sigmoid(s) m = Greater(x, one) p = Where(m, e, none) z = Where(m, x, none) a = Sub(z, one)
        g = Exp(p) h = Mul(g, a) q = Add(h, one) r = Where(m, q, x) y = Mul(r, v)
    """,
    "with an axis behind": """
        s = MatMul(x, w) u = Unsqueeze(s, last) k = Mul(u, table) m = Greater(x, one) i = Unsqueeze(m, last)
        j = Expand(i, four) p = Where(j, k, none) c = Softmax(p) t = Mul(c, table) z = Where(m, x, none)
        a = Sub(z, one) b = Unsqueeze(a, last) h = Mul(t, b) f = ReduceSum<keepdims = 0>(h, last)
        g = Add(f, a) q = Add(g, one) r = Where(m, q, x) y = Mul(r, v)
    """,
}
"""Tables behind a Where of which nobody sees whether it takes its second operand or its third."""


@pytest.mark.parametrize("table", BEHIND)
def test_tables_behind_a_fill_that_nobody_sees(table: str) -> None:
    """They are made of the lanes of what is filled, as if the Where were not there."""
    model, made = _made(BEHIND[table], HEAD.replace("double one", "double none = {0}, double one"))
    cut = _sweep(made).cut
    assert cut is not None
    assert [node.outputs[0].name for node in cut.lanes.passed] == ["p"]
    assert cut.lanes.passed <= cut.lanes.ahead
    x = np.random.default_rng(0).standard_normal((40, 4)) * 2
    assert 20 < (x > 1).sum() < 140
    (y,) = _run(model, {"x": x})
    (back,) = _run(made.model, {"y": y})
    np.testing.assert_allclose(back, x, atol=1e-10)
    (loop,) = (node for node in made.model.graph.node if node.op_type == "Loop")
    (sweep,) = (attribute.g for attribute in loop.attribute if attribute.name == "body")
    shapes = {value.name: value.type.tensor_type.shape.dim for value in sweep.value_info}
    (last,) = (node for node in sweep.node if node.op_type in {"Exp", "Softmax"})
    assert shapes[last.output[0]][1].dim_value == 1


def test_what_is_no_number_is_none_in_x() -> None:
    """A sweep takes 0 for what is not settled; of a y that is no number, or infinite, it is no x."""
    _, made = _made(BLOCKS["element by element"])
    y = np.full((3, 4), 0.25)
    y[1, 2], y[2, 0] = np.nan, np.inf
    (x,) = _run(made.model, {"y": y})
    assert np.isnan(x[[1, 2], [2, 0]]).all()
    assert np.isfinite(x[0]).all()
    np.testing.assert_array_equal(x[1, :2], x[0, :2])
