"""Outputs of whole numbers or truths beside numbers: left out, and said so; refused where they are asked for."""

import numpy as np
import onnx
import pytest

import onnx_invert
from onnx_invert.errors import NotInvertibleError

MODEL = """<ir_version: 8, opset_import: ["": 17]>
g (float[N, 3] x) => ({outputs}) {{
    probabilities = Softmax(x)
    label = ArgMax<axis = 1, keepdims = 0>(probabilities)
    half = Constant<value = float {{0.5}}>()
    sure = Greater(probabilities, half)
}}"""
ALL = "int64[N] label, float[N, 3] probabilities, bool[N, 3] sure"
REASON = "it makes no equations, and nothing is promised of it"


def model(outputs=ALL):
    return onnx.parser.parse_model(MODEL.format(outputs=outputs))


def test_labels_are_left_out():
    inversion = onnx_invert.invert(model())
    assert inversion.round_trip.passed
    assert {value.name for value in inversion.model.graph.input} == {"probabilities"}
    assert inversion.report["known"] == ["probabilities"]
    assert inversion.report["unused_outputs"] == ["label", "sure"]
    assert inversion.report["left_out"] == {"label": f"int64: {REASON}", "sure": f"bool: {REASON}"}


def test_what_a_label_takes_does_not_matter():
    """The label takes the probabilities too; the equations are still those of their logarithms."""
    beside, alone = (onnx_invert.explain(model(outputs)).rows for outputs in (ALL, "float[N, 3] probabilities"))
    assert [row.op for row in beside] == [row.op for row in alone]
    assert any("LogSoftmax" in row.op for row in beside)


@pytest.mark.parametrize(("outputs", "known"), [(ALL, ["label"]), (ALL, ["label", "probabilities"])])
def test_a_label_that_is_asked_for_is_refused(outputs, known):
    with pytest.raises(NotInvertibleError, match="--from  names a floating-point output"):
        onnx_invert.explain(model(outputs), known=known)


def test_a_label_alone_is_refused():
    with pytest.raises(NotInvertibleError, match=r"'label' .*it is int64"):
        onnx_invert.explain(model("int64[N] label"))


def test_the_jacobian_is_that_of_the_numbers():
    derivative = onnx_invert.jacobian(model())
    assert [dim.dim_value for dim in derivative.graph.output[0].type.tensor_type.shape.dim][1:] == [3, 3]


def test_leaks_look_at_labels_too():
    found = onnx_invert.leaks(model(), data=np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32))
    assert "ArgMax" in {leak.op for leak in found.rows}
