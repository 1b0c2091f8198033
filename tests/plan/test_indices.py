"""Constant indices beyond what they point into are an error of the model, in every call."""

from __future__ import annotations

import onnx.parser
import pytest

import onnx_invert
from onnx_invert.errors import ModelError

OUTSIDE = {
    "a column": ("N,4", "int64[2] i = {0, 4}", "y = Gather<axis = 1>(x, i)", 4),
    "from the end": ("N,4", "int64[2] i = {0, -5}", "y = Gather<axis = -1>(x, i)", -5),
    "one column": ("N,4", "int64 i = {9}", "y = Gather<axis = 1>(x, i)", 9),
    "an element": ("2,4", "int64[2,1] i = {0, 9}", "y = GatherElements<axis = 1>(x, i)", 9),
    "a pair": ("2,4", "int64[2,2] i = {0, 1, 1, 9}", "y = GatherND(x, i)", 9),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_beyond_its_operand(name: str) -> None:
    shape, index, body, at = OUTSIDE[name]
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{shape}] x) => (float y) <{index}> {{ {body} }}'
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for call in (onnx_invert.explain, onnx_invert.invert):
        with pytest.raises(ModelError, match=rf"\(Gather\w*\): index {at}, but axis -?1 of 'x' has 4 elements"):
            call(model)


def test_an_index_within_an_axis_of_any_size() -> None:
    """Whether W is larger than 7 is not known: that is no error of the model."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,W] x) => (float[N,2] y) <int64[2] i = {0, 7}> '
        "{ y = Gather<axis = 1>(x, i) }"
    )
    with pytest.raises(onnx_invert.NotInvertibleError) as caught:
        onnx_invert.explain(model)
    assert len(set(caught.value.blockers)) == len(caught.value.blockers)
