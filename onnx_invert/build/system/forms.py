"""Nodes of the model in another form, which gives the same and takes less time.

Runtimes go through a product of many small matrices one by one: W x for each of N samples, x a column, takes ten times
as long as X Wᵀ for all of them as rows. What a network does to each element of x comes in that form, and a search for
a root runs it over and over. The same holds of a Gather that takes the only element along an axis, and of powers with
whole exponents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.node import FLOATS

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation

Dims = Sequence[int | str | None]

ROWS = 4
"""As many columns at least are put together as rows of one matrix, where their number is known."""

HIGHEST = 8
"""The highest power that is written as products."""


def dims(value: ir.Value) -> list[int | str | None]:
    """The sizes of a tensor of the model."""
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape or ()]


def rewritten(
    r: Realisation, node: ir.Node, sizes: Sequence[Dims | None], outside: Emitter | None = None
) -> list[ir.Value] | None:
    """What a node makes, in another form; None if there is none. `sizes` are those of its operands here.

    What is made of an operand that `r` itself does not make is made `outside`, if that is told: not in a loop in
    which it does not change.
    """
    make = _FORMS.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
    if make is None:
        return None
    output = node.outputs[0]
    with r.typed(output), r.e.scope(node.name or node.op_type, output.dtype):
        made = make(r, node, sizes, outside)
    if made is None:
        return None
    made.type, made.shape = output.type, output.shape
    return [made]


def _product(r: Realisation, node: ir.Node, sizes: Sequence[Dims | None], outside: Emitter | None) -> ir.Value | None:
    """A x or xᵀ A, x one column or row for each place along the axes before, of which A has not all.

    Along an axis that A has not, columns lie side by side: they are the rows of one matrix. Where A has none at all,
    it is one matrix for all.
    """
    for vector, across in ((1, -1), (0, -2)):
        x, a = sizes[vector], sizes[1 - vector]
        if x is not None and a is not None and len(x) > 2 and len(x) >= len(a) >= 2 and x[across] == 1:
            rows = _rows(x[:-2], a[:-2])
            if rows is not None:
                return _as_rows(r, node, vector, across, rows, a, outside)
    return None


def _rows(x: Dims, a: Dims) -> int | None:
    """The longest of the axes that x has and A has not; None if it is too short, or if A has all that are long."""
    lacking = [axis for axis in range(len(x)) if axis < len(x) - len(a) or a[axis - len(x) + len(a)] == 1]
    free = [axis for axis in lacking if x[axis] != 1]
    if not free:
        return None
    sizes = [x[axis] for axis in free]
    open_ = [axis for axis, size in zip(free, sizes, strict=True) if not isinstance(size, int)]
    longest = open_[0] if open_ else max(free, key=lambda axis: int(x[axis] or 0))
    size = x[longest]
    return None if isinstance(size, int) and size < ROWS else longest


def _as_rows(
    r: Realisation,
    node: ir.Node,
    vector: int,
    across: int,
    rows: int,
    a: Dims,
    outside: Emitter | None,
) -> ir.Value | None:
    e = r.e
    x, matrix = r.operand(node, vector), r.operand(node, 1 - vector)
    rank = len(node.outputs[0].shape or ())
    if x is None or matrix is None or rank == 0:
        return None
    fixed = (node, 1 - vector) in r.replaced or node.inputs[1 - vector] not in r.pieces
    b = outside if fixed and outside is not None else e
    lines = _squeezed(e, x, across, rank)
    lead = len(a) - 2
    turned = vector == 1
    if all(size == 1 for size in a[:lead]):
        matrix = _shaped(b, matrix, list(range(lead)), [1, 0] if turned else None)
        return e.op("Unsqueeze", e.op("MatMul", lines, matrix), e.ints([across]))
    batch = rank - 2
    gone = rows - (batch - lead)  # where A has that axis, of size 1
    left = lead - (gone >= 0)
    swapped = [*range(left), left + 1, left] if turned else None
    matrix = _shaped(b, matrix, [gone] if gone >= 0 else [], swapped)
    order = [*(axis for axis in range(batch) if axis != rows), rows, batch]
    lines = e.op("Transpose", lines, perm=order)
    back = [int(place) for place in np.argsort(order)]
    return e.op("Unsqueeze", e.op("Transpose", e.op("MatMul", lines, matrix), perm=back), e.ints([across]))


def _squeezed(e: Emitter, value: ir.Value, axis: int, rank: int) -> ir.Value:
    """A tensor of this rank without an axis of size 1; what it was before it got that axis, if it just did."""
    node = value.producer()
    if node is not None and node.op_type == "Unsqueeze" and len(node.inputs) == 2 and node.inputs[1] is not None:
        axes = node.inputs[1].const_value
        if axes is not None and axes.size == 1 and (int(axes.numpy().reshape(-1)[0]) - axis) % rank == 0:
            before = node.inputs[0]
            assert before is not None
            return before
    return e.op("Squeeze", value, e.ints([axis % rank]))


def _shaped(b: Emitter, matrix: ir.Value, axes: Sequence[int], perm: Sequence[int] | None) -> ir.Value:
    """A matrix without axes of size 1, transposed: made once."""
    key = ("shaped", matrix, tuple(axes), None if perm is None else tuple(perm))
    if key not in b.made:
        with b.scope(b.scope_name, matrix.dtype or b.dtype):
            made = b.op("Squeeze", matrix, b.ints(axes)) if axes else matrix
            b.made[key] = made if perm is None else b.op("Transpose", made, perm=perm)
    return b.made[key]


def _only(r: Realisation, node: ir.Node, sizes: Sequence[Dims | None], _outside: Emitter | None) -> ir.Value | None:
    """The only element along an axis."""
    index = None if node.inputs[1] is None or (node, 1) in r.replaced else node.inputs[1].const_value
    data = sizes[0]
    if index is None or len(index.shape) or not data:
        return None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    operand = r.operand(node, 0) if data[axis] == 1 else None
    return None if operand is None else _squeezed(r.e, operand, axis, len(data))


def _powers(r: Realisation, node: ir.Node, sizes: Sequence[Dims | None], _outside: Emitter | None) -> ir.Value | None:
    """x to one whole exponent, or, x having one number along the last axis, to several side by side."""
    tensor = None if node.inputs[1] is None or (node, 1) in r.replaced else node.inputs[1].const_value
    base = sizes[0]
    if tensor is None or base is None or node.outputs[0].dtype not in FLOATS or not 0 < tensor.size <= HIGHEST + 1:
        return None
    exponents = tensor.numpy()
    if not np.isin(exponents, np.arange(HIGHEST + 1)).all():
        return None
    several = exponents.ndim == 1 and exponents.size > 1
    if several and not (len(base) > 1 and base[-1] == 1):
        return None
    if not several and exponents.ndim > len(base):
        return None
    x = r.operand(node, 0)
    if x is None:
        return None
    e = r.e
    found = {1: x}
    for power in range(2, int(exponents.max()) + 1):
        found[power] = e.op("Mul", found[power // 2], found[power - power // 2])
    if not exponents.all():
        found[0] = e.cast(e.op("Not", e.op("Less", x, x)))  # no number to 0 is 1, too
    wanted = [found[int(power)] for power in exponents.reshape(-1)]
    return e.op("Concat", *wanted, axis=len(base) - 1) if several else wanted[0]


_FORMS = {"MatMul": _product, "Gather": _only, "Pow": _powers}
