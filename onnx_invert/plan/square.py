"""Blocks that Newton's method solves: as many equations as unknowns, and none of the cheaper ways fits.

    coupled   y = F(x, s), s = H(x), s a few numbers that determine one another: with s held y is affine in x, number
              by number, so that φ(s) = s − H(G(y, s)) is to be 0 for s alone. Several planar terms, Sylvester flows
    whole     y = F(x) for all numbers of x: a residual block x + g(x) whose g is no contraction

Where the only nonlinear functions are y = a x + A h(B x + b) with h element by element, that there is one x for every
y may be proven from the weights (numerics/nonsingular.py), with K = B a⁻¹ A: det ∂y/∂x = det a · det(I + D K).
Elsewhere the sign of the determinant is tried at many x: where it changes, or is 0, there are y with several x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.errors import Blocker
from onnx_invert.plan.affine import is_affine
from onnx_invert.plan.bottleneck import WIDE_TYPES
from onnx_invert.plan.carry import by_sample, carried, in_place, numbers
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.inner import inner_steps
from onnx_invert.plan.mixing import between, mixing_of, proof_of, sample_size
from onnx_invert.plan.program import part
from onnx_invert.plan.signs import Torn, sign_of
from onnx_invert.plan.steps import Coupled, Solve
from onnx_invert.plan.system import System
from onnx_invert.plan.trial import Trial
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import FLOATS

LARGEST = 256
"""Numbers that are solved for together at most."""


def coupled(system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node]) -> Coupled | None:
    """A block torn open at several tensors or numbers that determine one another, if one solution is there."""
    mixing = _open(system, x, y, nodes) and mixing_of(system, x, y, nodes)
    count = sample_size(x)
    if not mixing or not 0 < 2 * mixing.size <= count or not by_sample(system, x, y, nodes):
        return None
    ids = numbers(np.ones(system.concrete.shapes[x.name or ""], bool))
    tail = between(nodes, y, mixing.edges)
    held = carried(system, {x: ids}, y, tail, mixing.edges)
    if held is None or not in_place(held, ids) or not is_affine(system, x, tail, mixing.edges, known=True):
        return None
    inner = inner_steps(system, x, y, tail, mixing.edges)
    if inner is None:
        return None
    before = set(upstream(mixing.s, {x}))
    head = [node for node in nodes if node in before]
    programs = [
        part(system.rules, system.opset, tail, (x, *mixing.s), (y,)),
        part(system.rules, system.opset, head, (x,), mixing.s),
    ]
    first, second = programs
    if isinstance(first, Blocker) or isinstance(second, Blocker):
        return None
    proof = proof_of(system, x, y, nodes)
    if not proof:
        if y in system.folded:
            return None
        sign = Torn(Trial(system, x, y, nodes), mixing, tail, head).sign()
        if isinstance(sign, str):
            system.folded.add(y)
            system.blocked[y] = NoInverse(f"{sign}: several inputs may have one output", "--method newton  finds one")
            return None
    mask = np.ones(ids.shape, bool)
    return Coupled(tuple(nodes), x, y, mask, mixing.s, mixing.edges, tuple(inner), first, second, proof)


def solved(system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node], *, tried: bool) -> Solve | None:
    """A block that is solved for all of x together: where that is proven to have one solution, or with `tried` too
    where the determinant keeps its sign at all x that are tried."""
    if not _open(system, x, y, nodes):
        return None
    own = mixed_axes(system, x, y, nodes)
    if own is None:
        return None
    sizes = [size for axis in own if isinstance(size := (x.shape or ())[axis], int)]
    if len(sizes) < len(own) or not 0 < math.prod(sizes) <= LARGEST:
        return None
    program = part(system.rules, system.opset, nodes, (x,), (y,))
    if isinstance(program, Blocker) or not any(step.partials for step in program.steps):
        return None
    proof = proof_of(system, x, y, nodes) if by_sample(system, x, y, nodes) else ""
    if not proof:
        if not tried or y in system.folded:
            return None
        sign = sign_of(Trial(system, x, y, nodes), own)
        if isinstance(sign, str):
            system.blocked.setdefault(y, NoInverse(f"{sign}: several inputs may have one output"))
            return None
    mask = np.ones(system.concrete.shapes[x.name or ""], bool)
    return Solve(tuple(nodes), x, y, mask, program, own, proof)


def mixed_axes(system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node]) -> tuple[int, ...] | None:
    """The axes of x along which y, of the same sizes, depends on more than the same place; None if they differ.

    At least one axis, of samples, must not be among them.
    """
    shape = system.concrete.shapes.get(x.name or "")
    if not shape or system.concrete.shapes.get(y.name or "") != shape:
        return None
    own = []
    for axis, size in enumerate(shape):
        if size == 1 and axis and isinstance((x.shape or ())[axis], int):
            continue
        places = np.arange(1, size + 1).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        labels = np.array(np.broadcast_to(places, shape))
        found = carried(system, {x: labels}, y, nodes)
        if found is None or not in_place(found, labels):
            own.append(axis)
    return tuple(own) if len(own) < len(shape) else None


def _open(system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node]) -> bool:
    """Whether x is wholly unknown, y wholly known, both of the same sizes and types that equations run in."""
    shapes = system.concrete.shapes
    shape = shapes.get(x.name or "")
    plain = not system.frozen and system.known[x].none and system.is_known(y)
    typed = x.dtype in WIDE_TYPES and all(
        output.dtype in {None, x.dtype} or output.dtype not in FLOATS for node in nodes for output in node.outputs
    )
    return plain and typed and bool(shape) and shapes.get(y.name or "") == shape
