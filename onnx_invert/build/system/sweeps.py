"""x = φ(x, y) by sweeps: exact after as many as there are steps in a triangular order, or a contraction's limit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton.loop import iterate
from onnx_invert.build.system.pieces import Piece
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.steps import Sweep

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation

WRITTEN_OUT = 3
"""Up to as many sweeps are written out one after the other: a Loop gains nothing."""

MOST = 1000
"""Sweeps of a contraction."""


def sweep(r: Realisation, step: Sweep) -> ir.Value:
    """x in the elements of `step.mask`."""
    e, dtype = r.e, step.x.dtype or r.e.dtype
    with e.scope(f"sweep/{step.name}", dtype):
        target = r.read(step.y)
        r.settle(step.nodes, step.x)
        known = r.read(step.x) if step.x in r.pieces else None
        start = e.op("Mul", target, 0.0) if step.rounds is not None else target
        start = _finite(e, start)
        shape = [dim if isinstance(dim, int) else str(dim.value) for dim in step.x.shape or ()]
        eps = float(np.finfo(dtype.numpy()).eps)

        def once(b: Emitter, state: list[ir.Value]) -> tuple[list[ir.Value], ir.Value]:
            (before,) = state
            whole = before if known is None else b.op("Where", r.mask_of(step.mask), before, known)
            inside = r.inside(b, step.name, dict.fromkeys(step.frozen, whole))
            if known is not None:
                inside.put(step.x, Piece(known, mask=~step.mask))
            inside.run(step.inner)
            with b.scope(b.scope_name, dtype):
                after = _finite(b, inside.read(step.x))
                moved = b.op("Abs", b.op("Sub", after, before))
                slack = b.op("Mul", b.op("Abs", after), 2 * eps)
                busy = b.op("Cast", b.op("Greater", moved, slack), to=int(dtype))
            return [after], busy

        most = sweeps(step, eps)
        unroll = r.unroll is not None or (step.rounds is not None and step.rounds <= WRITTEN_OUT)
        (x,) = iterate(e, [start], [shape], once, most=most, unroll=unroll)
        return x


def sweeps(step: Sweep, eps: float) -> int:
    """How many are needed at most."""
    if step.rounds is not None:
        return step.rounds
    factor = step.contraction or 0.5
    return min(MOST, 2 + math.ceil(math.log(eps / 4) / math.log(factor))) if factor > 0 else 2


def _finite(b: Emitter, value: ir.Value) -> ir.Value:
    """0 where the value is not finite: what is not settled yet must not spoil what is, through 0 · ∞."""
    top = float(np.finfo(b.dtype.numpy()).max) / 4
    return b.op("Where", b.op("Less", b.op("Abs", value), top), value, b.scalar(0.0))
