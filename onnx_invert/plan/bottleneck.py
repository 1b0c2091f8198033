"""Where equations are cut in two: at the narrowest tensor that every way from x to y leads through."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.errors import ModelError
from onnx_invert.plan.batch import Batch
from onnx_invert.plan.front import find_front
from onnx_invert.plan.problem import Problem
from onnx_invert.plan.program import Program
from onnx_invert.rules import RuleSet

WIDE_TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
"""Types in which equations are solved."""

NORMALISATIONS = frozenset(
    {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization"}
)
"""They take away the mean and the scale of what they normalise."""


def onto_end(problem: Problem, rules: RuleSet, whole: Program) -> ir.Value | None:
    """The end of the affine beginning, if x reaches every value of it."""
    if len(whole.unknowns) != 1:
        return None
    front = find_front(whole.unknowns[0], rules, problem.opset, frozenset(whole.wanted))
    if front is None or np.linalg.matrix_rank(front.weight) < front.weight.shape[1]:
        return None
    return front.value


def bottleneck(whole: Program, batch: Batch, onto: ir.Value | None) -> ir.Value | None:
    """The first of the narrowest tensors that every way from x to y leads through, if it is narrower than both.

    What is found there has to be something that x can make. Before a normalisation y does not tell mean and scale,
    so that it is cut there only at `onto`, a tensor of which x makes every value.
    """
    normalised = max((i for i, step in enumerate(whole.steps) if step.node.op_type in NORMALISATIONS), default=-1)
    last: dict[ir.Value, int] = {}
    made = set(whole.unknowns)
    for index, step in enumerate(whole.steps):
        last |= {value: index for value in step.node.inputs if value is not None and value in made}
        made.update(step.node.outputs)
    last |= dict.fromkeys(whole.wanted, len(whole.steps))
    live = {value for value in whole.unknowns if value in last}
    best: ir.Value | None = None
    smallest = min(_size(batch, whole.unknowns), _size(batch, whole.wanted))
    for index, step in enumerate(whole.steps):
        live |= {value for value in step.node.outputs if value in last}
        live = {value for value in live if last[value] > index}
        if len(live) == 1:
            (value,) = live
            size = _size(batch, (value,))
            determined = index >= normalised or value is onto
            if value.dtype in WIDE_TYPES and 0 < size < smallest and determined:
                best, smallest = value, size
    return best


def _size(batch: Batch, values: Sequence[ir.Value]) -> int:
    """The numbers in one sample of all tensors together; 0 where a size, or where samples lie, is unknown."""
    total = 0
    for value in values:
        try:
            total += batch.layout(value).size if batch.is_known(value) else 0
        except ModelError:
            return 0
    return total
