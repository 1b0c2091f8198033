"""A bounded iteration, as one Loop in the form that most runtimes run, or written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnx_invert.build.pruning import prune
from onnx_invert.graph.emit import Emitter

Body = Callable[[Emitter, list[ir.Value]], tuple[list[ir.Value], ir.Value]]
"""From the state to the next one, and a tensor that is above 1/2 somewhere while the iteration is to go on."""

Counted = Callable[[Emitter, list[ir.Value], ir.Value], tuple[list[ir.Value], ir.Value]]
"""The same, told the number of the step, an int64 from 0."""


def iterate(
    e: Emitter,
    initial: Sequence[ir.Value],
    shapes: Sequence[Sequence[int | str]],
    body: Body,
    *,
    most: int | ir.Value,
    unroll: bool,
    busy: ir.Value | None = None,
    share: float = 0.0,
) -> list[ir.Value]:
    """Run `body` up to `most` times; the last state. `shapes` are those of the state, for runtimes that need them.

    Not at all where `busy`, such a tensor as `body` makes, says so to begin with. With a `share` only while such a
    tensor is above 1/2 in more than that part of its entries. `most` is a number, or where it is written as a Loop
    a tensor.
    """

    def uncounted(b: Emitter, state: list[ir.Value], _count: ir.Value) -> tuple[list[ir.Value], ir.Value]:
        return body(b, state)

    return count_through(e, initial, shapes, uncounted, most=most, unroll=unroll, busy=busy, share=share)


def count_through(
    e: Emitter,
    initial: Sequence[ir.Value],
    shapes: Sequence[Sequence[int | str]],
    body: Counted,
    *,
    most: int | ir.Value,
    unroll: bool,
    busy: ir.Value | None = None,
    share: float = 0.0,
) -> list[ir.Value]:
    """As `iterate`, of a body that takes the number of the step, too.

    The Loop has a trip count and a condition that a node of its body makes; its states go through an Identity on
    both sides, because some runtimes confuse a state with a tensor that the body captures.
    """
    if unroll:
        assert isinstance(most, int)
        values = list(initial)
        for count in range(most):
            values, _busy = body(e, values, e.count(count))
        return values
    inner = e.body()
    step = ir.Value(name=e.unique("step"), shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT64))
    go = ir.Value(name=e.unique("go"), shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
    ports = [_like(e, value, shape, "state") for value, shape in zip(initial, shapes, strict=True)]
    after, left = body(inner, list(ports), step)
    again = _more(inner, left, share)
    outs = [inner.op("Identity", value) for value in after]
    for out, shape in zip(outs, shapes, strict=True):
        out.shape, out.type = ir.Shape(shape), ir.TensorType(e.dtype)
    prune(inner.nodes, [again, *outs])
    graph = ir.Graph([step, go, *ports], [again, *outs], nodes=inner.nodes, name=e.unique("iteration"))
    starts = [e.op("Identity", value) for value in initial]
    loop = ir.Node(
        "",
        "Loop",
        [
            e.count(most) if isinstance(most, int) else most,
            e.truth(True) if busy is None else _more(e, busy, share),
            *starts,
        ],
        attributes=[ir.AttrGraph("body", graph)],
        num_outputs=len(outs),
        name=e.unique(f"{e.scope_name}/Loop"),
    )
    for output, shape in zip(loop.outputs, shapes, strict=True):
        output.name, output.shape, output.type = e.unique("state"), ir.Shape(shape), ir.TensorType(e.dtype)
    e.add_node(loop)
    return [e.op("Identity", output) for output in loop.outputs]


def _more(e: Emitter, busy: ir.Value, share: float) -> ir.Value:
    """True if `busy` is above 1/2 in more than that part of its entries; it is 0 or 1 where `share` is not 0."""
    if share:
        found = e.op("Greater", e.op("ReduceSum", e.op("Sub", busy, share), keepdims=0), 0.0)
    else:
        found = e.op("Greater", e.op("ReduceMax", busy, keepdims=0), 0.5)
    found.shape = ir.Shape([])
    return found


def _like(e: Emitter, value: ir.Value, shape: Sequence[int | str], name: str) -> ir.Value:
    return ir.Value(name=e.unique(name), shape=ir.Shape(shape), type=ir.TensorType(value.dtype or e.dtype))


__all__ = ["Body", "Counted", "count_through", "iterate"]
