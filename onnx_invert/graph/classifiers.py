"""The scores of linear classifiers of ai.onnx.ml as the standard operators that they are.

    s = x Wᵀ + b (N, C);    scores = s,  softmax(s) along a row,  or  1 / (1 + exp(−s))

The label, the place of the largest s, has no part in this: where it is used the classifier stays for it.
Of a classifier of one row w, two classes, the definition is read in two ways but for LOGISTIC, which is
1 / (1 + exp(∓(x·w + b))) in both.
Source: ai.onnx.ml LinearClassifier-1; onnxruntime, linearclassifier.cc; onnx's reference evaluator.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.row import Made, Row


def linear_scores(row: Row) -> Made:
    """LinearClassifier of x (N, n) in float32; None for an x of another kind, SOFTMAX_ZERO, PROBIT, one row as above.

    Without intercepts onnxruntime takes none of them.
    """
    x, node = row.inputs[0], row.node
    coefficients, intercepts, transform = (
        node.attributes.get(name) for name in ("coefficients", "intercepts", "post_transform")
    )
    kind = "NONE" if transform is None else transform.as_string()
    if x is None or x.dtype != ir.DataType.FLOAT or x.shape is None or len(x.shape) != 2 or len(node.outputs) < 2:
        return None
    if coefficients is None or intercepts is None or kind not in {"NONE", "SOFTMAX", "LOGISTIC"}:
        return None
    shift = np.asarray(intercepts.as_floats(), np.float32)
    numbers = np.asarray(coefficients.as_floats(), np.float32)
    if not shift.size or numbers.size % shift.size:
        return None
    if isinstance(x.shape[1], int) and x.shape[1] * shift.size != numbers.size:
        return None
    weight = numbers.reshape(shift.size, -1).T
    if shift.size == 1:
        if kind != "LOGISTIC":
            return None
        weight, shift = np.hstack([-weight, weight]), np.concatenate([-shift, shift])
    scores = row.put("Add", row.put("MatMul", x, np.ascontiguousarray(weight)), shift)
    if kind == "SOFTMAX":
        scores = row.put("Softmax", scores, axis=1)
    elif kind == "LOGISTIC":
        scores = row.put("Sigmoid", scores)
    return {node.outputs[1]: scores}


def shares(row: Row) -> Made:
    """Normalizer to the sum Σ |x| = 1 of a row that a softmax made: it is that row, to rounding."""
    x, norm = row.inputs[0], row.node.attributes.get("norm")
    maker = None if x is None else x.producer()
    if norm is None or norm.as_string() != "L1" or maker is None or (maker.op_type, maker.domain) != ("Softmax", ""):
        return None
    shape, axis = maker.inputs[0].shape if maker.inputs[0] is not None else None, maker.attributes.get("axis")
    along = (-1 if row.opset >= 13 else 1) if axis is None else axis.as_int()
    if shape is None or len(shape) != 2 or along not in {-1, 1}:
        return None
    return {row.node.outputs[0]: row.put("Identity", x)}
