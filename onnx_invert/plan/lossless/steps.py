"""The four ways in which a tensor comes back, and the latents that they take."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnx_invert.numerics.coordinates import Coordinates
from onnx_invert.rules.completion import Completed, Operator, Selection
from onnx_invert.rules.facts import Fact
from onnx_invert.rules.node import Shape

Part = Fact | Completed | Selection | Operator


@dataclass(frozen=True)
class Effort:
    """How careful completions are: the fewest latents first, more where the digits would not come back.

    Directions of a matrix fainter than 1 / `cap` of its strongest are latent too. With `remainder`, functions that
    saturate keep what rounding takes. With `keep` the recovered inputs themselves are the latent.
    """

    cap: float | None = None
    remainder: bool = False
    keep: bool = False

    def __str__(self) -> str:
        if self.keep:
            return "the inputs themselves are kept"
        if self.cap is None:
            return "as few as possible"
        return f"matrices undone up to condition {self.cap:g}, remainders of functions that saturate"


EFFORTS = (Effort(), Effort(30.0, remainder=True), Effort(10.0, remainder=True), Effort(keep=True))


@dataclass(frozen=True, eq=False)
class Link:
    """One map u → v of a node's completion: shapes of both where known, and what its latent is.

    `numbers` are those of z, a sample; 0 where nothing is lost.
    """

    part: Part
    before: Shape | None
    after: Shape | None
    latent: str = ""
    numbers: int = 0
    remainder: bool = False
    coordinates: Coordinates | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Undo:
    """`value` from `output` of a node that uses it, and its other operands where they are needed.

    With `whole`, all nodes that use `value` are undone at once, `node` being the last of them.
    """

    value: ir.Value
    node: ir.Node
    output: ir.Value
    links: tuple[Link, ...]
    others: tuple[ir.Value, ...]
    whole: bool = False

    @property
    def needs(self) -> tuple[ir.Value, ...]:
        """The tensors that have to be known."""
        return (self.output, *self.others)


@dataclass(frozen=True, eq=False)
class Join:
    """`value` from several selections of its elements; `numbers` of them are in none."""

    value: ir.Value
    parts: tuple[tuple[ir.Value, Selection], ...]
    missing: np.ndarray

    @property
    def needs(self) -> tuple[ir.Value, ...]:
        """The tensors that have to be known."""
        return tuple(output for output, _ in self.parts)


@dataclass(frozen=True, eq=False)
class Run:
    """`value` by running its own node forwards."""

    value: ir.Value
    node: ir.Node
    needs: tuple[ir.Value, ...]


@dataclass(frozen=True, eq=False)
class Keep:
    """`value` from a latent that is a copy of it."""

    value: ir.Value
    numbers: int
    needs: tuple[ir.Value, ...] = ()


Step = Undo | Join | Run | Keep


@dataclass(frozen=True)
class Slot:
    """A latent: the step (and the link of an `Undo`) that it belongs to, its name, and its numbers a sample."""

    name: str
    op: str
    latent: str
    numbers: int
    step: Step
    link: int = 0
