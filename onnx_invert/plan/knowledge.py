"""What is known of the tensors of a model, element by element, and what follows from that alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.concrete import Concrete
from onnx_invert.plan.steps import Edge, Mask
from onnx_invert.rules.dependence import ELEMENTWISE, SEVERAL, flow, switched_off
from onnx_invert.rules.moving import Labels
from onnx_invert.rules.static import UnsizedError, constant

_JOINS = ELEMENTWISE - {"Mul", "Where"}
"""Operations that need something of every operand, whatever the constants are."""

_CARRIES = frozenset({"Gather", "Slice", "Split", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand"})
"""Operations all of whose output comes from their first operand."""


@dataclass
class Knowledge:
    """What is known so far. `known` has a mask for every tensor that is not known altogether.

    `nodes` are the equations in running order. `frozen` operands are taken for known, `unknowns` are the tensors that
    are not known to begin with, `zeros` the elements that a constant makes 0 whatever the unknown is. `used` are the
    equations, elements of outputs, that gave something. All masks have the sizes of `concrete`; a tensor may be known
    in part only if the part is the same along every axis whose size is not fixed.
    """

    concrete: Concrete
    nodes: Sequence[ir.Node]
    known: dict[ir.Value, Mask] = field(default_factory=dict)
    frozen: frozenset[Edge] = frozenset()
    unknowns: frozenset[ir.Value] = frozenset()
    used: dict[ir.Value, Mask] = field(default_factory=dict)
    zeros: dict[ir.Value, Mask] = field(default_factory=dict)
    blank: set[ir.Value] = field(default_factory=set)
    _needs: dict[ir.Node, tuple[int, ...]] = field(default_factory=dict)
    _free: dict[ir.Value, tuple[int, ...]] = field(default_factory=dict)

    def start(self, unknown: Iterable[ir.Value]) -> None:
        """Nothing is known of `unknown`, nor of what the nodes make."""
        for value in (*unknown, *(output for node in self.nodes for output in node.outputs)):
            shape = self.concrete.shapes.get(value.name or "")
            self.known[value] = np.zeros(shape if shape is not None else (), bool)
        self.unknowns = frozenset(self.known)
        self.blank = {value for value, mask in self.known.items() if not mask.any()}
        for node in self.nodes:
            zero = self._zero(node)
            if zero is not None and zero.any():
                self.zeros[node.outputs[0]] = zero

    @cached_property
    def end(self) -> int:
        """Behind the last node of which an operand may still be unknown."""
        return len(self.nodes)

    @cached_property
    def position(self) -> dict[ir.Node, int]:
        """Where each node stands in the running order."""
        return {node: index for index, node in enumerate(self.nodes)}

    def mask(self, value: ir.Value) -> Mask | None:
        """Which elements are known; None for all."""
        return self.known.get(value)

    def learn(self, value: ir.Value, mask: Mask) -> None:
        """Take elements for known."""
        merged = self.known[value] | mask
        count = np.count_nonzero(merged)
        if count:
            self.blank.discard(value)
        if count == merged.size:
            del self.known[value]
        else:
            self.known[value] = merged

    def is_known(self, value: ir.Value) -> bool:
        """Whether all elements are."""
        return value not in self.known

    def uniform(self, value: ir.Value, mask: Mask) -> bool:
        """Whether a mask is the same along every axis whose size is not fixed; any may be if the rank is not known."""
        free = self._free.get(value)
        if free is None:
            dims = () if value.shape is None else value.shape.dims
            named = tuple(axis for axis, dim in enumerate(dims) if not isinstance(dim, int))
            free = self._free[value] = named if len(dims) == mask.ndim else tuple(range(mask.ndim))
        return not free or all(bool((mask == mask.take([0], axis)).all()) for axis in free)

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
        return made if zero is None else [np.where(zero, 0, made[0]), *made[1:]]

    def redundant(self) -> list[ir.Node]:
        """The equations that were not needed, once everything is known: they hold for some y only."""
        left = []
        for node in self.nodes:
            for output in node.outputs:
                used = self.used.get(output)
                if (output.uses() or output.is_graph_output()) and (used is None or not used.all()):
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

    def use(self, output: ir.Value, mask: Mask) -> None:
        """Mark equations, elements of an output, as used."""
        before = self.used.get(output)
        self.used[output] = mask.copy() if before is None else before | mask

    def settled(self, node: ir.Node) -> bool:
        """Whether all that a node takes and makes is known."""
        known = self.known
        return not any(value in known for value in node.outputs) and not any(value in known for value in node.inputs)

    def hopeless(self, node: ir.Node) -> bool:
        """Whether plainly nothing of a node's output is known: of an operand nothing is, and no 0 takes its place."""
        blank = [
            place
            for place, value in enumerate(node.inputs)
            if value in self.blank and (node, place) not in self.frozen
        ]
        if not blank:
            return False
        if node not in self._needs:
            self._needs[node] = self._needed(node)
        needs = self._needs[node]
        return any(place in needs for place in blank)

    def _needed(self, node: ir.Node) -> tuple[int, ...]:
        """The operands without which nothing of a node's output is known."""
        every = tuple(range(len(node.inputs)))
        twin = self.concrete.nodes.get(node.name or "", node)
        op = node.op_type
        if self.zeros.get(node.outputs[0]) is not None or node.domain not in {"", "ai.onnx"}:
            return ()
        if op in _CARRIES:
            return every[:1]
        constants = [constant(twin, place) for place in every] if op in {"Mul", "MatMul", "Gemm"} else []
        if op == "Mul":
            return () if any(array is not None and np.any(array == 0) for array in constants) else every
        if op in {"MatMul", "Gemm"}:
            # A row or a column of zeros leaves an element of the product that follows from nothing.
            full = all(
                array is None or (np.any(array, 0).all() and np.any(array, -1).all()) for array in constants[:2]
            )
            return every[:2] if full else ()
        return every if op in _JOINS else ()

    def _zero(self, node: ir.Node) -> Mask | None:
        """The elements of a product that a constant 0 makes 0, whatever the unknown is."""
        shape = self.concrete.shapes.get(node.outputs[0].name or "")
        if shape is None or node.op_type not in {"Mul", "Add", "Sub", "Identity", "Neg"} or switched_off(node):
            return None
        parts = []
        for value in node.inputs:
            if value is None:
                return None
            if value.const_value is not None:
                parts.append(np.broadcast_to(value.const_value.numpy() == 0, shape))
            else:
                found = self.zeros.get(value)
                parts.append(np.zeros(shape, bool) if found is None else np.broadcast_to(found, shape))
        together = np.logical_or if node.op_type == "Mul" else np.logical_and
        return np.asarray(together.reduce(parts), bool)
