"""Large samples are run few at a time where an inverse is tried, and fewer of them if nobody said how many."""

import numpy as np
import pytest
from solving import layers, normal

from onnx_invert import explain, invert
from onnx_invert.bench import Bench
from onnx_invert.plan import newton
from onnx_invert.runtime import Session
from onnx_invert.samples import Port, parts


@pytest.fixture
def rows(monkeypatch):
    """The most samples that any run of a model with the input x, or of its inverse, took."""
    seen = []
    run = Session.run

    def counted(self, feeds, outputs=None):
        seen.append(max(len(array) for array in feeds.values()))
        return run(self, feeds, outputs)

    monkeypatch.setattr(Session, "run", counted)
    return seen


def test_no_run_takes_more_than_there_is_memory_for(rows, monkeypatch):
    model = layers(normal(6, 12), "Relu", normal(12, 3), width=6)
    whole = invert(model, method="newton")
    plan = explain(model, method="newton")
    monkeypatch.setattr(newton, "AT_ONCE", 5 * plan.memory(4) + 1)
    assert plan.at_once == 5
    # Before it is tried f alone runs, forwards, to learn its units: that is not what is counted.
    monkeypatch.setattr(Bench, "_f", lambda self, batch, f=Bench._f: (rows.clear(), f(self, batch))[1])
    few = invert(model, method="newton")
    assert max(rows) <= 5
    assert few.round_trip.samples == 5 * newton.MOST_RUNS
    assert whole.round_trip.samples == 256
    assert invert(model, method="newton", samples=70).round_trip.samples == 70


def test_parts_are_the_batches():
    ports = [Port("x", ("N", 2), np.dtype("f4")), Port("c", (2,), np.dtype("f4"))]
    x, c = np.arange(14, dtype=np.float32).reshape(7, 2), np.ones(2, np.float32)
    found = list(parts([{"x": x, "c": c}, {"x": x[:2], "c": c}], ports, "x", 3))
    assert [len(part["x"]) for part in found] == [3, 3, 1, 2]
    assert np.array_equal(np.concatenate([part["x"] for part in found[:3]]), x)
    assert all(part["c"] is c for part in found)
