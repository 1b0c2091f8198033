"""Nodes that move elements alike: what is read off one of them holds for all, and networks repeat their layers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import onnx_ir as ir

from onnx_invert.rules.moving import holds_data
from onnx_invert.rules.static import constant

_LARGEST = 1 << 10
"""Indices up to which two nodes are compared by them."""

_PLAIN = frozenset({ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.STRING, ir.AttributeType.FLOAT})


def kind_of(node: ir.Node, twin: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> Hashable | None:
    """All that decides where a node's elements go, and whatever their number is; None if that is much.

    `twin` is the node at the sizes of the plan, `shapes` are the tensors' there. Of the tensors themselves it holds
    their shapes, which of their sizes are fixed, and which of them are constant.
    """
    tensors = []
    for value in (*node.inputs, *node.outputs):
        dims = None if value is None or value.shape is None else value.shape.dims
        fixed = None if dims is None else tuple([isinstance(dim, int) for dim in dims])
        tensors.append(None if value is None else (shapes.get(value.name or ""), fixed, value.const_value is None))
    indices = []
    for place in range(len(twin.inputs)):
        array = None if holds_data(twin, place) else constant(twin, place)
        if array is not None and array.size > _LARGEST:
            return None
        indices.append(None if array is None else (array.dtype.char, array.shape, array.tobytes()))
    attributes = twin.attributes.values()
    if not all(attribute.type in _PLAIN for attribute in attributes):
        return None
    said = tuple([(attribute.name, attribute.value) for attribute in attributes])
    return (twin.op_type, len(node.inputs), said, tuple(tensors), tuple(indices))
