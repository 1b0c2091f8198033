"""Functions with a kink at 0, as a solver sees them that rounds it off:

    f(x) + κ/2 (√(x² + c²) − |x|),    κ = f′(0⁺) − f′(0⁻)

It is smooth for a width c > 0, no further from f than κ c / 2, and f itself for c = 0. For ReLU it is
(x + √(x² + c²)) / 2. Source: A. Beck & M. Teboulle, Smoothing and First Order Methods, SIAM J. Optim. 22, 2012.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter


def has_kink(node: ir.Node) -> bool:
    """True if there is a rule for it here: ReLU, LeakyReLU, and PReLU of constant slopes."""
    if node.op_type == "PRelu":
        slope = node.inputs[1]
        return slope is not None and slope.const_value is not None
    return node.op_type in {"Relu", "LeakyRelu"}


def kink(e: Emitter, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Value:
    """κ of a node that has a kink, to be broadcast against x."""
    if node.op_type == "PRelu":
        assert inputs[1] is not None
        return e.op("Sub", 1.0, inputs[1])
    alpha = node.attributes.get_float("alpha", 0.01) if node.op_type == "LeakyRelu" else 0.0
    return e.scalar(1 - alpha)


def rounded(e: Emitter, x: ir.Value, jump: ir.Value, width: ir.Value) -> tuple[ir.Value, ir.Value]:
    """What rounding off adds to f(x) and to f′(x): 0 for a width c of 0. κ is `jump`; c ≥ 0 is broadcast against x."""
    squares = e.op("Mul", width, width)
    size = e.op("Abs", x)
    root = e.op("Max", e.op("Sqrt", e.op("Add", e.op("Mul", x, x), squares)), size)
    half = e.op("Mul", jump, 0.5)
    value = e.op("Mul", half, e.op("Div", squares, e.op("Max", e.op("Add", root, size), _tiny(e))))
    gap = e.op("Sub", x, e.op("Mul", e.op("Sign", x), root))
    slope = e.op("Mul", half, e.op("Div", gap, e.op("Max", root, _tiny(e))))
    return value, slope


def _tiny(e: Emitter) -> float:
    return float(np.finfo(e.dtype.numpy()).tiny)
