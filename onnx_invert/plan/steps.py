"""What an inverse does, one step after the other, where it does not simply go back along a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.plan.elements import Mask
from onnx_invert.plan.moves import Form
from onnx_invert.plan.program import Program
from onnx_invert.plan.stages import Stage

if TYPE_CHECKING:
    from onnx_invert.plan.lanes import Cut
    from onnx_invert.plan.rational import Rational

Edge = tuple[ir.Node, int]
"""A node, and the place of one of its operands."""


@dataclass(frozen=True)
class Forward:
    """Run `node` as the model does; `masks` tell which elements of its outputs are known then.

    A node that moves elements is not run but read: `forms` say for every operand that is known in part, or moved
    by indices that the model computes, where its elements go.
    """

    node: ir.Node
    masks: tuple[Mask, ...]
    forms: dict[int, list[Form]] | None = None


@dataclass(frozen=True)
class Place:
    """`node` moves elements: those of its outputs that are known go back to where they were in an operand.

    `forms` say how the elements of `mask` lie in the outputs; `stages` are the rule's rearrangements, for a node that
    keeps all elements; a Reshape without them has its operand's shape put together from the sizes of the inputs.
    """

    node: ir.Node
    operand: int
    forms: tuple[Form, ...]
    mask: Mask
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class Undo:
    """The rule of `node` gives its operand, from its output and its other operands, in the elements of `mask`."""

    node: ir.Node
    operand: int
    stages: tuple[Stage, ...]
    mask: Mask


@dataclass(frozen=True)
class Block:
    """Nodes that together determine the tensor `x` from the tensor `y`, and no one of them alone.

    `x` is unknown in the elements of `mask`.
    """

    nodes: tuple[ir.Node, ...]
    x: ir.Value
    y: ir.Value
    mask: Mask

    @property
    def name(self) -> str:
        """The first and the last node."""
        names = [node.name or "" for node in self.nodes]
        return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"


@dataclass(frozen=True)
class Affine(Block):
    """y = A x + c, A constant: `stages` undo A; c is what the nodes make of x = 0."""

    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Domain:
    """Where φ is defined and rises, or falls, throughout: from `low` to `high`, both included; None for no end.

    The ends are numbers, or arrays in x's shape with size 1 along the axes whose size is not fixed. With a `period`
    φ is defined elsewhere, too, and repeats itself: x is an angle on a circle of that length, taken nearest to 0.
    """

    low: NDArray[np.floating] | None = None
    high: NDArray[np.floating] | None = None
    period: float | None = None

    @property
    def is_reals(self) -> bool:
        """True if there is no end."""
        return self.low is None and self.high is None

    def __str__(self) -> str:
        """As an interval; the widest where they differ from element to element."""
        if self.period is not None:
            return f"a circle of {self.period:.6g}"
        low = "(−∞" if self.low is None else f"[{float(np.min(self.low)):.6g}".replace("-", "−")
        high = "∞)" if self.high is None else f"{float(np.max(self.high)):.6g}]".replace("-", "−")
        return f"{low}, {high}"


REALS = Domain()


@dataclass(frozen=True)
class Evidence:
    """Why one y is taken to have one x: `proven` for all x and whatever the known tensors are, or tried at `points`.

    `onto` says that every y has an x: it grows beyond all bounds on both sides, as far as could be seen.
    """

    proven: bool = False
    points: int = 0
    onto: bool = True


@dataclass(frozen=True)
class Root(Block):
    """Element i of y follows from element i of x alone: a root for every element, all at once, in `domain`.

    `unseen` are the Where nodes of which nobody sees whether they take their second operand or their third. With
    `rational` x mostly follows in closed form.
    """

    domain: Domain = REALS
    unseen: frozenset[ir.Node] = frozenset()
    evidence: Evidence = Evidence()
    rational: Rational | None = None


@dataclass(frozen=True)
class Scale(Block):
    """yᵢ = aᵢ xᵢ + bᵢ, a and b whatever the known tensors make of them, a not 0."""

    evidence: Evidence = Evidence()


@dataclass(frozen=True)
class Tear(Block):
    """x follows from y and from `s`, a few numbers that themselves follow from x, each from its own part of x.

    With the operands `frozen`, those that take s, held, `inner` solves for x; `head` are the nodes from x to s. The
    equation s − head(inner(y, s)) = 0 has one root for each number; it `rises` through it, or falls. s is not
    below `least`, if there is such a bound.
    """

    s: ir.Value
    frozen: tuple[Edge, ...]
    inner: Sequence[Step]
    head: tuple[ir.Node, ...]
    rises: bool
    least: float | None


@dataclass(frozen=True)
class Coupled(Block):
    """x follows from y and from `s`, a few numbers of each sample that determine one another.

    With the operands `frozen`, those that take s, held, `inner` solves for x, y is affine in x, and `tail` makes y of
    (x, *s); `head` makes s of x. s = head(inner(y, s)) is solved for all of s together. `proof` says why it has one
    solution; "" where that was tried only.
    """

    s: tuple[ir.Value, ...]
    frozen: tuple[Edge, ...]
    inner: Sequence[Step]
    tail: Program
    head: Program
    proof: str


@dataclass(frozen=True)
class Solve(Block):
    """y = F(x), as many equations as unknowns, solved for all numbers of x along the axes `own` together.

    Along all other axes they are solved each by itself. `proof` is as for `Coupled`.
    """

    program: Program
    own: tuple[int, ...]
    proof: str


@dataclass(frozen=True)
class Sweep(Block):
    """x = φ(x, y) in the limit: what the `frozen` operands take is x of the sweep before, named `before`.

    `inner` solves for x with those known. After `rounds` sweeps x is exact, element after element; None where
    the map is a contraction instead, with the factor `contraction` below 1. `by_sample` says that no sample, along
    the first axis, depends on another; along all axes but `own`, where these are known, no place does. It is a
    contraction if the inputs named `within` lie within [−1, 1]. With a `cut` each sweep runs on the elements that it
    finds, and no others.
    """

    before: ir.Value
    frozen: tuple[Edge, ...]
    inner: Sequence[Step]
    rounds: int | None
    contraction: float | None = None
    by_sample: bool = False
    own: tuple[int, ...] | None = None
    within: tuple[str, ...] = ()
    cut: Cut | None = None


Step = Forward | Place | Undo | Affine | Root | Scale | Tear | Coupled | Solve | Sweep
