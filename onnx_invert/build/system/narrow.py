"""Nodes that work element by element, on the elements along one axis that are known, and on no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_invert.build.inverse import Walk
from onnx_invert.build.system.columns import columns_of, join
from onnx_invert.build.system.pieces import Index, Mask, Piece, line_of
from onnx_invert.build.system.shapes import sized
from onnx_invert.build.tape import again
from onnx_invert.plan.stages import Path, Stage
from onnx_invert.plan.steps import Forward, Undo
from onnx_invert.rules.dependence import ELEMENTWISE
from onnx_invert.rules.facts import Array, Convert, Diagonal, Elementwise, Paired

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation

_BINARY = frozenset({"Add", "Sub", "Mul", "Div"})
"""Operations of two operands whose facts hold no array but scale and shift."""


@dataclass(frozen=True)
class Narrow:
    """The elements at `index` of the `size` along an axis, counted from the last (−1): `read` gives those alone."""

    r: Realisation
    axis: int
    index: Index
    size: int

    @staticmethod
    def to(r: Realisation, mask: Mask) -> Narrow | None:
        """To the elements of a mask; None if it is set everywhere, or varies along several axes."""
        line = None if mask.all() else line_of(mask)
        return None if line is None else Narrow(r, line[0] - mask.ndim, line[1], mask.shape[line[0]])

    def piece(self, value: ir.Value, rank: int) -> Piece:
        """What was made of them, as a piece of a tensor of this rank."""
        return Piece(value, rank + self.axis, self.index)

    def value(self, forward: ir.Value) -> ir.Value:
        """Those of a tensor of the model; all of it where it is repeated along the axis."""
        return self.operand(forward, None)

    def operand(self, forward: ir.Value, instead: ir.Value | None) -> ir.Value:
        """The same, of `instead` if something else is taken for the tensor."""
        r, constant = self.r, forward.const_value
        shape = r.shape(forward) if constant is None else tuple(int(n) for n in constant.shape.numpy())
        with r.typed(forward):
            if len(shape) < -self.axis or shape[self.axis] != self.size:
                return r.read(forward) if instead is None else instead
            at = len(shape) + self.axis
            if instead is None and constant is not None:
                key = ("known", forward, at, *self.index.tolist())
                if key not in r.e.made:
                    r.e.made[key] = r.e.constant(np.take(constant.numpy(), self.index, at), "known")
                return r.e.made[key]
            if instead is None and forward in r.pieces:
                columns = r.pieces[forward].along(r.e, at, self.index.tolist(), r.mask_of)
            else:
                columns = columns_of(r.read(forward) if instead is None else instead, self.index, self.size)
            return join(r.e, at, columns, inner=shape[at + 1 :])

    def array(self, array: Array) -> Array:
        """Those of a constant that broadcasts against the tensor."""
        if array.ndim < -self.axis or array.shape[self.axis] != self.size:
            return array
        return np.take(array, self.index, self.axis)

    def stages(self, stages: Sequence[Stage]) -> list[Stage]:
        """The same facts on those elements."""
        return [
            replace(stage, fact=Diagonal(self.array(stage.fact.scale), self.array(stage.fact.shift)))
            if isinstance(stage.fact, Diagonal)
            else stage
            for stage in stages
        ]


def undone(r: Realisation, step: Undo) -> Piece | None:
    """What a node's rule gives of its operand; None if it is to be undone as a whole."""
    node, x, y = step.node, step.node.inputs[step.operand], step.node.outputs[0]
    narrow = Narrow.to(r, step.mask)
    facts = (Diagonal, Paired, Convert, Elementwise) if _operands(node) == 1 else (Diagonal, Paired, Convert)
    if narrow is None or r.log_det is not None or r.noise is not None or not _fits(node):
        return None
    if x is None or r.shape(y) != step.mask.shape or not all(isinstance(stage.fact, facts) for stage in step.stages):
        return None
    if (node.op_type == "Add" or (node.op_type == "Sub" and step.operand == 0)) and len(step.stages) == 1:
        other = node.inputs[1 - step.operand]
        fits = other is not None and r.shape(x) == step.mask.shape
        if fits and other is not None and narrow.value(other) in r.e.zeros:
            return narrow.piece(narrow.value(y), step.mask.ndim)
    walk = Walk(r.e, narrow, r.root.probes, None)
    found = walk.back(Path(x, y, (), narrow.stages(step.stages)), narrow.value(y))
    return narrow.piece(found, step.mask.ndim)


def run(r: Realisation, step: Forward) -> Piece | None:
    """What a node makes of what is known of its operands; None if it is to run as a whole."""
    node, mask = step.node, step.masks[0]
    narrow = Narrow.to(r, mask)
    if narrow is None or r.noise is not None or not _fits(node) or r.shape(node.outputs[0]) != mask.shape:
        return None
    if node.op_type == "Mul" and _is_zero(narrow, node):
        return zeros(narrow, node.outputs[0])
    inputs = [
        None if value is None else narrow.operand(value, r.replaced.get((node, place)))
        for place, value in enumerate(node.inputs)
    ]
    r.root.copied.append(node)
    (made,) = again(r.e, node, inputs)
    dims = list(made.shape or mask.shape)
    dims[narrow.axis] = len(narrow.index)
    made.shape = ir.Shape(dims)
    return narrow.piece(made, mask.ndim)


def zeros(narrow: Narrow, output: ir.Value) -> Piece:
    """Elements of a tensor that are 0 whatever else there is."""
    r = narrow.r
    dims: list[int | ir.SymbolicDim] = list(output.shape or ())
    dims[narrow.axis] = len(narrow.index)
    key = ("zeros", output.dtype, *(dim if isinstance(dim, int) else dim.value for dim in dims))
    if key not in r.e.made:
        with r.typed(output):
            like = ir.Value(name=output.name, shape=ir.Shape(dims), type=output.type)
            r.e.made[key] = r.e.op("Expand", r.e.scalar(0.0), sized(r, like))
        r.e.zeros.add(r.e.made[key])
    return narrow.piece(r.e.made[key], len(dims))


def _is_zero(narrow: Narrow, node: ir.Node) -> bool:
    """Whether one factor of a product is 0 here, by its constants, and nothing is known of the other one."""
    r = narrow.r
    for zero, other in (node.inputs, node.inputs[::-1]):
        if zero is None or other is None or any((node, place) in r.replaced for place in (0, 1)):
            return False
        constant = zero.const_value
        if constant is None:
            is_zero = zero in r.pieces and narrow.value(zero) in r.e.zeros
        else:
            is_zero = not np.any(narrow.array(constant.numpy()))
        known = r.pieces[other].known.astype(np.float64) if other in r.pieces else np.zeros(())
        if is_zero and other in r.dependent and not np.any(narrow.array(known)):
            return True
    return False


def _operands(node: ir.Node) -> int:
    return sum(value is not None for value in node.inputs)


def _fits(node: ir.Node) -> bool:
    """Whether nothing but the operands of a node is as long as they are."""
    if node.domain not in {"", "ai.onnx"} or len(node.outputs) != 1:
        return False
    return node.op_type in _BINARY or (node.op_type in ELEMENTWISE and _operands(node) == 1)
