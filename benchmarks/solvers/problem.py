"""What there is to solve, what was found, and a network from its ONNX file as a function of a framework's tensors."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[np.float32]
Operators = Mapping[str, Callable[..., Any]]
"""By op type: a function of the operands, with the node's attributes as keywords."""


@dataclass(frozen=True)
class Problem:
    """Find x (N, n) with f(x) = y (N, m), from `start` (N, n), to a relative residual of `tolerance` per sample."""

    model: Path
    start: Array
    y: Array
    tolerance: float

    @property
    def norm(self) -> Array:
        """‖y‖ of each sample (N)."""
        return np.linalg.norm(self.y, axis=1)

    def sample(self, index: int) -> Problem:
        """One of its samples alone."""
        one = slice(index, index + 1)
        return replace(self, start=self.start[one], y=self.y[one])


@dataclass(frozen=True)
class Outcome:
    """The x that was found (N, n), and the time without building, tracing and a first step."""

    x: Array
    seconds: float


Solver = Callable[[Problem, float], Outcome]
"""From the problem and the seconds that it may take at most."""


def one_by_one(solve: Solver) -> Solver:
    """The same, each sample by itself; those that the time does not reach stay at their start."""

    def run(problem: Problem, limit: float) -> Outcome:
        parts, seconds = [], 0.0
        for index in range(len(problem.y)):
            single = problem.sample(index)
            if seconds >= limit:
                parts.append(single.start)
                continue
            found = solve(single, limit - seconds)
            parts.append(found.x)
            seconds += found.seconds
        return Outcome(np.concatenate(parts), seconds)

    return run


class DoneError(Exception):
    """Out of an optimiser that does not return by itself."""


class Kept:
    """Of every sample the first x that is a solution, or the last that was seen.

    An optimiser's steps on all samples at once move those too that were there already.
    """

    def __init__(self, problem: Problem, limit: float) -> None:
        self._begun, self._limit = time.perf_counter(), limit
        self._x = problem.start.copy()
        self._open = np.ones(len(problem.y), dtype=bool)
        self._tolerance = problem.tolerance

    def see(self, residuals: Array, x: Callable[[], Array]) -> bool:
        """Relative residuals (N) at `x` (N, n), which is asked for only where it matters; True if it is over."""
        over = self.seconds > self._limit
        solved = self._open & (residuals <= self._tolerance)
        if solved.any() or over:
            rows = self._open if over else solved
            self._x[rows] = x()[rows]
            self._open &= ~solved
        return over or not self._open.any()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self._begun

    def outcome(self, last: Array) -> Outcome:
        """`last` (N, n) is where the samples are that were not solved."""
        self._x[self._open] = last[self._open]
        return Outcome(self._x, self.seconds)


def rebuild(path: Path, operators: Operators, constant: Callable[[NDArray[Any]], Any]) -> Callable[[Any], Any]:
    """The network with one input and one output as a function.

    Raises:
        SystemExit: an operator that the table lacks.
    """
    graph = onnx.load(path).graph
    missing = sorted({node.op_type for node in graph.node} - set(operators))
    if missing:
        raise SystemExit(f"{path.name}: no {', '.join(missing)} in the table of operators")
    weights: dict[str, Any] = {}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        # Shapes and axes stay numbers of Python's.
        weights[tensor.name] = constant(array) if array.dtype == np.float32 else array.tolist()
    nodes = [
        (
            operators[node.op_type],
            list(node.input),
            node.output[0],
            {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute},
        )
        for node in graph.node
    ]
    source, result = graph.input[0].name, graph.output[0].name

    def run(x: Any) -> Any:
        values = {**weights, source: x}
        for function, operands, output, attributes in nodes:
            values[output] = function(*(values[name] for name in operands), **attributes)
        return values[result]

    return run
