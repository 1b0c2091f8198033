"""Noise for measuring how much an inverse amplifies rounding: a factor 1 + η·u on every tensor."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter

PORT = "onnx_invert_eta"


class Noise:
    """Emits the factors. η is the graph input `port`: 0 leaves every tensor as it is, bit for bit."""

    def __init__(self, e: Emitter, dtype: ir.DataType) -> None:
        self._e = e
        self._rng = np.random.default_rng(1729)
        self.port = ir.Value(name=e.unique(PORT), shape=ir.Shape([]), type=ir.TensorType(dtype))

    def shake(self, value: ir.Value, forward: ir.Value) -> ir.Value:
        """`value` · (1 + η·u), u of the shape of the fixed trailing axes of the tensor it stands for."""
        e = self._e
        sizes: list[int] = []
        for dim in reversed(tuple(forward.shape or ())):
            if not isinstance(dim, int):
                break
            sizes.insert(0, dim)
        u = self._rng.uniform(0.5, 1.0, sizes) * self._rng.choice([-1.0, 1.0], sizes)
        with e.scope("noise"):
            eta = self.port if self.port.dtype == e.dtype else e.op("Cast", self.port, to=int(e.dtype))
            factor = e.op("Add", e.op("Mul", e.constant(u, "u"), eta), 1.0)
            return e.op("Mul", value, factor)
