"""What an operation can be. A rule returns a chain of these; the engines derive everything else.

A chain lists, from the unknown operand x to the output y, the elementary maps that the node is made of:
Gemm is a `Matrix` and a `Diagonal`, a broadcasting Add is a `Repeat` and a `Diagonal`. Every fact states
its map once; its inverse, guarantee, image, derivative or adjoint, and what it loses follow from it:

    Elementwise    inverse on each branch, derivative, image; the latent is the branch that x was on
    Diagonal       y = scale · x + shift; derivative and adjoint scale; the latent is x where scale is 0
    Matrix         adjoint Wᵀ, inverse W⁺; the latent is the coordinate in W's left null space
    Repeat         adjoint: the sum over the repeated axes; inverse: its least squares; nothing is lost
    Rearrangement  adjoint = inverse; nothing is lost
    Convert        adjoint = inverse; what rounding takes is lost
    Paired         inverse given the other operand; nothing is lost where its condition holds
    NoInverse      why not, and what would help
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.interval import REALS, Interval
from onnx_invert.rules.node import Shape

Array = NDArray[np.float64]
Emit = Callable[[Emitter, ir.Value], ir.Value]
Derivative = Callable[[Emitter, ir.Value, ir.Value], ir.Value]
Numeric = Callable[[Array], Array]


@dataclass(frozen=True)
class Branch:
    """A piece of the line on which a function is strictly monotone: `domain` ↔ `image`.

    `inverse(e, y)` emits x for y in `image`. `label` names the piece where there are several ("x ≥ 0").
    """

    domain: Interval
    image: Interval
    inverse: Emit
    label: str = ""


@dataclass(frozen=True)
class Elementwise:
    """y[i] = f(x[i]), not affine.

    `forward` evaluates f in float64 numpy (for the ends of intervals), `derivative(e, x, y)` emits dy/dx.
    `branches[0]` is the principal one, taken where x may lie on several; its image is all of f's image.
    f is defined on `domain` and may be flat outside its branches. `steepness` is sup|f′| / inf|f′| over
    the branches, infinite where f saturates: the condition number of undoing it.
    """

    forward: Numeric
    derivative: Derivative
    branches: tuple[Branch, ...]
    domain: Interval = REALS
    steepness: float = np.inf

    @property
    def principal(self) -> Branch:
        """The branch that is taken where nothing is known of x."""
        return self.branches[0]

    def branch_for(self, reach: Interval | None) -> tuple[Branch, bool]:
        """The branch to invert on, and whether it holds every x in `reach`.

        `reach` is the box that x runs through, or None where x lies in an unknown part of space.
        """
        x = self.domain if reach is None else reach.meet(self.domain)
        for branch in self.branches:
            if branch.domain.covers(x):
                return branch, True
        return self.principal, False


@dataclass(frozen=True)
class Diagonal:
    """y = scale · x + shift, element by element; both broadcast against x without widening it."""

    scale: Array = field(default_factory=lambda: np.ones(()))
    shift: Array = field(default_factory=lambda: np.zeros(()))


@dataclass(frozen=True)
class Matrix:
    """y = x @ weight (side "right", last axis) or y = weight @ x (side "left", last axis but one).

    `weight` has shape (…, K, M) for "right" and (…, M, K) for "left", in the model's own type; leading
    axes belong to batch axes of x that have the same size. `factor` multiplies it.
    """

    weight: NDArray[np.generic]
    side: Literal["right", "left"] = "right"
    factor: float = 1.0

    @property
    def lengths(self) -> tuple[int, int]:
        """(K, M): how many numbers go in and come out, per vector."""
        rows, columns = self.weight.shape[-2:]
        return (rows, columns) if self.side == "right" else (columns, rows)


@dataclass(frozen=True)
class Repeat:
    """y = weights · x, with x repeated along `axes` of y (x has size 1 there, or lacks the axis).

    `rank` is that of y, `shape` that of x with the lacking axes as 1; `squeezed` lists axes that x lacks.
    `weights` broadcasts against y; None is all ones.
    """

    axes: tuple[int, ...]
    count: int
    squeezed: tuple[int, ...] = ()
    weights: Array | None = None


@dataclass(frozen=True)
class Rearrangement:
    """y holds the elements of x, each once, in other places. `inverse` and `forward` emit both ways.

    `shape` is that of y, where a rule that goes on from there needs it.
    """

    forward: Emit
    inverse: Emit
    shape: Shape | None = None


@dataclass(frozen=True)
class Convert:
    """y is x in another floating-point type."""

    source: ir.DataType
    target: ir.DataType


@dataclass(frozen=True)
class Paired:
    """y = f(x, b) where b is known only when the inverse runs: solved for x, given b.

    `other` is the index of b among the node's operands. `inverse(e, y, b)` emits x, `derivative(e, x, b)`
    emits dy/dx. `requires` is the condition on b under which nothing is lost, as text.
    """

    other: int
    inverse: Callable[[Emitter, ir.Value, ir.Value], ir.Value]
    derivative: Callable[[Emitter, ir.Value, ir.Value], ir.Value]
    requires: str = ""


@dataclass(frozen=True)
class NoInverse:
    """Why a node cannot be undone, and what would help."""

    reason: str
    remedy: str = ""


UNKNOWN_RANK = NoInverse("the rank of its input is unknown", "give the model's inputs a shape with --shape")


def requirement(fact: object) -> str:
    """What has to hold for nothing to be lost, "" where nothing has to."""
    if isinstance(fact, Paired):
        return fact.requires
    if isinstance(fact, Convert):
        narrow = min(fact.source, fact.target, key=lambda dtype: dtype.itemsize)
        return f"the values lie within what {narrow.name.lower()} can hold"
    return ""


Fact = Elementwise | Diagonal | Matrix | Repeat | Rearrangement | Convert | Paired
Chain = tuple[Fact, ...]

__all__ = [
    "REALS",
    "Branch",
    "Chain",
    "Convert",
    "Derivative",
    "Diagonal",
    "Elementwise",
    "Emit",
    "Fact",
    "Interval",
    "Matrix",
    "NoInverse",
    "Paired",
    "Rearrangement",
    "Repeat",
    "requirement",
]
