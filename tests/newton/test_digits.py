"""The digit networks: residuals of float32's last digits, and priors that find the digit."""

from pathlib import Path

import numpy as np
import openvino
import pytest
from digits import load_digits
from solving import residuals, run

from onnx_invert import Guarantee, invert

ROOT = Path(__file__).parent.parent.parent
NETWORKS = {
    "mlp": ROOT / "models/mnist_mlp.onnx",
    "relu": ROOT / "models/mnist_relu.onnx",
    "residual": ROOT / "models/mnist_residual.onnx",
    "tanh": ROOT / "tests/data/newton/mnist_tanh.onnx",
    "wide": ROOT / "tests/data/newton/mnist_wide.onnx",
}
DECODER = ROOT / "tests/data/newton/decoder_lenet.onnx"
TEST = 200
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_sample_to_the_last_digits(name, digits):
    x = digits.x_test[:: len(digits.x_test) // TEST]
    inversion = invert(NETWORKS[name], method="newton", data=x, residual=True)
    assert inversion.guarantee is Guarantee.RIGHT
    y = run(NETWORKS[name], image=x)[0]
    back, _ = run(inversion.model, logits=y)
    assert residuals(run(NETWORKS[name], image=back)[0], y).max() < 1e-6
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(inversion.model.SerializeToString()), "CPU", EXACT)
    np.testing.assert_allclose(compiled(y[::6])["image"], back[::6], rtol=0, atol=1e-4)


def test_lenet_with_its_windows(digits):
    path = ROOT / "models/mnist_lenet.onnx"
    inversion = invert(path, data=digits.x_test[::40], prior=digits.x_train[::4], force=True)
    assert inversion.round_trip.unsolved == 0


@pytest.mark.parametrize(
    ("kind", "bounds", "most"),
    [("gaussian", None, 0.042), ("conditional", None, 0.027), ("conditional", (0, 1), 0.0263)],
)
def test_a_prior_finds_the_digit(kind, bounds, most, digits):
    """Mean squared error per pixel to 200 test digits; the variance of the digits is 0.068."""
    x = digits.x_test[:: len(digits.x_test) // TEST]
    path = NETWORKS["mlp"]
    inversion = invert(path, prior=digits.x_train, prior_kind=kind, bounds=bounds, data=x)
    assert inversion.guarantee is Guarantee.RIGHT
    back = run(inversion.model, logits=run(path, image=x)[0])[0]
    assert np.mean(np.square(back - x)) < most
    if bounds is not None:
        assert back.min() >= 0
        assert back.max() <= 1


@pytest.mark.sweep
@pytest.mark.parametrize("bounds", [None, (0, 1)])
def test_lenet_is_nearer_to_the_digits_than_a_decoder(bounds, digits):
    """One trained for two minutes on the same digits (tools/train_decoder.py); on all 1,000 test digits."""
    path = ROOT / "models/mnist_lenet.onnx"
    y = run(path, image=digits.x_test)[0]
    inversion = invert(path, prior=digits.x_train, bounds=bounds, data=digits.x_test[::40])
    decoded, back = run(DECODER, logits=y)[0], run(inversion.model, logits=y)[0]
    ours, theirs = (np.mean(np.square(x.reshape(digits.x_test.shape) - digits.x_test)) for x in (back, decoded))
    assert ours < theirs
    assert residuals(run(path, image=back)[0], y).max() < 1e-6
