"""Where the samples of a batch lie in each tensor, and which nodes mix them.

A derivative, and a solver, take a batch sample by sample: what a sample's outputs are may depend on that sample alone.
From the unknown tensors on, whose first axis counts samples, this follows where that axis goes. A node that sums,
normalises or multiplies along it mixes samples for sure. Of a node whose effect is not known here nothing is said:
its outputs, and what follows from them, are undecided, and somebody has to try.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_invert.errors import Blocker
from onnx_invert.plan.batch_rules import FIRST, RULES, UNDECIDED, Mixes, Place, State, Undecided
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.layout import Layout
from onnx_invert.rules.node import NodeView
from onnx_invert.sizes import Size


@dataclass
class Batch:
    """Where samples lie: `places` of every tensor that depends on the unknown, `blockers` what mixes them for sure,
    `undecided` those of the wanted tensors of which it is not known. `size` is the name of that which counts them."""

    places: dict[ir.Value, State] = field(default_factory=dict)
    blockers: list[Blocker] = field(default_factory=list)
    undecided: list[ir.Value] = field(default_factory=list)
    size: str = ""

    def rows(self, value: ir.Value) -> int:
        """How many entries of the tensor's first axis belong to each sample; 0 if that is not how they lie.

        Of undecided tensors it is what the name of that axis says, 3 of 3*N, or else one; both have to be tried.
        """
        place = self.places.get(value)
        if isinstance(place, Place):
            return place.inner if place.axis == 0 and place.outer == 1 else 0
        told = Size.read(_first_symbol(value) or "")
        return told.times if isinstance(place, Undecided) and told == Size(told.times, (self.size,)) else 1

    def is_known(self, value: ir.Value) -> bool:
        """True if it is known to hold its samples along its first axis, or there is no batch."""
        return not self.places or (isinstance(self.places.get(value), Place) and self.rows(value) > 0)

    def layout(self, value: ir.Value) -> Layout:
        """How a tensor on the way holds its samples; errors as for `Layout.of`."""
        return Layout.of(value, max(1, self.rows(value)))


def follow(unknowns: Sequence[ir.Value], wanted: Sequence[ir.Value], opset: int) -> Batch:
    """Follow the samples from the unknown tensors to the wanted ones. Without a batch there is nothing to mix."""
    batch = Batch()
    symbols = [_first_symbol(value) for value in unknowns]
    if any(symbol is None for symbol in symbols):
        return batch
    name = batch.size = symbols[0] or "the first axis"
    places = batch.places
    places.update(dict.fromkeys(unknowns, FIRST))
    for node in upstream(wanted, set(unknowns)):
        operands = [None if value is None else places.get(value) for value in node.inputs]
        touched = [index for index, state in enumerate(operands) if state is not None]
        if not touched or (node.op_type in _SHAPES and _domain(node) == ""):
            continue
        state: State = UNDECIDED
        rule = RULES.get((_domain(node), node.op_type))
        if rule is not None and not any(isinstance(operands[index], Undecided) for index in touched):
            try:
                state = rule(NodeView(node, touched[0], opset), operands)
            except Mixes as how:
                if all(blocker.node != node.name for blocker in batch.blockers):
                    batch.blockers.append(mixed(node, str(how), name))
        places.update(dict.fromkeys(node.outputs, state))
    for value in wanted:
        where = places.get(value)
        if isinstance(where, Undecided):
            batch.undecided.append(value)
        elif isinstance(where, Place) and not batch.rows(value) and not batch.blockers:
            batch.blockers.append(misplaced(value, f"they lie along axis {where.axis}, {_share(where)}", name))
    if batch.blockers:
        batch.undecided = []
    return batch


def joined(batch: Batch, others: Sequence[Blocker]) -> list[Blocker]:
    """What mixes samples, then what else is in the way; each node once."""
    names = {blocker.node for blocker in batch.blockers}
    return [*batch.blockers, *dict.fromkeys(blocker for blocker in others if blocker.node not in names)]


def mixed(node: ir.Node, how: str, name: str) -> Blocker:
    """The refusal of a node that mixes samples."""
    return Blocker(
        node.name or "",
        node.op_type,
        f"it mixes the samples of a batch: {how}; what comes out for one sample depends on the others",
        f"give {name!r} a fixed size with --shape: the batch is then one sample",
    )


def misplaced(value: ir.Value, where: str, name: str) -> Blocker:
    """The refusal of a wanted tensor whose first axis does not count samples."""
    node = value.producer()
    return Blocker(
        (node.name if node is not None else value.name) or "",
        node.op_type if node is not None else "tensor",
        f"the samples cannot be told apart along the first axis of {value.name!r}: {where}",
        f"give {name!r} a fixed size with --shape, or cut the model before it",
    )


def _share(place: Place) -> str:
    rows = place.outer * place.inner
    return f"{rows} entries for each" if rows > 1 else "one entry for each"


def _first_symbol(value: ir.Value) -> str | None:
    """The symbol of the first axis; None where it has a fixed size: all of it is one sample then."""
    dims = list(value.shape or ())
    if not dims or isinstance(dims[0], int):
        return None
    return dims[0].value or "N"


def _domain(node: ir.Node) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


_SHAPES = frozenset({"Shape", "Size"})
"""What comes of a tensor's shape alone."""
