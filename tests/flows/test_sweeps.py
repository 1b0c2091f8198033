"""What counts as triangular: how many sweeps find every element, and what no number of them does."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

import onnx_invert
from onnx_invert.errors import NotInvertibleError
from onnx_invert.plan.steps import Forward, Sweep


def _model(weight: str, direction: str) -> onnx.ModelProto:
    """y = x + d · tanh(x w)."""
    return onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 18]> g (double[N,3] x) => (double[N,3] y)
        <double[3,3] w = {{{weight}}}, double[3] d = {{{direction}}}>
        {{ s = MatMul(x, w)  h = Tanh(s)  q = Mul(h, d)  y = Add(x, q) }}"""
    )


def test_a_strictly_triangular_matrix_is_found_row_by_row() -> None:
    model = _model("0, 3, -2, 0, 0, 5, 0, 0, 0", "1, 2, 3")
    made = onnx_invert.invert(model)
    (step,) = (step for step in made.plan.steps if isinstance(step, Sweep))
    assert step.rounds == 3
    x = np.random.default_rng(0).standard_normal((20, 3))
    (y,) = ort.InferenceSession(model.SerializeToString()).run(["y"], {"x": x})
    (back,) = ort.InferenceSession(made.model.SerializeToString()).run(["x"], {"y": y})
    np.testing.assert_allclose(back, x, atol=1e-12)


def test_what_is_expanded_beside_a_context_within_a_sweep_is_read_not_run_again() -> None:
    """Its operand that only tells a size has no elements that move: all of the output is read off the other one."""
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 18]> g (double[N,2] x, double[N,2] c) => (double[N,2] y)
        <double[4,2] w = {0, 0.5, 0, 0, 0.3, 0.1, -2, 0.7}, double[2,2] v = {1, 0, 0, -2}, int64[1] two = {2}>
        { n = Shape<start = 0, end = 1>(c) size = Concat<axis = 0>(n, two) e = Expand(x, size)
          j = Concat<axis = 1>(e, c) s = MatMul(j, w) t = Tanh(s) u = MatMul(t, v) y = Add(x, u) }"""
    )
    made = onnx_invert.invert(model, recover=["x"], verify=False)
    (sweep,) = (step for step in made.plan.steps if isinstance(step, Sweep))
    (step,) = (step for step in sweep.inner if isinstance(step, Forward) and step.node.op_type == "Expand")
    assert step.forms is not None
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((2, 5, 2))
    (y,) = ort.InferenceSession(model.SerializeToString()).run(["y"], {"x": x, "c": c})
    (back,) = ort.InferenceSession(made.model.SerializeToString()).run(["x"], {"y": y, "c": c})
    np.testing.assert_allclose(back, x, atol=1e-12)


@pytest.mark.parametrize("first", ["0, 1, 2", "1, 0, 2"])
def test_samples_merged_with_an_axis_of_any_length(first: str) -> None:
    """Side by side, or one number of each after the other: how many belong to a sample only the inputs tell."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 18]> g (double[N,T,3] x) => (double[N,T,3] y)
        <double[3,3] w = {{0, 1, -2, 0, 0, 1, 0, 0, 0}}, double[3] v = {{1, 2, 0.5}}, int64[2] rows = {{-1, 3}}>
        {{ a = Transpose<perm = [{first}]>(x) s = MatMul(a, w) e = Exp(s) p = Reshape(e, rows) q = Reshape(a, rows)
          t = Tanh(q) h = Mul(t, p) b = Add(q, h) c = Mul(b, v) i = Shape(a) d = Reshape(c, i)
          y = Transpose<perm = [{first}]>(d) }}"""
    )
    made = onnx_invert.invert(model, log_det=True, verify=False)
    session = ort.InferenceSession(made.model.SerializeToString())
    rng = np.random.default_rng(0)
    sizes = [(2, 1), (3, 4), (1, 3), (4, 2)]
    if first == "0, 1, 2":  # the other model does not run on no samples itself
        sizes.append((0, 3))
    for samples, length in sizes:
        x = rng.standard_normal((samples, length, 3))
        (y,) = ort.InferenceSession(model.SerializeToString()).run(["y"], {"x": x})
        back, log_det = session.run(["x", "log_det"], {"y": y})
        np.testing.assert_allclose(back, x, atol=1e-10)
        slope = 1 + np.exp(x @ np.array([[0, 1, -2], [0, 0, 1], [0, 0, 0]])) / np.cosh(x) ** 2
        wanted = -np.log(slope * [1, 2, 0.5]).sum(axis=(1, 2))
        np.testing.assert_allclose(log_det, wanted, atol=1e-9)


@pytest.mark.parametrize("diagonal", ["3", "-3"])
def test_an_element_that_its_own_sweep_holds_is_not_found_by_sweeps(diagonal: str) -> None:
    """y₁ = x₁ + d₁ tanh x₁ follows from x₁ alone; but a sweep that holds x₁ in tanh has it in the limit, if at all."""
    model = _model("1, 3, -2, 0, 0, 5, 0, 0, 0", f"{diagonal}, 2, 3")
    if diagonal == "-3":  # several x have one y
        with pytest.raises(NotInvertibleError):
            onnx_invert.explain(model, method="closed-form")
        return
    plan = onnx_invert.explain(model, method="closed-form")
    assert not any(isinstance(step, Sweep) for step in plan.steps)
