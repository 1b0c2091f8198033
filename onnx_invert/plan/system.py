"""The equations between the recovered inputs and the known outputs, at sizes that are all known.

A tensor may be known in some of its elements. Knowledge spreads through the nodes in both directions, element by
element: a node whose operands are known runs forwards; one that moves elements is undone where its outputs are
known; one whose rule solves for an operand is undone where its output and its other operands are. Every equation
(an element of a node's output) is used once; one that is left over when everything is known is redundant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from operator import is_

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.concrete import Concrete
from onnx_invert.plan.knowledge import Knowledge, bits
from onnx_invert.plan.moves import Form, InPlace, Pick, Turned, Whole, forms_of, numbered
from onnx_invert.plan.relation import Relation
from onnx_invert.plan.stages import Stage, measure
from onnx_invert.plan.steps import Edge, Forward, Mask, Place, Step, Undo
from onnx_invert.rules import RuleSet
from onnx_invert.rules.arithmetic import by_mask
from onnx_invert.rules.facts import Diagonal, Elementwise, Fact, Matrix, NoInverse, Paired, Repeat
from onnx_invert.rules.moving import Labels
from onnx_invert.rules.node import FLOATS, NodeView
from onnx_invert.rules.static import UnsizedError
from onnx_invert.sizes import is_told

_ALL = np.ones((), bool)
"""The mask of what is known altogether, whatever its size."""

POOR = 10.0
"""The condition number from which on a matrix is undone only when nothing else is left: it costs a digit."""


@dataclass(kw_only=True)
class System(Knowledge):
    """Equations, what is known so far, and the `steps` that found it.

    `told` are the symbolic sizes that the inverse reads from its inputs.
    `refused` says of operands why their node is not undone for them, `blocked` of known tensors why the block before
    them was not solved. Of those in `folded` it was found that several unknowns make one of them.
    """

    rules: RuleSet
    opset: int
    told: frozenset[str] = frozenset()
    steps: list[Step] = field(default_factory=list)
    refused: dict[Edge, NoInverse] = field(default_factory=dict)
    blocked: dict[ir.Value, NoInverse] = field(default_factory=dict)
    folded: set[ir.Value] = field(default_factory=set)
    _stages: dict[Edge, tuple[Stage, ...] | None] = field(default_factory=dict)
    _late: dict[Edge, float] = field(default_factory=dict)
    _carried: dict[ir.Node, list[Mask | None]] = field(default_factory=dict)
    _placed: dict[Edge, list[Mask | None]] = field(default_factory=dict)

    @staticmethod
    def between(
        concrete: Concrete,
        rules: RuleSet,
        opset: int,
        nodes: Sequence[ir.Node],
        unknown: Iterable[ir.Value],
        told: frozenset[str] = frozenset(),
    ) -> System:
        """Equations of `nodes`, of which their outputs and `unknown` are not known yet."""
        system = System(concrete=concrete, rules=rules, opset=opset, nodes=nodes, told=told)
        system.start(unknown)
        return system

    def run(self, wanted: Iterable[ir.Value] = (), grown: ir.Value | None = None) -> None:
        """Spread what is known until nothing more follows. Each node is tried when one of its tensors has grown.

        At first all of them are; where nothing but `grown` has grown since the last time, its neighbours are. A first
        pass goes through the nodes in running order, so that what a block found runs forwards before the block's own
        equations are looked at again. A matrix of poor condition waits until nothing else follows: what it would tell
        may be told better elsewhere.

        Where there are more equations than unknowns, those that come first in this order find a tensor, and the others
        are left over: the order decides which.
        """
        if grown is None:
            self._late.clear()
        ahead = list(range(len(self.nodes))) if grown is None else sorted(self.around(grown))
        behind = deque[int]()
        queued = set(ahead)
        targets = list(wanted)
        while ahead or behind or self._late:
            if targets and all(self.is_known(value) for value in targets):
                return
            passing = bool(ahead)
            if ahead or behind:
                index = heappop(ahead) if passing else behind.popleft()
                queued.discard(index)
                found = self._try(self.nodes[index])
            else:
                index, found = 0, self._undo_late()
            for value in found:
                for neighbour in self.around(value):
                    if neighbour in queued or self.settled(self.nodes[neighbour]):
                        continue
                    queued.add(neighbour)
                    if passing and neighbour > index:
                        heappush(ahead, neighbour)
                    else:
                        behind.append(neighbour)

    def _undo_late(self) -> list[ir.Value]:
        """The matrix of the least condition among those that wait, undone; the operand that is known then."""
        node, place = min(self._late, key=self._late.__getitem__)
        condition = self._late.pop((node, place))
        value = node.inputs[place]
        if value is None or self.is_known(value):
            return []
        return [value] if self._undo(self.relation(node), place, value, poor=condition) else []

    def _try(self, node: ir.Node) -> list[ir.Value]:
        """Every step that a node allows now; the tensors of which more is known then."""
        relation = self.relation(node)
        if relation.drawn:
            return []
        grown = self._forward(relation)
        if self.blank.issuperset(relation.outputs):
            return grown
        known = self.known
        for place, value in relation.open:
            if value in known and (self._place(relation, place, value) or self._undo(relation, place, value)):
                grown.append(value)
        return grown

    def _forward(self, relation: Relation) -> list[ir.Value]:
        known = self.known
        if known.keys().isdisjoint(relation.outputs):
            return []
        masks_in = [known.get(value) for _, value in relation.open]
        node = relation.node
        last = self._carried.get(node)
        if last is not None and all(map(is_, masks_in, last)):
            return []  # of its operands no more is known than when it was tried last
        if self.hopeless(relation):
            return []
        self._carried[node] = masks_in
        if all(mask is None for mask in masks_in):
            made = [_ALL] * len(relation.outputs)
        else:
            try:
                made = self.follows(relation, masks_in)
            except UnsizedError:
                return []
        grown = []
        masks = []
        for output, told in zip(relation.outputs, made, strict=True):
            before = known.get(output)
            if before is None:
                masks.append(told)
                continue
            # Of another shape it says that all is known, or nothing of its elements.
            mask = told if told.shape == before.shape else np.full(before.shape, bool(told.all()))
            masks.append(mask)
            new = mask if output in self.blank else mask & ~before
            if not np.count_nonzero(new):
                continue
            if told is _ALL or np.count_nonzero(mask) == mask.size or (relation.apart and self.uniform(output, mask)):
                grown.append((output, new))
        if not grown:
            return []
        forms = self._read(relation, masks) if relation.moves else None
        for output, new in grown:
            self.use(output, new)
            self.learn(output, new)
        self.steps.append(Forward(node, tuple(masks), forms))
        return [output for output, _ in grown]

    def _read(self, relation: Relation, masks: Sequence[Mask]) -> dict[int, list[Form]] | None:
        """Where the elements of the outputs lie in the operands, if that says all of what is known of them."""
        node = relation.node
        known = [
            None if value is None or self.taken(node, place) else self.mask(value)
            for place, value in enumerate(node.inputs)
        ]
        told = ("read", *map(bits, masks), *map(bits, known))
        return self.concrete.alike(relation.kind, told, partial(self._forms, relation, masks, known))

    def _forms(
        self, relation: Relation, masks: Sequence[Mask], known: Sequence[Mask | None]
    ) -> dict[int, list[Form]] | None:
        node = relation.node
        forms: dict[int, list[Form]] = {}
        covered = [np.zeros(mask.shape, bool) for mask in masks]
        for place, value in enumerate(node.inputs):
            if value is None or value.const_value is not None:
                continue
            sources = self.sources(relation, place)
            shape = self.concrete.shapes.get(value.name or "")
            if sources is None or shape is None:
                continue
            mask = known[place]
            seen = sources if mask is None else [np.where(numbered(mask)[source], source, 0) for source in sources]
            found = forms_of(node, place, seen, shape, once=False)
            if found is None or not all(isinstance(form, Turned | Pick | InPlace) for form in found):
                return None
            forms[place] = found
            covered = [cover | (source > 0) for cover, source in zip(covered, sources, strict=True)]
        return forms if all(np.all(cover >= mask) for cover, mask in zip(covered, masks, strict=True)) else None

    def _place(self, relation: Relation, place: int, value: ir.Value) -> bool:
        if not relation.moves:
            return False
        node, known = relation.node, self.known
        last = self._placed.get((node, place))
        before = known[value]
        masks = [known.get(output) for output in relation.outputs]
        if last is not None and before is last[0] and all(map(is_, masks, last[1:])):
            return False  # no more is known of what it makes than when it was tried last
        self._placed[node, place] = [before, *masks]
        told = ("placed", place, bits(before), *map(bits, masks))
        found = self.concrete.alike(relation.kind, told, partial(self._placing, relation, place, before, masks))
        if found is None:
            return False
        new, forms, hits = found
        stages: tuple[Stage, ...] | None = ()
        if Whole() in forms and not self._sized(node, value):
            stages = self._facts(node, place)
        if stages is None:
            return False
        for output, hit in zip(relation.outputs, hits, strict=True):
            self.use(output, hit)
        self.steps.append(Place(node, place, forms, new, stages))
        self.learn(value, new)
        return True

    def _placing(
        self, relation: Relation, place: int, before: Mask, masks: Sequence[Mask | None]
    ) -> tuple[Mask, tuple[Form, ...], list[Mask]] | None:
        """What comes back to an operand of which `before` is known, how, and which elements of the outputs tell it."""
        node, sources, value = relation.node, self.sources(relation, place), relation.node.inputs[place]
        if sources is None or value is None:
            return None
        found = np.zeros(before.size + 1, bool)
        for source, mask in zip(sources, masks, strict=True):
            found[source.reshape(-1) if mask is None else source[mask]] = True
        new = found[1:].reshape(before.shape) & ~before
        count = np.count_nonzero(new)
        if not count or not self.uniform(value, new):
            return None
        fresh = numbered(new)
        hits = [fresh[s] if mask is None else fresh[s] & mask for s, mask in zip(sources, masks, strict=True)]
        seen = [np.where(hit, source, 0) for source, hit in zip(sources, hits, strict=True)]
        forms = forms_of(node, place, seen, before.shape, once=True)
        if forms is None:
            return None
        if sum(map(np.count_nonzero, hits)) != count:
            hits = _once(seen, fresh)
        return new, tuple(forms), hits

    def _sized(self, node: ir.Node, x: ir.Value) -> bool:
        """Whether a tensor that was reshaped gets its shape back from sizes that inputs of the inverse tell: several,
        which its own numbers do not tell apart, or not where they are none."""
        if node.op_type not in {"Reshape", "Flatten"} or x.shape is None:
            return False
        names = [str(dim.value) for dim in x.shape if not isinstance(dim, int)]
        return len(names) > 1 and all(is_told(name, self.told) for name in names)

    def _undo(self, relation: Relation, place: int, value: ir.Value, poor: float = POOR) -> bool:
        """Solve a node for an operand; not yet where a matrix has a condition above `poor`."""
        node, output, known = relation.node, relation.outputs[0], self.known
        y = known.get(output)
        if (y is not None and output in self.blank) or value in relation.repeated:
            return False
        others = [(at, other) for at, other in relation.open if at != place and other in known]
        before = known[value]
        if not relation.elementwise and (others or y is not None or np.count_nonzero(before)):
            return False
        if y is not None and y.shape != before.shape:
            return False
        stages = self._facts(node, place)
        if stages is None or any(other in self.blank for _, other in others):
            return False
        new = ~before
        if y is not None or others or any(isinstance(s.fact, Diagonal) and s.lost for s in stages):
            if any(isinstance(stage.fact, Matrix | Repeat) for stage in stages):
                return False
            for mask in (y, *(self.mask(other) for _, other in others)):
                if mask is not None:
                    try:
                        new = new & (mask if mask.shape == before.shape else np.broadcast_to(mask, before.shape))
                    except ValueError:
                        return False
            for stage in stages:
                if isinstance(stage.fact, Diagonal):
                    new = new & np.broadcast_to(stage.fact.scale != 0, before.shape)
        for at, other in enumerate(node.inputs if self.zeros else ()):
            if at != place and other in self.zeros and node.op_type not in {"Add", "Sub"}:
                new = new & ~np.broadcast_to(self.zeros[other], before.shape)
        if not np.count_nonzero(new) or not self.uniform(value, new):
            return False
        condition = max((stage.condition for stage in stages if isinstance(stage.fact, Matrix)), default=1.0)
        if condition > poor:
            self._late[node, place] = condition
            return False
        shape = self.concrete.shapes.get(output.name or "", before.shape)
        self.use(output, new if shape == before.shape else np.ones(shape, bool))
        self.steps.append(Undo(node, place, stages, new))
        self.learn(value, new)
        return True

    def _safe(self, node: ir.Node, fact: Fact) -> Fact:
        """A product with a given mask, undone where the mask is not 0; elsewhere x comes back as 0."""
        if not isinstance(fact, Paired) or node.op_type != "Mul":
            return fact
        other = node.inputs[fact.other]
        if other is None or other in self.unknowns:
            return fact
        return by_mask(fact, other.name or "")

    def _facts(self, node: ir.Node, place: int) -> tuple[Stage, ...] | None:
        """What undoes a node for an operand, if it gives one x and no other; measured once."""
        edge = (node, place)
        if edge in self._stages:
            return self._stages[edge]
        self._stages[edge] = None
        value = node.inputs[place]
        if value is None or (value.dtype is not None and value.dtype not in FLOATS):
            return None
        chain = self.rules.apply(NodeView(node, place, self.opset))
        if isinstance(chain, NoInverse):
            self.refused[edge] = chain
            return None
        stages = tuple(Stage(self._safe(node, fact), (node,), place) for fact in chain)
        for stage in stages:
            measure(stage)
            reason = several(stage)
            if reason:
                self.refused[edge] = NoInverse(reason)
                return None
        self._stages[edge] = stages
        return stages


def _once(seen: Sequence[Labels], fresh: Mask) -> list[Mask]:
    """Of an element that is repeated one place is the equation; the others are left over."""
    hits = []
    for source in seen:
        hit = fresh[source]
        numbers = source[hit]
        first = np.zeros(fresh.size, np.int64)
        first[numbers[::-1]] = np.arange(numbers.size)[::-1]
        hit[hit] = first[numbers] == np.arange(numbers.size)
        hits.append(hit)
        fresh[numbers] = False
    return hits


def several(stage: Stage) -> str:
    """Why a stage has more than one x for a y, or nothing. Marks what it is."""
    fact = stage.fact
    match fact:
        case Elementwise():
            stage.branch, inside = fact.branch_for(None)
            stage.onto = stage.branch.image.is_reals
            return "" if inside else "several inputs have the same output, and nothing tells which it was"
        case Matrix():
            k, m = fact.lengths
            stage.onto = stage.rank == m
            return "" if stage.rank == k else f"it maps {k} numbers to {m} with rank {stage.rank}"
        case Repeat():
            stage.onto = fact.count == 1
            lost = fact.weights is not None and not np.all(fact.weights)
            return "it multiplies elements by 0" if lost else ""
        case _:
            return ""
