"""Several nodes that are affine together, multiplied out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.evaluation import run
from onnx_invert.plan.stages import Stage, measure
from onnx_invert.plan.steps import Edge
from onnx_invert.plan.system import System, several
from onnx_invert.rules.facts import Diagonal, Fact, Matrix, Rearrangement
from onnx_invert.rules.moving import moves
from onnx_invert.rules.node import FLOATS

LARGEST = 2048
"""Numbers per sample up to which a block is multiplied out: its matrix has the square of that many."""

_SUMS = frozenset({"Add", "Sub", "Neg", "Identity", "Sum", "ReduceSum", "ReduceMean", "Cast", "Mean", "CumSum"})
_BY_CONSTANT = frozenset({"Mul", "MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"})


def multiplied_out(system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node]) -> tuple[Stage, ...] | None:
    """The stages of y = A x + c, one row per sample; None if it is not that, or has no single x for a y.

    The caller has made sure that no sample depends on another.
    """
    if not system.known[x].none or not system.is_known(y) or not is_affine(system, x, nodes):
        return None
    sizes = [_sizes(value) for value in (x, y)]
    if None in sizes or x.dtype is None:
        return None
    before, after = (tuple(size or ()) for size in sizes)
    count, rows = int(np.prod(before)), int(np.prod(after))
    if not 0 < count <= LARGEST or rows < count or rows > 2 * LARGEST:
        return None
    basis = np.concatenate([np.eye(count), np.zeros((1, count))]).astype(x.dtype.numpy())
    found = run(nodes, {x.name or "": basis.reshape(-1, *before)}, [y.name or ""], system.opset)
    made = None if found is None else found[y.name or ""]
    if made is None or made.shape != (count + 1, *after) or not np.isfinite(made).all():
        return None
    flat = made.reshape(count + 1, -1).astype(np.float64)
    matrix = (flat[:-1] - flat[-1]).astype(x.dtype.numpy())
    facts: list[Fact] = [Matrix(matrix), Diagonal(shift=flat[-1])]
    if len(before) > 1:
        facts.insert(0, _flattened(before))
    if len(after) > 1:
        turned = _flattened(after)
        facts.append(Rearrangement(turned.inverse, turned.forward))
    stages = tuple(Stage(fact, tuple(nodes), _place(nodes[0], x)) for fact in facts)
    for stage in stages:
        measure(stage)
        if several(stage):
            return None
    return stages


def _place(node: ir.Node, x: ir.Value) -> int:
    return next((place for place, value in enumerate(node.inputs) if value is x), 0)


def _sizes(value: ir.Value) -> tuple[int, ...] | None:
    """Those of a sample, where the first axis counts samples and all others are fixed."""
    if value.shape is None or not len(value.shape) or isinstance(value.shape[0], int):
        return None
    rest = [dim for dim in value.shape[1:] if isinstance(dim, int)]
    return tuple(rest) if len(rest) + 1 == len(value.shape) else None


def is_affine(
    system: System,
    x: ir.Value,
    nodes: Sequence[ir.Node],
    frozen: Collection[Edge] = (),
    *,
    known: bool = False,
    also: Collection[ir.Value] = (),
) -> bool:
    """Whether every node is affine in what depends on x, or on what is unknown `also`, the `frozen` operands held.

    The coefficients are constant, or with `known` whatever the operands that do not depend on x make of them.
    """
    inside = {x, *also}
    for node in nodes:
        if node.domain not in {"", "ai.onnx"}:
            return False
        places = [p for p, value in enumerate(node.inputs) if value in inside and (node, p) not in frozen]
        others = [v for place, v in enumerate(node.inputs) if v is not None and place not in places]
        if not known and any(value.const_value is None for value in others):
            return False
        if not places:
            continue
        twin = system.concrete.nodes.get(node.name or "", node)
        fine = (
            node.op_type in _SUMS
            or moves(twin)
            or (node.op_type in _BY_CONSTANT and len(places) == 1)
            or (node.op_type == "Div" and places == [0])
        )
        if not fine or any(output.dtype is not None and output.dtype not in FLOATS for output in node.outputs):
            return False  # a cast to whole numbers is a step, not a factor
        inside.update(node.outputs)
    return True


def _flattened(sizes: tuple[int, ...]) -> Rearrangement:
    count = int(np.prod(sizes))
    return Rearrangement(
        lambda e, v: e.op("Reshape", v, e.ints([-1, count])), lambda e, v: e.op("Reshape", v, e.ints([-1, *sizes]))
    )
