"""Nodes that determine a tensor only together: what each such block is, and the cheapest way to solve it.

A block lies between a tensor y that is known and the nearest tensor x through which everything unknown in y
comes. It is one of

    affine        y = A x + c with A and c constant: multiplied out, and undone as one matrix
    elementwise   yᵢ = φᵢ(xᵢ), whatever the nodes between: a root for every element
    triangular    yᵢ = φᵢ(xᵢ; x₁ … xᵢ₋₁), in some order: sweeps, each exact for one more element
    contraction   y = x + g(x), g with a Lipschitz constant below 1: sweeps that converge
    coupled       a few numbers s = H(x) hold it together, y = F(x, s): Newton's method for s, then x
    whole         y = F(x): Newton's method for all of x, where it is proven, or was tried, that there is one

What it is follows from the labels that the elements of x leave on those of y, never from operators' names.
Sources: I. Duff & J. Reid, An implementation of Tarjan's algorithm for the block triangularization of a matrix, 1978;
G. Papamakarios et al., Normalizing flows for probabilistic modeling and inference, 2021, §3; J. Behrmann et al.,
Invertible residual networks, 2019, for contractions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.plan.affine import multiplied_out
from onnx_invert.plan.carry import by_sample, in_place, numbers, through
from onnx_invert.plan.cuts import cuts, facing, is_chain
from onnx_invert.plan.in_place import InPlace
from onnx_invert.plan.inner import in_place_block, inner_steps, stretch
from onnx_invert.plan.lanes import Cut
from onnx_invert.plan.lipschitz import lipschitz
from onnx_invert.plan.square import coupled, mixed_axes, solved
from onnx_invert.plan.steps import Affine, Coupled, Edge, Root, Scale, Solve, Sweep, Tear
from onnx_invert.plan.system import System
from onnx_invert.plan.tearing import torn
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.moving import Labels

_CUTS = 3
"""How many tensors behind y are tried as x: the block grows with each."""

_FARTHEST = 32
"""How many are looked at, those that are too large for y to tell among them."""

_MOST_ROUNDS = 4096

Solved = Affine | Root | Scale | Tear | Coupled | Solve | Sweep

Find = Callable[[System, ir.Value, ir.Value, list[ir.Node]], Solved | None]


def solve(system: System, targets: Sequence[ir.Value], *, tried: bool = False) -> bool:
    """Find out the targets: node by node as far as that goes, by a block where it does not, and on.

    With `tried` a block that nothing else solves may be one that Newton's method does without a proof.
    """
    system.run()
    while not all(system.is_known(value) for value in targets):
        found = _next(system, _block) or _next(system, _proven) or (_next(system, _tried) if tried else None)
        if found is None:
            return False
        block, y = found
        system.steps.append(block)
        _use_up(system, block, y)
        system.learn(block.x, system.pool.of(block.mask))
        system.run(grown=block.x)
    return True


def stuck(system: System) -> list[tuple[ir.Value, list[ir.Node]]]:
    """Known tensors that nothing could be made of, each with the smallest block behind it."""
    found = []
    for y in _open(system):
        for _x, nodes in cuts(system, y):
            found.append((y, nodes))
            break
    return found


def _next(system: System, find: Find) -> tuple[Solved, ir.Value] | None:
    """A block that `find` can solve, and the known tensor whose equations it uses up."""
    for y in _open(system):
        count, bounded = 0, None
        for tried, (x, nodes) in enumerate(cuts(system, y)):
            if count == _CUTS or tried == _FARTHEST:
                break
            if _unknown(system, x) > _size(system, y):
                continue  # y cannot tell so much
            count += 1
            if is_chain(system, x, nodes):
                continue
            end, behind = facing(system, x, y)
            block = find(system, x, end, [*nodes, *behind])
            if block is None:
                continue
            if not isinstance(block, Root) or block.domain.is_reals:
                return block, y
            bounded = block  # what lies before it may bound it, and be no equation of its own: a Clip
        if bounded is not None:
            return bounded, y
    return None


def _unknown(system: System, x: ir.Value) -> int:
    return int(np.sum(~system.known[x].mask))


def _size(system: System, y: ir.Value) -> int:
    return int(np.prod(system.concrete.shapes.get(y.name or "", ())))


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
            yield from (o for o in node.outputs if (known := system.known.get(o)) is None or not known.none)
        elif leading:
            system.end = index  # what is known stays known: the next search need not begin behind it


def _block(system: System, x: ir.Value, y: ir.Value, nodes: list[ir.Node]) -> Solved | None:
    mask = system.known[x].mask
    wanted = ~mask
    affine = multiplied_out(system, x, y, nodes) if by_sample(system, x, y, nodes) else None
    if affine is not None:
        return Affine(tuple(nodes), x, y, wanted, affine)
    ids = numbers(wanted)
    labels = through(system, x, y, nodes, ids)
    if labels is None:
        return None
    if in_place(labels, ids):
        return in_place_block(InPlace(system, x, y, nodes, wanted))
    return torn(system, x, y, nodes) or _sweep(system, x, y, nodes, ids)


def _proven(system: System, x: ir.Value, y: ir.Value, nodes: list[ir.Node]) -> Coupled | Solve | None:
    return coupled(system, x, y, nodes) or solved(system, x, y, nodes, tried=False)


def _tried(system: System, x: ir.Value, y: ir.Value, nodes: list[ir.Node]) -> Solve | None:
    return solved(system, x, y, nodes, tried=True)


def _sweep(system: System, x: ir.Value, y: ir.Value, nodes: list[ir.Node], ids: Labels) -> Sweep | None:
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
    order = _rounds(system, x, y, nodes, ids, [edge for edge in edges if edge not in mixing])
    inner = inner_steps(system, x, y, nodes, mixing)
    if inner is None:
        return None
    bound, cut = None, None
    within: set[str] = set()
    if order is not None:
        cut = Cut.of(system.concrete, inner, order, system.frozen | frozenset(mixing), system.opset)
    else:
        # What solves for x may stretch again: y = x/2 + g(x) is one only where g's constant is below 1/2.
        grown = stretch(inner)
        found = None if grown is None else lipschitz(system, x, y, nodes, mixing, within=within)
        if found is None or grown is None:
            return None
        if isinstance(found, NoInverse):
            system.blocked.setdefault(y, found)
            return None
        bound = found * grown
        if bound >= 1:
            finer = lipschitz(system, x, y, nodes, mixing, exact=True, within=within)
            bound = bound if isinstance(finer, NoInverse) else finer * grown
        if bound >= 1:
            said = f"a Lipschitz bound of g/s is below 1: the bound is {bound:.4g}"
            reason = f"y = s·x + g(x) is undone by sweeps where {said}"
            system.blocked.setdefault(y, NoInverse(reason, "--method newton  solves for it without a promise"))
            return None
    apart = by_sample(system, x, y, nodes)
    before = ir.Value(name=f"{x.name}/before", shape=x.shape, type=x.type)
    rounds = None if order is None else int(order.max()) + 1
    own = None if rounds is not None else mixed_axes(system, x, y, nodes)
    masks = tuple(sorted(within))
    shared = (tuple(nodes), x, y, ids > 0, before, tuple(mixing), tuple(inner), rounds, bound, apart)
    return Sweep(*shared, cut=cut, own=own, within=masks)


def _rounds(
    system: System, x: ir.Value, y: ir.Value, nodes: list[ir.Node], ids: Labels, direct: Sequence[Edge]
) -> NDArray[np.int64] | None:
    """Which sweep finds each element, −1 where none is to, if each sweep finds some; None if one finds none.

    A sweep finds what needs no element that is left by any other way than `direct`, itself included.
    """
    left = ids
    # What comes by `direct` has labels of its own, so that it does not pass for what comes by another way.
    own = np.where(ids > 0, ids + ids.max(), 0)
    order = np.full(ids.shape, -1)
    for count in range(_MOST_ROUNDS):
        labels = through(system, x, y, nodes, left, frozen=direct, instead=own)
        found = (left > 0) & (False if labels is None else labels == own)
        if not found.any():
            return None
        order[found] = count
        left = np.where(found, 0, left)
        if not left.any():
            return order
    return None


def _use_up(system: System, block: Solved, y: ir.Value) -> None:
    """The equations of y are those that the block was solved by."""
    known = system.known.get(y)
    shape = system.concrete.shapes.get(y.name or "", ())
    used = system.pool.of(block.mask) if block.mask.shape == shape else system.pool.all(shape)
    system.use(y, used if known is None else used & known)
