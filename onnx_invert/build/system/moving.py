"""Elements that a node only moves: taken from its operands where they are known, put back where its outputs are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_invert.build.system.pieces import Mask, Piece, Pieces, masked, pick
from onnx_invert.plan.moves import Flat, InPlace, Pick, Turned, Whole
from onnx_invert.plan.steps import Place
from onnx_invert.rules.facts import Rearrangement

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation


def picked(r: Realisation, node: ir.Node, place: int, form: Pick | InPlace) -> Piece:
    """What one form takes of a node's operand: a piece of an output, nothing computed."""
    source = node.inputs[place]
    assert source is not None
    with r.typed(source), r.e.scope(node.name or ""):
        if isinstance(form, InPlace):
            value = r.operand(node, place)
            assert value is not None
            return Piece(value, mask=form.mask)
        value = _along(r, node, place, form.axis, form.here)
        if form.squeezed:
            return Piece(r.e.op("Squeeze", value, r.e.ints([form.axis])))
        return Piece(value, form.axis, form.there)


def _along(r: Realisation, node: ir.Node, place: int, axis: int, index: np.ndarray) -> ir.Value:
    source = node.inputs[place]
    assert source is not None
    if source in r.pieces and (node, place) not in r.replaced:
        return r.pieces[source].along(r.e, axis, index, r.mask_of)
    value = r.operand(node, place)
    assert value is not None
    size = r.concrete.shapes[source.name or ""][axis]
    return pick(r.e, value, axis, [int(i) for i in index], size)


def only(r: Realisation, piece: Piece, mask: Mask, x: ir.Value) -> Piece:
    """The piece without what was known before."""
    covered = piece.covers(r.concrete.shapes[x.name or ""])
    if np.all(mask | ~covered):
        return piece
    if piece.axis is None:
        return Piece(piece.value, mask=covered & mask)
    apart = Pieces(r.concrete.shapes[x.name or ""], [piece])
    return Piece(apart.whole(r.e, r.mask_of), mask=covered & mask)


def placed(r: Realisation, step: Place, form: Turned | Whole | Pick | InPlace | Flat, x: ir.Value) -> list[Piece]:
    """What one form of a step puts back of the operand `x`."""
    e, node = r.e, step.node
    match form:
        case Turned():
            return [_turned(r, part, form.perm) for part in _parts(r, node.outputs[0])]
        case Whole():
            if node.op_type in {"Identity", "Dropout"}:
                return _parts(r, node.outputs[0])
            return [masked(_walked(r, step, r.read(node.outputs[0])), step.mask)]
        case InPlace():
            return [Piece(r.read(node.outputs[form.output]), mask=form.mask & step.mask)]
        case Pick():
            y = node.outputs[form.output]
            if form.squeezed:
                return [Piece(e.op("Unsqueeze", r.read(y), e.ints([form.axis])), form.axis, form.here)]
            return [Piece(_of_output(r, y, form.axis, form.there), form.axis, form.here)]
        case Flat():
            shape = r.concrete.shapes[x.name or ""]
            inner = shape[1:] if form.by_sample else shape
            count = shape[0] if form.by_sample else 1
            sizes = r.concrete.shapes[node.outputs[form.output].name or ""]
            row = int(np.prod(sizes[1:] if form.by_sample else sizes))
            y = e.op("Reshape", r.read(node.outputs[form.output]), e.ints([-1, row]))
            part = Piece(pick(e, y, 1, [int(i) for i in form.there], -1), 1, form.here)
            flat = Pieces((count, int(np.prod(inner))), [part]).whole(e, r.mask_of)
            target = [-1, *inner] if form.by_sample else list(inner)
            return [masked(e.op("Reshape", flat, e.ints(target)), step.mask)]


def _of_output(r: Realisation, y: ir.Value, axis: int, index: np.ndarray) -> ir.Value:
    if y in r.pieces:
        return r.pieces[y].along(r.e, axis, index, r.mask_of)
    size = r.concrete.shapes[y.name or ""][axis]
    return pick(r.e, r.read(y), axis, [int(i) for i in index], size)


def _parts(r: Realisation, value: ir.Value) -> list[Piece]:
    return list(r.pieces[value].parts) if value in r.pieces else [Piece(r.read(value))]


def _turned(r: Realisation, part: Piece, perm: tuple[int, ...]) -> Piece:
    back = [int(i) for i in np.argsort(perm)]
    value = r.e.op("Transpose", part.value, perm=back)
    if part.mask is not None:
        return Piece(value, mask=np.transpose(part.mask, back))
    return Piece(value, None if part.axis is None else perm[part.axis], part.index)


def _walked(r: Realisation, step: Place, y: ir.Value) -> ir.Value:
    """The node undone by its rule: a rearrangement, which needs no numbers."""
    for stage in reversed(step.stages):
        assert isinstance(stage.fact, Rearrangement)
        y = stage.fact.inverse(r.e, y)
    return y
