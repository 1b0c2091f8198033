"""Operators of ai.onnx.ml, against differences of the reference evaluator in float64 and against onnxruntime."""

import numpy as np
import pytest
from finite_differences import X, draw, hold, jacobians, one_node
from onnx import helper, numpy_helper

import onnx_invert

ML = {"domain": "ai.onnx.ml", "dtype": np.float32}


def one_row(op, x, *constants, size=0, **attributes):
    """A model of one node whose shape is told by a Reshape behind it: ONNX infers none for most of this domain."""
    model, values = one_node(op, X(x), *constants, **ML, **attributes)
    shape = numpy_helper.from_array(np.array([-1, size or x.shape[1]]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("Reshape", ["y0", "shape"], ["y"], name="reshape"))
    model.graph.output[0].name = "y"
    return model, values


def check(op, x, *constants, **arguments):
    hold(*one_row(op, x, *constants, **arguments))


def test_scaler():
    check("Scaler", draw(3, 4), offset=[0.5, 0.0, 1.0, -1.0], scale=[2.0, -1.0, 0.5, 0.0])
    check("Scaler", draw(3, 4), offset=[0.5], scale=[2.0])


@pytest.mark.parametrize("norm", ["L1", "L2", "MAX"])
def test_normalizer(norm):
    x = draw(3, 4)
    x[:, 1] = 3 + np.abs(x[:, 1])  # onnxruntime and the reference differ where the largest is negative
    check("Normalizer", x, norm=norm)


@pytest.mark.parametrize("norm", ["L1", "L2", "MAX"])
def test_normalizer_of_zeros_gives_numbers(norm):
    for derivative in jacobians(*one_row("Normalizer", np.zeros((2, 3)), norm=norm)):
        assert np.isfinite(derivative).all()


def test_imputer():
    x = draw(3, 4)
    x[1, 2] = -999
    given = {"imputed_value_floats": [0.5, 1.5, 2.5, 3.5], "replaced_value_float": -999.0}
    (found, other) = jacobians(*one_row("Imputer", x, **given))
    expected = np.stack([np.diag(row) for row in (x != -999).astype(float)])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(other, expected)


def test_linear_regressor():
    given = {"coefficients": [1.0, -2.0, 0.5, 0.25, 3.0, 1.0], "intercepts": [1.0, 2.0], "targets": 2}
    check("LinearRegressor", draw(4, 3), size=2, **given, post_transform="NONE")


def test_array_feature_extractor():
    check("ArrayFeatureExtractor", draw(3, 4), np.array([2, 0, 2]), size=3)


@pytest.mark.parametrize(
    ("op", "attributes", "reason"),
    [
        ("Scaler", {"dtype": np.float64, "offset": [0.0], "scale": [1.0]}, "it changes double to float"),
        ("LinearRegressor", {"coefficients": [1.0], "post_transform": "SOFTMAX"}, "its post_transform is SOFTMAX"),
    ],
)
def test_refusals(op, attributes, reason):
    model, _ = one_node(op, X(draw(3, 1)), **{**ML, **attributes})
    model.graph.output[0].type.tensor_type.elem_type = 1
    with pytest.raises(onnx_invert.NotInvertibleError, match=reason):
        onnx_invert.jacobian(model)
