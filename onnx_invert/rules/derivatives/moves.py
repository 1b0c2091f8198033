"""Derivatives of what moves, repeats or drops elements: linear maps, whose adjoint moves back and adds up."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.differential import At, Differential, Point, static, targets
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import FLOATS, NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


def _same(p: Point) -> Differential:
    return Differential(lambda e, t: t, lambda e, c: c)


@rules.derivative("Identity")
def identity(node: NodeView) -> At | NoInverse:
    """∂y = ∂x."""
    return _same


@rules.derivative("Dropout")
def dropout(node: NodeView) -> At | NoInverse:
    """∂y = ∂x at inference."""
    return _same


@rules.derivative("Cast")
def cast(node: NodeView) -> At | NoInverse:
    """∂y = ∂x between types of the same width; 0 to whole numbers and truth values."""
    target = ir.DataType(node.integer("to", 0))
    if target not in FLOATS:
        return lambda p: None
    if target != node.dtype:
        return NoInverse(f"it changes {node.dtype.name.lower()} to {target.name.lower()}", "use one type throughout")
    return _same


def _reshaped(node: NodeView) -> At | NoInverse:
    """∂y is ∂x in y's shape."""
    if node.unknown != 0:
        return lambda p: None
    shapes = static(node, node.x, node.y)
    if isinstance(shapes, NoInverse):
        return shapes
    for shape in shapes:
        if isinstance(refusal := targets(1, shape), NoInverse):
            return refusal

    def at(p: Point) -> Differential:
        back, there = (targets(p.seeds, shape) for shape in shapes)

        def shaped(e: Emitter, value: ir.Value, shape: list[int] | NoInverse) -> ir.Value:
            assert not isinstance(shape, NoInverse)
            return e.op("Reshape", value, e.ints(shape))

        return Differential(lambda e, t: shaped(e, t, there), lambda e, c: shaped(e, c, back))

    return at


for _name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
    rules.derivative(_name)(_reshaped)


@rules.derivative("Transpose")
def transpose(node: NodeView) -> At | NoInverse:
    """∂y is ∂x with its axes permuted."""
    shapes = static(node, node.x)
    if isinstance(shapes, NoInverse):
        return shapes
    attribute = node.node.attributes.get("perm")
    perm = list(attribute.as_ints()) if attribute is not None else list(reversed(range(len(shapes[0]))))
    there = [0, *(axis + 1 for axis in perm)]
    back = [int(axis) for axis in np.argsort(there)]
    return lambda p: Differential(
        lambda e, t: e.op("Transpose", t, perm=there), lambda e, c: e.op("Transpose", c, perm=back)
    )
