"""A network from its ONNX file as a function of a framework's tensors, and what there is to solve with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Operators = Mapping[str, Callable[..., Any]]
"""By op type: a function of the operands, with the node's attributes as keywords."""


@dataclass(frozen=True)
class Problem:
    """Find x (N, n) with f(x) = y (N, m), from `start` (N, n), to a relative residual of `tolerance` in each sample."""

    model: Path
    start: NDArray[np.float32]
    y: NDArray[np.float32]
    tolerance: float

    @property
    def norm(self) -> NDArray[np.float32]:
        """‖y‖ of each sample (N)."""
        return np.linalg.norm(self.y, axis=1)


@dataclass(frozen=True)
class Outcome:
    """The x that was found (N, n), and the time without building, tracing and a first step."""

    x: NDArray[np.float32]
    seconds: float


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
