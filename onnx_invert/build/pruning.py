"""Nodes that were emitted, and that nothing needs."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from onnx_invert.bodies import bodies


def prune(nodes: list[ir.Node], outputs: Collection[ir.Value]) -> None:
    """Take out of `nodes`, which are in their order, what no output needs."""
    kept = set(outputs)
    left = []
    for node in reversed(nodes):
        if any(output in kept or output.uses() for output in node.outputs):
            left.append(node)
        else:
            _detach(node)
    nodes[:] = left[::-1]


def _detach(node: ir.Node) -> None:
    """Give up the operands of a node that is thrown away, and of those in its body."""
    for body in bodies(node):
        for inner in body:
            _detach(inner)
    for place in range(len(node.inputs)):
        node.replace_input_with(place, None)
