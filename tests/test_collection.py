"""The garbage collector while a plan is made: seldom, and afterwards as before."""

from __future__ import annotations

import gc

import pytest
from small_models import affine

import onnx_invert
from onnx_invert.collection import YOUNG, seldom_collected


@pytest.fixture(autouse=True)
def _as_before():
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_the_collector_runs_seldom_and_then_as_before():
    gc.set_threshold(123, 7, 9)
    with seldom_collected():
        assert gc.get_threshold() == (YOUNG, 7, 9)
    assert gc.get_threshold() == (123, 7, 9)


def test_it_is_as_before_when_something_goes_wrong():
    gc.set_threshold(123, 7, 9)
    with pytest.raises(onnx_invert.UsageError):
        onnx_invert.explain(affine(), recover=["nothing"])
    assert gc.get_threshold() == (123, 7, 9)


@pytest.mark.parametrize("threshold", [0, 10 * YOUNG])
def test_what_is_seldomer_already_stays(threshold):
    gc.set_threshold(threshold)
    with seldom_collected():
        assert gc.get_threshold()[0] == threshold


def test_a_collector_that_is_off_stays_off():
    gc.disable()
    try:
        onnx_invert.explain(affine())
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_blocks_that_overlap_put_back_what_was_before_the_first():
    gc.set_threshold(123, 7, 9)
    first, second = seldom_collected(), seldom_collected()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() == (YOUNG, 7, 9)
    second.__exit__(None, None, None)
    assert gc.get_threshold() == (123, 7, 9)
