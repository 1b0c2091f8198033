"""Functions with one kink at 0, rounded off there: a way from smooth equations to those with kinks.

f(z) = z for z ≥ 0 and s z below (ReLU, LeakyReLU, PReLU) is the limit c → 0 of

    f_c(z) = f(z) + (1 − s) b,     b = (q − |z|) / 2 = c² / 2 (q + |z|),     q = √(z² + c²)
    f_c′(z) = (1 + s) / 2 + (1 − s) / 2 · z / q

A unit that is off has a slope yet, so that steps turn it on. With c = 0 this is f to the last bit. c is the width
times the root mean square of z in the sample, which is taken for a constant.
Source: B. Chen & P. Harker, A non-interior-point continuation method for linear complementarity problems, SIAM J.
Matrix Anal. 14, 1993; C. Chen & O. Mangasarian, Smoothing methods for convex inequalities and linear complementarity
problems, Math. Programming 71, 1995.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.build.tape import Smooth
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.batch import Batch
from onnx_invert.plan.layout import Layout
from onnx_invert.plan.program import Program, Step
from onnx_invert.rules.differential import Differential, scaling

KINKED = ("Relu", "LeakyRelu", "PRelu")
"""What has such a kink."""


def bends(program: Program, batch: Batch) -> bool:
    """True if it has functions that are rounded off."""
    return any(_layout(step, batch) is not None for step in program.steps)


def smoother(batch: Batch, width: ir.Value) -> Smooth:
    """Rounds functions off by a width (N, 1) for each sample."""

    def smooth(
        e: Emitter, step: Step, inputs: Sequence[ir.Value | None], y: ir.Value
    ) -> tuple[ir.Value, Differential] | None:
        layout, z = _layout(step, batch), inputs[0]
        if layout is None or z is None:
            return None
        tiny = float(np.finfo(e.dtype.numpy()).tiny)
        c = e.op("Mul", _beside(e, width, layout), _size(e, z, layout))
        squared = e.op("Mul", c, c)
        q = e.op("Sqrt", e.op("Add", e.op("Mul", z, z), squared))
        far = e.op("Max", e.op("Add", q, e.op("Abs", z)), tiny)
        share, middle = _shares(e, step.node, inputs)
        bump = e.op("Mul", e.op("Div", squared, far), share)
        slope = e.op("Add", middle, e.op("Mul", e.op("Div", z, e.op("Max", q, tiny)), share))
        return e.op("Add", y, bump), scaling(slope)

    return smooth


def _layout(step: Step, batch: Batch) -> Layout | None:
    """How z holds its samples; None where it is not to be rounded off, or a sample has several rows of it."""
    node = step.node
    if node.op_type not in KINKED or node.domain not in {"", "ai.onnx"}:
        return None
    z = node.inputs[0]
    if z is None or [x for x, _, _ in step.partials] != [z] or not batch.is_known(z):
        return None
    layout = batch.layout(z)
    return layout if layout.rows == 1 and layout.sizes else None


def _shares(e: Emitter, node: ir.Node, inputs: Sequence[ir.Value | None]) -> tuple[float | ir.Value, float | ir.Value]:
    """(1 − s) / 2 and (1 + s) / 2."""
    if node.op_type == "PRelu":
        left = inputs[1]
        assert left is not None
        half = e.op("Mul", left, 0.5)
        return e.op("Sub", e.scalar(0.5), half), e.op("Add", half, 0.5)
    s = node.attributes.get_float("alpha", 0.01) if node.op_type == "LeakyRelu" else 0.0
    return (1 - s) / 2, (1 + s) / 2


def _beside(e: Emitter, width: ir.Value, layout: Layout) -> ir.Value:
    """`width` (N, 1) with as many axes as z has."""
    if layout.is_matrix:
        return width
    return e.op("Reshape", width, e.ints([*([-1] if layout.batched else []), *[1] * len(layout.sizes)]))


def _size(e: Emitter, z: ir.Value, layout: Layout) -> ir.Value:
    """The root mean square of z in each sample."""
    first = 1 if layout.batched else 0
    axes = e.ints(range(first, first + len(layout.sizes)))
    total = e.op("ReduceSum", e.op("Mul", z, z), axes, keepdims=1)
    return e.op("Sqrt", e.op("Mul", total, 1 / layout.size))
