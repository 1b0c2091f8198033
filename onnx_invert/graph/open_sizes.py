"""Sizes that a model leaves open although a weight fixes them: 6 rows are multiplied by 6 columns, and no others."""

from __future__ import annotations

import onnx_ir as ir


def fix_sizes(graph: ir.Graph) -> bool:
    """Give sizes of inputs that are left open, but fixed by a weight that meets them, their number; True if any was.

    One that counts samples, along a first axis, and by name something else too, stays open: an exporter may have
    called different sizes the same.
    """
    named = [
        (dim.value, axis == 0)
        for value in graph.inputs
        for axis, dim in enumerate(value.shape or ())
        if not isinstance(dim, int)
    ]
    unclear = {name for name, first in named if first} & {name for name, first in named if not first}
    fixed: dict[str, set[int]] = {}
    for node in graph:
        for value, axis, size in _met(node):
            rank = 0 if value.shape is None else len(value.shape)
            dim = value.shape[axis] if value.shape is not None and -rank <= axis < rank else size
            if not isinstance(dim, int) and dim.value and dim.value not in unclear:
                fixed.setdefault(dim.value, set()).add(size)
    found = False
    for value in graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            sizes = fixed.get(dim.value or "", set()) if not isinstance(dim, int) else set()
            if len(sizes) == 1 and value.shape is not None:
                value.shape = ir.Shape([*value.shape[:axis], *sizes, *value.shape[axis + 1 :]])
                found = True
    return found


def _met(node: ir.Node) -> list[tuple[ir.Value, int, int]]:
    """The operands of which one axis has the size of a weight's: each with the axis and the size."""
    if node.domain not in {"", "ai.onnx"} or len(node.inputs) < 2:
        return []
    x, w = node.inputs[0], node.inputs[1]
    if x is None or w is None:
        return []
    weight = w if w.const_value is not None else x
    if weight.const_value is None:
        return []
    sizes = [int(size) for size in weight.const_value.shape.numpy()]
    left = weight is x
    match node.op_type:
        case "MatMul" if sizes:
            own, inner = (sizes[-1], -2) if left else (sizes[-2:][0], -1)
            other = w if left else x
            return [(other, -1 if other.shape is not None and len(other.shape) == 1 else inner, own)]
        case "Gemm" if len(sizes) == 2:
            flips = [node.attributes[name].as_int() if name in node.attributes else 0 for name in ("transA", "transB")]
            a, b = -2 if flips[0] else -1, -1 if flips[1] else -2
            return [(w, b, sizes[a])] if left else [(x, a, sizes[b])]
        case "Conv" if not left and len(sizes) > 2:
            group = node.attributes["group"].as_int() if "group" in node.attributes else 1
            return [(x, 1, sizes[1] * group)]
        case "ConvTranspose" | "BatchNormalization" | "InstanceNormalization" if not left and sizes:
            return [(x, 1, sizes[0])]
    return []
