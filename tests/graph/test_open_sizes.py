"""Sizes that an exporter left open although a weight fixes them."""

from __future__ import annotations

import onnx.parser
import pytest

import onnx_invert

WEIGHT = "float[2,2] w = {1, 2, 3, 5}"
BODIES = {
    "columns": ("N,W", f"<{WEIGHT}> {{ y = MatMul(x, w) }}", ["N", 2]),
    "rows": ("W,N", f"<{WEIGHT}> {{ y = MatMul(w, x) }}", [2, "N"]),
    "behind another node": ("N,W", f"<{WEIGHT}> {{ a = Neg(x) y = Gemm<transB = 1>(a, w) }}", ["N", 2]),
    "channels": ("N,C,L", "<float[2,2,1] w = {1, 2, 3, 5}> { y = Conv(x, w) }", ["N", 2, "L"]),
}


def _model(shape: str, body: str) -> onnx.ModelProto:
    head = '<ir_version: 8, opset_import: ["" : 17]> g'
    return onnx.parser.parse_model(f"{head} (float[{shape}] x) => (float[{shape}] y) {body}")


@pytest.mark.parametrize("name", BODIES)
def test_a_weight_fixes_a_size(name: str) -> None:
    shape, body, expected = BODIES[name]
    inversion = onnx_invert.invert(_model(shape, body))
    assert inversion.guarantee is onnx_invert.Guarantee.BIJECTION
    (x,) = inversion.model.graph.output
    assert [dim.dim_param or dim.dim_value for dim in x.type.tensor_type.shape.dim] == expected


def test_a_name_for_samples_and_for_columns_stays_open() -> None:
    """An exporter that calls both N says nothing of N; a size that may be repeated is not fixed either."""
    for shape, body in (
        ("N,N", f"<{WEIGHT}> {{ y = MatMul(x, w) }}"),
        ("N,W", "<float[2] w = {1, 2}> {y = Mul(x, w)}"),
    ):
        with pytest.raises(onnx_invert.OnnxInvertError):
            onnx_invert.invert(_model(shape, body))
