"""Sizes that a caller gives the inputs of a model: the picture of 3 × height × width is 3 × 224 × 224.

An operation whose equations depend on a size (a convolution, a Resize) is inverted for one size. The model stays as it
is on the disk and takes that size as it takes others; the inverse is for that one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from operator import index

import onnx_ir as ir

from onnx_invert.bodies import bodies
from onnx_invert.describe import describe, listing
from onnx_invert.errors import UsageError
from onnx_invert.graph.checks import LARGEST_INPUT

GivenShapes = Mapping[str, Sequence[int | str]]
"""Inputs' names with sizes of their axes: a number fixes one, a name leaves it as the model has it."""


def give_sizes(model: ir.Model, shapes: GivenShapes) -> None:
    """Fix sizes of the inputs, in place. A size that has a name is fixed wherever the model names it.

    Args:
        model: as it was read.
        shapes: sizes by input; the name may be empty if the model has one input.

    Raises:
        UsageError: there is no such input, or the sizes are no sizes of it.
    """
    graph = model.graph
    inputs = {value.name or "": value for value in graph.inputs if value.name not in graph.initializers}
    fixed: dict[str, int] = {}
    for name, sizes in shapes.items():
        if name not in inputs and (name or len(inputs) != 1):
            raise UsageError(f"--shape: there is no input {name!r}. {listing('Inputs', inputs.values())}")
        value = inputs[name] if name in inputs else next(iter(inputs.values()))
        _give(value, [size if isinstance(size, str) else index(size) for size in sizes], fixed)
    for value in _values(graph):
        if value.shape is not None and any(_name(dim) in fixed for dim in value.shape):
            value.shape = ir.Shape([fixed.get(_name(dim), dim) for dim in value.shape])


def _give(value: ir.Value, sizes: Sequence[int | str], fixed: dict[str, int]) -> None:
    """Give one input its sizes, and note in `fixed` the names that are numbers then."""
    dims = list(
        value.shape if value.shape is not None else ir.Shape([None if size == "?" else size for size in sizes])
    )
    if len(dims) != len(sizes) or any(isinstance(size, int) and size < 1 for size in sizes):
        raise UsageError(f"--shape: {describe(value)} cannot be [{','.join(map(str, sizes))}].")
    for axis, (dim, size) in enumerate(zip(dims, sizes, strict=True)):
        if isinstance(dim, int):
            if size != dim and isinstance(size, int):
                raise UsageError(f"--shape: axis {axis} of {describe(value)} is {dim}, and cannot be {size}.")
        elif isinstance(size, int):
            name = _name(dim)
            if name and fixed.setdefault(name, size) != size:
                raise UsageError(f"--shape: {name!r} cannot be both {fixed[name]} and {size}.")
            dims[axis] = size
    value.shape = ir.Shape(dims)
    if math.prod(dim for dim in dims if isinstance(dim, int)) > LARGEST_INPUT:
        raise UsageError(f"--shape: no memory holds one sample of {describe(value)}.")


def _name(dim: int | ir.SymbolicDim) -> str:
    return "" if isinstance(dim, int) else dim.value or ""


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """The tensors of a graph, and of those within its nodes."""
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
        for body in bodies(node):
            yield from _values(body)
