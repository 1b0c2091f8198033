"""Derivatives of ai.onnx.ml's operators on numbers: Scaler, Normalizer, Imputer, LinearRegressor, ….

Most of them return float32 whatever they take; from float64 they are refused as a change of type.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.derivatives.picks import fixed, not_constant, picking
from onnx_invert.rules.derivatives.pointwise import filled, number
from onnx_invert.rules.differential import At, Differential, Point, flat, scaling, static
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

DOMAIN = "ai.onnx.ml"


def _numbers(node: NodeView, name: str) -> NDArray[np.float64] | None:
    attribute = node.node.attributes.get(name)
    return None if attribute is None else np.asarray(attribute.as_floats(), dtype=np.float64)


def _narrowed(node: NodeView) -> NoInverse | None:
    """The refusal of an operator that makes float32 of what it takes."""
    if node.dtype == ir.DataType.FLOAT:
        return None
    return NoInverse(f"it changes {node.dtype.name.lower()} to float", "use float32 throughout")


@rules.derivative("Scaler", domain=DOMAIN)
def scaler(node: NodeView) -> At | NoInverse:
    """∂y = scale · ∂x, of y = (x − offset) · scale.

    Source:    ai.onnx.ml Scaler-1
    """
    if refusal := _narrowed(node):
        return refusal
    scale = _numbers(node, "scale")
    return lambda p: scaling(p.e.constant(np.ones(1) if scale is None else scale, "scale"))


@rules.derivative("Imputer", domain=DOMAIN)
def imputer(node: NodeView) -> At | NoInverse:
    """∂y = ∂x where x is passed on, 0 where it is replaced.

    Source:    ai.onnx.ml Imputer-1
    """
    return lambda p: scaling(number(p.e, p.e.op("Equal", p.input(0), p.outputs[0])))


@rules.derivative("Binarizer", domain=DOMAIN)
def binarizer(node: NodeView) -> At | NoInverse:
    """0: constant on either side of its threshold."""
    return flat


@rules.derivative("Normalizer", domain=DOMAIN)
def normalizer(node: NodeView) -> At | NoInverse:
    """∂y = (∂x − y Σ w ∂x) / n, of y = x / n; w is y for L2, sign(x) for L1, y where |y| = 1 for MAX.

    n is Σ x y / Σ y²; of a row of zeros the derivative is that of y = x.

    Shapes:    x (N, C) or (C)
    Source:    ai.onnx.ml Normalizer-1
    """
    if refusal := _narrowed(node):
        return refusal
    attribute = node.node.attributes.get("norm")
    norm = "MAX" if attribute is None else attribute.as_string()

    def total(e: Emitter, value: ir.Value) -> ir.Value:
        return e.op("ReduceSum", value, e.ints([-1]), keepdims=1)

    def at(p: Point) -> Differential:
        e, x, y = p.e, p.input(0), p.outputs[0]
        squares = total(e, e.op("Mul", y, y))
        none = number(e, e.op("Equal", squares, 0.0))
        n = e.op("Add", e.op("Div", total(e, e.op("Mul", x, y)), filled(e, squares)), none)
        if norm == "L2":
            w = y
        elif norm == "L1":
            w = e.op("Sign", x)
        else:
            hits = number(e, e.op("Equal", e.op("Abs", y), 1.0))
            w = e.op("Div", e.op("Mul", hits, y), filled(e, total(e, hits)))

        def projected(e: Emitter, t: ir.Value, along: ir.Value, by: ir.Value) -> ir.Value:
            part = e.op("Mul", along, total(e, e.op("Mul", by, t)))
            return e.op("Div", e.op("Sub", t, part), n)

        return Differential(lambda e, t: projected(e, t, y, w), lambda e, c: projected(e, c, w, y))

    return at


@rules.derivative("LinearRegressor", domain=DOMAIN)
def linear_regressor(node: NodeView) -> At | NoInverse:
    """∂y = ∂x W, the coefficients (targets, features) as W (features, targets).

    Refuses:   a post_transform
    Source:    ai.onnx.ml LinearRegressor-1
    """
    if refusal := _narrowed(node):
        return refusal
    attribute = node.node.attributes.get("post_transform")
    if attribute is not None and attribute.as_string() != "NONE":
        return NoInverse(f"its post_transform is {attribute.as_string()}")
    coefficients = _numbers(node, "coefficients")
    if coefficients is None:
        return NoInverse("it has no coefficients")
    w = coefficients.reshape(node.integer("targets", 1), -1)
    return lambda p: Differential(
        lambda e, t: e.op("MatMul", t, e.constant(w.T, "coefficients")),
        lambda e, c: e.op("MatMul", c, e.constant(w, "coefficients")),
    )


@rules.derivative("ArrayFeatureExtractor", domain=DOMAIN)
def array_feature_extractor(node: NodeView) -> At | NoInverse:
    """∂y holds ∂x at the same indices of the last axis.

    Refuses:   indices known only at run time; a vector, of which it makes a matrix
    Source:    ai.onnx.ml ArrayFeatureExtractor-1
    """
    shapes, indices = static(node, node.x), node.constant(1)
    if isinstance(shapes, NoInverse):
        return shapes
    if indices is None:
        return not_constant("its indices are")
    rank = len(shapes[0])
    size = fixed(node, shapes[0], rank - 1)
    if isinstance(size, NoInverse):
        return size
    if rank == 1:
        return NoInverse("it makes a matrix of a vector", "use Gather")
    return lambda p: picking(rank, rank - 1, indices.reshape(-1).astype(np.int64), size)
