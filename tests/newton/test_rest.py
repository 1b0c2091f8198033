"""The last samples of a batch go on alone: where they come back to, and that it changes nothing but the time."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from solving import layers, normal, residuals, run

from onnx_invert import invert
from onnx_invert.build.newton import solver

MODEL = layers(normal(7, 40) / 2, "Tanh", normal(40, 12, seed=1) / 3, "LeakyRelu", normal(12, 5, seed=2), width=7)
SAMPLES = 40


def targets():
    """Most within reach of a few steps, every eighth far out, and one that nothing reaches."""
    x = 0.3 * normal(SAMPLES, 7, seed=3)
    x[::8] *= 12
    y = run(MODEL, x=x.astype(np.float32))[0]
    y[5] *= 1e3
    return y


def inverse(monkeypatch=None, **options):
    if monkeypatch is None:
        return invert(MODEL, method="newton", verify=False, **options).model
    with monkeypatch.context() as patch:
        patch.setattr(solver, "FEW", 1e-9)  # nobody is taken out before all are done
        return invert(MODEL, method="newton", verify=False, **options).model


@pytest.mark.parametrize("iterations", [3, 6, 9, 25, None])
def test_it_is_the_same_iteration(iterations, monkeypatch):
    """Its steps are counted on where it leaves the batch, whenever that is."""
    options = {} if iterations is None else {"iterations": iterations}
    y = targets()
    ours, together = (run(model, y=y)[0] for model in (inverse(**options), inverse(monkeypatch, **options)))
    reached = residuals(run(MODEL, x=together)[0], y)
    if iterations is None:
        assert np.count_nonzero(reached < 1e-5) >= SAMPLES - 6
    np.testing.assert_allclose(ours, together, rtol=1e-4, atol=1e-4)


def assert_alike(ours, others, y, *, within):
    """The same x where y is reached; where nothing reaches it, which of the best x's is found is up to rounding."""
    left = [residuals(run(MODEL, x=x)[0], y) for x in (ours, others)]
    reached = np.maximum(*left) < 1e-5
    assert np.count_nonzero(reached) >= len(y) - 1
    np.testing.assert_allclose(ours[reached], others[reached], rtol=within, atol=within)
    np.testing.assert_allclose(left[0][~reached], left[1][~reached], rtol=1e-2)


def test_each_sample_comes_back_to_its_place():
    y, model = targets(), inverse()
    order = np.random.default_rng(0).permutation(SAMPLES)
    assert_alike(run(model, y=y[order])[0], run(model, y=y)[0][order], y[order], within=1e-3)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5])
def test_small_batches(count):
    y = targets()[6 : 6 + count]
    (x,) = run(inverse(), y=y)
    assert x.shape == (count, 7)
    if count:
        assert np.median(residuals(run(MODEL, x=x)[0], y)) < 1e-5


def test_the_reference_takes_them_out_too():
    model = inverse()
    onnx.checker.check_model(model, full_check=True)
    y = targets()[:9]
    assert_alike(ReferenceEvaluator(model).run(None, {"y": y})[0], run(model, y=y)[0], y, within=1e-4)
