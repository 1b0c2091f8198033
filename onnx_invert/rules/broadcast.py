"""Constant operands: which numbers can be undone, and along which axes of y they repeat the other operand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_invert.rules.facts import UNKNOWN_RANK, Array, NoInverse, Repeat
from onnx_invert.rules.node import Dim, NodeView


def not_finite(array: Array, what: str) -> NoInverse:
    """The refusal of a constant with infinities or NaN: y is then one of those whatever x is."""
    bad = int(np.sum(~np.isfinite(array)))
    return NoInverse(f"{bad} of the {np.size(array)} numbers of {what} {'is' if bad == 1 else 'are'} not finite")


def expanded(node: NodeView, other: Sequence[Dim], weights: Array | None = None) -> tuple[Repeat, ...] | NoInverse:
    """() if x already has y's shape, a `Repeat` if the other operand widens it.

    `other` is the other operand's shape. A size of x that is only a symbol, against a fixed size above
    one, may be 1 or that size: that is refused, because nobody can tell which.
    """
    shape = node.shape(node.x)
    if shape is None:
        return UNKNOWN_RANK
    rank = max(len(shape), len(other))
    x = (None,) * (rank - len(shape)) + shape
    b = (1,) * (rank - len(other)) + tuple(other)
    axes, squeezed, count = [], [], 1
    for axis, (mine, theirs) in enumerate(zip(x, b, strict=True)):
        if mine is None or mine == 1:
            if isinstance(theirs, str):
                return NoInverse(
                    f"axis {axis} of its input has size 1 against {theirs!r}, known only at run time",
                    f"give {theirs!r} a fixed size with --shape",
                )
            if mine is None:
                squeezed.append(axis)
            if theirs != 1 or mine is None:
                axes.append(axis)
                count *= theirs
        elif isinstance(mine, str) and theirs != 1:
            return NoInverse(
                f"axis {axis} of its input has the unknown size {mine!r} against {theirs}: it may be repeated",
                f"give {mine!r} a fixed size with --shape",
            )
    if not axes:
        return ()
    if count == 0:
        return NoInverse("its output is empty")
    if weights is not None:
        weights = np.asarray(weights).reshape((1,) * (rank - np.ndim(weights)) + np.shape(weights))
    return (Repeat(tuple(axes), count, tuple(squeezed), weights),)
