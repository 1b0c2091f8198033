"""Where operators mean the same in two opsets."""

from __future__ import annotations

import onnx
import onnx_ir as ir


def same_at(node: ir.Node, before: int, after: int) -> bool:
    """True if the operator has one and the same definition at both opsets of the default domain."""
    if before == after or node.domain not in {"", "ai.onnx"}:
        return True
    if not onnx.defs.has(node.op_type, max_inclusive_version=after, domain=""):
        return False
    first, second = (onnx.defs.get_schema(node.op_type, opset, "").since_version for opset in (before, after))
    return bool(first == second)
