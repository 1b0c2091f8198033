"""Runs of affine steps, folded: x = y @ P + q as one product, wherever that is no larger."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.build.noise import Noise
from onnx_invert.errors import ModelError
from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.facts import Array, Diagonal

Weight = NDArray[np.generic]


@dataclass(frozen=True)
class Step:
    """x = y @ matrix + shift, or x = scale · y + shift where there is no matrix."""

    matrix: Weight | None
    scale: Array
    shift: Array

    @property
    def is_row(self) -> bool:
        """True if scale and shift lie along the last axis alone."""
        return all(part.ndim == 0 or part.size == part.shape[-1] for part in (self.scale, self.shift))


ONE, ZERO = np.ones(()), np.zeros(())


def undo_diagonal(fact: Diagonal) -> Step:
    """x = (y − shift) / scale = y · (1/scale) − shift/scale; 0 where the scale is 0."""
    kept = fact.scale != 0
    factor = np.where(kept, 1 / np.where(kept, fact.scale, 1.0), 0.0)
    return Step(None, factor, -fact.shift * factor)


def undo_matrix(pinv: Weight) -> Step:
    """x = y @ W⁺."""
    return Step(pinv, ONE, ZERO)


def fold(steps: list[Step]) -> list[Step]:
    """The same map with fewer steps; a product of two matrices only where it is no larger than both."""
    folded: list[Step] = []
    for step in steps:
        folded.append(step)
        while len(folded) > 1 and (joined := _join(folded[-2], folded[-1])) is not None:
            folded[-2:] = [joined]
    return folded


def _join(first: Step, second: Step) -> Step | None:
    if first.matrix is None and second.matrix is None:
        return Step(None, first.scale * second.scale, first.shift * second.scale + second.shift)
    if not (first.is_row and second.is_row):
        return None
    if second.matrix is None:
        assert first.matrix is not None
        scale, shift = second.scale.reshape(-1), second.shift.reshape(-1)
        matrix = first.matrix
        if np.any(scale != 1):
            matrix = (matrix.astype(np.float64) * scale).astype(matrix.dtype)
        return Step(matrix, ONE, first.shift.reshape(-1) * scale + shift)
    rows = second.matrix.shape[0]
    shift = np.broadcast_to(first.shift.reshape(-1), (rows,))
    if first.matrix is not None:
        k, m = first.matrix.shape[0], second.matrix.shape[1]
        if k * m > first.matrix.size + second.matrix.size:
            return None
        wide = second.matrix.astype(np.float64)
        product = (first.matrix.astype(np.float64) @ wide).astype(second.matrix.dtype)
        return Step(product, ONE, shift @ wide + second.shift.reshape(-1))
    matrix = second.matrix
    if np.any(first.scale != 1):
        column = np.broadcast_to(first.scale.reshape(-1), (rows,))[:, None]
        matrix = (column * matrix.astype(np.float64)).astype(matrix.dtype)
    if not np.any(shift):
        return Step(matrix, ONE, second.shift.reshape(-1))
    return Step(matrix, ONE, shift @ second.matrix.astype(np.float64) + second.shift.reshape(-1))


def emit(e: Emitter, y: ir.Value, step: Step, noise: Noise | None = None) -> ir.Value:
    """The nodes of one step."""
    x = y
    if step.matrix is not None:
        weight = e.constant(step.matrix, "weight")
        x = e.op("MatMul", y, weight)
        if noise is not None:
            x = noise.of_product(x, y, weight, "right")
    elif np.any(step.scale != 1):
        scale = e.constant(step.scale, "scale")
        if np.any((step.scale != 0) & (_array(scale) == 0)):
            least = np.abs(step.scale[step.scale != 0]).min()
            raise ModelError(
                f"Undoing node {e.scope_name!r} takes factors down to {least:.3g}, below what "
                f"{e.dtype.name.lower()} can hold."
            )
        x = e.op("Mul", y, scale)
    if np.any(step.shift != 0):
        shift = e.constant(step.shift, "shift")
        x = e.op("Add", x, shift if noise is None else noise.of_constant(shift))
    return x


def _array(constant: ir.Value) -> NDArray[np.generic]:
    assert constant.const_value is not None
    return constant.const_value.numpy()
