"""Where the elements of a block's x mix first, and what the weights around it prove.

For y = a x + c + A h(B x + b), h element by element, det ∂y/∂x = det a · det(I + D K) with K = B a⁻¹ A and D the
slopes of h: numerics/nonsingular.py tells whether any D within the slopes of h makes it 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_invert.numerics.nonsingular import proven
from onnx_invert.plan.affine import is_affine
from onnx_invert.plan.carry import carried, in_place, numbers
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.lipschitz import SLOPES
from onnx_invert.plan.steps import Edge
from onnx_invert.plan.system import System
from onnx_invert.plan.trial import Array, Trial
from onnx_invert.rules.joining import SEVERAL
from onnx_invert.rules.static import UnsizedError

MOST_PROVEN = 512
"""Numbers of s up to which a proof is looked for: K is held and factorised."""


@dataclass(frozen=True)
class Mixing:
    """Where the elements of x mix first: `s`, of `size` numbers a sample, and the operands that take them."""

    s: tuple[ir.Value, ...]
    size: int
    edges: tuple[Edge, ...]


def mixing_of(system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node]) -> Mixing | None:
    """The tensors that are made of several elements of x each, by nodes that take none such themselves."""
    shape = system.concrete.shapes[x.name or ""]
    found = {x: numbers(np.ones(shape, bool))}
    mixed: set[ir.Value] = set()
    s: dict[ir.Value, int] = {}
    for node in nodes:
        if any(value in mixed for value in node.inputs):
            mixed.update(node.outputs)
            continue
        try:
            made = system.labels(node, found.get)
        except UnsizedError:
            return None
        for output, labels in zip(node.outputs, made, strict=True):
            if np.any(labels == SEVERAL):
                sizes = sample_shape(output)
                rows = system.concrete.shapes.get(output.name or "", (0,))[:1] == shape[:1]
                if not rows or output.dtype != x.dtype or sizes is None:
                    return None
                mixed.add(output)
                s[output] = math.prod(sizes)
            elif labels.any():
                found[output] = labels
    if not s or y in s:
        return None
    edges = tuple((node, place) for node in nodes for place, value in enumerate(node.inputs) if value in s)
    return Mixing(tuple(s), sum(s.values()), edges)


def sample_shape(x: ir.Value) -> tuple[int, ...] | None:
    """The sizes of a sample, along all axes but the first; None where they are not fixed."""
    dims = list(x.shape or ())[1:]
    fixed = tuple(dim for dim in dims if isinstance(dim, int))
    return fixed if len(fixed) == len(dims) else None


def sample_size(x: ir.Value) -> int:
    """The numbers of a sample; 0 where they are not fixed."""
    shape = sample_shape(x)
    return 0 if shape is None else math.prod(shape)


def between(nodes: Sequence[ir.Node], y: ir.Value, frozen: Sequence[Edge]) -> list[ir.Node]:
    """Those of `nodes` that y needs, the frozen operands held."""
    wanted, held = {y}, set(frozen)
    found = []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            found.append(node)
            wanted.update(v for place, v in enumerate(node.inputs) if v is not None and (node, place) not in held)
    return found[::-1]


def proof_of(system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node]) -> str:
    """Why y = a x + c + A h(B x + b) has one x for every y; "" where it is something else, or that is not proven.

    No sample depends on another.
    """
    straight = {x}
    before: list[ir.Value] = []
    for node in nodes:
        if any(value in straight for value in node.inputs) and is_affine(system, x, [node], also=straight):
            straight.update(node.outputs)
        else:
            before += [v for v in node.inputs if v in straight and v not in before and v is not None]
    # Operands of sums that something bent is added to lie on the straight way.
    before = [s for s in before if any(node.op_type in SLOPES for node, _ in s.uses() if node in set(nodes))]
    sizes = [int(np.prod(system.concrete.shapes.get(s.name or "", (0,))[1:])) for s in before]
    if not 0 < sum(sizes) <= MOST_PROVEN or sum(sizes) * sample_size(x) > 1 << 20:
        return ""
    made = set(upstream(before, {x}))
    head = [node for node in nodes if node in made]
    after: list[ir.Value] = []
    low, high = [], []
    for s, size in zip(before, sizes, strict=True):
        t, ends = _activated(nodes, s)
        after.append(t)
        low.append(np.full(size, ends[0]))
        high.append(np.full(size, ends[1]))
    if not np.isfinite(np.concatenate([*low, *high])).all():
        return ""
    edges = tuple((node, place) for node in nodes for place, value in enumerate(node.inputs) if value in after)
    tail = between(nodes, y, edges)
    if not is_affine(system, x, head) or not is_affine(system, x, tail, also=after):
        return ""
    ids = numbers(np.ones(system.concrete.shapes[x.name or ""], bool))
    kept = carried(system, {x: ids}, y, tail, edges)
    if kept is None or not in_place(kept, ids):
        return ""  # `a` is a matrix then
    matrices = _linear(Trial(system, x, y, nodes), before, head, after, tail)
    if matrices is None:
        return ""
    b, scale, a = matrices
    return proven((b / scale) @ a, np.concatenate(low), np.concatenate(high))


def _activated(nodes: Sequence[ir.Node], s: ir.Value) -> tuple[ir.Value, tuple[float, float]]:
    """The last tensor behind s that functions of one element make one after the other, and the ends of its slope."""
    inside = set(nodes)
    value, low, high = s, 1.0, 1.0
    while True:
        users = [node for node, _ in value.uses() if node in inside]
        if len(users) != 1 or len(users[0].outputs) != 1:
            return value, (low, high)
        node = users[0]
        others = [v for v in node.inputs if v is not None and v is not value]
        if node.op_type in {"Add", "Identity"} and all(v.const_value is not None for v in others):
            if node.outputs[0].shape != value.shape:
                return value, (low, high)
        elif node.op_type in SLOPES and node.inputs[0] is value and not others:
            ends = SLOPES[node.op_type](node)
            products = [one * other for one in (low, high) for other in ends]
            low, high = min(products), max(products)
        else:
            return value, (low, high)
        value = node.outputs[0]


def _linear(
    trial: Trial,
    before: Sequence[ir.Value],
    head: Sequence[ir.Node],
    after: Sequence[ir.Value],
    tail: Sequence[ir.Node],
) -> tuple[Array, Array, Array] | None:
    """B (m, n) from x to s, a (n) from x to y, A (n, m) from the activated s to y, one sample's."""
    x, y = trial.x, trial.y
    n = int(np.prod(trial.shape[1:]))
    total = sum(int(np.prod(trial.system.concrete.shapes[s.name or ""][1:])) for s in before)
    size = 1 if trial.many else trial.shape[0]
    eye = np.concatenate([np.eye(n), np.zeros((1 + (-(n + 1)) % size, n))]).reshape(-1, *trial.shape[1:])
    heads = trial.run({x: eye}, before, head)
    ones = np.stack([np.ones(trial.shape[1:]), np.zeros(trial.shape[1:])])
    ones = np.repeat(ones, size, axis=0)
    shapes = [trial.system.concrete.shapes[t.name or ""][1:] for t in after]
    sizes = [int(np.prod(shape)) for shape in shapes]
    units = np.concatenate([np.eye(total), np.zeros((1 + (-(total + 1)) % size, total))])
    parts = [
        part.reshape(-1, *shape)
        for part, shape in zip(np.split(units, np.cumsum(sizes)[:-1], axis=1), shapes, strict=True)
    ]
    still = {t: np.zeros((len(ones), *shape)) for t, shape in zip(after, shapes, strict=True)}
    straight = trial.run({x: ones, **still}, [y], tail, after)
    turned = trial.run(
        {x: np.zeros((len(units), *trial.shape[1:])), **dict(zip(after, parts, strict=True))}, [y], tail, after
    )
    if heads is None or straight is None or turned is None:
        return None
    flat = np.concatenate([array.reshape(len(eye), -1) for array in heads], axis=1)
    scale = (straight[0][0] - straight[0][-1]).reshape(-1)
    shift = turned[0].reshape(len(units), -1)
    if not all(np.isfinite(array).all() for array in (flat, scale, shift)) or np.any(scale == 0):
        return None
    return (flat[:n] - flat[n]).T, scale, (shift[:total] - shift[total]).T
