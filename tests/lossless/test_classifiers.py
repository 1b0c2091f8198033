"""Linear classifiers as scikit-learn exports them: x comes back from their scores."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pairs import back, pair, session

import onnx_invert
from onnx_invert.plan.lossless.steps import EFFORTS

RNG = np.random.default_rng(0)


def classifier(transform, classes=3, *, features=6, intercepts=None):
    node = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        classlabels_ints=list(range(classes)),
        coefficients=RNG.standard_normal((intercepts or classes) * features).tolist(),
        intercepts=RNG.standard_normal(intercepts or classes).tolist(),
        post_transform=transform,
    )
    ports = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("x", TensorProto.FLOAT, ["N", features]),
            ("label", TensorProto.INT64, ["N"]),
            ("scores", TensorProto.FLOAT, ["N", classes]),
        )
    ]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(
    ("transform", "classes", "numbers"),
    [
        ("NONE", 3, 3),
        ("SOFTMAX", 3, 4),
        ("LOGISTIC", 3, 3),
        ("NONE", 2, 4),
        ("SOFTMAX", 2, 5),
        ("LOGISTIC", 2, 4),
        ("NONE", 8, 0),
    ],
)
@pytest.mark.parametrize("effort", EFFORTS[:2])
def test_scores_hold_what_is_not_latent(transform, classes, numbers, effort):
    model = classifier(transform, classes)
    plan, forward, inverse = pair(model, effort)
    assert plan.kept == 0
    if effort is EFFORTS[0]:
        assert (plan.size, plan.y_size) == (numbers, classes + 1)
    x = RNG.standard_normal((9, 6)).astype(np.float32)
    assert np.abs(back(forward, inverse, x) - x).max() < 2e-5
    same, scores = (session(m, optimised=False).run(["scores"], {"x": x})[0] for m in (forward, model))
    np.testing.assert_array_equal(same, scores)


@pytest.mark.parametrize("model", [classifier("SOFTMAX_ZERO"), classifier("NONE", 2, intercepts=1)])
def test_what_has_no_completion_is_kept(model):
    plan, forward, inverse = pair(model)
    assert plan.kept == 6
    x = RNG.standard_normal((4, 6)).astype(np.float32)
    np.testing.assert_array_equal(back(forward, inverse, x), x)
    onnx.checker.check_model(forward)


def test_points_of_the_scores_fibre():
    """The label is not needed: neither the inverse nor what is recorded of the data takes it."""
    model, x = classifier("LOGISTIC"), RNG.standard_normal((64, 6)).astype(np.float32)
    done = onnx_invert.invert(model, lossless=True, data=x)
    assert (done.report["known"], done.report["unused_outputs"]) == (["scores"], ["label"])
    (y,) = session(model).run(["scores"], {"x": x[:1]})
    points = done.fibre(y).sample(3)
    assert np.abs(session(model).run(["scores"], {"x": points.x})[0] - y).max() < 1e-5
