"""What a path promises: decided from ranks and images along the whole of it, never layer by layer.

Going forwards, the set of values that reach a stage is followed: a box (per element an interval) as long
as it is one, else only "part of space". A stage is one-to-one on what reaches it, or not. Where it is
not, its inverse picks a point x̂ that need not be the one that came: everything before it must be able to
make x̂. That is so if the box that reaches the stage covers all that its inverse can return; if it does
not (a layer before widened, or kept values inside an interval), no promise is left and the path is refused.

    one-to-one everywhere, the last box whole     bijection            g∘f = id, f∘g = id on the box
    not one-to-one somewhere, the last box whole  right inverse        f∘g = id on the box
    one-to-one everywhere, part of space          left inverse         g∘f = id
    neither                                       generalized inverse  f∘g∘f = f

Source: A. Ben-Israel & T. Greville, Generalized Inverses, 2003, chapter 1, for the composition of
{1}-inverses; design notes of this project for the boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from onnx_invert.describe import describe
from onnx_invert.errors import Blocker
from onnx_invert.plan.stages import Stage
from onnx_invert.rules.facts import (
    Branch,
    Convert,
    Diagonal,
    Elementwise,
    Matrix,
    Paired,
    Rearrangement,
    Repeat,
)
from onnx_invert.rules.interval import NON_ZERO, REALS, Interval, closed


class Guarantee(StrEnum):
    """What holds of an inverse g of f."""

    BIJECTION = "bijection"
    RIGHT = "right-inverse"
    LEFT = "left-inverse"
    GENERALIZED = "generalized-inverse"
    APPROXIMATE = "approximate"

    @property
    def promises_x(self) -> bool:
        """g(f(x)) = x."""
        return self in {Guarantee.BIJECTION, Guarantee.LEFT}

    @property
    def promises_reachable_y(self) -> bool:
        """f(g(y)) = y for y = f(x)."""
        return self is not Guarantee.APPROXIMATE

    @property
    def promises_every_y(self) -> bool:
        """f(g(y)) = y for every y in the box that f fills."""
        return self in {Guarantee.BIJECTION, Guarantee.RIGHT}

    @property
    def equation(self) -> str:
        """The promise as a formula."""
        return {
            Guarantee.BIJECTION: "g(f(x)) = x and f(g(y)) = y",
            Guarantee.RIGHT: "f(g(y)) = y",
            Guarantee.LEFT: "g(f(x)) = x",
            Guarantee.GENERALIZED: "f(g(f(x))) = f(x)",
            Guarantee.APPROXIMATE: "none; the residual is measured",
        }[self]

    @staticmethod
    def of(one_to_one: bool, onto: bool) -> Guarantee:
        """From the two properties."""
        if one_to_one:
            return Guarantee.BIJECTION if onto else Guarantee.LEFT
        return Guarantee.RIGHT if onto else Guarantee.GENERALIZED

    @staticmethod
    def weakest(guarantees: list[Guarantee]) -> Guarantee:
        """What holds of several inverses side by side."""
        if any(g is Guarantee.APPROXIMATE for g in guarantees):
            return Guarantee.APPROXIMATE
        return Guarantee.of(all(g.promises_x for g in guarantees), all(g.promises_every_y for g in guarantees))


@dataclass(frozen=True)
class Reach:
    """The values that get to a point of the path: a box, or None for some part of space.

    `cause` is the stage that made it less than all of space.
    """

    box: Interval | None
    cause: Stage | None


@dataclass(frozen=True)
class Verdict:
    """The guarantee of a path, the box of outputs that it holds for, or why there is none."""

    guarantee: Guarantee
    image: Interval | None
    blockers: tuple[Blocker, ...]


def judge(stages: list[Stage]) -> Verdict:
    """Follow the values forwards, settle branches, and decide. Marks every stage on the way."""
    reach = Reach(REALS, None)
    blockers: list[Blocker] = []
    one_to_one = True
    for stage in stages:
        before = reach
        reach, returned = _step(stage, before)
        stage.one_to_one = returned is None
        stage.onto = _onto(stage)
        if returned is not None:
            one_to_one = False
            if before.box is None or not before.box.covers(returned):
                blockers.append(_conflict(before, stage, returned))
    return Verdict(Guarantee.of(one_to_one, reach.box is not None), reach.box, tuple(blockers))


def _step(stage: Stage, reach: Reach) -> tuple[Reach, Interval | None]:
    """What leaves the stage; and, where it is not one-to-one, what its inverse can return."""
    fact = stage.fact
    match fact:
        case Elementwise():
            return _elementwise(stage, fact, reach)
        case Diagonal():
            if stage.lost:
                return Reach(None, stage), closed(0.0, 0.0)
            return _moved(stage, reach, fact), None
        case Matrix():
            k, m = fact.lengths
            assert stage.rank is not None
            whole = reach.box is not None and reach.box.is_reals
            onto = stage.rank == m
            after = Reach(REALS, None) if whole and onto else Reach(None, stage if whole else reach.cause)
            return after, None if stage.rank == k else REALS
        case Repeat():
            stage.lost = _lost_by_weights(fact)
            if fact.count == 1 and not stage.lost:
                moved = reach if fact.weights is None else _moved(stage, reach, Diagonal(fact.weights))
                return (_uniform(stage, moved) if fact.weights is None else moved), None
            return Reach(None, stage), REALS if stage.lost else None
        case Paired():
            if reach.box is not None and reach.box.is_reals:
                return Reach(NON_ZERO if "dividend" in fact.requires else REALS, stage), None
            return Reach(None, reach.cause or stage), None
        case Rearrangement():
            return _uniform(stage, reach), None
        case Convert():
            return reach, None


def _onto(stage: Stage) -> bool:
    """Whether the stage alone fills its outputs: all of them, or the image of an elementwise function."""
    fact = stage.fact
    if isinstance(fact, Matrix):
        return stage.rank == fact.lengths[1]
    if isinstance(fact, Repeat):
        return fact.count == 1 and not stage.lost
    return not (isinstance(fact, Diagonal) and stage.lost)


def _elementwise(stage: Stage, fact: Elementwise, reach: Reach) -> tuple[Reach, Interval | None]:
    branch, inside = fact.branch_for(reach.box)
    stage.branch = branch
    if not inside:
        return Reach(branch.image, stage), branch.domain
    if reach.box is None:
        return reach, None
    image = _image(fact, branch, reach.box.meet(branch.domain))
    return Reach(image, reach.cause if image is not None and image.is_reals else stage), None


def _image(fact: Elementwise, branch: Branch, box: Interval) -> Interval | None:
    """What f makes of `box` on `branch`; None where that is no box: a function with a pole is monotone on each
    side of it only, and a hole has to be the same for all elements."""
    if box.covers(branch.domain):
        return branch.image
    pole = branch.domain.hole
    if pole is None:
        if box.hole is not None and np.unique(fact.forward(np.asarray(box.hole, dtype=float))).size > 1:
            return None
        return box.through(fact.forward)
    low, high = np.asarray(box.low, dtype=float), np.asarray(box.high, dtype=float)
    above, below = bool(np.all(low >= pole)), bool(np.all(high <= pole))
    if not (above or below):
        return None
    # At a pole of 0 the sign of the zero says from which side it is approached.
    side = Interval(
        np.where(low == pole, pole + 0.0, low) if above else low,
        np.where(high == pole, -pole if pole == 0 else pole, high) if below else high,
        box.low_open or bool(np.any(low == pole)),
        box.high_open or bool(np.any(high == pole)),
    )
    image = side.through(fact.forward)
    return Interval(image.low, image.high, image.low_open, image.high_open)


def _moved(stage: Stage, reach: Reach, fact: Diagonal) -> Reach:
    if reach.box is None or reach.box.is_reals:
        return reach
    if reach.box.hole is not None:
        same_for_all = np.size(fact.scale) == 1 and np.size(fact.shift) == 1
        if not same_for_all and (reach.box.hole != 0 or np.any(fact.shift)):
            return Reach(None, reach.cause)
    return Reach(reach.box.through(lambda v: fact.scale * v + fact.shift), reach.cause)


def _uniform(stage: Stage, reach: Reach) -> Reach:
    """Elements that move keep their box only if it is the same for all."""
    if reach.box is None or reach.box.is_uniform:
        return Reach(_scalar(reach.box), reach.cause)
    return Reach(None, reach.cause or stage)


def _scalar(box: Interval | None) -> Interval | None:
    if box is None:
        return None
    low, high = float(np.min(box.low)), float(np.min(box.high))
    return Interval(low, high, box.low_open, box.high_open, box.hole)


def _lost_by_weights(fact: Repeat) -> int:
    if fact.weights is None:
        return 0
    axes = tuple(axis for axis in fact.axes if axis < np.ndim(fact.weights))
    kept = np.any(fact.weights != 0, axis=axes)
    return int(np.size(kept) - np.count_nonzero(kept))


def _conflict(reach: Reach, stage: Stage, returned: Interval) -> Blocker:
    """Both stages of a widening and a narrowing, and the way out."""
    cause = reach.cause
    assert cause is not None
    later = _loss(stage, returned)
    cut = describe(cause.y)
    return Blocker(
        cause.name,
        cause.op_type,
        f"it {_limit(cause, reach)} before {stage.name!r} ({stage.op_type}) {later}",
        _way_out(cause),
        (
            f"{cause.name}  {describe(cause.x)} → {cut}",
            f"{stage.name}  {describe(stage.x)} → {describe(stage.y)}",
            f"what undoes {stage.name!r} alone leaves what {cause.name!r} can make: no layer-by-layer "
            "inverse reproduces y",
        ),
    )


def _way_out(cause: Stage) -> str:
    """What would help: another order of layers, or one part of the model alone."""
    if isinstance(cause.fact, Matrix):
        order = "train it with widths that only fall, only rise, or fall before they rise"
    else:
        order = f"train it without {cause.op_type!r} before a layer that narrows"
    return (
        f"{order}; or cut the model at {cause.y.name!r} and invert the part that you need: each has an inverse, "
        "but the two in a row keep no promise"
    )


def _limit(stage: Stage, reach: Reach) -> str:
    if isinstance(stage.fact, Matrix) and stage.lengths is not None:
        k, m = stage.lengths
        if stage.rank is not None and stage.rank < min(k, m):
            return f"maps {k} numbers to {m} with rank {stage.rank}"
        return f"widens {k} → {m}"
    if isinstance(stage.fact, Repeat):
        return f"repeats its input {stage.fact.count} times"
    if isinstance(stage.fact, Diagonal):
        return f"sets {stage.lost} elements to a constant"
    if reach.box is not None:
        return f"keeps its output in {reach.box}"
    if stage.branch is not None:
        return f"keeps its output in {stage.branch.image}"
    return "limits its output"


def _loss(stage: Stage, returned: Interval) -> str:
    if isinstance(stage.fact, Matrix) and stage.lengths is not None:
        k, m = stage.lengths
        if stage.rank == m:
            return f"narrows {k} → {m}"
        return f"maps {k} numbers to {m} with rank {stage.rank}"
    if isinstance(stage.fact, Diagonal | Repeat):
        return f"multiplies {stage.lost} elements by 0"
    return f"is inverted on {returned}, which lies beyond"
