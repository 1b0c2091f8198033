"""ai.onnx.ml's affine operators: what scikit-learn's scalers and linear models are exported as."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.rules.facts import Array, Chain, Diagonal, Matrix, NoInverse
from onnx_invert.rules.node import NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

DOMAIN = "ai.onnx.ml"


def _numbers(node: NodeView, name: str, default: float) -> Array:
    attribute = node.node.attributes.get(name)
    return np.asarray([default] if attribute is None else attribute.as_floats(), dtype=np.float64)


@rules.rule("Scaler", since=1, domain=DOMAIN)
def scaler(node: NodeView) -> Chain | NoInverse:
    """x = y / scale + offset, of y = (x − offset) · scale.

    Guarantee: bijection where no scale is 0; such a column is lost: generalized inverse
    Refuses:   anything but float32, which is what it returns
    Source:    ai.onnx.ml Scaler-1
    """
    if node.dtype != ir.DataType.FLOAT:
        return NoInverse(f"it changes {node.dtype.name.lower()} to float", "use float32 throughout")
    scale, offset = _numbers(node, "scale", 1.0), _numbers(node, "offset", 0.0)
    scale, offset = (part.reshape(()) if part.size == 1 else part for part in (scale, offset))
    return (Diagonal(scale, -offset * scale),)


@rules.rule("LinearRegressor", since=1, domain=DOMAIN)
def linear_regressor(node: NodeView) -> Chain | NoInverse:
    """x = (y − intercepts) @ W⁺, of y = x @ W + intercepts.

    Shapes:    x (N, features), coefficients (targets, features) → y (N, targets)
    Guarantee: bijection if W is square and regular; right inverse if its rank is that of the targets
    Refuses:   anything but float32 matrices; a post_transform
    Source:    ai.onnx.ml LinearRegressor-1
    """
    attribute = node.node.attributes.get("post_transform")
    if attribute is not None and attribute.as_string() != "NONE":
        return NoInverse(f"its post_transform is {attribute.as_string()}")
    shape = node.shape(node.x)
    if node.dtype != ir.DataType.FLOAT or shape is None or len(shape) != 2:
        return NoInverse("its input is no matrix of float32")
    coefficients = node.node.attributes.get("coefficients")
    if coefficients is None:
        return NoInverse("it has no coefficients")
    weight = np.asarray(coefficients.as_floats(), dtype=np.float32).reshape(node.integer("targets", 1), -1).T
    return (Matrix(np.ascontiguousarray(weight)), Diagonal(shift=_numbers(node, "intercepts", 0.0)))
