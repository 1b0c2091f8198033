"""Graphs within nodes: the branches of an If, the body of a Loop or a Scan."""

from __future__ import annotations

import onnx_ir as ir


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs that a node has for attributes."""
    found: list[ir.Graph] = []
    if not node.attributes:
        return found
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def has_bodies(node: ir.Node) -> bool:
    """Whether there are any."""
    return bool(bodies(node))
