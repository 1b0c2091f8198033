"""What is known of the tensors of a model, element by element, and what follows from that alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.concrete import Concrete
from onnx_invert.plan.elements import Elements, Mask, Pool, Shape
from onnx_invert.plan.lines import Lines
from onnx_invert.plan.placing import carried
from onnx_invert.plan.relation import Relation
from onnx_invert.plan.steps import Edge
from onnx_invert.rules.dependence import ELEMENTWISE, flow, places, switched_off
from onnx_invert.rules.joining import SEVERAL
from onnx_invert.rules.moving import Labels
from onnx_invert.rules.static import UnsizedError, constant

_JOINS = ELEMENTWISE - {"Mul", "Where"}
"""Operations that need something of every operand, whatever the constants are."""

_CARRIES = frozenset({"Gather", "Slice", "Split", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand"})
"""Operations all of whose output comes from their first operand."""


def _every_one(mask: Mask) -> Mask:
    """Whether all of a row are known."""
    return np.asarray(np.all(mask, -1, keepdims=True))


@dataclass
class Knowledge:
    """What is known so far. `known` has the elements that are, for every tensor that is not known altogether.

    `nodes` are the equations in running order. `frozen` operands are taken for known, `unknowns` are the tensors that
    are not known to begin with, `zeros` the elements that a constant makes 0 whatever the unknown is. `used` are the
    equations, elements of outputs, that gave something. All sets have the sizes of `concrete`; a tensor may be known
    in part only if the part is the same along every axis whose size is not fixed.
    """

    concrete: Concrete
    nodes: Sequence[ir.Node]
    known: dict[ir.Value, Elements] = field(default_factory=dict)
    frozen: frozenset[Edge] = frozenset()
    unknowns: frozenset[ir.Value] = frozenset()
    used: dict[ir.Value, Elements] = field(default_factory=dict)
    zeros: dict[ir.Value, Elements] = field(default_factory=dict)
    _free: dict[ir.Value, tuple[int, ...]] = field(default_factory=dict)
    _relations: dict[ir.Node, Relation] = field(default_factory=dict)
    _around: dict[ir.Value, tuple[int, ...]] = field(default_factory=dict)
    _places: dict[Edge, list[Labels] | None] = field(default_factory=dict)
    _lines: dict[Edge, Lines | None] = field(default_factory=dict)

    def start(self, unknown: Iterable[ir.Value]) -> None:
        """Nothing is known of `unknown`, nor of what the nodes make."""
        shapes, nothing = self.concrete.shapes, self.pool.none
        for value in (*unknown, *(output for node in self.nodes for output in node.outputs)):
            self.known[value] = nothing(shapes.get(value.name or "", ()))
        self.unknowns = frozenset(self.known)
        for node in self.nodes:
            zero = self._zero(node)
            if zero is not None and zero.any():
                self.zeros[node.outputs[0]] = self.pool.of(zero)

    @property
    def pool(self) -> Pool:
        """The sets of elements."""
        return self.concrete.pool

    @cached_property
    def end(self) -> int:
        """Behind the last node of which an operand may still be unknown."""
        return len(self.nodes)

    @cached_property
    def position(self) -> dict[ir.Node | None, int]:
        """Where each node stands in the running order."""
        return {node: index for index, node in enumerate(self.nodes)}

    def relation(self, node: ir.Node) -> Relation:
        """What of a node bears on what follows through it; `frozen` stands by the time that it is asked for."""
        found = self._relations.get(node)
        if found is None:
            found = self._relations[node] = Relation.of(node, self.concrete, self.frozen)
        return found

    def around(self, value: ir.Value) -> tuple[int, ...]:
        """The positions of the nodes that make or take a tensor, each once."""
        found = self._around.get(value)
        if found is None:
            position = self.position
            maker = value.producer()
            places = [] if maker not in position else [position[maker]]
            places += [position[user] for user, _ in value.uses() if user in position]
            found = self._around[value] = tuple(places if len(places) < 2 else dict.fromkeys(places))
        return found

    def mask(self, value: ir.Value) -> Mask | None:
        """Which elements are known; None for all."""
        state = self.known.get(value)
        return None if state is None else state.mask

    def learn(self, value: ir.Value, found: Elements) -> None:
        """Take elements for known."""
        merged = self.known[value] | found
        if merged.full:
            del self.known[value]
        else:
            self.known[value] = merged

    def is_known(self, value: ir.Value) -> bool:
        """Whether all elements are."""
        return value not in self.known

    def free(self, value: ir.Value, rank: int) -> tuple[int, ...]:
        """The axes whose sizes are not fixed; any may be one if the rank is not known."""
        found = self._free.get(value)
        if found is None:
            dims = () if value.shape is None else value.shape.dims
            named = tuple([axis for axis, dim in enumerate(dims) if not isinstance(dim, int)])
            found = self._free[value] = named if len(dims) == rank else tuple(range(rank))
        return found

    def uniform(self, value: ir.Value, elements: Elements) -> bool:
        """Whether elements are the same along every axis whose size is not fixed."""
        return elements.full or elements.uniform(self.free(value, len(elements.shape)))

    def labels(self, node: ir.Node, of: Callable[[ir.Value], Labels | None]) -> list[Labels]:
        """Labels of a node's outputs from those of its operands.

        Raises:
            UnsizedError: an output's size is not known.
        """
        twin = self.concrete.nodes.get(node.name or "")
        if twin is None:
            return [np.zeros(self.concrete.shapes.get(o.name or "", ()), np.int64) for o in node.outputs]
        for value in node.inputs:
            if value in self.unknowns and (value.name or "") not in self.concrete.shapes:
                raise UnsizedError(value.name)
        frozen = self.frozen
        parts = [
            None if value is None or (frozen and (node, place) in frozen) else of(value)
            for place, value in enumerate(node.inputs)
        ]
        made = flow(twin, parts)
        zero = self.zeros.get(node.outputs[0])
        return made if zero is None else [np.where(zero.mask, 0, made[0]), *made[1:]]

    def redundant(self) -> list[ir.Node]:
        """The equations that were not needed, once everything is known: they hold for some y only."""
        left = []
        for node in self.nodes:
            for output in node.outputs:
                used = self.used.get(output)
                if (output.uses() or output.is_graph_output()) and (used is None or not used.full):
                    left.append(node)
                    break
        return left

    def taken(self, node: ir.Node, place: int) -> bool:
        """Whether an operand is known, or taken for known."""
        value = node.inputs[place]
        return value is None or (node, place) in self.frozen or self.is_known(value)

    def ignorance(self, value: ir.Value) -> Labels | None:
        """Labels that are not 0 where elements are not known; None where all are."""
        mask = self.mask(value)
        return None if mask is None else np.multiply(~mask, SEVERAL, dtype=np.int64)

    def sources(self, relation: Relation, place: int) -> list[Labels] | None:
        """Where each element of an operand goes, as `places` tells, if the node moves elements."""
        edge = (relation.node, place)
        if edge not in self._places:
            told = ("sources", place)
            self._places[edge] = self.concrete.alike(relation.kind, told, partial(self._sources, relation, place))
        return self._places[edge]

    def lines(self, relation: Relation, place: int, sources: Sequence[Labels], shape: Shape) -> Lines | None:
        """The same of an operand of `shape`, where elements go along one axis alone."""
        edge = (relation.node, place)
        if edge not in self._lines:
            read = partial(Lines.of, relation.node, place, sources, shape)
            self._lines[edge] = self.concrete.alike(relation.kind, ("lines", place), read)
        return self._lines[edge]

    def _sources(self, relation: Relation, place: int) -> list[Labels] | None:
        node = relation.node
        twin = self.concrete.nodes.get(node.name or "")
        shape = self.concrete.shapes.get((node.inputs[place] or node.outputs[0]).name or "")
        try:
            found = None if twin is None or shape is None else places(twin, place, shape)
        except UnsizedError:
            return None
        # What follows from an operand that only tells a size is none of its elements.
        return None if found is None else [np.maximum(labels, 0) for labels in found]

    def follows(self, relation: Relation, states: Sequence[Elements | None]) -> list[Elements]:
        """Which elements of a node's outputs follow from what `states` say of its open operands (None: all is known).

        Raises:
            UnsizedError: an output's size is not known.
        """
        pool, zero = self.pool, self.zeros.get(relation.outputs[0])
        if relation.joining or relation.summing:
            zeros = [part for part in (relation.zero, zero) if part is not None]
            shape = self.concrete.shapes[relation.outputs[0].name or ""]
            parts = [state for state in states if state is not None]
            if len(parts) == 1 and not zeros and parts[0].shape == shape and relation.joining:
                return parts
            return [pool.met(parts, shape, zeros, _every_one if relation.summing else None)]
        if relation.carrying and zero is None:
            found = self.concrete.alike(
                relation.kind, ("carried", *states), partial(self._carried_on, relation, states)
            )
            if found is not None:
                return found
        return [pool.of(labels == 0) for labels in self.labels(relation.node, self.ignorance)]

    def _carried_on(self, relation: Relation, states: Sequence[Elements | None]) -> list[Elements] | None:
        found: list[Elements] | None = None
        for (place, _), state in zip(relation.open, states, strict=True):
            if state is None:
                continue
            sources = self.sources(relation, place)
            if sources is None:
                return None
            lines = self.lines(relation, place, sources, state.shape)
            parts = carried(self.pool, sources, state) if lines is None else lines.carried(self.pool, state)
            found = parts if found is None else [one & other for one, other in zip(found, parts, strict=True)]
        return found

    def use(self, output: ir.Value, elements: Elements) -> None:
        """Mark equations, elements of an output, as used."""
        before = self.used.get(output)
        self.used[output] = elements if before is None else before | elements

    def settled(self, node: ir.Node) -> bool:
        """Whether all that a node takes and makes is known."""
        return self.known.keys().isdisjoint(self.relation(node).tensors)

    def hopeless(self, relation: Relation, states: Sequence[Elements | None]) -> bool:
        """Whether plainly nothing of a node's output is known: of an operand nothing is, and no 0 takes its place.

        `states` say what is known of its open operands.
        """
        for (place, _), state in zip(relation.open, states, strict=True):
            if state is not None and state.none:
                if relation.needs is None:
                    relation.needs = self._needed(relation.node)
                if place in relation.needs:
                    return True
        return False

    def _needed(self, node: ir.Node) -> tuple[int, ...]:
        """The operands without which nothing of a node's output is known."""
        op, every = node.op_type, tuple(range(len(node.inputs)))
        if self.zeros.get(node.outputs[0]) is not None or node.domain not in {"", "ai.onnx"}:
            return ()
        if op in _JOINS:
            return every
        if op in _CARRIES:
            return every[:1]
        if op not in {"Mul", "MatMul", "Gemm"}:
            return ()
        twin = self.concrete.bare(node) or node
        constants = [constant(twin, place) for place in every]
        if op == "Mul":
            zero = any(array is not None and np.count_nonzero(array) < array.size for array in constants)
            return () if zero else every
        # A row or a column of zeros leaves an element of the product that follows from nothing.
        full = all(
            array is None
            or np.count_nonzero(array) == array.size
            or (np.any(array, 0).all() and np.any(array, -1).all())
            for array in constants[:2]
        )
        return every[:2] if full else ()

    def _zero(self, node: ir.Node) -> Mask | None:
        """The elements of a product that a constant 0 makes 0, whatever the unknown is."""
        op, shape = node.op_type, self.concrete.shapes.get(node.outputs[0].name or "")
        if shape is None or op not in {"Mul", "Add", "Sub", "Identity", "Neg"} or None in node.inputs:
            return None
        parts = []
        for value in node.inputs:
            if value is None:
                continue
            constant = value.const_value
            zero = self.zeros.get(value)
            part = constant.numpy() == 0 if constant is not None else None if zero is None else zero.mask
            if part is not None and np.count_nonzero(part):
                parts.append(np.broadcast_to(part, shape))
            elif op != "Mul":
                return None
        if not parts or switched_off(node):
            return None
        together = np.logical_or if op == "Mul" else np.logical_and
        return np.asarray(together.reduce(parts), bool)
