"""Boxes of numbers: what covers what, and where functions send them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_invert.rules.interval import (
    NEGATIVE,
    NON_NEGATIVE,
    NON_ZERO,
    POSITIVE,
    REALS,
    Interval,
    between,
    closed,
)

PER_ELEMENT = Interval(np.array([-np.inf, 0.0]), np.inf, low_open=False)


@pytest.mark.parametrize(
    ("outer", "inner", "covers"),
    [
        (REALS, POSITIVE, True),
        (POSITIVE, REALS, False),
        (NON_NEGATIVE, POSITIVE, True),
        (POSITIVE, NON_NEGATIVE, False),
        (closed(-1, 1), between(-1, 1), True),
        (between(-1, 1), closed(-1, 1), False),
        (between(-1, 1), between(-1, 1), True),
        (NON_ZERO, POSITIVE, True),
        (NON_ZERO, NEGATIVE, True),
        (NON_ZERO, NON_NEGATIVE, False),
        (NON_ZERO, REALS, False),
        (REALS, NON_ZERO, True),
        (POSITIVE, NON_ZERO, False),
        (REALS, PER_ELEMENT, True),
        (PER_ELEMENT, NON_NEGATIVE, True),
        (NON_NEGATIVE, PER_ELEMENT, False),
    ],
)
def test_covers(outer, inner, covers):
    assert outer.covers(inner) is covers


@given(*[st.floats(-5, 5)] * 4, *[st.booleans()] * 4, st.floats(-5, 5))
def test_meet_holds_what_both_hold(a, b, c, d, e, f, g, h, value):
    first, second = Interval(min(a, b), max(a, b), e, f), Interval(min(c, d), max(c, d), g, h)
    assert first.meet(second).holds(value) == (first.holds(value) and second.holds(value))


@given(st.floats(-3, 3), st.floats(0.1, 3), st.booleans(), st.booleans(), st.floats(-4, 4), st.floats(-4, 4))
def test_an_affine_map_takes_the_ends_along(low, length, low_open, high_open, scale, value):
    scale = scale if abs(scale) > 0.1 else 1.0
    box = Interval(low, low + length, low_open, high_open)
    if value in (low, low + length) or min(abs(value - low), abs(value - low - length)) > 1e-9:
        assert box.through(lambda v: scale * v).holds(scale * value) == box.holds(value)


def test_a_falling_function_swaps_the_ends():
    box = Interval(1.0, 2.0, low_open=True, high_open=False).through(np.negative)
    assert (box.low, box.high, box.low_open, box.high_open) == (-2.0, -1.0, False, True)


def test_a_hole_moves_along():
    assert NON_ZERO.through(lambda v: v + 3).hole == 3


def test_ends_per_element():
    box = between(0, 1).through(lambda v: np.array([1.0, -2.0]) * v)
    assert np.array_equal(box.low, [0, -2])
    assert np.array_equal(box.high, [1, 0])
    assert not box.is_uniform


@pytest.mark.parametrize(
    ("box", "text"),
    [
        (REALS, "all reals"),
        (between(-1, 1), "(-1, 1)"),
        (closed(0, np.inf), "[0, inf)"),
        (NON_ZERO, "(-inf, inf) without 0"),
        (PER_ELEMENT, "an interval per element"),
    ],
)
def test_text(box, text):
    assert str(box) == text
