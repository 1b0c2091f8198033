"""The networks with a closed form that come with the project: which guarantee, and what the real digits say of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_invert import Guarantee, NotInvertibleError, VerificationError, check, explain, invert

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from digits import downsample_8x8, load_digits

GUARANTEES = {
    "mnist_mlp": Guarantee.RIGHT,
    "seed_mlp": Guarantee.RIGHT,
    "widening": Guarantee.LEFT,
    "bijective": Guarantee.BIJECTION,
    "autoencoder": Guarantee.GENERALIZED,
}


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """The 1,000 test digits, float32[1000, 784]."""
    return load_digits().x_test


def run(model: Path | onnx.ModelProto, array: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(model) if isinstance(model, Path) else model.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: array})[0]


def samples(path: Path, digits: np.ndarray, models: Path) -> np.ndarray:
    """Digits as this model takes them: whole, shrunk to 8×8, or as the logits of mnist_mlp."""
    width = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[1].dim_value
    if width == 784:
        return digits
    return downsample_8x8(digits) if width == 64 else run(models / "mnist_mlp.onnx", digits)


def relative(got: np.ndarray, true: np.ndarray) -> np.ndarray:
    got, true = got.astype(np.float64), true.astype(np.float64)
    return np.linalg.norm(got - true, axis=1) / np.linalg.norm(true, axis=1)


def onnx_invert(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onnx_invert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", GUARANTEES)
def test_guarantee(name, models, digits):
    path = models / f"{name}.onnx"
    x = samples(path, digits, models)
    on_drawn = invert(path)
    on_digits = invert(path, data=x)
    assert on_drawn.guarantee is on_digits.guarantee is GUARANTEES[name]
    assert on_drawn.round_trip.passed
    assert on_digits.round_trip.passed
    y = run(path, x)
    back = run(on_digits.model, y)
    if GUARANTEES[name].promises_x:
        assert relative(back, x).max() < 1e-5
    assert relative(run(path, back), y).max() < 1e-5


@pytest.mark.parametrize("name", ["mnist_mlp", "seed_mlp", "bijective"])
def test_every_output_is_reached(name, models):
    """f(g(y)) = y for outputs that no digit made."""
    path = models / f"{name}.onnx"
    width = onnx.load(path).graph.output[0].type.tensor_type.shape.dim[1].dim_value
    y = (5 * np.random.default_rng(0).standard_normal((500, width))).astype(np.float32)
    assert relative(run(path, run(invert(path).model, y)), y).max() < 1e-5


@pytest.mark.parametrize("name", ["mnist_mlp", "seed_mlp", "autoencoder"])
def test_what_is_lost_is_not_claimed(name, models, digits):
    """g(f(x)) is far from x where the guarantee says nothing of it, and the report tells."""
    path = models / f"{name}.onnx"
    inversion = invert(path, data=samples(path, digits, models))
    assert not inversion.guarantee.promises_x
    assert inversion.round_trip.x.median > 0.1
    assert inversion.report["round_trip"]["x_error"]["median"] > 0.1


def test_mnist_mlp_on_the_command_line(models, digits, tmp_path):
    """The inverse is written and passes; 1,000 test digits keep their logits to 1e-5; `check` agrees."""
    inverse = tmp_path / "inverse.onnx"
    written = onnx_invert(models / "mnist_mlp.onnx", "-o", inverse)
    assert written.returncode == 0, written.stderr
    assert written.stdout.strip().splitlines()[-1].startswith("PASSED")
    y = run(models / "mnist_mlp.onnx", digits)
    assert len(y) == 1000
    assert relative(run(models / "mnist_mlp.onnx", run(inverse, y)), y).max() <= 1e-5
    np.save(tmp_path / "digits.npy", digits)
    checked = onnx_invert("check", models / "mnist_mlp.onnx", inverse, "--data", tmp_path / "digits.npy")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.strip().splitlines()[-1].startswith("PASSED")
    found = check(models / "mnist_mlp.onnx", inverse, data=tmp_path / "digits.npy")
    assert found.claim is Guarantee.RIGHT
    assert found.passed
    assert found.round_trip.samples == 1000
    assert found.round_trip.y.worst <= 1e-5


def test_widen_shrink_has_no_closed_form(models, tmp_path):
    """Exit 3; both layers by name with their widths, and a way out; nothing is written."""
    inverse = tmp_path / "inverse.onnx"
    refused = onnx_invert(models / "widen_shrink.onnx", "-o", inverse, "--method", "closed-form")
    assert refused.returncode == 3
    assert not inverse.exists()
    with pytest.raises(NotInvertibleError) as error:
        invert(models / "widen_shrink.onnx", method="closed-form")
    message = str(error.value)
    for text in (message, refused.stderr):
        assert "fc1/MatMul" in text
        assert "fc3/MatMul" in text
        assert "widens 10 → 64" in text
        assert "narrows 64 → 10" in text
        assert "try " in text
    assert "Traceback" not in refused.stderr


def test_each_layer_costs_one_product(models):
    """Bias and scale cost nothing: as many MatMul and Add as the model has layers."""
    nodes = [node.op_type for node in invert(models / "mnist_mlp.onnx").model.graph.node]
    assert sorted(nodes) == sorted(["MatMul", "Add"] * 3 + ["LeakyRelu"] * 2)
    inverse, model = invert(models / "mnist_mlp.onnx").model, onnx.load(models / "mnist_mlp.onnx")
    size = [sum(len(tensor.raw_data) for tensor in m.graph.initializer) for m in (inverse, model)]
    assert size[0] <= 1.01 * size[1]


def test_the_plan_states_ranks(models):
    ranks = {row.node: row.rank for row in explain(models / "mnist_mlp.onnx").rows if row.rank is not None}
    assert ranks == {"fc1/MatMul": 128, "fc2/MatMul": 64, "fc3/MatMul": 10}


def test_a_damaged_inverse_is_noticed(models, tmp_path):
    """`check` fails an inverse whose last weight was changed by a hundredth."""
    path = tmp_path / "inverse.onnx"
    invert(models / "mnist_mlp.onnx", path)
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    values = onnx.numpy_helper.to_array(weight) * 1.01
    weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), weight.name))
    onnx.save(model, path)
    assert not check(models / "mnist_mlp.onnx", path).passed


def test_a_tolerance_that_cannot_be_kept_fails(models, tmp_path):
    path = tmp_path / "inverse.onnx"
    with pytest.raises(VerificationError) as error:
        invert(models / "seed_mlp.onnx", path, rtol=1e-12)
    assert not path.exists()
    assert error.value.inversion.guarantee is Guarantee.APPROXIMATE
