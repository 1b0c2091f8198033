"""ai.onnx.ml's operators that lose something: normalised rows, chosen columns."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.completion import Completed, Completion, reduced, sized, total
from onnx_invert.rules.completions.picks import Index, selected
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

DOMAIN = "ai.onnx.ml"


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
