"""What a graph makes of the elements that a mask selects: boolean indices, as exporters write them.

A *selection* is the elements of a tensor where a mask holds, packed one after the other, in row-major order. How many
there are follows from the mask's values. Tensors that hold one row for each are *packed*. They come from a gather at
the mask's places (NonZero, GatherND; Gather; Compress), and go back by a scatter to the same places. `find` follows
them through the graph and says, of every selection, what lies between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnx_invert.bodies import has_bodies

_RANDOM = frozenset({"RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"})
_COPIES = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(eq=False)
class Selection:
    """The elements where a mask holds.

    `gathers` and `scatters` go with the tensor whose elements they take for the mask, of the sizes of the first axes
    of their data. `region` are the nodes between, on packed tensors and on their number; `counts` the operands of
    those that are that number; `sizes` the nodes that ask for the shape of places; `packed` the packed tensors.
    `sound` tells whether everything packed was understood.
    """

    mask: ir.Value
    gathers: list[tuple[ir.Node, ir.Value]] = field(default_factory=list)
    scatters: list[tuple[ir.Node, ir.Value]] = field(default_factory=list)
    region: list[ir.Node] = field(default_factory=list)
    counts: list[tuple[ir.Node, int]] = field(default_factory=list)
    sizes: list[ir.Node] = field(default_factory=list)
    packed: set[ir.Value | None] = field(default_factory=set)
    sound: bool = True


@dataclass(frozen=True)
class Places:
    """The places of a selection's elements, a tensor with one entry for each along the axis `count`; along the axis
    `columns`, if there is one, stand the indices along the axes `along` of the mask `mask`."""

    selection: Selection
    mask: ir.Value
    along: tuple[int, ...]
    count: int
    columns: int | None

    @property
    def whole(self) -> bool:
        """True if GatherND takes it for places of whole elements: (n, rank of the mask)."""
        rank = len(self.mask.shape or ())
        return (self.count, self.columns) == (0, 1) and self.along == tuple(range(rank))


@dataclass(frozen=True)
class Packed:
    """One row for each element, along an axis."""

    selection: Selection


@dataclass(frozen=True)
class Count:
    """How many elements there are, and what is made of that number alone. `plain` if it is the number itself."""

    selection: Selection
    plain: bool


Role = Places | Packed | Count


def find(graph: ir.Graph) -> list[Selection]:
    """The selections of a graph whose sizes are named, those that are not understood included."""
    return _Search(graph).run()


def dims(value: ir.Value | None) -> tuple[int | str, ...] | None:
    """The sizes of a tensor; None where one has no name."""
    if value is None or value.shape is None:
        return None
    found = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    return None if None in found else tuple(found)  # type: ignore[arg-type]


class _Search:
    def __init__(self, graph: ir.Graph) -> None:
        self._nodes = list(graph)
        self._inside = set(self._nodes)
        self._role: dict[ir.Value, Role] = {}
        self._numbers: dict[object, int] = {}
        self._number_of: dict[ir.Value, int] = {}
        self._selections: dict[int, Selection] = {}

    def run(self) -> list[Selection]:
        for node in self._nodes:
            if node.op_type in {"NonZero", "Compress"} and node.domain in {"", "ai.onnx"}:
                self._select(node)
        for node in self._nodes:
            self._follow(node)
        return list(self._selections.values())

    def _select(self, node: ir.Node) -> None:
        mask = node.inputs[0 if node.op_type == "NonZero" else 1]
        if mask is None or mask.const_value is not None or mask.dtype != ir.DataType.BOOL or dims(mask) is None:
            return
        root = _origin(mask)
        selection = self._selections.setdefault(self._number(root), Selection(root))
        if node.op_type == "NonZero":
            self._role[node.outputs[0]] = Places(selection, mask, tuple(range(len(dims(mask) or ()))), 1, 0)

    def _number(self, value: ir.Value) -> int:
        """The same number for values that the same operations make of the same values."""
        stack = [value]
        while stack:
            top = stack[-1]
            node = top.producer()
            if top in self._number_of:
                stack.pop()
                continue
            operands = list(node.inputs) if node is not None and _repeats(node) else []
            waiting = [o for o in operands if o is not None and o not in self._number_of]
            if waiting:
                stack += waiting
                continue
            stack.pop()
            key: object = top
            if operands and node is not None:
                attributes = tuple(sorted(str(a) for a in node.attributes.values()))
                key = (node.domain, node.op_type, attributes, tuple(o and self._number_of[o] for o in operands))
            elif top.const_value is not None and top.const_value.size <= 64:
                array = top.const_value.numpy()
                key = (str(array.dtype), array.shape, array.tobytes())
            self._number_of[top] = self._numbers.setdefault(key, len(self._numbers) + 1)
        return self._number_of[value]

    def _follow(self, node: ir.Node) -> None:
        roles = [None if v is None else self._role.get(v) for v in node.inputs]
        if node.op_type == "Compress" and self._compressed(node):
            return
        if (counted := self._counted(node)) is not None:
            self._role[node.outputs[0]] = Count(counted, plain=True)
            return
        found = [role for role in roles if role is not None]
        if not found:
            return
        if all(isinstance(role, Count) and role.plain for role in found) and not self._of_number(node, roles):
            return
        selections = {role.selection for role in found}
        made = self._made(node, roles) if len(selections) == 1 else None
        if made is None:
            for selection in selections:
                selection.sound = False
        for value in node.outputs:
            role = self._role.get(value)
            if role is not None and role != Count(role.selection, plain=True) and self._escapes(value):
                role.selection.sound = False

    def _escapes(self, value: ir.Value) -> bool:
        """Whether it is an output, or used in the body of a node."""
        return value.is_graph_output() or any(user not in self._inside for user, _ in value.uses())

    def _of_number(self, node: ir.Node, roles: list[Role | None]) -> bool:
        """Whether a node that takes the number of elements, and nothing packed, makes a shape of it."""
        only = [role for role in roles if role is not None]
        if node.op_type in _COPIES | {"Cast"} and roles[0] is not None and (node.outputs[0].dtype or 0) in _WHOLE:
            self._role[node.outputs[0]] = only[0]
            return False
        return node.op_type in {"Concat", "ConstantOfShape", "Expand", "Range"}

    def _made(self, node: ir.Node, roles: list[Role | None]) -> bool | None:
        """Give the outputs their roles; None if the node is not understood."""
        first = next(role for role in roles if role is not None)
        selection = first.selection
        if node.domain not in {"", "ai.onnx"} or node.op_type in _RANDOM:
            return None
        if has_bodies(node):
            return None
        if any(isinstance(role, Places) for role in roles):
            return self._placed(node, roles)
        selection.region.append(node)
        selection.counts += [
            (node, place) for place, role in enumerate(roles) if isinstance(role, Count) and role.plain
        ]
        sized = node.op_type in {"Shape", "Size"} or all(isinstance(role, Count) for role in roles if role is not None)
        for output in node.outputs:
            self._role[output] = Count(selection, plain=False) if sized else Packed(selection)
        if not sized:
            selection.packed.update(node.outputs)
        return True

    def _placed(self, node: ir.Node, roles: list[Role | None]) -> bool | None:
        """A node that takes the places of a selection's elements."""
        role = next(role for role in roles if isinstance(role, Places))
        selection = role.selection
        if node.op_type in {"Shape", "Size"}:
            selection.sizes.append(node)
            self._role[node.outputs[0]] = Count(selection, plain=False)
            return True
        if roles[0] is None and len(roles) > 1 and isinstance(roles[1], Places):
            if _gathers(node, roles[1]):
                selection.gathers.append((node, roles[1].mask))
                selection.packed.add(node.outputs[0])
                self._role[node.outputs[0]] = Packed(selection)
                return True
            updates = roles[2] if len(roles) > 2 else None
            packed = isinstance(updates, Packed) or (isinstance(updates, Count) and not updates.plain)
            if packed and _scatters(node, roles[1]):
                selection.scatters.append((node, roles[1].mask))
                return True
            return None
        moved = list(_moved(node, roles))
        if len(moved) != len(node.outputs):
            return None
        self._role.update(zip(node.outputs, moved, strict=True))
        return True

    def _compressed(self, node: ir.Node) -> bool:
        """A Compress along the first axis, or of a flattened tensor, whose condition is known at run time."""
        data, condition = node.inputs[0], node.inputs[1]
        if condition is None or condition.const_value is not None or data in self._role or condition in self._role:
            return False
        selection = self._selections.get(self._number(_origin(condition)))
        if selection is None:
            return False
        axis = node.attributes.get("axis")
        shape, length = dims(data), dims(condition)
        flat = axis is None and shape is not None and dims(selection.mask) == shape
        along = axis is not None and axis.as_int() == 0 and bool(shape) and length == (shape or ())[:1]
        if not (flat or along) or self._escapes(node.outputs[0]):
            selection.sound = False
        selection.gathers.append((node, selection.mask if flat else condition))
        selection.packed.add(node.outputs[0])
        self._role[node.outputs[0]] = Packed(selection)
        return True

    def _counted(self, node: ir.Node) -> Selection | None:
        """The selection whose elements a ReduceSum of its whole mask counts."""
        if node.op_type != "ReduceSum" or node.outputs[0].is_graph_output() or node.inputs[0] is None:
            return None
        axes = node.attributes.get("axes")
        empty = node.attributes.get("noop_with_empty_axes")
        rank = len(node.inputs[0].shape or ())
        given = node.inputs[1] if len(node.inputs) > 1 else None
        if given is not None and (given.const_value is None or given.const_value.size != rank):
            return None
        if axes is not None and len(axes.as_ints()) != rank:
            return None
        if given is None and empty is not None and empty.as_int():
            return None
        cast = _origin(node.inputs[0]).producer()
        truth = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
        if truth is None or truth.dtype != ir.DataType.BOOL:
            return None
        return self._selections.get(self._number(_origin(truth)))


_WHOLE = frozenset({ir.DataType.INT64, ir.DataType.INT32})


def _origin(mask: ir.Value) -> ir.Value:
    """What holds the same elements in the same order, before it was reshaped, copied, or expanded to its own shape."""
    while True:
        node = mask.producer()
        x = node.inputs[0] if node is not None and node.inputs else None
        if node is None or x is None or node.domain not in {"", "ai.onnx"}:
            return mask
        same = node.op_type == "Expand" and dims(x) is not None and dims(x) == dims(mask)
        cast = node.op_type == "Cast" and x.dtype == mask.dtype
        if not (same or cast or node.op_type in _COPIES):
            return mask
        mask = x


def _repeats(node: ir.Node) -> bool:
    """Whether the node makes the same of the same, as far as its operands and attributes tell."""
    return not has_bodies(node) and node.op_type not in _RANDOM and len(node.outputs) == 1


def _gathers(node: ir.Node, places: Places) -> bool:
    shape, mask = dims(node.inputs[0]), dims(places.mask)
    if shape is None or mask is None or shape[: len(mask)] != mask:
        return False
    if node.outputs[0].dtype in {None, ir.DataType.STRING}:
        return False
    if node.op_type == "GatherND":
        return places.whole and not _integer(node, "batch_dims")
    return node.op_type == "Gather" and places.columns is None and len(mask) == 1 and not _integer(node, "axis")


def _scatters(node: ir.Node, places: Places) -> bool:
    shape, mask = dims(node.inputs[0]), dims(places.mask)
    reduction = node.attributes.get("reduction")
    if shape is None or mask is None or shape[: len(mask)] != mask:
        return False
    if reduction is not None and reduction.as_string() != "none":
        return False
    if node.op_type == "ScatterND":
        return places.whole
    alone = places.columns is None and len(mask) == len(shape) == 1
    return node.op_type == "ScatterElements" and alone and not _integer(node, "axis")


def _moved(node: ir.Node, roles: list[Role | None]) -> Iterator[Places]:
    """What a node that moves indices makes of places, an output each; nothing if it does something else."""
    places = roles[0]
    if not isinstance(places, Places):
        return
    selection, mask, along, count, columns = (
        places.selection, places.mask, places.along, places.count, places.columns,
    )  # fmt: skip
    constants = [None if v is None or v.const_value is None else v.const_value.numpy() for v in node.inputs]
    match node.op_type:
        case "Identity" | "Cast":
            yield places
        case "Transpose" if columns is not None:
            yield Places(selection, mask, along, columns, count)
        case "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten":
            shape = node.outputs[0].shape
            if len(along) == 1 and shape is not None and len(shape) <= 2:
                # One index each: whatever shape it is given, the order stays.
                ones = [axis for axis, dim in enumerate(shape) if dim == 1]
                if len(shape) == 1:
                    yield Places(selection, mask, along, 0, None)
                elif len(ones) == 1:
                    yield Places(selection, mask, along, 1 - ones[0], ones[0])
        case "Split" if columns is not None and _integer(node, "axis") % 2 == columns:
            size = len(along) // len(node.outputs)
            if all(len(o.shape or ()) == 2 and (o.shape or ())[columns] == size for o in node.outputs):
                for index in range(len(node.outputs)):
                    yield Places(selection, mask, along[index * size : (index + 1) * size], count, columns)
        case "Gather" if columns is not None and _integer(node, "axis") % 2 == columns and constants[1] is not None:
            chosen = np.asarray(constants[1])
            if chosen.size == 1 and chosen.ndim < 2:
                kept = (along[int(chosen.reshape(-1)[0])],)
                axis = 0 if chosen.ndim == 0 else count
                yield Places(selection, mask, kept, axis, None if chosen.ndim == 0 else columns)
        case "Slice" if columns is not None and all(c is not None for c in constants[1:]) and len(constants) > 3:
            starts, ends, axes = (np.asarray(constants[i]).reshape(-1) for i in (1, 2, 3))
            if len(starts) == 1 and int(axes[0]) % 2 == columns and (len(constants) < 5 or constants[4] == [1]):
                yield Places(selection, mask, along[int(starts[0]) : int(ends[0])], count, columns)
        case "Concat" if all(isinstance(role, Places) for role in roles):
            parts = [role for role in roles if isinstance(role, Places)]
            alike = all((p.mask, p.count, p.columns) == (mask, count, columns) for p in parts)
            if alike and columns is not None and _integer(node, "axis") % 2 == columns:
                yield Places(selection, mask, tuple(axis for p in parts for axis in p.along), count, columns)


def _integer(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return 0 if attribute is None else int(attribute.as_int())
