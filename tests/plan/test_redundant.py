"""Where an output determines x twice: which way is taken, and how much a y may disagree."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

import onnx_invert

POOR = "{1, 1, 1, 1.001}"
GOOD = "{1, 2, -2, 1}"


def _model(first: str, second: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (double[N,2] x) => (double[N,4] y)
        <double[2,2] a = {first}, double[2,2] b = {second}> {{
            u = MatMul(x, a) v = MatMul(x, b) y = Concat<axis = 1>(u, v)
        }}"""
    )


@pytest.mark.parametrize(("first", "second", "used"), [(POOR, GOOD, 1), (GOOD, POOR, 0)])
def test_the_better_conditioned_way_is_taken(first: str, second: str, used: int) -> None:
    model = _model(first, second)
    made = onnx_invert.invert(model, method="closed-form", residual=True)
    assert made.plan.condition < 2
    y = np.random.default_rng(0).standard_normal((6, 4))
    session = ort.InferenceSession(made.model.SerializeToString(), providers=["CPUExecutionProvider"])
    x, residual = session.run(None, {"y": y})
    weight = onnx.numpy_helper.to_array(model.graph.initializer[used])
    np.testing.assert_allclose(x, y[:, 2 * used : 2 * used + 2] @ np.linalg.inv(weight), rtol=1e-12)
    (back,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    away = np.linalg.norm(back - y, axis=1) / np.linalg.norm(y, axis=1)
    np.testing.assert_allclose(residual, away, rtol=1e-9)
    assert away.min() > 1e-3


def test_what_is_left_over_is_said() -> None:
    made = onnx_invert.invert(_model(POOR, GOOD), method="closed-form")
    assert made.guarantee is onnx_invert.Guarantee.LEFT
    assert any("x is determined without 'MatMul_0'; --residual" in note for note in made.notes)
