"""A block on a part of its elements: where those of one axis of x, its lanes, lie in every tensor of the block.

Of a triangular block each sweep finds the elements of one round. Where rounds differ along one axis alone and every
node keeps to the lanes, works element by element, over other axes, or moves them together, the block runs on the
lanes of that round and no others. A lane's place is an axis of outer · D · inner numbers, lane d those at
(i · D + d) · inner + j. Whatever is not followed here leaves the block as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.plan.batch_rules import MEETING, POINTWISE, RULES, Mixes, Place, State
from onnx_invert.plan.concrete import Concrete
from onnx_invert.plan.rounds import Rounds
from onnx_invert.plan.steps import Edge, Root, Step
from onnx_invert.rules.node import NodeView
from onnx_invert.sizes import Size

_ALONE = frozenset(
    (
        *("Gather", "Slice", "Squeeze", "Unsqueeze", "Transpose", "Softmax", "LogSoftmax", "CumSum", "ReduceSum"),
        *("ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
        *("ReduceLogSumExp", "ReduceLogSum", "ArgMax", "ArgMin", "Split"),
    )
)
"""Nodes that take what moves at their first place, and constants at the others."""


Shapes = Sequence[tuple[int, ...] | None]


@dataclass(frozen=True)
class Cut:
    """How the sweeps of a block are cut down to what each of them finds."""

    rounds: Rounds
    lanes: Lanes

    @staticmethod
    def of(
        concrete: Concrete, inner: Sequence[Step], order: NDArray[np.int64], frozen: frozenset[Edge], opset: int
    ) -> Cut | None:
        """`order` is the round of every element, −1 for one that no sweep finds; `inner` must end in a root."""
        last = inner[-1] if inner else None
        rounds = Rounds.of(order, _dims(last.x)) if isinstance(last, Root) else None
        if not isinstance(last, Root) or rounds is None or np.any((order >= 0) & ~last.mask):
            return None
        lanes = Lanes.of(concrete, last, rounds.axis, frozen, opset)
        return None if lanes is None else Cut(rounds, lanes)


@dataclass
class Lanes:
    """Where the lanes are: of what moves with x by tensor, and of what else nodes take, by operand."""

    count: int
    moving: dict[ir.Value, Place]
    taken: dict[Edge, Place] = field(default_factory=dict)
    ahead: set[ir.Node] = field(default_factory=set)
    """Nodes that make an operand in `taken`: they may run on the lanes that are wanted of it, alone."""
    passed: frozenset[ir.Node] = frozenset()
    """Where nodes of which what they make is their second operand (`Root.unseen`)."""

    @staticmethod
    def of(concrete: Concrete, step: Root, axis: int, frozen: frozenset[Edge], opset: int) -> Lanes | None:
        """Those along an axis of x; None if some node is not followed, or y's lanes lie elsewhere."""
        shape = concrete.shapes.get(step.x.name or "")
        if shape is None:
            return None
        found = Lanes(shape[axis], {step.x: Place(axis)}, passed=step.unseen)
        for node in step.nodes:
            if node in step.unseen:
                continue
            at = [(node, place) not in frozen and value in found.moving for place, value in enumerate(node.inputs)]
            if any(at) and not found.follow(concrete, node, at, opset):
                return None
        whole = all(
            sliceable(value, place)
            for (node, at), place in found.taken.items()
            if (value := node.inputs[at]) is not None
        )
        if not whole or found.moving.get(step.y) != Place(axis):
            return None
        for edge in list(found.taken):
            found._look_ahead(concrete, edge, opset)
        return found

    def _look_ahead(self, concrete: Concrete, edge: Edge, opset: int) -> None:
        """Where the lanes of an operand come from: through its maker, as long as one of that one's operands has them
        along an axis of its own, and so on from there."""
        waiting = [edge]
        while waiting:
            edge = waiting.pop()
            value, place = edge[0].inputs[edge[1]], self.taken[edge]
            node = None if value is None else value.producer()
            if value is None or node is None or value in self.moving or len(node.outputs) != 1:
                continue
            through = {(node, 1): place} if node in self.passed else None
            found = through or self._source(concrete, node, place, opset)
            if found is not None:
                self.ahead.add(node)
                self.moving[value] = place
                self.taken |= found
                waiting += found

    def _source(self, concrete: Concrete, node: ir.Node, place: Place, opset: int) -> dict[Edge, Place] | None:
        """Where the operands of a node have the lanes that its output has at `place`; None if that is not told."""
        for index, operand in enumerate(node.inputs):
            shape = _shape(concrete, operand)
            if operand is None or operand.const_value is not None or shape is None:
                continue
            at = [other == index for other in range(len(node.inputs))]
            for axis in (axis for axis, size in enumerate(shape) if size == self.count):
                trial = Lanes(self.count, {operand: Place(axis)})
                if trial.follow(concrete, node, at, opset) and trial.moving[node.outputs[0]] == place:
                    return {(node, index): Place(axis), **trial.taken}
        return None

    def follow(self, concrete: Concrete, node: ir.Node, at: Sequence[bool], opset: int) -> bool:
        """Whether a node keeps to the lanes of the operands that move, as `at` tells; notes its outputs'."""
        twin = concrete.nodes.get(node.name or "")
        if twin is None or node.domain not in {"", "ai.onnx"}:
            return False
        shapes = [
            None if value is None else _shape(concrete, twin.inputs[place]) for place, value in enumerate(node.inputs)
        ]
        out = _shape(concrete, twin.outputs[0])
        if out is None or any(s is None and value is not None for s, value in zip(shapes, node.inputs, strict=True)):
            return False
        states: list[State | None] = [
            self.moving[value] if moves and value is not None else None
            for moves, value in zip(at, node.inputs, strict=True)
        ]
        places = [state for state in states if isinstance(state, Place)]
        place: State | None = None
        try:
            if node.op_type in POINTWISE or node.op_type in MEETING:
                place = self._meet(node, shapes, states, out)
            elif node.op_type == "MatMul":
                place = self._product(node, shapes, states, RULES["", "MatMul"](NodeView(twin, 0, opset), states), out)
            elif node.op_type == "Concat":
                place = self._beside(node, shapes, states)
            elif node.op_type == "GatherElements":
                place = self._elements(node, shapes, states)
            elif node.op_type == "Gather" and at[1] and not at[0]:
                axis = _attribute(node, "axis", 0) % len(shapes[0] or ())
                place = places[0].on(places[0].axis + axis)
            elif node.op_type == "Pad" and at[0]:
                place = places[0] if _unpadded(node, places[0].axis, len(out)) else None
            elif node.op_type in {"Reshape", "Flatten"} and at[0]:
                place = _reshaped(places[0], self.count, shapes[0] or (), out) if _writable(node) else None
                place = place if place is not None and _told(node, places[0], place) else None
            elif node.op_type == "Expand" and at[0]:
                lead = len(out) - len(shapes[0] or ())
                place = places[0].on(places[0].axis + lead) if _kept(node, shapes[0] or (), out) else None
            elif node.op_type in _ALONE and at[0] and not any(at[1:]):
                place = RULES["", node.op_type](NodeView(twin, 0, opset), states)
        except Mixes:
            return False
        if not isinstance(place, Place):
            return False
        for output, other in zip(node.outputs, twin.outputs, strict=True):
            made = _shape(concrete, other)
            if made is None or made[place.axis] != self._size(place):
                return False
            self.moving[output] = place
        return True

    def _size(self, place: Place) -> int:
        return place.outer * self.count * place.inner

    def _meet(self, node: ir.Node, shapes: Shapes, states: Sequence[State | None], out: Sequence[int]) -> Place | None:
        """Operands aligned at their last axes; one that is as long as the lanes are is taken by lanes, too."""
        aligned = {
            state.on(state.axis + len(out) - len(shape or ()))
            for state, shape in zip(states, shapes, strict=True)
            if isinstance(state, Place)
        }
        if len(aligned) != 1:
            return None
        (place,) = aligned
        for index, (state, shape) in enumerate(zip(states, shapes, strict=True)):
            axis = place.axis - len(out) + len(shape or ())
            if state is None and shape is not None and axis >= 0 and shape[axis] != 1:
                if shape[axis] != self._size(place):
                    return None
                self.taken[node, index] = place.on(axis)
        return place

    def _product(
        self, node: ir.Node, shapes: Shapes, states: Sequence[State | None], place: State, out: Sequence[int]
    ) -> State | None:
        """Lanes along an axis that both operands share, each with a matrix of its own; or along rows of the one."""
        if not isinstance(place, Place):
            return None
        for index, shape in enumerate(shapes):
            axis = place.axis - len(out) + len(shape or ())
            if shape is None or not 0 <= axis < len(shape) - 2 or shape[axis] == 1:
                continue
            if shape[axis] != self._size(place):
                return None
            if states[index] is None:
                self.taken[node, index] = place.on(axis)
        return place

    def _beside(self, node: ir.Node, shapes: Shapes, states: Sequence[State | None]) -> Place | None:
        places = {state for state in states if isinstance(state, Place)}
        place = places.pop()
        if places or place.axis == _attribute(node, "axis", 0) % len(shapes[0] or ()):
            return None
        for index, state in enumerate(states):
            if state is None:
                self.taken[node, index] = place
        return place

    def _elements(self, node: ir.Node, shapes: Shapes, states: Sequence[State | None]) -> Place | None:
        data, index = shapes[0] or (), shapes[1] or ()
        places = {state for state in states if isinstance(state, Place)}
        place = places.pop()
        if places or place.axis == _attribute(node, "axis", 0) % len(data):
            return None
        if data[place.axis] != index[place.axis]:
            return None
        for at in (0, 1):
            if states[at] is None:
                self.taken[node, at] = place
        return place

    def dims(self, value: ir.Value, width: int) -> list[int | str | None]:
        """The sizes of a tensor that moves, of `width` lanes."""
        return self.narrowed(value, self.moving[value], width)

    def narrowed(self, value: ir.Value, place: Place, width: int) -> list[int | str | None]:
        """The sizes of a tensor with its lanes at `place`, of `width` of them."""
        found: list[int | str | None] = [dim if isinstance(dim, int) else dim.value for dim in value.shape or ()]
        size = found[place.axis]
        if isinstance(size, int):
            found[place.axis] = size // self.count * width
        else:
            told = Size.read(size or "")
            left, over = divmod(told.times * width, self.count)
            found[place.axis] = None if size is None or over or told.parts > 1 else str(told._replace(times=left))
        return found


def sliceable(value: ir.Value, place: Place) -> bool:
    """Whether an operand can be cut: its lanes are an axis, or all sizes behind them are fixed."""
    if place.outer == place.inner == 1:
        return True
    return all(isinstance(dim, int) for dim in list(value.shape or ())[place.axis + 1 :])


def written(node: ir.Node, dims: Sequence[int | str | None]) -> list[int] | None:
    """The operand that tells Reshape of these sizes; None where more than one of them is not known."""
    open_ = [axis for axis, dim in enumerate(dims) if not isinstance(dim, int)]
    return [dim if isinstance(dim, int) else -1 for dim in dims] if len(open_) <= 1 else None


def _writable(node: ir.Node) -> bool:
    dims = [dim if isinstance(dim, int) else None for dim in node.outputs[0].shape or ()]
    return written(node, dims) is not None


def _told(node: ir.Node, before: Place, after: Place) -> bool:
    """Whether the numbers behind a lane that share its axis are as many whatever the sizes that are not fixed are:
    those sizes stay behind the axis."""
    (x, y) = (
        None
        if value is None
        else [dim for dim in list(value.shape or ())[place.axis + 1 :] if not isinstance(dim, int)]
        for value, place in ((node.inputs[0], before), (node.outputs[0], after))
    )
    if x is None or y is None or any(dim.value is None for dim in (*x, *y)):
        return False
    names = [sorted(name for dim in dims for name in Size.read(str(dim.value)).names) for dims in (x, y)]
    return names[0] == names[1]


def _unpadded(node: ir.Node, axis: int, rank: int) -> bool:
    """Whether a Pad adds nothing along an axis."""
    pads = None if len(node.inputs) != 3 or node.inputs[1] is None else node.inputs[1].const_value
    return pads is not None and pads.size == 2 * rank and not pads.numpy()[[axis, axis + rank]].any()


def _kept(node: ir.Node, shape: Sequence[int], out: Sequence[int]) -> bool:
    """Whether an Expand leaves the sizes that are not fixed as they are."""
    dims = list(node.outputs[0].shape or ())
    padded = [1] * (len(out) - len(shape)) + list(shape)
    return all(isinstance(dim, int) or padded[axis] == out[axis] for axis, dim in enumerate(dims))


def _reshaped(place: Place, count: int, x: Sequence[int], y: Sequence[int]) -> Place | None:
    """The numbers keep their order: what lies before and behind a lane is shared out among the axes around it."""
    before, behind = math.prod(x[: place.axis]) * place.outer, math.prod(x[place.axis + 1 :]) * place.inner
    for axis, size in enumerate(y):
        inner, left = divmod(behind, max(1, math.prod(y[axis + 1 :])))
        outer, over = divmod(before, max(1, math.prod(y[:axis])))
        if not left and not over and outer * count * inner == size:
            return Place(axis, outer, inner)
    return None


def _attribute(node: ir.Node, name: str, default: int) -> int:
    found: Mapping[str, ir.Attr] = node.attributes
    return found[name].as_int() if name in found else default


def _shape(concrete: Concrete, value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    if value.const_value is not None:
        return tuple(int(size) for size in value.const_value.shape.numpy())
    return concrete.shapes.get(value.name or "")


def _dims(value: ir.Value) -> list[int | str]:
    return [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape or ()]
