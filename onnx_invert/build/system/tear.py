"""x by way of a few numbers s that tear a block open, and x where y = a x + b; plan/tearing.py has the equations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_invert.build.clamp import Probe
from onnx_invert.build.system.pieces import Piece
from onnx_invert.build.system.root import root_of
from onnx_invert.build.system.search import Search
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.steps import Scale, Tear

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation


def tear(r: Realisation, step: Tear) -> tuple[ir.Value, ir.Value]:
    """x and s with y = F(x, s) and s = H(x): s is the root of ±(s − H(G(y, s))), x = G(y, s).

    Where s has a least number, φ goes on below it as φ(least) − (least − s), so that no trial leaves its domain.
    """
    e, dtype = r.e, step.x.dtype or r.e.dtype
    with e.scope(f"tear/{step.name}", dtype):
        target = r.read(step.y)
        r.settle(step.nodes, step.x)

        def gap(b: Emitter, s: ir.Value) -> ir.Value:
            held = s if step.least is None else b.op("Max", s, step.least)
            found = b.op("Sub", held, _head(r, b, step, _given(r, b, step, held)))
            if step.least is not None:
                found = b.op("Add", found, b.op("Sub", s, held))
            return found if step.rises else b.op("Neg", found)

        shape = [dim if isinstance(dim, int) else str(dim.value) for dim in step.s.shape or ()]
        centre = _head(r, e, step, target)
        live = e.constant(np.ones([1] * len(shape)), "live")
        search = Search(gap, live, shape, unroll=r.unroll is not None)
        s, missed = root_of(e, search, centre, signed=True)
        if r.outer is None:
            r.probes.append(Probe(step.name, missed.name or "", None, np.asarray(0.5), None))
        if step.least is not None:
            s = e.op("Max", s, step.least)
        return _given(r, e, step, s, last=True), s


def scale(r: Realisation, step: Scale) -> ir.Value:
    """x = (y − b) / a, from the values b at 0 and b + a·p at p = 1 + |y|: at y's size rounding leaves most of a."""
    e = r.e
    with e.scope(f"scale/{step.name}", step.x.dtype or e.dtype):
        target = r.read(step.y)
        zero = e.op("Mul", target, 0.0)
        probe = e.op("Add", e.op("Abs", target), 1.0)
        shift, ahead = (_block(r, step, point) for point in (zero, probe))
        slope = e.op("Div", e.op("Sub", ahead, shift), probe)
        return e.op("Div", e.op("Sub", target, shift), slope)


def _block(r: Realisation, step: Scale, x: ir.Value) -> ir.Value:
    inside = r.inside(r.e, step.name, {})
    inside.put(step.x, Piece(x))
    for node in step.nodes:
        for output, made in zip(node.outputs, inside.evaluate(node), strict=True):
            inside.put(output, Piece(made))
    return inside.read(step.y)


def _given(r: Realisation, b: Emitter, step: Tear, s: ir.Value, *, last: bool = False) -> ir.Value:
    """G(y, s); the `last` time with the log-determinant of F by x, if it is asked for."""
    inside = r.inside(b, step.name, dict.fromkeys(step.frozen, s))
    if last:
        inside.log_det = r.log_det
    inside.run(step.inner)
    return inside.read(step.x)


def _head(r: Realisation, b: Emitter, step: Tear, x: ir.Value) -> ir.Value:
    """H(x)."""
    inside = r.inside(b, step.name, {})
    inside.put(step.x, Piece(x))
    for node in step.head:
        for output, made in zip(node.outputs, inside.evaluate(node), strict=True):
            inside.put(output, Piece(made))
    return inside.read(step.s)
