"""Random networks: no sample that is left unsolved goes untold. `--sweep` takes 200 of them, CI one in eighteen."""

import numpy as np
import onnx
import pytest
from solvable import network
from solving import residuals, run

from onnx_invert import Guarantee, explain, invert

SOLVED = 1e-5
SAMPLES = 32
HARD = {77: 8, 128: 15, 153: 13}
"""Of 32 samples, how many may stay unsolved in the networks that are hard (docs/newton.md says why); `OTHERS` in any
other. Which samples these are depends on rounding."""

OTHERS = 4

SEEDS = [pytest.param(seed, marks=() if seed % 18 == 0 else pytest.mark.sweep) for seed in range(200)]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_unsolved_is_told(seed):
    drawn = network(seed)
    x = drawn.draw(SAMPLES)
    onnx.checker.check_model(drawn.model, full_check=True)
    inversion = invert(drawn.model, method="newton", data=x, residual=True, tolerance=SOLVED, force=True)
    y = run(drawn.model, x=x)[0]
    back, told = run(inversion.model, y=y)
    zero = np.linalg.norm(y, axis=1) == 0
    measured = residuals(run(drawn.model, x=back)[0], y)
    np.testing.assert_allclose(told[~zero], measured[~zero], rtol=1e-2, atol=1e-6)
    unsolved = int(np.count_nonzero(~(measured[~zero] < SOLVED)))
    # A sample on the edge of the tolerance may be counted either way.
    edge = int(np.count_nonzero(np.abs(measured[~zero] - SOLVED) < 0.1 * SOLVED)) + int(zero.sum())
    assert abs(inversion.round_trip.y.unsolved - unsolved) <= edge
    assert unsolved <= HARD.get(seed, OTHERS) + edge
    if unsolved > edge:
        assert inversion.guarantee is Guarantee.APPROXIMATE


def test_no_cut_before_a_normalisation():
    """33-12-ln-8-ln-170: y does not tell mean and scale of the 8 numbers, and not every 8 numbers can be made."""
    first, second = explain(network(29).model, method="newton").systems
    assert (first.m, first.n, second.n) == (170, 8, 33)
    assert "LayerNormalization" not in [node.op_type for node in first.nodes]


def test_a_cut_before_a_normalisation_where_x_makes_every_value():
    systems = explain(network(13).model, method="newton").systems
    assert [(system.m, system.n) for system in systems] == [(65, 12), (12, 140)]
