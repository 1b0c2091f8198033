"""Whether y tells on which piece of a function x lies (rational.py): tried at many x in a run of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.plan.curve import Curve
from onnx_invert.plan.elements import Mask
from onnx_invert.plan.evaluation import Arrays
from onnx_invert.plan.in_place import InPlace
from onnx_invert.plan.steps import Domain, Edge

COMPARISONS: Mapping[str, np.ufunc] = {
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
}

POINTS = 24
"""At so many x, drawn for each element by itself, it is tried what tells the pieces."""

AMISS = 1e-3
"""So many comparisons may come out otherwise: beside a threshold rounding decides."""


@dataclass
class Trial:
    """Tensors of the block at some x."""

    y: ir.Value
    mask: Mask
    runs: list[Arrays]
    points: list[NDArray[np.float64]]
    known: Mapping[str, NDArray[np.generic]]

    @staticmethod
    def of(block: InPlace, domain: Domain, wanted: Sequence[ir.Value]) -> Trial | None:
        """None where the block cannot be run."""
        made = {output.name or "" for node in block.nodes for output in node.outputs}
        names = [value.name or "" for value in wanted if value.name in made]
        curve = Curve.of(block, wanted=names)
        if curve is None:
            return None
        rng = np.random.default_rng(0)
        shape = curve.here.shape
        low = -curve.reach if domain.low is None else domain.low
        high = curve.reach if domain.high is None else domain.high
        points = [np.broadcast_to(low + (high - low) * rng.uniform(size=shape), shape) for _ in range(POINTS)]
        runs = curve.at(points)
        known = block.system.concrete.sample(block.system.opset)
        arrays = [run for run in runs if run is not None]
        return None if len(arrays) < len(points) else Trial(block.y, block.mask, arrays, points, known)

    def rises(self) -> bool:
        """Whether y rises with x, in all elements."""
        at = np.stack([point[self.mask] for point in self.points])
        values = np.stack([self._of(run, self.y)[self.mask].astype(np.float64) for run in self.runs])
        order = np.argsort(at, axis=0)
        steps = np.diff(np.take_along_axis(values, order, axis=0), axis=0)
        return bool(np.all(np.isfinite(values)) and np.all(steps.max(axis=0) > -steps.min(axis=0)))

    def threshold(self, edge: Edge, tables: Sequence[ir.Value], fills: Sequence[ir.Node]) -> ir.Value | None:
        """The table with which y compares as x does with the operand of a node."""
        node, place = edge
        compare, side = COMPARISONS[node.op_type], node.inputs[1 - place]
        assert side is not None
        for table in tables:
            amiss = count = 0
            for run in self.runs:
                own, ys = self._of(run, side), self._of(run, self.y)
                if own.size != ys.size:
                    return None
                seen = np.broadcast_to(self.mask, ys.shape).reshape(own.shape)
                for fill in fills:
                    filled = self._of(run, fill.outputs[0])
                    kept = filled != self._of(run, fill.inputs[2])
                    seen = seen & (kept.reshape(own.shape) if kept.size == own.size else True)
                pair = [ys.reshape(own.shape), self._of(run, table)]
                there, here = compare(*(pair if place else pair[::-1])), self._of(run, node.outputs[0])
                if there.shape != here.shape:
                    amiss, count = 1, 1
                    break
                differ = (there != here) & seen
                amiss, count = amiss + int(differ.sum()), count + differ.size
            if amiss <= AMISS * count:
                return table
        return None

    def keeps_sign(self, node: ir.Node) -> bool:
        """Whether what a node takes has the sign of y."""
        source = node.inputs[0]
        for run in self.runs:
            own, ys = self._of(run, source), self._of(run, self.y)
            if own.size != ys.size or np.any((np.sign(own).reshape(ys.shape) != np.sign(ys))[self.mask]):
                return False
        return True

    def level(self, node: ir.Node) -> float | None:
        """The one value of a node, if there is just one."""
        values = np.unique(np.concatenate([self._of(run, node.outputs[0]).reshape(-1) for run in self.runs]))
        return float(values[0]) if values.size == 1 else None

    def _of(self, run: Arrays, value: ir.Value | None) -> NDArray[np.generic]:
        assert value is not None
        if value.const_value is not None:
            return value.const_value.numpy()
        found = run.get(value.name or "")
        return self.known[value.name or ""] if found is None else found
