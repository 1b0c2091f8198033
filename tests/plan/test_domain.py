"""Where a function of each element rises or falls throughout, and no y has another x."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnx_invert.plan.interval import search
from onnx_invert.plan.steps import Domain

SHAPE = (2, 3)


def _domain(function: Callable[[np.ndarray], np.ndarray], reach: float = 4.0) -> Domain | None:
    """Of a function of an array in float32; the first axis counts samples."""

    def tried(point: np.ndarray | float) -> np.ndarray:
        with np.errstate(all="ignore"):
            x = np.broadcast_to(np.asarray(point, np.float32), SHAPE)
            return np.asarray(function(x), np.float64)[mask]

    mask = np.ones(SHAPE, bool)
    return search(tried, reach, mask, [0])


def _inside(x: np.ndarray, low: float, high: float, y: np.ndarray) -> np.ndarray:
    return np.where((x >= low) & (x <= high), y, np.nan)


FOUND = {
    "everywhere": (lambda x: x + np.tanh(x), None, None),
    "falls": (lambda x: -2 * x, None, None),
    "logarithm": (np.log, 0.0, None),
    "square root": (np.sqrt, 0.0, None),
    "inverse of tanh": (np.arctanh, -1.0, 1.0),
    "unit interval": (lambda x: _inside(x, 0, 1, x**2), 0.0, 1.0),
    "far from 0": (lambda x: _inside(x, 2.25, 3.5, np.exp(x)), 2.25, 3.5),
    "held": (lambda x: np.clip(x, -1.5, 2.5), -1.5, 2.5),
    "held, then a logit": (
        lambda x: np.log(np.clip(x, 0.001, 0.999)) - np.log1p(-np.clip(x, 0.001, 0.999)),
        1e-3,
        0.999,
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_ends_are_found_to_the_last_digits(name: str) -> None:
    function, low, high = FOUND[name]
    domain = _domain(function)
    assert domain is not None
    assert domain.period is None
    for found, wanted in ((domain.low, low), (domain.high, high)):
        if wanted is None:
            assert found is None
        else:
            assert found is not None
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


REFUSED = {
    "square": lambda x: x**2,
    "sine": np.sin,
    "hat": lambda x: np.minimum(np.maximum(x + 3, 0), np.maximum(2 - x, 0)),
    "two branches": lambda x: np.sqrt(np.abs(x) - 1),
    "one pole": lambda x: 1 / x,
    "flat": lambda x: 0 * x,
    "nowhere": lambda x: x * np.nan,
    "cubic": lambda x: x**3 - 3 * x,
    "plateau": lambda x: np.where(np.abs(x) < 1, 0, np.abs(x) - 1),
    "another x far out": lambda x: np.where(x > 1000, x - 1000, _inside(x, 0, 1, x)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_branch_is_chosen_silently(name: str) -> None:
    assert _domain(REFUSED[name]) is None


def test_ends_that_follow_from_the_sample_are_refused() -> None:
    last = np.array([[1.0], [2.0]])
    assert _domain(lambda x: _inside(x, 0, last, x)) is None


def test_ends_that_differ_between_features_are_kept() -> None:
    last = np.array([1.0, 2.0, 0.5])
    domain = _domain(lambda x: _inside(x, 0, last, x))
    assert domain is not None
    assert domain.high is not None
    np.testing.assert_allclose(np.ravel(domain.high), last, rtol=1e-6)


@pytest.mark.parametrize("reach", [4.0, 20.0])
@pytest.mark.parametrize("length", [2 * np.pi, 1.0])
def test_a_circle(length: float, reach: float) -> None:
    domain = _domain(lambda x: (x - length * np.floor(x / length)) ** 2, reach)
    assert domain is not None
    assert domain.period == pytest.approx(length, rel=1e-6)
    assert "circle" in str(domain)


def test_ends_are_written_out() -> None:
    assert str(Domain(np.array(-1.0), np.array(0.5))) == "[−1, 0.5]"
    assert str(Domain(np.array(0.0), None)) == "[0, ∞)"
    assert str(Domain()) == "(−∞, ∞)"
