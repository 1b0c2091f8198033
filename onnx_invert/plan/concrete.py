"""The model at sizes that are all known: its nodes, shapes, and tensors for drawn inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.plan.evaluation import evaluate


@dataclass
class Concrete:
    """The model's nodes as they are at sizes that are all known."""

    nodes: dict[str, ir.Node]
    shapes: dict[str, tuple[int, ...]]
    graph: ir.Graph | None = None
    _drawn: dict[str, NDArray[np.generic]] | None = None

    def sample(self, opset: int) -> dict[str, NDArray[np.generic]]:
        """Every tensor where the inputs are drawn from N(0, 1) (1 for what is no float), computed once.

        Empty where onnx's reference evaluator does not run the model.
        """
        if self._drawn is None:
            self._drawn = evaluate(self.graph, opset) if self.graph is not None else {}
        return self._drawn

    @staticmethod
    def of(graph: ir.Graph) -> Concrete:
        """Read off a copy of the model whose sizes are numbers."""
        values = [*graph.inputs, *graph.initializers.values(), *(o for node in graph for o in node.outputs)]
        return Concrete(
            {node.name or "": node for node in graph},
            {
                value.name or "": tuple(dim for dim in value.shape.dims if isinstance(dim, int))
                for value in values
                if value.shape is not None and value.shape.is_static()
            },
            graph,
        )
