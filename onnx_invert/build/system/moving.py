"""Elements that a node only moves: taken from its operands where they are known, put back where its outputs are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_invert.build.system.columns import Column, columns_of, join, turn
from onnx_invert.build.system.pieces import Index, Mask, Piece, Pieces, grouped, line_of, masked
from onnx_invert.build.system.shapes import sized
from onnx_invert.plan.moves import Flat, InPlace, Pick, Turned, Whole
from onnx_invert.plan.steps import Place
from onnx_invert.rules.facts import Rearrangement

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation


def picked(r: Realisation, node: ir.Node, place: int, form: Turned | Pick | InPlace) -> list[Piece]:
    """What one form takes of a node's operand: pieces of an output, nothing computed."""
    source = node.inputs[place]
    assert source is not None
    with r.typed(source), r.e.scope(node.name or ""):
        match form:
            case Turned():
                return [_turned(r, part, form.perm) for part in _parts_of_operand(r, node, place)]
            case InPlace():
                line = line_of(form.mask)
                if line is not None:
                    return grouped(_of_operand(r, node, place, line[0], line[1]), line[0], line[1])
                value = r.operand(node, place)
                assert value is not None
                return [Piece(value, mask=form.mask)]
            case Pick():
                columns = _of_operand(r, node, place, form.axis, form.here)
                if not form.squeezed:
                    return grouped(columns, form.axis, form.there)
                value = join(r.e, form.axis, columns)
                return [Piece(r.e.op("Squeeze", value, r.e.ints([form.axis])))]


def _of_operand(r: Realisation, node: ir.Node, place: int, axis: int, index: Index) -> list[Column]:
    source = node.inputs[place]
    assert source is not None
    if (node, place) not in r.replaced:
        return _of(r, source, axis, index)
    return columns_of(r.replaced[node, place], index, r.shape(source)[axis])


def _parts_of_operand(r: Realisation, node: ir.Node, place: int) -> list[Piece]:
    source = node.inputs[place]
    assert source is not None
    return [Piece(r.replaced[node, place])] if (node, place) in r.replaced else _parts(r, source)


def only(r: Realisation, piece: Piece, mask: Mask, x: ir.Value) -> Piece | None:
    """The piece without what was known before; None if that leaves nothing."""
    shape = r.shape(x)
    covered = piece.covers(shape)
    if not np.any(covered & mask):
        return None
    if np.all(mask | ~covered):
        return piece
    line = line_of(covered & mask)
    if piece.axis is not None and line is not None and line[0] == piece.axis:
        kept = set(line[1].tolist())
        columns = {here: column for here, column in piece.columns(shape[piece.axis]) if here in kept}
        return grouped(list(columns.values()), piece.axis, list(columns))[0]
    if piece.axis is None:
        return masked(piece.value, covered & mask)
    apart = Pieces(shape, [piece])
    return masked(apart.whole(r.e, r.mask_of), covered & mask)


def placed(r: Realisation, step: Place, form: Turned | Whole | Pick | InPlace | Flat, x: ir.Value) -> list[Piece]:
    """What one form of a step puts back of the operand `x`."""
    e, node = r.e, step.node
    match form:
        case Turned():
            back = [int(i) for i in np.argsort(form.perm)]
            return [_turned(r, part, back) for part in _parts(r, node.outputs[0])]
        case Whole():
            if node.op_type in {"Identity", "Dropout"}:
                return _parts(r, node.outputs[0])
            y = r.read(node.outputs[0])
            return [masked(_walked(r, step, y) if step.stages else e.op("Reshape", y, sized(r, x)), step.mask)]
        case InPlace():
            mask = form.mask & step.mask
            y = node.outputs[form.output]
            line = line_of(mask)
            if line is not None:
                return grouped(_of(r, y, line[0], line[1]), line[0], line[1])
            return [masked(r.read(y), mask)]
        case Pick():
            y = node.outputs[form.output]
            if form.squeezed:
                return [Piece(e.op("Unsqueeze", r.read(y), e.ints([form.axis])), form.axis, form.here)]
            return grouped(_of(r, y, form.axis, form.there), form.axis, form.here)
        case Flat():
            shape = r.shape(x)
            inner = shape[1:] if form.by_sample else shape
            count = shape[0] if form.by_sample else 1
            sizes = r.shape(node.outputs[form.output])
            row = int(np.prod(sizes[1:] if form.by_sample else sizes))
            y = e.op("Reshape", r.read(node.outputs[form.output]), e.ints([-1, row]))
            part = Piece(y, 1, form.here, at=form.there, width=row)
            flat = Pieces((count, int(np.prod(inner))), [part]).whole(e, r.mask_of)
            target = [-1, *inner] if form.by_sample else list(inner)
            return [masked(e.op("Reshape", flat, e.ints(target)), step.mask)]


def _of(r: Realisation, y: ir.Value, axis: int, index: Index) -> list[Column]:
    if y in r.pieces:
        return r.pieces[y].along(r.e, axis, [int(i) for i in index], r.mask_of)
    return columns_of(r.read(y), index, r.shape(y)[axis])


def _parts(r: Realisation, value: ir.Value) -> list[Piece]:
    return list(r.pieces[value].parts) if value in r.pieces else [Piece(r.read(value))]


def _turned(r: Realisation, part: Piece, perm: Sequence[int]) -> Piece:
    """A piece whose axes are put in the order `perm`."""
    value = turn(r.e, part.value, perm)
    if part.mask is not None:
        return Piece(value, mask=np.transpose(part.mask, perm))
    return replace(part, value=value, axis=None if part.axis is None else list(perm).index(part.axis))


def _walked(r: Realisation, step: Place, y: ir.Value) -> ir.Value:
    """The node undone by its rule: a rearrangement, which needs no numbers."""
    for stage in reversed(step.stages):
        assert isinstance(stage.fact, Rearrangement)
        y = stage.fact.inverse(r.e, y)
    return y
