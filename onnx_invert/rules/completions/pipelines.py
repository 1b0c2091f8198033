"""ai.onnx.ml's operators that lose something: linear classifiers, normalised rows, chosen columns."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules import activations
from onnx_invert.rules.completion import Completed, Completion, reduced, sized, total
from onnx_invert.rules.completions.normalisations import divided_out
from onnx_invert.rules.completions.picks import Index, selected
from onnx_invert.rules.facts import Diagonal, Matrix, NoInverse
from onnx_invert.rules.node import NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

DOMAIN = "ai.onnx.ml"


@rules.completion("LinearClassifier", domain=DOMAIN)
def linear_classifier(node: NodeView) -> Completion | NoInverse:
    """z = coordinates in the null space of the coefficients, log Σ exp after a softmax. Surplus: the label; one a row
    after a softmax; where it widens, what y has more.

    Shapes:    x (N, features), coefficients (classes, features) → label (N), scores (N, classes)
    Refuses:   anything but float32 matrices; scores made of others (two of one); SOFTMAX_ZERO, PROBIT
    Source:    ai.onnx.ml LinearClassifier-1
    """
    if node.output != 1:
        return NoInverse("the label says no more than which score is largest")
    shape, scores = sized(node.shape(node.x)), sized(node.shape(node.y))
    if isinstance(shape, NoInverse) or node.dtype != ir.DataType.FLOAT or len(shape) != 2:
        return NoInverse("its input is no matrix of float32")
    found = {name: node.node.attributes.get(name) for name in ("coefficients", "intercepts", "post_transform")}
    coefficients, intercepts, transform = found.values()
    if coefficients is None or isinstance(scores, NoInverse) or isinstance(shape[1], str):
        return NoInverse("its sizes are not known")
    weight = np.asarray(coefficients.as_floats(), np.float32).reshape(-1, shape[1]).T
    shift = np.zeros(weight.shape[1]) if intercepts is None else np.asarray(intercepts.as_floats(), np.float64)
    if scores[1:] != (weight.shape[1],) or shift.size != weight.shape[1]:
        return NoInverse("its coefficients are not one row for each score")
    straight = (Matrix(np.ascontiguousarray(weight)), Diagonal(shift=shift))
    name = "NONE" if transform is None else transform.as_string()
    if name == "SOFTMAX":
        return (*straight, divided_out(scores, 1, weight.shape[1]))
    if name == "LOGISTIC":
        sigmoid = activations.rules.find("", "Sigmoid", 17)
        assert sigmoid is not None
        chain = sigmoid.function(node)
        return chain if isinstance(chain, NoInverse) else (*straight, *chain)
    return straight if name == "NONE" else NoInverse(f"its post_transform is {name}")


@rules.completion("Normalizer", domain=DOMAIN)
def normalizer(node: NodeView) -> Completion | NoInverse:
    """z = the norm, x = z · y. Surplus: one a row.

    Shapes:    x (N, C) or (C); of a row of zeros any z does
    Refuses:   anything but float32, which is what it returns
    Source:    ai.onnx.ml Normalizer-1
    """
    shape = sized(node.shape(node.x), [-1])
    if isinstance(shape, NoInverse):
        return shape
    if node.dtype != ir.DataType.FLOAT or not shape:
        return NoInverse("its input is no matrix of float32")
    last = len(shape) - 1

    def take(e: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
        # Whatever norm it is, x is a multiple of y.
        along, squares = total(e, e.op("Mul", x, y), [last]), total(e, e.op("Mul", y, y), [last])
        return e.op("Div", along, e.op("Where", e.op("Equal", squares, 0.0), e.scalar(1.0), squares))

    return (Completed("norm", take, lambda e, y, z: e.op("Mul", y, z), reduced(shape, last)),)


@rules.completion("ArrayFeatureExtractor", domain=DOMAIN)
def array_feature_extractor(node: NodeView) -> Completion | NoInverse:
    """z = the columns that are not taken. Surplus: those taken more than once.

    Refuses:   indices known only at run time; a vector, of which it makes a matrix
    Source:    ai.onnx.ml ArrayFeatureExtractor-1
    """
    indices, shape = node.constant(1), node.shape(node.x)
    if node.unknown != 0 or indices is None or shape is None or len(shape) < 2:
        return NoInverse("its indices are not constant, or its input is a vector")

    def select(places: Index) -> Index:
        return np.take(places, indices.reshape(-1).astype(np.int64), -1)

    return selected(node, select, (-1,))
