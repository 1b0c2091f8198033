"""ai.onnx.ml's operators return float32 alone, so that the laws' float64 oracle is numpy's instead of their own."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnxruntime import InferenceSession

from onnx_invert import Guarantee, NotInvertibleError, invert

RNG = np.random.default_rng(0)


def one(op, width, out, **attributes):
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], domain="ai.onnx.ml", **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", out])],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def back(inversion, y):
    return InferenceSession(inversion.model.SerializeToString()).run(None, {"y": y.astype(np.float32)})[0]


@pytest.mark.parametrize("scale", [[2.0, -0.5, 3.0], [2.0, 0.0, 3.0], [0.25]], ids=str)
def test_scaler(scale):
    offset = np.resize([0.5, -1.0, 2.0], len(scale))
    inversion = invert(one("Scaler", 3, 3, scale=scale, offset=offset.tolist()))
    assert inversion.guarantee is (Guarantee.BIJECTION if np.all(scale) else Guarantee.GENERALIZED)
    x = RNG.standard_normal((5, 3))
    expected = np.where(np.resize(scale, 3) == 0, 0, x)  # what is lost comes back as 0
    np.testing.assert_allclose(back(inversion, (x - offset) * scale), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("targets", "kind"), [(2, Guarantee.RIGHT), (3, Guarantee.BIJECTION), (5, Guarantee.LEFT)])
def test_linear_regressor(targets, kind):
    weight, intercepts = RNG.standard_normal((targets, 3)).astype(np.float32), RNG.standard_normal(targets)
    f = one(
        "LinearRegressor", 3, targets, targets=targets, coefficients=weight.reshape(-1).tolist(),
        intercepts=intercepts.tolist(),
    )  # fmt: skip
    inversion = invert(f)
    assert inversion.guarantee is kind
    y = RNG.standard_normal((4, targets))
    expected = (y - intercepts) @ np.linalg.pinv(weight.T.astype(np.float64))
    np.testing.assert_allclose(back(inversion, y), expected, rtol=1e-3, atol=1e-3)


def test_a_transformed_regression_is_refused():
    f = one("LinearRegressor", 1, 1, targets=1, coefficients=[2.0], post_transform="LOGISTIC")
    with pytest.raises(NotInvertibleError, match="post_transform is LOGISTIC"):
        invert(f, method="closed-form")
