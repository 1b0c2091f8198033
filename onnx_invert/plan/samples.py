"""Where in each tensor of a model its samples lie: along an axis of their own, or merged with others in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.concrete import Concrete
from onnx_invert.rules.dependence import flow
from onnx_invert.rules.moving import Labels
from onnx_invert.rules.static import UnsizedError


@dataclass(frozen=True)
class Along:
    """Samples lie along `axis`, `count` elements of it for each: side by side, or with `strided` one of each sample
    after the other. Where `fixed` is not set there are so many at the sizes that the plan was made at alone."""

    axis: int
    count: int = 1
    strided: bool = False
    fixed: bool = True


@dataclass
class Samples:
    """The model's graph and its `inputs` that count samples, along the first axis whose size is `batch`."""

    concrete: Concrete
    inputs: Sequence[ir.Value]
    batch: int | str

    def along(self, value: ir.Value) -> Along | None:
        """Where the samples of a tensor are; None where that is not known, or not along one axis."""
        dims = _dims(value)
        if self.batch in dims:
            return Along(dims.index(self.batch))
        labels = self._known.get(value.name or "")
        if labels is None or labels.size == 0 or labels.min() < 1:
            return None
        total = int(labels.max())
        for axis, size in enumerate(labels.shape):
            line = np.moveaxis(labels, axis, 0).reshape(size, -1)
            if size % total or not np.array_equal(line, np.broadcast_to(line[:, :1], line.shape)):
                continue
            count, ids = size // total, np.arange(1, total + 1)
            for strided, order in ((False, np.repeat(ids, count)), (True, np.tile(ids, count))):
                if np.array_equal(line[:, 0], order):
                    return Along(axis, count, strided, count == 1 or self._fixed)
        return None

    @cached_property
    def _fixed(self) -> bool:
        """Whether no size but the number of samples is left open."""
        return all(isinstance(dim, int) or dim == self.batch for value in self.inputs for dim in _dims(value))

    @cached_property
    def _known(self) -> dict[str, Labels]:
        """The number of its sample, from 1 on, for every element of every tensor that follows from the inputs."""
        found: dict[str, Labels] = {}
        for value in self.inputs:
            shape, dims = self.concrete.shapes.get(value.name or ""), _dims(value)
            if shape is not None and self.batch in dims:
                axis = dims.index(self.batch)
                ids = np.arange(1, shape[axis] + 1).reshape([-1 if a == axis else 1 for a in range(len(shape))])
                found[value.name or ""] = np.array(np.broadcast_to(ids, shape))
        for node in self.concrete.nodes.values():
            parts = [None if value is None else found.get(value.name or "") for value in node.inputs]
            try:
                made = flow(node, parts) if any(part is not None for part in parts) else []
            except UnsizedError:
                continue
            found.update((o.name or "", label) for o, label in zip(node.outputs, made, strict=False) if label.any())
        return found


def _dims(value: ir.Value) -> list[int | str]:
    return [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape or ()]
