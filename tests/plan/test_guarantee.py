"""What a list of stages promises, made by hand: images, branches, and what does not go together."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnx_invert.plan.guarantee import Guarantee, judge
from onnx_invert.plan.stages import Stage, measure
from onnx_invert.rules.facts import Branch, Diagonal, Elementwise, Matrix, Repeat
from onnx_invert.rules.interval import NON_NEGATIVE, NON_POSITIVE, POSITIVE, REALS, Interval, between, closed


def stage(fact, name: str) -> Stage:
    """A stage of a node of this name, measured."""
    x = ir.Value(name=f"{name}.x", shape=ir.Shape(["N", 4]), type=ir.TensorType(ir.DataType.FLOAT))
    made = Stage(fact, (ir.Node("", "Op", [x], name=name),))
    made.y.name = f"{name}.y"
    measure(made)
    return made


def matrix(k: int, m: int, rank: int | None = None) -> Matrix:
    rng = np.random.default_rng([k, m])
    r = rank or min(k, m)
    return Matrix(rng.standard_normal((k, r)) @ rng.standard_normal((r, m)))


def elementwise(forward, *branches: Branch, domain: Interval = REALS) -> Elementwise:
    return Elementwise(forward, None, branches, domain)


def piece(domain: Interval, image: Interval) -> Branch:
    return Branch(domain, image, lambda e, y: y)


TANH = elementwise(np.tanh, piece(REALS, between(-1, 1)))
EXP = elementwise(np.exp, piece(REALS, POSITIVE))
LOG = elementwise(np.log, piece(POSITIVE, REALS), domain=POSITIVE)
CUBE = elementwise(lambda v: v**3, piece(REALS, REALS))
SQUARE = elementwise(np.square, piece(NON_NEGATIVE, NON_NEGATIVE), piece(NON_POSITIVE, NON_NEGATIVE))
SINE = elementwise(np.sin, piece(closed(-np.pi / 2, np.pi / 2), closed(-1, 1)))
NEGATE = Diagonal(np.asarray(-1.0))
HALVE = Diagonal(np.asarray(0.5))
NARROW, WIDEN, SQUARE_MATRIX, DEFICIENT = matrix(6, 3), matrix(3, 6), matrix(4, 4), matrix(4, 4, 2)
ZERO = Diagonal(np.array([1.0, 0.0, 2.0]))

VERDICTS = [
    ([CUBE], "bijection", REALS),
    ([SQUARE_MATRIX], "bijection", REALS),
    ([TANH], "bijection", between(-1, 1)),
    ([TANH, HALVE], "bijection", between(-0.5, 0.5)),
    ([EXP, LOG], "bijection", REALS),
    ([EXP, NEGATE], "bijection", Interval(-np.inf, 0)),
    ([EXP, SQUARE], "bijection", POSITIVE),
    ([EXP, NEGATE, SQUARE], "bijection", POSITIVE),
    ([HALVE, SINE], "right-inverse", closed(-1, 1)),
    ([TANH, SINE], "bijection", between(-np.sin(1), np.sin(1))),
    ([SQUARE], "right-inverse", NON_NEGATIVE),
    ([NARROW], "right-inverse", REALS),
    ([NARROW, TANH], "right-inverse", between(-1, 1)),
    ([CUBE, NARROW, SQUARE], "right-inverse", NON_NEGATIVE),
    ([SQUARE, Diagonal(shift=np.asarray(-1.0)), SQUARE], "right-inverse", NON_NEGATIVE),
    ([EXP, Diagonal(shift=np.asarray(-1.0)), SQUARE], "right-inverse", NON_NEGATIVE),
    ([WIDEN], "left-inverse", None),
    ([WIDEN, TANH, SQUARE_MATRIX], "left-inverse", None),
    ([TANH, WIDEN], "left-inverse", None),
    ([TANH, matrix(4, 4)], "left-inverse", None),
    ([Repeat((1,), 5)], "left-inverse", None),
    ([DEFICIENT], "generalized-inverse", None),
    ([NARROW, CUBE, WIDEN], "generalized-inverse", None),
    ([NARROW, TANH, WIDEN], "generalized-inverse", None),
    ([ZERO], "generalized-inverse", None),
    ([CUBE, ZERO, EXP], "generalized-inverse", None),
    ([WIDEN, CUBE, NARROW], "refused", None),
    ([WIDEN, SQUARE], "refused", None),
    ([TANH, NARROW], "refused", None),
    ([EXP, NARROW], "refused", None),
    ([DEFICIENT, CUBE, DEFICIENT], "refused", None),
    ([ZERO, CUBE, NARROW], "refused", None),
    ([Diagonal(np.asarray(10.0)), TANH, HALVE, Diagonal(shift=np.asarray(3.0)), SINE], "refused", None),
    ([SQUARE, Diagonal(shift=np.asarray(1.0)), CUBE, Diagonal(shift=np.asarray(-2.0)), SINE], "refused", None),
    ([TANH, SQUARE], "refused", None),
]


@pytest.mark.parametrize(("facts", "expected", "image"), VERDICTS)
def test_judge(facts, expected, image):
    verdict = judge([stage(fact, f"s{index}") for index, fact in enumerate(facts)])
    if expected == "refused":
        assert verdict.blockers
        return
    assert not verdict.blockers
    assert verdict.guarantee.value == expected
    if image is None:
        assert verdict.image is None
    else:
        assert verdict.image.covers(image)
        assert image.covers(verdict.image)


def test_both_layers_are_named():
    stages = [stage(WIDEN, "up"), stage(CUBE, "between"), stage(NARROW, "down")]
    (blocker,) = judge(stages).blockers
    assert blocker.node == "up"
    assert blocker.reason == "it widens 3 → 6 before 'down' (Op) narrows 6 → 3"
    assert blocker.lines[0].startswith("up  ")
    assert blocker.lines[1].startswith("down  ")
    assert "up.y" in blocker.remedy


def test_every_conflict_is_listed():
    stages = [stage(f, f"s{i}") for i, f in enumerate([WIDEN, CUBE, NARROW, CUBE, matrix(3, 2)])]
    assert ["'s2'" in b.reason or "'s4'" in b.reason for b in judge(stages).blockers] == [True, True]


def test_stages_are_marked():
    stages = [stage(NARROW, "down"), stage(TANH, "act"), stage(WIDEN, "up")]
    judge(stages)
    assert [s.one_to_one for s in stages] == [False, True, True]
    assert [s.onto for s in stages][::2] == [True, False]


def test_a_branch_is_settled_by_what_reaches_it():
    for first, domain in ((EXP, NON_NEGATIVE), (elementwise(lambda v: -np.exp(v), EXP_DOWN), NON_POSITIVE)):
        square = stage(SQUARE, "square")
        judge([stage(first, "exp"), square])
        assert square.one_to_one
        assert square.branch.domain is domain


EXP_DOWN = piece(REALS, Interval(-np.inf, 0))


def test_composition_of_properties():
    assert Guarantee.weakest([Guarantee.BIJECTION, Guarantee.RIGHT]) is Guarantee.RIGHT
    assert Guarantee.weakest([Guarantee.LEFT, Guarantee.RIGHT]) is Guarantee.GENERALIZED
    assert Guarantee.weakest([Guarantee.BIJECTION, Guarantee.APPROXIMATE]) is Guarantee.APPROXIMATE
