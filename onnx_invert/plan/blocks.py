"""Nodes that determine a tensor only together: what each such block is, and the cheapest way to solve it.

A block lies between a tensor y that is known and the nearest tensor x through which everything unknown in y
comes. It is one of

    affine        y = A x + c with A and c constant: multiplied out, and undone as one matrix
    elementwise   yᵢ = φᵢ(xᵢ), whatever the nodes between: a root for every element
    triangular    yᵢ = φᵢ(xᵢ; x₁ … xᵢ₋₁), in some order: sweeps, each exact for one more element
    contraction   y = x + g(x), g with a Lipschitz constant below 1: sweeps that converge

What it is follows from the labels that the elements of x leave on those of y, never from operators' names.
Sources: I. Duff & J. Reid, An implementation of Tarjan's algorithm for the block triangularization of a matrix, 1978;
G. Papamakarios et al., Normalizing flows for probabilistic modeling and inference, 2021, §3; J. Behrmann et al.,
Invertible residual networks, 2019, for contractions.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.affine import multiplied_out
from onnx_invert.plan.carry import by_sample, in_place, numbers, through
from onnx_invert.plan.lipschitz import lipschitz
from onnx_invert.plan.monotone import is_monotone
from onnx_invert.plan.steps import Affine, Root, Step, Sweep, Undo
from onnx_invert.plan.system import Edge, System
from onnx_invert.rules.dependence import Labels
from onnx_invert.rules.facts import Diagonal, Rearrangement

_CUTS = 3
"""How many tensors behind y are tried as x: the block grows with each."""

_MOST_ROUNDS = 4096

Solved = Affine | Root | Sweep


def solve(system: System, targets: Sequence[ir.Value]) -> bool:
    """Find out the targets: node by node as far as that goes, by a block where it does not, and on."""
    system.run()
    while not all(system.is_known(value) for value in targets):
        block = _next(system)
        if block is None:
            return False
        system.steps.append(block)
        _use_up(system, block)
        system.learn(block.x, block.mask)
        system.run()
    return True


def stuck(system: System) -> list[tuple[ir.Value, list[ir.Node]]]:
    """Known tensors that nothing could be made of, each with the smallest block behind it."""
    found = []
    for y in _open(system):
        for _x, nodes in cuts(system, y):
            found.append((y, nodes))
            break
    return found


def cuts(system: System, y: ir.Value) -> Iterator[tuple[ir.Value, list[ir.Node]]]:
    """The tensors through which all that is unknown in `y` comes, nearest first, with the nodes between."""
    position = system.position
    last = y.producer()
    if last is None or last not in position:
        return
    nodes: list[ir.Node] = []
    frontier: dict[ir.Value, None] = {}
    heap: list[tuple[int, int, ir.Value]] = []

    def enter(node: ir.Node) -> None:
        nodes.append(node)
        for place, value in enumerate(node.inputs):
            if value is None or value in frontier or (node, place) in system.frozen or system.is_known(value):
                continue
            maker = value.producer()
            frontier[value] = None
            heapq.heappush(heap, (-position.get(maker, -1) if maker is not None else 1, len(frontier), value))

    enter(last)
    seen: set[ir.Node] = {last}
    while heap:
        if len(heap) == 1:
            yield heap[0][2], sorted(nodes, key=lambda node: position[node])
        _, _, value = heapq.heappop(heap)
        maker = value.producer()
        if maker is None or maker not in position:
            return
        if maker not in seen:
            seen.add(maker)
            enter(maker)


def _next(system: System) -> Solved | None:
    for y in _open(system):
        for count, (x, nodes) in enumerate(cuts(system, y)):
            if count == _CUTS:
                break
            block = None if _is_chain(system, x, nodes) else _block(system, x, y, nodes)
            if block is not None:
                return block
    return None


def _is_chain(system: System, x: ir.Value, nodes: Sequence[ir.Node]) -> bool:
    """Whether the nodes follow one another, each with one unknown operand: then each is refused for its own reason."""
    inside = {x, *(output for node in nodes for output in node.outputs)}
    edges = sum(
        value in inside and (node, place) not in system.frozen
        for node in nodes
        for place, value in enumerate(node.inputs)
    )
    return edges <= len(nodes)


def _open(system: System) -> Iterator[ir.Value]:
    """Tensors that are known, in part at least, while an operand of the node that makes them is not; last first."""
    leading = True
    for index in range(system.end - 1, -1, -1):
        node = system.nodes[index]
        unknown = any(
            value is not None and (node, place) not in system.frozen and not system.is_known(value)
            for place, value in enumerate(node.inputs)
        )
        if unknown:
            leading = False
            yield from (o for o in node.outputs if (mask := system.mask(o)) is None or mask.any())
        elif leading:
            system.end = index  # what is known stays known: the next search need not begin behind it


def _block(system: System, x: ir.Value, y: ir.Value, nodes: list[ir.Node]) -> Solved | None:
    mask = system.known[x]
    wanted = ~mask
    affine = multiplied_out(system, x, y, nodes) if by_sample(system, x, y, nodes) else None
    if affine is not None:
        return Affine(tuple(nodes), x, y, wanted, affine)
    ids = numbers(wanted)
    labels = through(system, x, y, nodes, ids)
    if labels is None:
        return None
    if in_place(labels, ids):
        return Root(tuple(nodes), x, y, wanted) if is_monotone(system, x, y, nodes, wanted) else None
    return _sweep(system, x, y, nodes, ids, labels)


def _sweep(
    system: System, x: ir.Value, y: ir.Value, nodes: list[ir.Node], ids: Labels, labels: Labels
) -> Sweep | None:
    edges = [(node, place) for node in nodes for place, value in enumerate(node.inputs) if value is x]
    edges = [edge for edge in edges if edge not in system.frozen]
    mixing = []
    for edge in edges:
        alone = through(system, x, y, nodes, ids, frozen=[other for other in edges if other != edge])
        if alone is None:
            return None
        if not np.array_equal(np.where(alone == 0, ids, alone), ids):
            mixing.append(edge)
    if not mixing or len(mixing) == len(edges):
        return None
    rest = through(system, x, y, nodes, ids, frozen=mixing)
    if rest is None or not in_place(rest, ids):
        return None
    rounds = _rounds(system, x, y, nodes, ids, labels)
    factor = None
    if rounds is None:
        factor = lipschitz(system, x, y, nodes, mixing)
        if factor is None:
            return None
    inner = _inner(system, x, y, nodes, mixing)
    if inner is None:
        return None
    if factor is not None:
        # What solves for x may stretch again: y = x/2 + g(x) is one only where g's constant is below 1/2.
        stretch = _stretch(inner)
        factor = None if stretch is None else factor * stretch
        if factor is None or factor >= 1:
            return None
    before = ir.Value(name=f"{x.name}/before", shape=x.shape, type=x.type)
    return Sweep(tuple(nodes), x, y, ids > 0, before, tuple(mixing), tuple(inner), rounds, factor)


def _inner(system: System, x: ir.Value, y: ir.Value, nodes: list[ir.Node], frozen: list[Edge]) -> list[Step] | None:
    """How x follows from y once the frozen operands are known: node by node, or as roots; None if it does not."""
    inner = System.between(system.concrete, system.rules, system.opset, nodes, [x])
    inner.frozen = system.frozen | frozenset(frozen)
    inner.unknowns = system.unknowns
    known = system.mask(x)
    if known is not None and known.any():
        inner.learn(x, known)
    mask = system.mask(y)
    inner.learn(y, np.ones(inner.known[y].shape, bool) if mask is None else mask)
    inner.run([x])
    if inner.is_known(x):
        return inner.steps
    between = next((found for d, found in cuts(inner, y) if d is x), nodes)
    if not is_monotone(inner, x, y, between, ~inner.known[x]):
        return None
    return [*inner.steps, Root(tuple(between), x, y, ~inner.known[x])]


def _rounds(system: System, x: ir.Value, y: ir.Value, nodes: list[ir.Node], ids: Labels, labels: Labels) -> int | None:
    """After how many sweeps every element is found, if each sweep finds some; None if one finds none."""
    left = ids
    for count in range(1, _MOST_ROUNDS):
        found = (labels > 0) & (labels == left)
        if not found.any():
            return None
        left = np.where(found, 0, left)
        if not left.any():
            return count
        following = through(system, x, y, nodes, left)
        if following is None:
            return None
        labels = following
    return None


def _stretch(inner: Sequence[Step]) -> float | None:
    """By how much at most x moves with y, the frozen operands held; None where no bound is known."""
    factor = 1.0
    for step in inner:
        if isinstance(step, Root | Sweep | Affine):
            return None
        for stage in step.stages if isinstance(step, Undo) else ():
            fact = stage.fact
            if isinstance(fact, Diagonal) and np.all(fact.scale != 0):
                factor /= float(np.min(np.abs(fact.scale)))
            elif not isinstance(fact, Rearrangement) and stage.nodes[0].op_type not in {"Add", "Sub"}:
                return None
    return factor


def _use_up(system: System, block: Solved) -> None:
    """The equations of y are those that the block was solved by."""
    mask = system.mask(block.y)
    shape = system.concrete.shapes.get(block.y.name or "", ())
    used = block.mask if block.mask.shape == shape else np.ones(shape, bool)
    system.use(block.y, used if mask is None else used & mask)
