"""Emits ONNX nodes: what rules and engines use to say their mathematics.

Only operators of the default domain whose signature is the same from opset 13 to 21 are emitted, with
constants as initializers: that is the set which runs everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.bodies import bodies
from onnx_invert.errors import ModelError

_COMPARISONS = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "Not", "And", "Or", "Xor"})
_INDICES = frozenset({"Shape", "Size", "ArgMax", "ArgMin", "NonZero"})

Operand = ir.Value | float

SHARED = 1 << 14
"""Numbers up to which equal constants are found and stored once: identities, masks, units of a loop written out."""

Attribute = int | float | str | Sequence[int]


class Emitter:
    """Collects nodes and initializers of a graph under construction.

    Numbers given as operands become scalar initializers of the current floating-point type, each stored
    once. Node names are unique and start with the current scope, the name of the forward node.
    """

    def __init__(self, dtype: ir.DataType, reserved: Sequence[str] = ()) -> None:
        self.dtype = dtype
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.made: dict[tuple[object, ...], ir.Value] = {}
        self.split: dict[tuple[object, ...], list[ir.Value]] = {}
        self.turned: dict[ir.Value, tuple[ir.Value, tuple[int, ...]]] = {}
        self.given: set[ir.Value] = set()
        """Inputs of the graph that f takes too, and whose numbers are finite as long as f is."""
        self.finite: set[tuple[ir.Value, ir.Value]] = set()
        """Values that are finite where another, a mask, is 0."""
        self.zeros: set[ir.Value] = set()
        """Values that are 0 throughout."""
        self._scope = "inverse"
        self._taken: dict[str, int] = dict.fromkeys(reserved, 1)
        self._shared: dict[tuple[ir.DataType, tuple[int, ...], bytes], ir.Value] = {}
        self._weights: dict[int, ir.Value] = {}

    def go_on(self, graph: ir.Graph) -> None:
        """Take over the nodes of another graph, and its constants, of which none is stored again; nothing may have
        been emitted yet. What the graph took and returned are tensors of this one from now on."""
        nodes, initializers = list(graph), list(graph.initializers.values())
        graph.outputs.clear()
        graph.inputs.clear()
        graph.remove(nodes)
        graph.initializers.clear()
        self.nodes, self.initializers = nodes, initializers
        for value in initializers:
            tensor = value.const_value
            assert tensor is not None
            self._weights[id(tensor)] = value
            if tensor.size <= SHARED:
                self._shared.setdefault((tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes()), value)
        for name in (*(value.name for value in initializers), *_names(nodes)):
            self._taken.setdefault(name or "", 1)

    def body(self) -> Emitter:
        """An emitter for the body of a Loop: nodes of its own; names, weights and constants are shared.

        The body captures what it uses of the graph around it, so that no weight is stored twice.
        """
        inner = Emitter(self.dtype)
        inner.initializers, inner._taken, inner._shared = self.initializers, self._taken, self._shared
        inner._weights = self._weights
        inner._scope, inner.given, inner.finite, inner.zeros = self._scope, self.given, self.finite, self.zeros
        return inner

    @contextmanager
    def scope(self, name: str, dtype: ir.DataType | None = None) -> Iterator[None]:
        """Name what is emitted inside after `name`; numbers become scalars of `dtype`."""
        before = self._scope, self.dtype
        self._scope, self.dtype = name, dtype or self.dtype
        try:
            yield
        finally:
            self._scope, self.dtype = before

    @property
    def scope_name(self) -> str:
        """The forward node whose inverse is being emitted."""
        return self._scope

    def op(self, op_type: str, *operands: Operand, **attributes: Attribute) -> ir.Value:
        """Append one node with one output and return that output."""
        return self.ops(op_type, *operands, outputs=1, **attributes)[0]

    def ops(self, op_type: str, *operands: Operand, outputs: int, **attributes: Attribute) -> tuple[ir.Value, ...]:
        """Append one node with several outputs of the current type, and return them."""
        inputs = [self.scalar(x) if isinstance(x, int | float) else x for x in operands]
        name = self.unique(f"{self._scope}/{op_type}")
        node = ir.node(op_type, inputs, attributes=attributes, num_outputs=outputs, name=name)
        for index, output in enumerate(node.outputs):
            output.name = self.unique(f"{name}:{index}")
            output.dtype = self._result(op_type, attributes)
        self.nodes.append(node)
        return tuple(node.outputs)

    def cast(self, value: ir.Value, dtype: ir.DataType | None = None) -> ir.Value:
        """The tensor in a type, the current one by default."""
        return self.op("Cast", value, to=int(dtype or self.dtype))

    def converted(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The same of a tensor whose type is known, or is this one; as it is where it has it."""
        return value if value.dtype in {dtype, None} else self.cast(value, dtype)

    def _result(self, op_type: str, attributes: Mapping[str, Attribute]) -> ir.DataType:
        if op_type in _COMPARISONS:
            return ir.DataType.BOOL
        if op_type in _INDICES:
            return ir.DataType.INT64
        to = attributes.get("to")
        return ir.DataType(to) if op_type == "Cast" and isinstance(to, int) else self.dtype

    def scalar(self, value: float) -> ir.Value:
        """The scalar initializer `value` in the current floating-point type."""
        return self._share(self._cast(np.asarray(value)), "scalar")

    def ints(self, values: Sequence[int]) -> ir.Value:
        """A vector initializer of int64: a shape, axes, a permutation."""
        return self._share(np.asarray(values, dtype=np.int64), "ints")

    def count(self, value: int) -> ir.Value:
        """A scalar initializer of int64: a number of iterations."""
        return self._share(np.asarray(value, dtype=np.int64), "ints")

    def truth(self, value: bool) -> ir.Value:
        """A scalar initializer of truth."""
        return self._share(np.asarray(value, dtype=np.bool_), "ints")

    def truths(self, array: NDArray[np.bool_]) -> ir.Value:
        """An initializer of truths: which elements something holds for."""
        return self._share(np.ascontiguousarray(array, dtype=np.bool_).reshape(array.shape), "mask")

    def constant(self, array: NDArray[np.generic], name: str) -> ir.Value:
        """An initializer in the current floating-point type; the array is not copied when it fits."""
        array = self._cast(array)
        if array.size <= SHARED:
            return self._share(array, name)
        return self._register(array, f"{self._scope}/{name}")

    def with_rank(self, number: ir.Value, rank: int) -> ir.Value:
        """A constant of one number as one of `rank` axes, of length 1 each; as it is where it has as many."""
        tensor = number.const_value
        assert tensor is not None and tensor.size == 1
        if len(tensor.shape) >= rank:
            return number
        return self._share(np.ascontiguousarray(tensor.numpy()).reshape((1,) * rank), "scalar")

    def weight(self, tensor: ir.TensorProtocol, name: str) -> ir.Value:
        """An initializer of the model itself, of any type, as it is; the same one for the same tensor."""
        if id(tensor) not in self._weights:
            self._weights[id(tensor)] = self._register(tensor, name)
        return self._weights[id(tensor)]

    def add_node(self, node: ir.Node) -> None:
        """Append a node made elsewhere: a copy of a forward node."""
        self.nodes.append(node)

    def unique(self, name: str) -> str:
        """`name`, or `name_2`, `name_3`, …: whichever is still free."""
        count = self._taken.get(name, 0) + 1
        self._taken[name] = count
        return name if count == 1 else self.unique(f"{name}_{count}")

    def _cast(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """The array in the current type, contiguous, with the rank it has (numpy makes a vector of a scalar)."""
        with np.errstate(over="ignore"):
            cast = np.asarray(array, dtype=self.dtype.numpy(), order="C")
        if array.dtype != cast.dtype and np.isfinite(array).all() and not np.isfinite(cast).all():
            raise ModelError(
                f"Undoing node {self._scope!r} takes numbers up to {np.abs(array).max():.3g}, beyond what "
                f"{self.dtype.name.lower()} can hold."
            )
        return cast

    def _share(self, array: NDArray[np.generic], name: str) -> ir.Value:
        key = (ir.DataType.from_numpy(array.dtype), array.shape, array.tobytes())
        if key not in self._shared:
            label = "const" if name in {"scalar", "ints"} else f"{self._scope}/{name}"
            self._shared[key] = self._register(array, label)
        return self._shared[key]

    def _register(self, data: NDArray[np.generic] | ir.TensorProtocol, name: str) -> ir.Value:
        name = self.unique(name)
        tensor = ir.Tensor(data, name=name) if isinstance(data, np.ndarray) else data
        shape = ir.Shape([int(size) for size in tensor.shape.numpy()])
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype))
        value.const_value = tensor
        self.initializers.append(value)
        return value


def _names(nodes: Iterable[ir.Node]) -> Iterator[str | None]:
    """Of nodes and what they make, those in their bodies too."""
    for node in nodes:
        yield node.name
        yield from (output.name for output in node.outputs)
        for body in bodies(node):
            yield from (value.name for value in (*body.inputs, *body.initializers.values()))
            yield from _names(body)
