"""Noise for measuring how much an inverse amplifies rounding.

Rounding moves a tensor by eps times its elements, and a product y @ P by eps times |y| @ |P|, however much of
that cancels: through the sums, and because P itself is stored rounded. The same is done here with η for eps
and random signs: a factor 1 + η·u on every tensor that stands for one of the model's, and η·u₂·((u₁·y) @ P)
added to every product.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from copy import copy

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter

PORT = "onnx_invert_eta"

DRAWS = 2
"""Independent u per tensor: with one alone, noise of several tensors can cancel in a small output."""


class Noise:
    """Emits the noise. η is the graph input `port`, one number per draw; all 0 changes no bit of a result."""

    def __init__(self, e: Emitter, dtype: ir.DataType) -> None:
        self._e = e
        self._rng = np.random.default_rng(1729)
        self.port = ir.Value(name=e.unique(PORT), shape=ir.Shape([1, DRAWS]), type=ir.TensorType(dtype))

    def within(self, e: Emitter, name: str) -> Noise:
        """The same noise for the body of a loop: drawn from `name`, so that every evaluation of it meets the same."""
        inner = copy(self)
        inner._e, inner._rng = e, np.random.default_rng([1729, zlib.crc32(name.encode())])
        return inner

    def typed(self, forward: ir.Value) -> AbstractContextManager[None]:
        """Noise of the type of a tensor of the model."""
        return self._e.scope(self._e.scope_name, forward.dtype or self._e.dtype)

    def shake(self, value: ir.Value, forward: ir.Value) -> ir.Value:
        """`value` · (1 + η·u), u of the shape of the fixed trailing axes of the tensor it stands for."""
        sizes: list[int] = []
        for dim in reversed(tuple(forward.shape or ())):
            if not isinstance(dim, int):
                break
            sizes.insert(0, dim)
        if not sizes and (forward.shape is None or len(forward.shape)):
            sizes = [1]
        with self._e.scope("noise"):
            return self._e.op("Mul", value, self._e.op("Add", self._drawn(sizes), 1.0))

    def of_product(self, x: ir.Value, y: ir.Value, weight: ir.Value, side: str) -> ir.Value:
        """x = y @ weight ("right") or weight @ y ("left"), with the noise of the product and of its weight."""
        e = self._e
        rows, columns = _sizes(weight)[-2:]
        before, after = ([rows], [columns]) if side == "right" else ([columns, 1], [rows, 1])
        with e.scope("noise"):
            signs = e.constant(self._rng.choice([-1.0, 1.0], before), "signs")
            mixed = e.op("Mul", y, signs)
            spread = e.op("MatMul", mixed, weight) if side == "right" else e.op("MatMul", weight, mixed)
            return e.op("Add", x, e.op("Mul", spread, self._drawn(after)))

    def of_constant(self, constant: ir.Value) -> ir.Value:
        """A constant · (1 + η·u)."""
        with self._e.scope("noise"):
            return self._e.op("Mul", constant, self._e.op("Add", self._drawn(_sizes(constant)), 1.0))

    def _drawn(self, sizes: Sequence[int]) -> ir.Value:
        """Σ ηₖ·uₖ, a tensor of this shape; u in ±[1/2, 1]."""
        e = self._e
        shape = (DRAWS, math.prod(sizes))
        u = self._rng.uniform(0.5, 1.0, shape) * self._rng.choice([-1.0, 1.0], shape)
        eta = e.converted(self.port, e.dtype)
        return e.op("Reshape", e.op("MatMul", eta, e.constant(u, "u")), e.ints(sizes))


def _sizes(constant: ir.Value) -> list[int]:
    assert constant.const_value is not None
    return list(constant.const_value.numpy().shape)
