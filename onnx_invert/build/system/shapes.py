"""Shapes of tensors of the model at sizes that are not fixed, made from the sizes of the inverse's inputs."""

from __future__ import annotations

from functools import partial, reduce
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_invert.errors import ModelError
from onnx_invert.sizes import Size, is_told

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation


def sized(r: Realisation, value: ir.Value) -> ir.Value:
    """The shape that a tensor of the model has, as int64."""
    parts: list[ir.Value] = []
    fixed: list[int] = []
    with r.e.scope(r.e.scope_name, ir.DataType.INT64):
        for dim in value.shape or ():
            if isinstance(dim, int):
                fixed.append(dim)
                continue
            if fixed:
                parts.append(r.e.ints(fixed))
                fixed = []
            parts.append(size(r, str(dim.value), value))
        if fixed or not parts:
            parts.append(r.e.ints(fixed))
        return parts[0] if len(parts) == 1 else r.e.op("Concat", *parts, axis=0)


def size(r: Realisation, name: int | str, value: ir.Value) -> ir.Value:
    """A size of `value`, (1,): the inputs tell its multiples, parts and products too.

    Raises:
        ModelError: no input tells it.
    """
    e = r.e
    if isinstance(name, int):
        return e.ints([name])
    with e.scope(e.scope_name, ir.DataType.INT64):
        if name in r.sizes:
            port, axis = r.sizes[name]
            return e.op("Slice", e.op("Shape", port), e.ints([axis]), e.ints([axis + 1]), e.ints([0]))
        told = Size.read(name)
        if not is_told(name, r.sizes) or not told.names:
            what = f"The size {name!r} of {value.name!r} is told by no input of the inverse"
            raise ModelError(f"{what}: give the model's inputs fixed sizes.")
        first, *rest = (size(r, factor, value) for factor in told.names)
        found = reduce(partial(e.op, "Mul"), rest, first)
        if told.times > 1:
            found = e.op("Mul", found, e.ints([told.times]))
        return found if told.parts == 1 else e.op("Div", found, e.ints([told.parts]))


def shape_of(r: Realisation, node: ir.Node) -> ir.Value:
    """What a Shape node gives."""
    source = node.inputs[0]
    assert source is not None
    shape = sized(r, source)
    start, end = node.attributes.get("start"), node.attributes.get("end")
    if start is None and end is None:
        return shape
    rank = len(source.shape or ())
    first = start.as_int() if start is not None else 0
    last = end.as_int() if end is not None else rank
    with r.e.scope(r.e.scope_name, ir.DataType.INT64):
        return r.e.op("Slice", shape, r.e.ints([first]), r.e.ints([last]), r.e.ints([0]))
