"""The output that `--residual` adds: how far f(x) is from y, sample by sample, with f run once more on the x found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from onnx_invert.build.newton.iteration import length
from onnx_invert.build.tape import copy
from onnx_invert.errors import UsageError
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.problem import Problem
from onnx_invert.plan.samples import Along

RESIDUAL = "residual"


def residual(
    e: Emitter,
    problem: Problem,
    made: Mapping[ir.Value, ir.Value],
    ports: Mapping[ir.Value, ir.Value],
    along: Mapping[ir.Value, Along],
) -> ir.Value:
    """‖f(x) − y‖ / ‖y‖ (N), the largest over several outputs.

    `made` are f's outputs as they are computed from x, `ports` those that were given, by the tensors of the model;
    `along` says where their samples lie.
    """
    with e.scope(RESIDUAL):
        pairs = ((_rows(e, along[y], y, made[y]), _rows(e, along[y], y, ports[y])) for y in problem.known)
        return named(e, relative(e, pairs), problem)


def relative(e: Emitter, pairs: Iterable[tuple[ir.Value, ir.Value]]) -> ir.Value:
    """The largest ‖a − b‖ / ‖b‖ of pairs of rows (N, k), one number a row (N)."""
    worst: ir.Value | None = None
    tiny = float(np.finfo(e.dtype.numpy()).tiny)
    for a, b in pairs:
        found = e.op("Div", length(e, e.op("Sub", a, b)), e.op("Max", length(e, b), tiny))
        worst = found if worst is None else e.op("Max", worst, found)
    assert worst is not None
    return e.op("Squeeze", worst, e.ints([1]))


def named(e: Emitter, value: ir.Value, problem: Problem) -> ir.Value:
    """The residual as an output of an inverse."""
    x = problem.recovered[0]
    value.name, value.type = name_of(problem), ir.TensorType(e.dtype)
    value.shape = ir.Shape([x.shape[0]]) if x.shape is not None and len(x.shape) else None
    return value


def name_of(problem: Problem) -> str:
    """`residual`, or where the model's inputs or outputs have that name, it and underscores."""
    taken = {v.name for v in (*problem.known, *problem.given, *problem.recovered)}
    name = RESIDUAL
    while name in taken:
        name += "_"
    return name


def forward_nodes(problem: Problem) -> list[ir.Node]:
    """All of f, as far as the known outputs need it."""
    return upstream(problem.known)


def run_forwards(e: Emitter, problem: Problem, values: Mapping[ir.Value, ir.Value]) -> dict[ir.Value, ir.Value]:
    """Every tensor of f from the inputs in `values`."""
    found = dict(values)
    copy(e, forward_nodes(problem), found, "again")
    return found


def along_batch(problem: Problem) -> dict[ir.Value, Along]:
    """Where the samples of each known output lie, by the name of the size that counts them.

    Raises:
        UsageError: an output has no axis of that size.
    """
    batch = _dims(problem.recovered[0])[:1]
    found = {}
    for value in problem.known:
        dims = _dims(value)
        if not batch or batch[0] not in dims:
            raise UsageError(f"--residual: the samples of {value.name!r} lie along no axis of its own.")
        found[value] = Along(dims.index(batch[0]))
    return found


def _rows(e: Emitter, along: Along, forward: ir.Value, value: ir.Value) -> ir.Value:
    """A tensor as (N, k)."""
    rank = len(forward.shape or ())
    dtype = forward.dtype or e.dtype
    if dtype != e.dtype:
        value = e.cast(value)
    if along.axis:
        value = e.op("Transpose", value, perm=[along.axis, *(axis for axis in range(rank) if axis != along.axis)])
    rest = [dim for axis, dim in enumerate(forward.shape or ()) if axis != along.axis]
    fixed = [dim for dim in rest if isinstance(dim, int)]
    # Sizes that are told leave −1 to the samples: of none of them, Reshape could not tell the size of a row.
    if len(fixed) == len(rest) and along.fixed and not along.strided:
        return e.op("Reshape", value, e.ints([-1, along.count * int(np.prod(fixed))]))
    if along.count == 1:
        return e.op("Flatten", value, axis=1)
    raise UsageError(f"--residual: the samples of {forward.name!r} are interleaved.")


def _dims(value: ir.Value) -> list[int | str]:
    return [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape or ()]
