"""The Jacobian of a tape as a tensor, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from onnx_invert.build.rows import joined, seeded_rows, seeded_tensor, zeros
from onnx_invert.build.tape import Tape
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.layout import Layout
from onnx_invert.plan.program import Program


def unit_seeds(e: Emitter, like: ir.Value, sizes: Sequence[int]) -> list[ir.Value]:
    """The identity as tangents of several tensors side by side: for each (S, samples, size), S the sum of sizes.

    `like` is any (samples, k) tensor; it says how many samples there are.
    """
    total = sum(sizes)
    zero = zeros(e, like, before=(1,), after=(1,))
    identity = np.eye(total)
    ends = np.cumsum([0, *sizes])
    return [e.op("Add", e.constant(identity[:, None, start:stop], "unit"), zero) for start, stop in pairwise(ends)]


def rows_of(e: Emitter, tape: Tape, layouts: Mapping[ir.Value, Layout], *, forwards: bool, like: ir.Value) -> ir.Value:
    """The Jacobian of the tape as (samples, m, n); by one tangent per unknown number with `forwards`, else by one
    cotangent per wanted number. `tape.seeds` is that number."""
    program: Program = tape.program
    sources, sinks = (program.unknowns, program.wanted) if forwards else (program.wanted, program.unknowns)
    units = unit_seeds(e, like, [layouts[value].size for value in sources])
    seeds = {
        value: seeded_tensor(e, layouts[value], unit, tape.seeds) for value, unit in zip(sources, units, strict=True)
    }
    found = tape.push(e, seeds) if forwards else tape.pull(e, seeds)
    parts = []
    for value in sinks:
        if value in found:
            parts.append(seeded_rows(e, layouts[value], found[value], tape.seeds))
        else:
            parts.append(zeros(e, like, before=(tape.seeds,), after=(layouts[value].size,)))
    return e.op("Transpose", joined(e, parts), perm=[1, 2, 0] if forwards else [1, 0, 2])
