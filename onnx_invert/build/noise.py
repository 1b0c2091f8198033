"""Noise for measuring how much an inverse amplifies rounding: a factor 1 + η·u on every tensor."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter

PORT = "onnx_invert_eta"

DRAWS = 2
"""Independent u per tensor: with one alone, noise of several tensors can cancel in a small output."""


class Noise:
    """Emits the factors. η is the graph input `port`, one number per draw; all 0 changes no bit."""

    def __init__(self, e: Emitter, dtype: ir.DataType) -> None:
        self._e = e
        self._rng = np.random.default_rng(1729)
        self.port = ir.Value(name=PORT, shape=ir.Shape([1, DRAWS]), type=ir.TensorType(dtype))

    def shake(self, value: ir.Value, forward: ir.Value) -> ir.Value:
        """`value` · (1 + Σ ηₖ·uₖ), u of the shape of the fixed trailing axes of the tensor it stands for."""
        e = self._e
        sizes: list[int] = []
        for dim in reversed(tuple(forward.shape or ())):
            if not isinstance(dim, int):
                break
            sizes.insert(0, dim)
        if not sizes and forward.shape is not None and len(forward.shape):
            sizes = [1]
        shape = (DRAWS, math.prod(sizes))
        u = self._rng.uniform(0.5, 1.0, shape) * self._rng.choice([-1.0, 1.0], shape)
        with e.scope("noise"):
            eta = self.port if self.port.dtype == e.dtype else e.op("Cast", self.port, to=int(e.dtype))
            factor = e.op("Add", e.op("MatMul", eta, e.constant(u, "u")), 1.0)
            return e.op("Mul", value, e.op("Reshape", factor, e.ints(sizes)))
