"""The Jacobian of a model as a graph of its own: ∂y/∂x, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_invert.build.tape import Tape
from onnx_invert.errors import ModelError
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.program import Program


@dataclass(frozen=True)
class Layout:
    """How a tensor of the model holds its samples: `sizes` are those of one sample, `batched` says whether the
    first axis counts samples. A tensor without such an axis is one sample as a whole."""

    sizes: tuple[int, ...]
    batched: bool

    @staticmethod
    def of(value: ir.Value) -> Layout:
        """Read off the shape.

        Raises:
            ModelError: the rank, or a size other than that of the first axis, is known only at run time.
        """
        dims = None if value.shape is None else list(value.shape)
        if dims is None:
            raise ModelError(f"The rank of {value.name!r} is unknown: give the model's inputs a shape.")
        batched = bool(dims) and not isinstance(dims[0], int)
        rest = dims[1:] if batched else dims
        unknown = [str(dim.value or "?") for dim in rest if not isinstance(dim, int)]
        if unknown:
            raise ModelError(
                f"The sizes {', '.join(unknown)} of {value.name!r} are known only at run time: fix them "
                "(onnxruntime.tools.make_dynamic_shape_fixed does)."
            )
        return Layout(tuple(int(dim) for dim in rest), batched)  # type: ignore[arg-type]

    @property
    def size(self) -> int:
        """The numbers in one sample."""
        return math.prod(self.sizes)

    def rows(self, e: Emitter, value: ir.Value) -> ir.Value:
        """The tensor as (samples, size)."""
        if self.batched and len(self.sizes) == 1:
            return value
        return e.op("Reshape", value, e.ints([-1, self.size]))

    def tensor(self, e: Emitter, rows: ir.Value) -> ir.Value:
        """(samples, size) as the model has it."""
        if self.batched and len(self.sizes) == 1:
            return rows
        return e.op("Reshape", rows, e.ints([-1, *self.sizes] if self.batched else list(self.sizes)))

    def seeded_rows(self, e: Emitter, value: ir.Value, seeds: int) -> ir.Value:
        """Tangents (S, *shape) as (S, samples, size)."""
        if self.batched and len(self.sizes) == 1:
            return value
        return e.op("Reshape", value, e.ints([seeds, -1, self.size]))

    def seeded_tensor(self, e: Emitter, rows: ir.Value, seeds: int) -> ir.Value:
        """(S, samples, size) as tangents (S, *shape)."""
        if self.batched and len(self.sizes) == 1:
            return rows
        return e.op("Reshape", rows, e.ints([seeds, *([-1] if self.batched else []), *self.sizes]))


def zeros(e: Emitter, like: ir.Value, *, before: Sequence[int] = (), after: Sequence[int] = ()) -> ir.Value:
    """Zeros (*before, samples, *after), as many samples as `like` (samples, k) has."""
    with e.scope(e.scope_name, ir.DataType.INT64):
        count = e.op("Slice", e.op("Shape", like), e.ints([0]), e.ints([1]), e.ints([0]))
        shape = e.op("Concat", *([e.ints(before)] if before else []), count, e.ints(after), axis=0)
    return e.op("Expand", e.scalar(0.0), shape)


def unit_seeds(e: Emitter, like: ir.Value, sizes: Sequence[int]) -> list[ir.Value]:
    """The identity as tangents of several tensors side by side: for each (S, samples, size), S the sum of sizes.

    `like` is any (samples, k) tensor; it says how many samples there are.
    """
    total = sum(sizes)
    zero = zeros(e, like, before=(1,), after=(1,))
    identity = np.eye(total)
    ends = np.cumsum([0, *sizes])
    return [
        e.op("Add", e.constant(identity[:, None, start:stop], "unit"), zero)
        for start, stop in zip(ends[:-1], ends[1:], strict=True)
    ]


def joined(e: Emitter, parts: Sequence[ir.Value]) -> ir.Value:
    """Side by side along the last axis."""
    return parts[0] if len(parts) == 1 else e.op("Concat", *parts, axis=-1)


def rows_of(
    e: Emitter, tape: Tape, layouts: Mapping[ir.Value, Layout], *, forwards: bool, like: ir.Value
) -> ir.Value:
    """The Jacobian of the tape as (samples, m, n); by one tangent per unknown number with `forwards`, else by one
    cotangent per wanted number. `tape.seeds` is that number."""
    program: Program = tape.program
    sources, sinks = (program.unknowns, program.wanted) if forwards else (program.wanted, program.unknowns)
    units = unit_seeds(e, like, [layouts[value].size for value in sources])
    seeds = {
        value: layouts[value].seeded_tensor(e, unit, tape.seeds) for value, unit in zip(sources, units, strict=True)
    }
    found = tape.push(e, seeds) if forwards else tape.pull(e, seeds)
    parts = []
    for value in sinks:
        if value in found:
            parts.append(layouts[value].seeded_rows(e, found[value], tape.seeds))
        else:
            parts.append(zeros(e, like, before=(tape.seeds,), after=(layouts[value].size,)))
    return e.op("Transpose", joined(e, parts), perm=[1, 2, 0] if forwards else [1, 0, 2])
