"""g⁺(f⁺(x)) = x on random networks of every shape, to rounding as it is amplified; y is the network's own."""

import numpy as np
import pytest
from pairs import pair, session
from random_graphs import random_graph

from onnx_invert.pairs import DIGITS
from onnx_invert.plan.lossless.steps import EFFORTS
from onnx_invert.testing.accuracy import allowance


def holds(seed):
    model, x = random_graph(seed)
    name = model.graph.output[0].name
    found = []
    for effort in EFFORTS:
        plan, forward, inverse = pair(model, effort)
        f, g = session(forward), session(inverse)
        made = dict(zip([o.name for o in f.get_outputs()], f.run(None, {"x": x}), strict=True))
        takes = [i.name for i in (*g.get_inputs(), *g.get_overridable_initializers())]
        feeds = {n: made[n] for n in takes}
        assert all(np.isfinite(a).all() for a in feeds.values())
        again = g.run(None, feeds)[0]
        found.append(float(np.abs(again - x).max() / np.abs(x).max()))
        _rounding_explains(g, feeds, again, x, f"seed {seed}, {effort}")
        if effort is EFFORTS[0]:
            _y_is_the_same(model, forward, name, x)
            assert plan.size + plan.y_size >= plan.x_size
        if found[-1] <= DIGITS[4]:
            return effort
    raise AssertionError(f"seed {seed}: relative errors {found}")


def _rounding_explains(g, feeds, again, x, case):
    names = [n for n in feeds if feeds[n].size]
    rows = len(x)
    widths = np.cumsum([0, *(feeds[n].size // rows for n in names)])
    whole = np.concatenate([feeds[n].reshape(rows, -1) for n in names], axis=1)

    def back(v):
        parts = {n: v[:, a:b].reshape(feeds[n].shape) for n, a, b in zip(names, widths, widths[1:], strict=False)}
        return g.run(None, {**feeds, **parts})[0].reshape(rows, -1)

    room = allowance([np.dtype(np.float32)], by_row=True).around(back, whole, again.reshape(rows, -1))
    error = np.abs(again - x).reshape(rows, -1)
    assert (error <= room).all(), f"{case}: error {error.max():.3g}, rounding explains {room[error > room].max():.3g}"


def _y_is_the_same(model, forward, name, x):
    for optimised, allowed in ((False, 0.0), (True, 1e-6)):
        (y,) = session(model, optimised=optimised).run(None, {"x": x})
        (same,) = session(forward, optimised=optimised).run([name], {"x": x})
        assert np.abs(same - y).max() <= allowed * np.abs(y).max(), f"optimised: {optimised}"


@pytest.mark.parametrize("seed", range(20))
def test_twenty(seed):
    holds(seed)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(20, 300))
def test_three_hundred(seed):
    holds(seed)
