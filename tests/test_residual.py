"""`--residual` of inverses that solve nothing iteratively, against f itself in numpy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

import onnx_invert
from onnx_invert.errors import UsageError

CASES = {
    "a bijection along a path": "g (double[N,3] x) => (double[N,3] y) { a = LeakyRelu<alpha = 0.5>(x) y = Neg(a) }",
    "an elementwise root": "g (double[N,3] x) => (double[N,3] y) { a = Tanh(x) y = Add(a, x) }",
    "widening: a y off the image is not reached": """
        g (double[N,2] x) => (double[N,3] y) <double[2,3] w = {1, 2, 0.5, -1, 1, 3}> { y = MatMul(x, w) }
    """,
    "a given input": "g (double[N,3] x, double[N,3] c) => (double[N,3] y) { e = Exp(c) a = Mul(x, e) y = Sub(a, c) }",
    "a sequence of any length": """
        g (double[N,T,2] x) => (double[N,T,2] y) <double[2,2] w = {1, 2, -1, 1}> { y = MatMul(x, w) }
    """,
    "samples along the second axis": """
        g (double[N,2] x) => (double[2,N] y) <double[2,2] w = {1, 2, -1, 1}> {
            a = MatMul(x, w) y = Transpose<perm = [1, 0]>(a)
        }
    """,
    "a coupling": """
        g (double[N,2] x) => (double[N,2] y) <int64[2] parts = {1, 1}> {
            a, b = Split<axis = 1>(x, parts) s = Exp(a) c = Mul(b, s) y = Concat<axis = 1>(a, c)
        }
    """,
}


def _model(name: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {CASES[name]}')


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = {port.name: feeds[port.name] for port in session.get_inputs()}
    return dict(zip([port.name for port in session.get_outputs()], session.run(None, wanted), strict=True))


def _drawn(port: onnx.ValueInfoProto, rng: np.random.Generator) -> np.ndarray:
    sizes = {"N": 7, "T": 4}
    return rng.standard_normal([sizes.get(d.dim_param, d.dim_value) for d in port.type.tensor_type.shape.dim])


@pytest.mark.parametrize("name", CASES)
def test_it_is_how_far_f_of_x_is_from_y(name: str) -> None:
    model, rng = _model(name), np.random.default_rng(3)
    made = onnx_invert.invert(model, recover=["x"], method="closed-form", residual=True)
    feeds = {port.name: _drawn(port, rng) for port in (*model.graph.input, *model.graph.output)}
    found = _run(made.model, feeds)
    back = _run(model, feeds | {"x": found["x"]})["y"]
    axis = 1 if name.startswith("samples along the second") else 0
    away, size = (
        np.linalg.norm(np.moveaxis(v, axis, 0).reshape(7, -1), axis=1) for v in (back - feeds["y"], feeds["y"])
    )
    assert found["residual"].shape == (7,)
    np.testing.assert_allclose(found["residual"], away / size, rtol=1e-6, atol=1e-15)
    if name.startswith("widening"):
        assert found["residual"].min() > 1e-3
    else:
        assert found["residual"].max() < 1e-14


@pytest.mark.parametrize("name", CASES)
def test_no_samples_have_no_residual(name: str) -> None:
    model = _model(name)
    made = onnx_invert.invert(model, recover=["x"], method="closed-form", residual=True, verify=False)
    sizes = {"N": 0, "T": 4}
    empty = {
        port.name: np.zeros([sizes.get(d.dim_param, d.dim_value) for d in port.type.tensor_type.shape.dim])
        for port in (*model.graph.input, *model.graph.output)
    }
    found = _run(made.model, empty)
    assert found["x"].shape == empty["x"].shape
    assert found["residual"].shape == (0,)


def test_it_goes_with_the_log_determinant() -> None:
    made = onnx_invert.invert(_model("a coupling"), residual=True, log_det=True)
    assert [port.name for port in made.model.graph.output] == ["x", "log_det", "residual"]


def test_no_output_takes_the_name_of_another() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] residual) => (float[N,3] y) { y = Tanh(residual) }'
    )
    for method in ("closed-form", "newton"):
        made = onnx_invert.invert(model, residual=True, method=method)
        assert [port.name for port in made.model.graph.output] == ["residual", "residual_"]


def test_samples_that_lie_along_no_axis_are_refused() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[M] y) <int64[1] flat = {-1}> {
            y = Reshape(x, flat)
        }"""
    )
    with pytest.raises(UsageError, match="--residual: the samples of 'y' lie along no axis"):
        onnx_invert.invert(model, residual=True, verify=False)


def test_latents_leave_no_residual() -> None:
    with pytest.raises(UsageError, match="takes latents has no residual output"):
        onnx_invert.invert(_model("a given input"), recover=["x"], method="closed-form", residual=True, lossless=True)
