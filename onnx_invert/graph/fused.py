"""Operators that onnxruntime's optimiser writes, as the standard ones that they were fused from.

A model saved by onnxruntime (`optimized_model_filepath`), or made by the tools around it, holds operators of the
domain com.microsoft, and two of the default domain at opsets where ONNX has none of that name. Each is one of
ONNX's or a few in a row; after this step no other part meets one. What has no such form stays, and is refused by name.

Source: onnxruntime, docs/ContribOperators.md and the schemas of its operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx
import onnx_ir as ir

from onnx_invert.graph.classifiers import linear_scores, shares
from onnx_invert.graph.kernels import DOMAIN as LEARNED
from onnx_invert.graph.kernels import support_vectors
from onnx_invert.graph.row import Made, Row

DOMAIN = "com.microsoft"

OWN = frozenset({"LayerNormalization", "SimplifiedLayerNormalization"})
"""Operators of the default domain that onnxruntime takes at every opset."""


def unfuse(model: ir.Model, ranks: Callable[[], None]) -> bool:
    """Put standard operators in the place of those that onnxruntime made, in place. True if any was.

    `ranks` infers shapes: some of the operators are only known with the number of axes of their operand.
    """
    graph, opset = model.graph, model.opset_imports.get("", 0)
    found = ranked = False
    while any(_own(node, opset) for node in graph):
        dtypes = _floats(graph)
        rewritten = [node for node in graph if _own(node, opset) and _rewrite(graph, node, opset, dtypes)]
        if not rewritten and ranked:
            break
        found |= bool(rewritten)
        if any(_own(node, opset) for node in graph):
            ranks()
            ranked = True
    return found


def _own(node: ir.Node, opset: int) -> bool:
    """Whether a node is one that this module knows, at an opset where ONNX does not define it."""
    if node.domain == DOMAIN:
        return node.op_type in _FUSED
    if node.domain == LEARNED:
        return node.op_type in _LEARNED
    return node.domain in {"", "ai.onnx"} and node.op_type in OWN and not onnx.defs.has(node.op_type, opset)


def _rewrite(graph: ir.Graph, node: ir.Node, opset: int, dtypes: dict[ir.Value, ir.DataType]) -> bool:
    """Put standard operators in the place of a node; it stays for outputs that have no such form."""
    dtype = next((dtypes[value] for value in node.inputs if value in dtypes), ir.DataType.FLOAT)
    row = Row(node, dtype, opset)
    made = (_LEARNED if node.domain == LEARNED else _FUSED)[node.op_type](row)
    used = [value for value in node.outputs if value.uses() or value.is_graph_output()]
    if made is None or not any(value in made for value in used):
        return False
    graph.insert_before(node, list(row.tape.nodes))
    for value in row.tape.initializers:
        graph.register_initializer(value)
    for old in used:
        new = made.get(old)
        if new is None:
            continue
        new.type, new.shape = old.type, old.shape
        old.name, new.name = f"{old.name}/{node.op_type}", old.name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    if all(value in made for value in used):
        graph.remove(node, safe=True)
    return True


def _floats(graph: ir.Graph) -> dict[ir.Value, ir.DataType]:
    """The floating-point types of tensors, as they follow from inputs, weights and casts: such files state none."""
    known = {
        value: value.dtype
        for value in (*graph.inputs, *graph.initializers.values())
        if value.dtype is not None and value.dtype.is_floating_point()
    }
    for node in graph:
        to = node.attributes.get("to") if node.op_type == "Cast" else None
        kind = (
            next((known[value] for value in node.inputs if value in known), None)
            if to is None
            else ir.DataType(to.as_int())
        )
        if kind is not None and kind.is_floating_point():
            known.update(dict.fromkeys(node.outputs, kind))
    return known


def _only(row: Row, value: ir.Value | None) -> Made:
    return None if value is None else {row.node.outputs[0]: value}


def _gelu(row: Row, x: ir.Value) -> ir.Value | None:
    """x · Φ(x) = x · (1 + erf(x / √2)) / 2."""
    if row.opset >= 20:
        return row.put("Gelu", x)
    if row.opset < 9:  # no Erf
        return None
    weight = row.put("Add", row.put("Erf", row.put("Div", x, math.sqrt(2.0))), 1.0)
    return row.put("Mul", row.put("Mul", x, weight), 0.5)


def _fast_gelu(row: Row) -> Made:
    """x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 · x³))), x = input + bias."""
    x = row.plus(*row.inputs[:2])
    if row.opset >= 20:
        return _only(row, row.put("Gelu", x, approximate="tanh"))
    cube = row.put("Mul", row.put("Mul", x, x), x)
    inner = row.put("Mul", row.put("Add", x, row.put("Mul", cube, 0.044715)), math.sqrt(2.0 / math.pi))
    return _only(row, row.put("Mul", row.put("Mul", x, row.put("Add", row.put("Tanh", inner), 1.0)), 0.5))


def _quick_gelu(row: Row) -> Made:
    """x · sigmoid(alpha · x)."""
    x = row.plus(row.inputs[0])
    return _only(row, row.put("Mul", x, row.put("Sigmoid", row.put("Mul", x, row.real("alpha", 1.702)))))


def _activated(row: Row, x: ir.Value, params: dict[str, float], name: str) -> ir.Value | None:
    """An activation behind a product, under its attributes' own names."""
    if name in {"Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"}:
        return row.put(name, x)
    if name in {"LeakyRelu", "Elu", "ThresholdedRelu", "HardSigmoid", "Selu"}:
        return row.put(name, x, **params)
    return None


def _fused_gemm(row: Row) -> Made:
    """Gemm, then the activation; `activation_alpha` and so on are the activation's alpha, ...."""
    if row.opset < 11 and row.inputs[2] is None:  # Gemm has to have C
        return None
    kept = {name: row.node.attributes[name] for name in ("transA", "transB") if name in row.node.attributes}
    flags = {name: attribute.as_int() for name, attribute in kept.items()}
    y = row.put("Gemm", *row.inputs[:3], alpha=row.real("alpha", 1.0), beta=row.real("beta", 1.0), **flags)
    name = row.node.attributes.get("activation")
    if name is None:
        return _only(row, y)
    of = {"LeakyRelu": "alpha", "Elu": "alpha", "ThresholdedRelu": "alpha", "HardSigmoid": "alpha beta"}
    wanted = of.get(name.as_string(), "alpha gamma").split()
    present = [key for key in wanted if f"activation_{key}" in row.node.attributes]
    return _only(row, _activated(row, y, {k: row.real(f"activation_{k}", 0.0) for k in present}, name.as_string()))


_CONVOLUTION = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def _fused_conv(row: Row) -> Made:
    """Conv, plus Z where there is one, then the activation with its parameters in a list."""
    kept = {name: row.node.attributes[name].value for name in _CONVOLUTION if name in row.node.attributes}
    x, weights, bias, residual = row.inputs[:4]
    y = row.plus(row.put("Conv", x, weights, bias, **kept), residual)
    name = row.node.attributes.get("activation")
    listed = row.node.attributes.get("activation_params")
    params = [] if listed is None else [float(v) for v in listed.as_floats()]
    if name is None:
        return _only(row, y)
    kind = name.as_string()
    if kind == "Clip" and len(params) == 2:
        if row.opset < 11:
            return _only(row, row.put("Clip", y, min=params[0], max=params[1]))
        return _only(row, row.put("Clip", y, *params))
    named = dict(zip({"LeakyRelu": ["alpha"], "HardSigmoid": ["alpha", "beta"]}.get(kind, ()), params, strict=False))
    return _only(row, _activated(row, y, named, kind))


def _fused_matmul(row: Row) -> Made:
    """alpha · op(A) · op(B): first the batch axes are turned, then the last two swapped."""
    operands: list[ir.Value | None] = []
    for value, side in zip(row.inputs[:2], "AB", strict=True):
        batch, swap = row.flag(f"transBatch{side}"), row.flag(f"trans{side}")
        if batch or swap:
            if value is None or value.shape is None:
                return None
            axes = list(range(len(value.shape)))
            if batch and len(axes) > 2:
                axes = [*axes[1:-1], axes[0], axes[-1]]
            if swap and len(axes) > 1:
                axes[-2:] = axes[:-3:-1]
            operands.append(row.put("Transpose", value, perm=axes) if axes != sorted(axes) else value)
        else:
            operands.append(value)
    y, alpha = row.put("MatMul", *operands), row.real("alpha", 1.0)
    return _only(row, y if alpha == 1.0 else row.put("Mul", y, alpha))


def _normalised(row: Row, x: ir.Value, scale: ir.Value | None, *, centred: bool, epsilon: float) -> ir.Value | None:
    """(x − mean) / √(mean((x − mean)²) + epsilon) · scale over the axes from `axis` on.

    Not centred, the mean counts as 0.
    """
    attribute = row.node.attributes.get("axis")
    axis = -1 if attribute is None else attribute.as_int()
    if axis >= 0:
        if x.shape is None:
            return None
        axis -= len(x.shape)
    axes = range(axis, 0)
    if centred:
        x = row.put("Sub", x, row.mean(x, axes))
    deviation = row.put("Sqrt", row.put("Add", row.mean(row.put("Mul", x, x), axes), epsilon))
    y = row.put("Div", x, deviation)
    return y if scale is None else row.put("Mul", y, scale)


def _layer_norm(row: Row) -> Made:
    x, scale, bias = row.inputs[:3]
    y = _normalised(row, row.plus(x), scale, centred=True, epsilon=row.real("epsilon", 1e-5))
    return None if y is None else _only(row, row.plus(y, bias))


def _root_mean_square(row: Row) -> Made:
    x, scale = row.inputs[:2]
    return _only(row, _normalised(row, row.plus(x), scale, centred=False, epsilon=row.real("epsilon", 1e-5)))


def _skip(row: Row, bias: ir.Value | None) -> ir.Value:
    return row.plus(row.inputs[0], row.inputs[1], bias)


def _with_sum(row: Row, y: ir.Value | None, total: ir.Value) -> Made:
    """The result, and the fourth output: what was normalised. The second and third, statistics, have no form."""
    if y is None:
        return None
    return {row.node.outputs[0]: y} | dict.fromkeys(row.node.outputs[3:4], total)


def _skip_layer_norm(row: Row) -> Made:
    """LayerNormalization of input + skip + bias over the last axis."""
    gamma, beta, bias = row.inputs[2:5]
    total, epsilon = _skip(row, bias), row.real("epsilon", 1e-12)
    if row.opset >= 17:
        y: ir.Value | None = row.put("LayerNormalization", total, gamma, beta, axis=-1, epsilon=epsilon)
    else:
        y = _normalised(row, total, gamma, centred=True, epsilon=epsilon)
        y = None if y is None else row.plus(y, beta)
    return _with_sum(row, y, total)


def _skip_root_mean_square(row: Row) -> Made:
    """The root mean square norm of input + skip + bias over the last axis."""
    total = _skip(row, row.inputs[3])
    y = _normalised(row, total, row.inputs[2], centred=False, epsilon=row.real("epsilon", 1e-12))
    return _with_sum(row, y, total)


_FUSED: dict[str, Callable[[Row], Made]] = {
    "Gelu": lambda row: _only(row, _gelu(row, row.plus(row.inputs[0]))),
    "BiasGelu": lambda row: _only(row, _gelu(row, row.plus(*row.inputs[:2]))),
    "FastGelu": _fast_gelu,
    "QuickGelu": _quick_gelu,
    "FusedGemm": _fused_gemm,
    "FusedConv": _fused_conv,
    "FusedMatMul": _fused_matmul,
    "TransposeMatMul": _fused_matmul,
    "LayerNormalization": _layer_norm,
    "SimplifiedLayerNormalization": _root_mean_square,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_root_mean_square,
}

_LEARNED: dict[str, Callable[[Row], Made]] = {
    "LinearClassifier": linear_scores,
    "Normalizer": shares,
    "SVMRegressor": support_vectors,
}
"""Operators of ai.onnx.ml that have a form in standard ones."""

MAY_BE_FUSED = frozenset({*_FUSED, *_LEARNED})
"""Names of operators of which `unfuse` rewrites some nodes, by domain and opset."""
