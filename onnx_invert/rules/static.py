"""What a node's operands and attributes are, where all sizes are known."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.indices import HELD


class UnsizedError(Exception):
    """The shape of an output is known only once its values are."""


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The sizes of a tensor; () for an output that is left out.

    Raises:
        UnsizedError: one is not known.
    """
    shape = value.shape
    if shape is None:
        if not value.name:
            return ()
        raise UnsizedError(value.name)
    sizes: list[int] = []
    for dim in shape.dims:
        if not isinstance(dim, int):
            raise UnsizedError(value.name or "")
        sizes.append(dim)
    return tuple(sizes)


def shape_of_operand(node: ir.Node, place: int) -> tuple[int, ...]:
    """The sizes of an operand; errors as for `shape_of`."""
    value = node.inputs[place]
    assert value is not None
    return shape_of(value)


def constant(node: ir.Node, place: int) -> NDArray[np.generic] | None:
    """An operand's value; None if there is no such operand, or it is not constant."""
    value = node.inputs[place] if place < len(node.inputs) else None
    return None if value is None or value.const_value is None else value.const_value.numpy()


def before_held(index: ir.Value | None) -> ir.Value | None:
    """An index as the model computes it, if what it is now is that index held within one axis; else itself."""
    maker = index.producer() if index is not None else None
    return maker.inputs[0] if maker is not None and maker.meta.get(HELD) else index


def integer(node: ir.Node, name: str, default: int) -> int:
    """An attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def integers(node: ir.Node, name: str) -> list[int]:
    """An attribute that is a list; empty if it is not given."""
    attribute = node.attributes.get(name)
    return [] if attribute is None else list(attribute.as_ints())


def opset_of(node: ir.Node) -> int:
    """The version of the standard operators that the node's graph uses."""
    return node.graph.opset_imports.get("", 17) if node.graph is not None else 17
