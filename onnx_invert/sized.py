"""A model at one size of everything, without a copy of it: nodes are copied one by one, when somebody asks for them.

Where shape inference has named every size after those of the inputs, and nothing is computed from a shape, the copy
differs from the model in the numbers of its shapes alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_invert.bodies import has_bodies

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sized:
    """A graph where all sizes are known: its `inputs`, its nodes by name, the shapes of its tensors as far as known.

    `running` are its nodes in running order, up to their shapes: of the graph itself where the copy has all of them
    unchanged.
    """

    inputs: Sequence[ir.Value]
    nodes: Mapping[str, ir.Node]
    shapes: Shapes
    running: Mapping[str, ir.Node]


def sized(graph: ir.Graph, sizes: Mapping[str, int]) -> Sized | None:
    """A graph with its symbolic sizes as `sizes` says; None if more than the numbers of its shapes would change."""
    shapes = shapes_at(graph, sizes) if _is_plain(graph) else None
    if shapes is None:
        return None
    nodes = {node.name or "": node for node in graph}
    return Sized(graph.inputs, Twins(graph, nodes, shapes), shapes, nodes)


def _is_plain(graph: ir.Graph) -> bool:
    """Whether no node makes numbers of a shape, or has graphs within."""
    return not any(node.op_type in {"Shape", "Size"} or has_bodies(node) for node in graph)


def shapes_at(graph: ir.Graph, sizes: Mapping[str, int], *, whole: bool = True) -> Shapes | None:
    """The shapes of all tensors at `sizes`; with `whole` None where that of a node's output is not known then."""
    made: dict[object, tuple[int, ...] | None] = {}
    found: Shapes = {}

    def note(value: ir.Value) -> bool:
        dims = None if value.shape is None else value.shape.dims
        if dims not in made:
            numbers = [dim if isinstance(dim, int) else sizes.get(str(dim.value)) for dim in dims or ()]
            known = [number for number in numbers if number is not None]
            made[dims] = None if dims is None or len(known) < len(numbers) else tuple(known)
        shape = made[dims]
        if shape is not None:
            found[value.name or ""] = shape
        return shape is not None

    for value in (*graph.inputs, *graph.initializers.values()):
        note(value)
    for node in graph:
        for value in node.outputs:
            if (not note(value) or (value.type is None and value.name)) and whole:
                return None
    return found


class Twins(Mapping[str, ir.Node]):
    """The nodes of a graph at the sizes that `shapes` tell, by name; tensors, constants and attributes are shared."""

    def __init__(self, graph: ir.Graph, nodes: Mapping[str, ir.Node], shapes: Shapes) -> None:
        self._nodes, self._shapes = nodes, shapes
        self._graph = ir.Graph([], [], nodes=[], opset_imports=dict(graph.opset_imports), name=graph.name)
        self._made: dict[str, ir.Node] = {}
        self._values: dict[ir.Value, _Twin] = {}
        self._making: set[ir.Node] = set()

    def __getitem__(self, name: str) -> ir.Node:
        found = self._made.get(name)
        if found is None:
            found = self._made[name] = self._copy(self._nodes[name])
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def maker(self, value: ir.Value) -> ir.Node | None:
        """The copy of the node that makes one of the graph's tensors; None while it is made."""
        node = value.producer()
        return None if node is None or node in self._making else self[node.name or ""]

    def _copy(self, node: ir.Node) -> ir.Node:
        self._making.add(node)
        twin = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else self._value(value) for value in node.inputs],
            node.attributes.values(),
            outputs=[self._value(value) for value in node.outputs],
            version=node.version,
            name=node.name,
        )
        if node.meta:
            twin.meta.update(node.meta)
        self._graph.append(twin)
        self._making.remove(node)
        return twin

    def _value(self, value: ir.Value) -> _Twin:
        found = self._values.get(value)
        if found is None:
            found = self._values[value] = _Twin(self, value, self._shapes.get(value.name or ""))
        return found


class _Twin(ir.Value):
    """A tensor whose maker is copied when it is asked for."""

    def __init__(self, twins: Twins, value: ir.Value, shape: Sequence[int] | None) -> None:
        sized = value.shape if shape is None else ir.Shape(shape)
        super().__init__(name=value.name, shape=sized, type=value.type, const_value=value.const_value)
        self._twins, self._original = twins, value

    def producer(self) -> ir.Node | None:
        """The node that makes it."""
        return super().producer() or self._twins.maker(self._original)
