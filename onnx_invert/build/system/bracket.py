"""Points within a bracket, and how far apart and how narrow brackets of a type may be."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter


def fraction(b: Emitter, t: ir.Value, safe: ir.Value | None) -> ir.Value:
    """t where it is one, between 0 and 1, and `safe`; 1/2 elsewhere, and where it is no number."""
    inside = b.op("Less", b.op("Abs", b.op("Sub", t, 0.5)), 0.5)
    return b.op("Where", inside if safe is None else b.op("And", inside, safe), t, b.scalar(0.5))


def largest(e: Emitter) -> float:
    """The largest |x| that is tried: no y is so large that x becomes infinite, or no number. Half precision has no
    numbers to spare: there it is the largest one, and `between` minds its overflow."""
    top = float(np.finfo(e.dtype.numpy()).max)
    return top if e.dtype.itemsize <= 2 else top / 8


def smallest(e: Emitter) -> float:
    """The width of a bracket around 0 that is narrow enough; half precision needs all digits below its smallest
    normal number."""
    limits = np.finfo(e.dtype.numpy())
    return float(limits.smallest_subnormal if e.dtype.itemsize <= 2 else limits.tiny)


def between(b: Emitter, x1: ir.Value, x2: ir.Value, t: ir.Value) -> ir.Value:
    """x₁ + t (x₂ − x₁); in half precision, whose ends may be further apart than its largest number, in two steps."""
    if b.dtype.itemsize > 2:
        return b.op("Add", x1, b.op("Mul", t, b.op("Sub", x2, x1)))
    half = b.op("Mul", t, b.op("Sub", b.op("Mul", x2, 0.5), b.op("Mul", x1, 0.5)))
    return b.op("Add", b.op("Add", x1, half), half)


def rounding(b: Emitter, x1: ir.Value, x2: ir.Value) -> ir.Value:
    """The width of a bracket with these ends that is as narrow as rounding."""
    eps = float(np.finfo(b.dtype.numpy()).eps)
    return b.op("Add", b.op("Mul", b.op("Max", b.op("Abs", x1), b.op("Abs", x2)), eps), smallest(b))


def unsolved(b: Emitter, f1: ir.Value, f2: ir.Value, noise: ir.Value | None) -> ir.Value:
    """Where neither value is 0, or what rounding makes of 0."""
    least = b.op("Min", b.op("Abs", f1), b.op("Abs", f2))
    return b.op("Greater", least, 0.0 if noise is None else noise)
