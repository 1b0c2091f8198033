"""x from y where what mixes its elements is held: node by node, in closed form where y = a x + b, or as roots."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.affine import is_affine
from onnx_invert.plan.cuts import cuts
from onnx_invert.plan.evaluation import run
from onnx_invert.plan.in_place import InPlace
from onnx_invert.plan.monotone import judged
from onnx_invert.plan.rational import rational
from onnx_invert.plan.steps import Block, Edge, Evidence, Root, Scale, Step, Undo
from onnx_invert.plan.system import System
from onnx_invert.plan.unseen import unseen_fills
from onnx_invert.rules.facts import Diagonal, NoInverse, Rearrangement


def in_place_block(block: InPlace) -> Root | Scale | None:
    """How to solve a block of which every element of y follows from the one of x at its own place alone."""
    system, nodes, ports = block.system, tuple(block.nodes), (block.x, block.y, block.mask)
    if is_affine(system, block.x, nodes, system.frozen, known=True) and _scales(block):
        return Scale(nodes, *ports, Evidence(_keeps_sign(block), 1))
    found = judged(block)
    if isinstance(found, NoInverse):
        system.blocked.setdefault(block.y, found)
        return None
    if found is None:
        return None
    domain, evidence = found
    unseen = unseen_fills(block)
    pieces = rational(block, domain, unseen, evidence)
    if pieces is not None and pieces.exact:
        evidence = Evidence(proven=True, onto=evidence.onto)
    return Root(nodes, *ports, domain, unseen, evidence, pieces)


def _keeps_sign(block: InPlace) -> bool:
    """Whether the factor of no element can be 0, whatever the known tensors are."""
    made = block.function().at(np.full(1, -1.0), np.full(1, 1.0))
    if made is None or made.jumps.any():
        return False
    fall, rise = made.slope
    return bool(np.all((fall > 0) | (rise < 0)))


def inner_steps(
    system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node], frozen: Collection[Edge]
) -> list[Step] | None:
    """How x follows from y once the frozen operands are known; None if it does not."""
    inner = System.between(system.concrete, system.rules, system.opset, nodes, [x], system.told)
    inner.frozen = system.frozen | frozenset(frozen)
    inner.unknowns = system.unknowns
    if (known := system.known.get(x)) is not None and not known.none:
        inner.learn(x, known)
    inner.learn(y, system.known.get(y) or system.pool.all(inner.known[y].shape))
    inner.run([x])
    if inner.is_known(x):
        return inner.steps
    between = next((found for start, found in cuts(inner, y) if start is x), list(nodes))
    block = in_place_block(InPlace(inner, x, y, between, ~inner.known[x].mask))
    for value, refusal in inner.blocked.items():
        system.blocked.setdefault(value, refusal)
    return None if block is None else [*inner.steps, block]


def stretch(inner: Sequence[Step]) -> float | None:
    """By how much at most x moves with y, the frozen operands held; None where no bound is known."""
    factor = 1.0
    for step in inner:
        if isinstance(step, Block):
            return None
        for stage in step.stages if isinstance(step, Undo) else ():
            fact = stage.fact
            if isinstance(fact, Diagonal) and np.all(fact.scale != 0):
                factor /= float(np.min(np.abs(fact.scale)))
            elif not isinstance(fact, Rearrangement) and stage.nodes[0].op_type not in {"Add", "Sub"}:
                return None
    return factor


def _scales(block: InPlace) -> bool:
    """Whether no factor is 0 in one run of the model; False where that could not be tried."""
    system, x, y, nodes = block.system, block.x, block.y, block.nodes
    found = system.concrete.sample(system.opset)
    here = found.get(x.name or "")
    twins = [twin for node in nodes if (twin := system.concrete.nodes.get(node.name or "")) is not None]
    if here is None or len(twins) != len(nodes):
        return False
    inner = {output.name for node in nodes for output in node.outputs} | {x.name}
    held = {(node.name or "", place): value for node, place in system.frozen if (value := node.inputs[place])}
    renamed = {edge: f"{value.name}/held" for edge, value in held.items()}
    feeds = {f"{value.name}/held": found[value.name or ""] for value in held.values() if value.name in found}
    for twin in twins:
        for value in twin.inputs:
            if value is not None and value.name not in inner and value.name in found:
                feeds[value.name or ""] = found[value.name or ""]
    ends = []
    for point in (0, 1):
        trial = {**feeds, x.name or "": np.full_like(here, point)}
        made = run(twins, trial, [y.name or ""], system.opset, renamed=renamed)
        if made is None:
            return False
        ends.append(made[y.name or ""].astype(np.float64))
    factors = (ends[1] - ends[0])[block.mask]
    return bool(np.all(np.isfinite(factors) & (factors != 0)))
