"""Scores of linear classifiers as standard operators; onnxruntime's kernel and scikit-learn are the oracles."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression

import onnx_invert
from onnx_invert.graph.normalise import normalise
from onnx_invert.graph.read import from_proto

RNG = np.random.default_rng(5)
X = (3 * RNG.standard_normal((200, 4))).astype(np.float32)
NAMES = ["ant", "bee", "cat"]


def classifier(
    transform="NONE", rows=3, *, coefficients=None, intercepts=None, strings=False, front=False, shares=False
):
    """LinearClassifier of x (N, 4); `front` puts a Scaler before it, `shares` a Normalizer behind its scores."""
    count = max(rows, 2)
    coefficients = RNG.standard_normal((rows, 4)) if coefficients is None else coefficients
    labels = {"classlabels_strings": NAMES[:count]} if strings else {"classlabels_ints": list(range(5, 5 + count))}
    node = helper.make_node(
        "LinearClassifier",
        ["scaled" if front else "x"],
        ["label", "raw" if shares else "scores"],
        name="classifier",
        domain="ai.onnx.ml",
        coefficients=np.ravel(coefficients).tolist(),
        intercepts=(RNG.standard_normal(rows) if intercepts is None else intercepts).tolist(),
        post_transform=transform,
        **labels,
    )
    nodes = [node]
    if front:
        nodes[:0] = [helper.make_node("Scaler", ["x"], ["scaled"], domain="ai.onnx.ml", offset=[0.5], scale=[2.0])]
    if shares:
        nodes += [helper.make_node("Normalizer", ["raw"], ["scores"], domain="ai.onnx.ml", norm="L1")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [
            helper.make_tensor_value_info("label", TensorProto.STRING if strings else TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", count]),
        ],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def run(model, x):
    return ort.InferenceSession(model.SerializeToString()).run(["label", "scores"], {"x": x})


def standard(model):
    """The model as it is planned, and the operators that its scores are made of."""
    source = from_proto(model)
    normalise(source)
    graph = source.model.graph
    waiting, found = [graph.outputs[1].producer()], set()
    while waiting:
        node = waiting.pop()
        found.add(node.op_type)
        waiting += [value.producer() for value in node.inputs if value is not None and value.producer() is not None]
    return ir.to_proto(source.model), found


CASES = [("NONE", 3, {}), ("SOFTMAX", 3, {}), ("LOGISTIC", 3, {}), ("SOFTMAX", 2, {}), ("LOGISTIC", 2, {})]
CASES += [("LOGISTIC", 1, {}), ("SOFTMAX", 3, {"strings": True}), ("SOFTMAX", 3, {"front": True})]
CASES += [("SOFTMAX", 3, {"shares": True}), ("SOFTMAX", 3, {"front": True, "shares": True})]


@pytest.mark.parametrize(("transform", "rows", "others"), CASES)
def test_scores_are_standard_operators(transform, rows, others):
    model = classifier(transform, rows, **others)
    rewritten, operators = standard(model)
    assert operators.isdisjoint({"LinearClassifier", "Normalizer"})
    (label, scores), (expected, theirs) = run(rewritten, X), run(model, X)
    np.testing.assert_array_equal(label, expected)
    np.testing.assert_allclose(scores, theirs, rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_of_a_logistic_regression(classes):
    fitted = LogisticRegression().fit(X, np.digitize(X[:, 0] + X[:, 1], [-1.0, 1.0][: classes - 1]))
    weight, shift = fitted.coef_, fitted.intercept_
    model = classifier("LOGISTIC" if classes == 2 else "SOFTMAX", len(weight), coefficients=weight, intercepts=shift)
    rewritten, _ = standard(model)
    np.testing.assert_allclose(run(rewritten, X)[1], fitted.predict_proba(X), rtol=2e-5, atol=1e-6)
    inversion = onnx_invert.invert(model, data=X)
    assert inversion.round_trip.passed
    y = fitted.predict_proba(X).astype(np.float32)
    (x,) = ort.InferenceSession(inversion.model.SerializeToString()).run(["x"], {"scores": y})
    assert np.mean(np.abs(fitted.predict_proba(x) - y).max(axis=1) < 1e-5) > 0.99


@pytest.mark.parametrize(("transform", "rows"), [("SOFTMAX_ZERO", 3), ("PROBIT", 3), ("NONE", 1), ("SOFTMAX", 1)])
def test_what_is_refused(transform, rows):
    with pytest.raises(onnx_invert.NotInvertibleError, match="SOFTMAX_ZERO and PROBIT and for one row"):
        onnx_invert.explain(classifier(transform, rows))


def test_sums_of_one_behind_sigmoids_are_kept():
    """Only of what a softmax made is the sum 1 before."""
    model = classifier("LOGISTIC", 3, shares=True)
    rewritten, operators = standard(model)
    assert "Normalizer" in operators
    np.testing.assert_allclose(run(rewritten, X)[1], run(model, X)[1], rtol=5e-6, atol=1e-6)
    assert onnx_invert.invert(model, data=X).round_trip.passed
