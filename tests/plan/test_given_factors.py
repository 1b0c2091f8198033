"""Factors that are given when the inverse runs: where one is 0 there is no x, and none is returned."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest

import onnx_invert
from onnx_invert.errors import VerificationError


def _model(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x, float[N,4] s) => (float[N,4] y) {{ {body} }}'
    )


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("y = Mul(x, s)", "the other factor has no zero"),
        ("y = Div(x, s)", "the divisor has no zero"),
        ("y = Div(s, x)", "the dividend has no zero"),
        ("t = Tanh(x) u = Neg(s) y = Div(t, u)", "the divisor has no zero"),
    ],
)
def test_a_zero_gives_no_number(body: str, what: str) -> None:
    model = _model(body)
    inversion = onnx_invert.invert(model, recover=["x"])
    assert what in "; ".join(inversion.plan.requirements)
    s = np.array([[0, 1, -0.0, 2]], np.float32)
    for y in (np.full_like(s, 0.5), np.zeros_like(s)):
        (x,) = ort.InferenceSession(inversion.model.SerializeToString()).run(None, {"y": y, "s": s})
        assert not np.isfinite(x[s == 0]).any()
        assert np.isfinite(x[s != 0]).all() or not y.all()


def test_a_factor_that_is_often_zero_is_named() -> None:
    """No --rtol would pass then, and none is proposed."""
    with pytest.raises(VerificationError) as caught:
        onnx_invert.invert(_model("r = Relu(s) y = Mul(x, r)"), recover=["x"])
    assert "rests on  Mul_1: the other factor has no zero" in str(caught.value)
    assert "--rtol" not in str(caught.value)
