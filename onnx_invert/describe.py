"""How messages call a tensor."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir


def describe(value: ir.Value) -> str:
    """`name float32[N,784]`."""
    return f"{value.name} {kind(value)}"


def kind(value: ir.Value) -> str:
    """`float32[N,784]`; a size without a name is `?`."""
    dtype = value.dtype.name.lower() if value.dtype is not None else "unknown"
    dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
    return dtype if value.shape is None else f"{dtype}[{sizes(value)}]"


def sizes(value: ir.Value) -> str:
    """`N,784`, of a tensor whose rank is known."""
    return ",".join(str(dim) if isinstance(dim, int) else dim.value or "?" for dim in value.shape or ())


def listing(title: str, values: Iterable[ir.Value]) -> str:
    """`Inputs: a float32[N,3]; b float32[3].`"""
    return f"{title}: {'; '.join(describe(value) for value in values)}."
