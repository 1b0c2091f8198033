"""Kernel regressions of ai.onnx.ml as the standard operators that they are.

    y = Σᵢ aᵢ K(x, sᵢ) + ρ,    K = x·s,  (γ x·s + c)ᵈ,  exp(−γ ‖x − s‖²)  or  tanh(γ x·s + c)

The distances are summed from differences, not from products: near a support vector these would cancel.
Source: ai.onnx.ml SVMRegressor-1; onnxruntime, svmregressor.cc, for the sign of ρ.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.row import Made, Row

DOMAIN = "ai.onnx.ml"


def support_vectors(row: Row) -> Made:
    """SVMRegressor of x (N, n) in float32, k support vectors; None for one class, or what follows as a transform."""
    (x, *_), node = row.inputs, row.node
    numbers = {
        name: np.asarray(attribute.as_floats(), np.float32)
        for name in ("coefficients", "support_vectors", "rho", "kernel_params")
        if (attribute := node.attributes.get(name)) is not None
    }
    words = {
        name: attribute.as_string()
        for name in ("kernel_type", "post_transform")
        if (attribute := node.attributes.get(name)) is not None
    }
    weights, rho = numbers.get("coefficients"), numbers.get("rho", np.zeros(1, np.float32))
    if x is None or x.dtype != ir.DataType.FLOAT or weights is None or row.flag("one_class"):
        return None
    if words.get("post_transform", "NONE") != "NONE":
        return None
    attribute = node.attributes.get("n_supports")
    count = 0 if attribute is None else attribute.as_int()
    vectors = numbers.get("support_vectors")
    if count and (vectors is None or weights.size != count or vectors.size % count):
        return None
    if not count or vectors is None:
        near: ir.Value | None = x
    else:
        near = _kernel(row, x, vectors.reshape(count, -1), words.get("kernel_type", "LINEAR"), numbers)
    if near is None:
        return None
    return {node.outputs[0]: row.put("Add", row.put("MatMul", near, weights[:, None]), rho[:1])}


def _kernel(row: Row, x: ir.Value, vectors: np.ndarray, kind: str, numbers: dict[str, np.ndarray]) -> ir.Value | None:
    """K(x, sᵢ) (N, k)."""
    gamma, shift, degree = (float(v) for v in numbers.get("kernel_params", np.zeros(3)))
    k, n = vectors.shape
    if kind == "RBF":
        apart = row.put("Sub", row.put("Reshape", x, np.array([-1, 1, n])), vectors)
        squares = row.put("MatMul", row.put("Mul", apart, apart), np.ones((n, 1), np.float32))
        return row.put("Exp", row.put("Mul", row.put("Reshape", squares, np.array([-1, k])), -gamma))
    along = row.put("MatMul", x, np.ascontiguousarray(vectors.T))
    if kind == "LINEAR":
        return along
    inner = row.put("Add", row.put("Mul", along, gamma), shift)
    if kind == "POLY":
        return row.put("Pow", inner, degree)
    return row.put("Tanh", inner) if kind == "SIGMOID" else None
