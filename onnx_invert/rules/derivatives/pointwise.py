"""Derivatives of elementwise functions that have no inverse: Relu, and those like it.

Those with an inverse state their derivative there (rules/activations.py, rules/functions.py).
"""

from __future__ import annotations

from onnx_invert.rules.differential import At, Point, Differential, scaling
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import NodeView
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


@rules.derivative("Relu")
def relu(node: NodeView) -> At | NoInverse:
    """1 where x > 0, else 0."""

    def at(p: Point) -> Differential:
        return scaling(p.e.op("Cast", p.e.op("Greater", p.input(0), 0.0), to=int(p.e.dtype)))

    return at
