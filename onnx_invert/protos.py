"""Nodes as messages, where all that counts is what they compute: without what may be noted of them besides."""

from __future__ import annotations

import onnx
import onnx_ir as ir


def add_node(graph: onnx.GraphProto, node: ir.Node) -> onnx.NodeProto:
    """Append a node: thousands are, and onnx-ir's serialization of one sets field by field."""
    outputs = [value.name or "" for value in node.outputs]
    while outputs and not outputs[-1]:
        outputs.pop()
    proto: onnx.NodeProto = graph.node.add(
        op_type=node.op_type,
        name=node.name or "",
        input=["" if value is None else value.name or "" for value in node.inputs],
        output=outputs,
    )
    if node.domain or node.overload:
        proto.domain, proto.overload = node.domain, node.overload
    for attribute in node.attributes.values() if node.attributes else ():
        into = proto.attribute.add()
        if attribute.is_ref():
            ir.serde.serialize_reference_attribute_into(into, attribute)
        else:
            ir.serde.serialize_attribute_into(into, attribute)
    return proto
