"""Blocks torn open at a few numbers: x and the log-determinant in float64, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

import onnx_invert
from onnx_invert.errors import NotInvertibleError

SIZE = 5
W = np.array([0.5, -1.0, 0.25, 2.0, -0.5])


def _model(body: str, sizes: str = f"N,{SIZE}", opset: int = 17) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (double[{sizes}] x) => (double[{sizes}] y) {{ {body} }}'
    return onnx.parser.parse_model(text)


def _row(name: str, values: np.ndarray) -> str:
    return f"{name} = Constant<value_floats = {[float(v) for v in values]}>()\n{name}_d = Cast<to = 11>({name})\n"


def _planar(u: np.ndarray, act: str) -> onnx.ModelProto:
    return _model(f"""
        {_row("w", W)} {_row("u", u)}
        axes = Constant<value_ints = [1]>()
        p = Mul(x, w_d)
        s = ReduceSum<keepdims = 1>(p, axes)
        h = {act}(s)
        v = Mul(h, u_d)
        y = Add(x, v)
    """)


def _radial(alpha: float, beta: float) -> onnx.ModelProto:
    """x + β / (α + ‖x − x₀‖) · (x − x₀), the norm spelt out."""
    return _model(f"""
        {_row("centre", W)} {_row("a", np.array([alpha]))} {_row("b", np.array([beta]))}
        axes = Constant<value_ints = [1]>()
        d = Sub(x, centre_d)
        sq = Mul(d, d)
        q = ReduceSum<keepdims = 1>(sq, axes)
        r = Sqrt(q)
        den = Add(r, a_d)
        h = Div(b_d, den)
        v = Mul(h, d)
        y = Add(x, v)
    """)


def _gain(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """slogdet of the Jacobian of each sample, by central differences."""
    step, count = 1e-6, x[0].size
    units = np.eye(count).reshape(-1, *x.shape[1:])
    moved = np.stack([x + sign * step * unit for unit in units for sign in (1, -1)])
    z = _run(model, "x", moved.reshape(-1, *x.shape[1:]))["y"].reshape(count, 2, len(x), count)
    return np.linalg.slogdet(np.moveaxis((z[:, 0] - z[:, 1]) / (2 * step), 0, -1))[1]


def _run(model: onnx.ModelProto, name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([port.name for port in session.get_outputs()], session.run(None, {name: array}), strict=True))


TURNED = W / np.dot(W, W)

TORN = {
    "planar tanh, near the limit": _planar(-0.95 * TURNED + np.array([0, 0.5, 2, 0, 0]), "Tanh"),
    "planar tanh, far from it": _planar(3 * TURNED, "Tanh"),
    "planar, sigmoid": _planar(-3.9 * TURNED, "Sigmoid"),
    "planar, the determinant negative": _planar(-2 * TURNED, "Identity"),
    "radial, inwards": _radial(0.5, -0.4),
    "radial, outwards: not monotone in the radius alone": _radial(0.1, 3.0),
    "one number for every pixel": _model(
        """
        axes = Constant<value_ints = [1]>()
        p = Mul(x, x)
        q = ReduceMean<axes = [1], keepdims = 1>(p)
        t = Tanh(q)
        v = Mul(t, x)
        y = Add(x, v)
        """,
        "N,3,2,2",
    ),
}


@pytest.mark.parametrize("name", TORN)
def test_x_and_the_log_determinant_come_back(name: str) -> None:
    model = TORN[name]
    made = onnx_invert.invert(model, method="closed-form", log_det=True)
    assert made.guarantee.promises_x
    shape = [port.dim_value or 200 for port in model.graph.input[0].type.tensor_type.shape.dim]
    for scale in (0.1, 1.0, 30.0):
        x = scale * np.random.default_rng(1).standard_normal(shape)
        found = _run(made.model, "y", _run(model, "x", x)["y"])
        assert np.max(np.abs(found["x"] - x)) < 1e-12 * scale
        assert np.max(np.abs(found["log_det"] + _gain(model, x))) < 1e-6


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_planar(-1.2 * TURNED, "Tanh"), "changes its sign"),
        (_planar(-1.001 * TURNED, "Tanh"), "changes its sign"),
        (_planar(2 * TURNED, "Sin"), "changes its sign"),
        (_radial(0.5, -0.6), "changes its sign"),
        (_radial(0.5, -0.51), "changes its sign"),
    ],
)
def test_what_has_several_solutions_is_refused(model: onnx.ModelProto, reason: str) -> None:
    with pytest.raises(NotInvertibleError, match=reason):
        onnx_invert.invert(model, method="closed-form")


def test_the_plan_says_where_it_is_torn_and_what_is_measured() -> None:
    plan = onnx_invert.explain(TORN["planar tanh, far from it"])
    assert [row.rule for row in plan.rows] == ["torn open at s: a root for it, by bracketing, and x from there"]
    assert "the determinant keeps its sign" in plan.requirements[0]


def test_it_runs_without_a_loop() -> None:
    model = TORN["radial, outwards: not monotone in the radius alone"]
    made = onnx_invert.invert(model, unroll=1)
    assert all(node.op_type != "Loop" for node in made.model.graph.node)
