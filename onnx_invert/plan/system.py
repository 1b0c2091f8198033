"""The equations between the recovered inputs and the known outputs, at sizes that are all known.

A tensor may be known in some of its elements. Knowledge spreads through the nodes in both directions, element by
element: a node whose operands are known runs forwards; one that moves elements is undone where its outputs are
known; one whose rule solves for an operand is undone where its output and its other operands are. Every equation
(an element of a node's output) is used once; one that is left over when everything is known is redundant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.concrete import Concrete
from onnx_invert.plan.elements import Elements
from onnx_invert.plan.knowledge import Knowledge
from onnx_invert.plan.moves import Form, Whole
from onnx_invert.plan.placing import Placing, placing, reading
from onnx_invert.plan.relation import Relation
from onnx_invert.plan.stages import Stage, measure
from onnx_invert.plan.steps import Edge, Forward, Place, Step, Undo
from onnx_invert.rules import RuleSet
from onnx_invert.rules.arithmetic import by_mask
from onnx_invert.rules.facts import Diagonal, Elementwise, Fact, Matrix, NoInverse, Paired, Repeat
from onnx_invert.rules.moving import Labels
from onnx_invert.rules.node import FLOATS, NodeView
from onnx_invert.rules.static import UnsizedError
from onnx_invert.sizes import is_told

POOR = 10.0
"""The condition number from which on a matrix is undone only when nothing else is left: it costs a digit."""


@dataclass(kw_only=True)
class System(Knowledge):
    """Equations, what is known so far, and the `steps` that found it.

    `square` says that there are as many equations as unknowns: then all of them are needed, in whatever order.
    `told` are the symbolic sizes that the inverse reads from its inputs.
    `refused` says of operands why their node is not undone for them, `blocked` of known tensors why the block before
    them was not solved. Of those in `folded` it was found that several unknowns make one of them.
    """

    rules: RuleSet
    opset: int
    square: bool = False
    told: frozenset[str] = frozenset()
    steps: list[Step] = field(default_factory=list)
    refused: dict[Edge, NoInverse] = field(default_factory=dict)
    blocked: dict[ir.Value, NoInverse] = field(default_factory=dict)
    folded: set[ir.Value] = field(default_factory=set)
    _stages: dict[Edge, tuple[Stage, ...] | None] = field(default_factory=dict)
    _late: dict[Edge, float] = field(default_factory=dict)

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

        Behind it comes first what is nearest to the outputs, in a `square` system: what runs forwards from a half of a
        tensor, and gives the other half, is done before the half is carried on towards the inputs. Where there are
        more equations than unknowns, those that come first find a tensor, and the others are left over: the order
        decides which, so that it is the order in which tensors grew, by which the fewest steps find a tensor.
        """
        if grown is None:
            self._late.clear()
        if grown is None:
            ahead = [index for index, node in enumerate(self.nodes) if self._promises(node)]
        else:
            ahead = sorted(self.around(grown))
        behind: list[tuple[int, int]] = []
        turn = count()
        queued = set(ahead)
        targets = list(wanted)
        while ahead or behind or self._late:
            if targets and all(self.is_known(value) for value in targets):
                return
            passing = bool(ahead)
            if ahead or behind:
                index = heappop(ahead) if passing else heappop(behind)[1]
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
                        heappush(behind, (-neighbour if self.square else next(turn), neighbour))

    def _undo_late(self) -> list[ir.Value]:
        """The matrix of the least condition among those that wait, undone; the operand that is known then."""
        node, place = min(self._late, key=self._late.__getitem__)
        condition = self._late.pop((node, place))
        value = node.inputs[place]
        if value is None or self.is_known(value):
            return []
        return [value] if self._undo(self.relation(node), place, value, poor=condition) else []

    def _promises(self, node: ir.Node) -> bool:
        """Whether anything may follow through a node: something of its outputs is known, or enough of its operands."""
        relation, known = self.relation(node), self.known
        if _nothing([known.get(output) for output in relation.outputs]):
            return not self.hopeless(relation, [known.get(value) for _, value in relation.open])
        return True

    def _try(self, node: ir.Node) -> list[ir.Value]:
        """Every step that a node allows now; the tensors of which more is known then."""
        relation, known = self.relation(node), self.known
        if relation.drawn:
            return []
        made = [known.get(output) for output in relation.outputs]
        states = [known.get(value) for _, value in relation.open]
        grown: list[ir.Value] = []
        # If of its operands no more is known than when it was run last, nothing more follows forwards.
        if states != relation.ran and made.count(None) < len(made) and not self.hopeless(relation, states):
            relation.ran = states
            grown = self._forward(relation, made, states)
            if grown:
                made = [known.get(output) for output in relation.outputs]
        if states.count(None) == len(states) or _nothing(made):
            return grown
        for place, value in relation.open:
            if value in known:
                taken = relation.moves and self._place(relation, place, value)
                if taken or self._undo(relation, place, value):
                    grown.append(value)
        return grown

    def _forward(
        self, relation: Relation, before: Sequence[Elements | None], states: Sequence[Elements | None]
    ) -> list[ir.Value]:
        """What a node makes of the `states` of its operands, where `before` was known."""
        made: list[Elements] | None = None
        if states.count(None) < len(states):
            try:
                made = self.follows(relation, states)
            except UnsizedError:
                return []
        grown = []
        after = []
        for number, (output, old) in enumerate(zip(relation.outputs, before, strict=True)):
            told = self.pool.all(()) if made is None else made[number]
            if old is None:
                after.append(told)
                continue
            if told.shape != old.shape:
                # Of another shape it says that all is known, or nothing of its elements.
                told = self.pool.all(old.shape) if told.full else self.pool.none(old.shape)
            after.append(told)
            new = told if old.none else told - old
            if not new.none and (told.full or (relation.apart and self.uniform(output, told))):
                grown.append((output, new))
        if not grown:
            return []
        forms = self._read(relation, after) if relation.moves else None
        for output, new in grown:
            self.use(output, new)
            self.learn(output, new)
        self.steps.append(Forward(relation.node, tuple([state.mask for state in after]), forms))
        return [output for output, _ in grown]

    def _read(self, relation: Relation, made: Sequence[Elements]) -> dict[int, list[Form]] | None:
        """Where the elements of the outputs lie in the operands, if that says all of what is known of them."""
        node = relation.node
        known = [
            None if value is None or self.taken(node, place) else self.known[value]
            for place, value in enumerate(node.inputs)
        ]
        return self.concrete.alike(relation.kind, ("read", *made, *known), partial(self._forms, relation, made, known))

    def _forms(
        self, relation: Relation, made: Sequence[Elements], known: Sequence[Elements | None]
    ) -> dict[int, list[Form]] | None:
        found: dict[int, tuple[Sequence[Labels], Sequence[int]]] = {}
        for place, value in enumerate(relation.node.inputs):
            if value is not None and value.const_value is None:
                sources = self.sources(relation, place)
                shape = self.concrete.shapes.get(value.name or "")
                if sources is not None and shape is not None:
                    found[place] = sources, shape
        return reading(relation.node, found, made, known)

    def _place(self, relation: Relation, place: int, value: ir.Value) -> bool:
        """Bring elements of the outputs back to where they were in an operand of a node that moves them."""
        node, known = relation.node, self.known
        before = known[value]
        states = [before, *map(known.get, relation.outputs)]
        if states == relation.placed.get(place):
            return False  # no more is known of what it makes than when it was tried last
        relation.placed[place] = states
        found = self.concrete.alike(
            relation.kind, ("placed", place, *states), partial(self._placing, relation, place, value, states)
        )
        if found is None:
            return False
        stages: tuple[Stage, ...] | None = ()
        if Whole() in found.forms and not self._sized(node, value):
            stages = self._facts(node, place)
        if stages is None:
            return False
        for output, hit in zip(relation.outputs, found.hits, strict=True):
            self.use(output, hit)
        self.steps.append(Place(node, place, found.forms, found.new.mask, stages))
        self.learn(value, found.new)
        return True

    def _placing(
        self, relation: Relation, place: int, value: ir.Value, states: Sequence[Elements | None]
    ) -> Placing | None:
        sources, before = self.sources(relation, place), states[0]
        if sources is None or before is None:
            return None
        lines = self.lines(relation, place, sources, before.shape)
        if lines is not None:
            return lines.placing(self.pool, before, states[1:])
        free = self.free(value, len(before.shape))
        return placing(self.pool, relation.node, place, sources, before, states[1:], free)

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
        y, before = known.get(output), known[value]
        if value in relation.repeated or (y is not None and (y.none or y.shape != before.shape)):
            return False
        others = [state for at, other in relation.open if at != place and (state := known.get(other)) is not None]
        if not relation.elementwise and (others or y is not None or not before.none):
            return False
        if any(other.none for other in others):
            return False
        stages = self._facts(node, place)
        if stages is None:
            return False
        new = self.pool.all(before.shape) - before
        if y is not None or others or any(isinstance(s.fact, Diagonal) and s.lost for s in stages):
            if any(isinstance(stage.fact, Matrix | Repeat) for stage in stages):
                return False
            try:
                for state in others if y is None else (y, *others):
                    new &= self.pool.fitted(state, before.shape)
            except ValueError:
                return False
            for stage in stages:
                if isinstance(stage.fact, Diagonal) and stage.lost:
                    new &= self.pool.fitted(self.pool.of(stage.fact.scale != 0), before.shape)
        for at, other in enumerate(node.inputs if self.zeros else ()):
            if at != place and other in self.zeros and node.op_type not in {"Add", "Sub"}:
                new -= self.pool.fitted(self.zeros[other], before.shape)
        if new.none or not self.uniform(value, new):
            return False
        condition = max((stage.condition for stage in stages if isinstance(stage.fact, Matrix)), default=1.0)
        if condition > poor:
            self._late[node, place] = condition
            return False
        shape = self.concrete.shapes.get(output.name or "", before.shape)
        self.use(output, new if shape == before.shape else self.pool.all(shape))
        self.steps.append(Undo(node, place, stages, new.mask))
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


def _nothing(states: Sequence[Elements | None]) -> bool:
    """Whether nothing is known of any."""
    return not any(state is None or not state.none for state in states)


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
