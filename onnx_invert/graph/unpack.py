"""Boolean indices written as choices: work on the elements that a mask selects becomes work on all of them.

    t[m] = f(s[m])      →      t = Where(m, f(s), t)

holds where f takes the packed elements one by one, each in the same way (`Prover` decides). On the right every size
is known before the values are. Elements outside of the mask go through f too, which nothing sees:

- f takes 0 in their place, so that a derivative carried backwards stops there, whatever is infinite behind it;
- an index that f computes is held within its axis: for those elements it may lie anywhere, and runtimes then fail;
- Where selects: no NaN of theirs goes on.

Source: the exporters write x[m] as NonZero and GatherND, x[m] = y as NonZero and ScatterND (ONNX NonZero-13,
GatherND-13, ScatterND-16).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.errors import ModelError
from onnx_invert.graph.concrete import concretise, settle
from onnx_invert.graph.indices import INDEXED, Before, can_hold, hold
from onnx_invert.graph.inference import infer_shapes
from onnx_invert.graph.normalise import name_nodes, remove_unused
from onnx_invert.graph.packed import ROWS, packed_part
from onnx_invert.graph.selections import Selection, dims, find

Prover = Callable[[Sequence[ir.Graph], Sequence[int], Mapping[str, int], Mapping[str, int]], bool]
"""Whether graphs, a part at several numbers of rows, take packed inputs row by row to packed outputs; inputs and
outputs go with the axes of their rows."""

COUNTS = (1, 37)
"""Numbers of rows at which a part is looked at: one, and more than anything else is likely to count."""

_OTHERS = 41
"""From here on other symbolic sizes are numbered."""

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def unpack(model: ir.Model, name: str, row_by_row: Prover) -> bool:
    """Rewrite every selection whose work is taken row by row, in place; the others stay. True if any was.

    The sizes of the graph are named afterwards as far as can be, as `settle` does it. `name` is what messages call the
    model.
    """
    graph = model.graph
    if not any(node.op_type in {"NonZero", "Compress"} for node in graph):
        return False
    settle(model, name)
    opset = model.opset_imports.get("", 0)
    rewritten = [
        selection
        for selection in find(graph)
        if selection.sound
        and selection.scatters
        and _cannot_fail(selection, opset)
        and _is_row_by_row(model, selection, row_by_row)
    ]
    for selection in rewritten:
        _rewrite(graph, selection)
    if rewritten:
        remove_unused(graph)
        name_nodes(graph)
        infer_shapes(model, name)
        settle(model, name)
        remove_unused(graph)
    return bool(rewritten)


def _is_row_by_row(model: ir.Model, selection: Selection, row_by_row: Prover) -> bool:
    made = packed_part(model, selection)
    if made is None:
        return False
    part, packed, wanted = made
    symbols = {str(d.value) for value in part.graph.inputs for d in value.shape or () if not isinstance(d, int)}
    sizes = {name: _OTHERS + 2 * index for index, name in enumerate(sorted(symbols))}
    try:
        twins = [concretise(part, sizes | {ROWS: count}).graph for count in COUNTS]
    except ModelError:
        return False
    return row_by_row(twins, COUNTS, dict.fromkeys(packed, 0), dict.fromkeys(wanted, 0))


def _cannot_fail(selection: Selection, opset: int) -> bool:
    """Whether no element outside of the mask can stop a runtime, once indices are held."""
    packed = selection.packed
    for node in selection.region:
        divisor = node.inputs[1] if node.op_type in {"Div", "Mod"} else None
        if divisor in packed and divisor is not None and divisor.dtype not in _FLOATS:
            return False
        place = INDEXED.get(node.op_type)
        if place is not None and node.inputs[place] in packed and not can_hold(node, opset):
            return False
    return True


def _rewrite(graph: ir.Graph, selection: Selection) -> None:
    computed = [(node, INDEXED[node.op_type]) for node in selection.region if node.op_type in INDEXED]
    computed = [(node, place) for node, place in computed if node.inputs[place] in selection.packed]
    for node, mask in selection.gathers:
        with Before(graph, node) as b:
            b.replace(node.outputs[0], _every_row(b, node, mask))
    for node in selection.sizes:
        places = node.inputs[0]
        assert places is not None
        with Before(graph, node) as b:
            count = b.op("Reshape", b.op("Size", selection.mask), b.ints([1]))
            parts = [b.ints([dim]) if isinstance(dim, int) else count for dim in places.shape or ()]
            b.replace(node.outputs[0], b.op("Concat", *parts, axis=0))
    for node, place in selection.counts:
        value = node.inputs[place]
        assert value is not None
        with Before(graph, node, f"count_{place}") as b:
            count = b.op("Reshape", b.op("Size", selection.mask), b.ints([1] * len(value.shape or ())))
            kept = value.dtype in {None, ir.DataType.INT64}
            node.replace_input_with(place, count if kept else b.op("Cast", count, to=int(value.dtype or 0)))
    for node, place in computed:
        hold(graph, node, place)
    for node in selection.region:
        data = node.inputs[0] if node.inputs else None
        if data is not None and _takes_all(node):
            ir.convenience.replace_all_uses_with(node.outputs[0], data)
    for node, mask in selection.scatters:
        with Before(graph, node) as b:
            b.replace(node.outputs[0], _choice(b, node, mask), node.outputs[0].shape)


def _every_row(b: Before, node: ir.Node, mask: ir.Value) -> ir.Value:
    """All elements of what is gathered, packed: 0 outside of the mask."""
    data = node.inputs[0]
    assert data is not None
    row = (dims(data) or ())[len(mask.shape or ()) :]
    if all(isinstance(dim, int) for dim in row):
        target = b.ints([-1, *(int(dim) for dim in row)])
    else:
        sizes = b.op("Gather", b.op("Shape", data), b.ints(range(len(mask.shape or ()), len(data.shape or ()))))
        target = b.op("Concat", b.ints([-1]), sizes, axis=0)
    flat = b.op("Reshape", data, target)
    holds = b.op("Reshape", mask, b.ints([-1, *[1] * len(row)]))
    zero = b.constant(np.zeros((), (data.dtype or ir.DataType.FLOAT).numpy()))
    return b.op("Where", holds, flat, zero)


def _takes_all(node: ir.Node) -> bool:
    """Whether a Slice cuts the rows from the first to one that their number tells: none is cut off, as was proven."""
    if node.op_type != "Slice" or len(node.inputs) < 4 or len(node.outputs[0].shape or ()) == 0:
        return False
    starts, ends, axes, *steps = node.inputs[1:]
    wanted = [(starts, 0), (axes, 0), *((step, 1) for step in steps)]
    arrays = [(None if v is None or v.const_value is None else v.const_value.numpy().tolist(), n) for v, n in wanted]
    return all(found == [n] for found, n in arrays) and ends is not None and ends.const_value is None


def _choice(b: Before, node: ir.Node, mask: ir.Value) -> ir.Value:
    """The scatter of all elements: what was there outside of the mask."""
    there, updates = node.inputs[0], node.inputs[2]
    assert there is not None
    assert updates is not None
    shape = dims(there) or ()
    symbols = [dim for dim in shape if not isinstance(dim, int)]
    if len(symbols) > 1:
        target = b.op("Shape", there)
    else:
        target = b.ints([dim if isinstance(dim, int) else -1 for dim in shape])
    rank = len(mask.shape or ())
    holds = b.op("Reshape", mask, b.ints([*[0] * rank, *[1] * (len(shape) - rank)])) if len(shape) > rank else mask
    return b.op("Where", holds, b.op("Reshape", updates, target), there)
