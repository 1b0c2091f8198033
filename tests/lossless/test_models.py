"""The claim itself, on every shipped network: g⁺(f⁺(x)) = x on all test digits, and y bit for bit."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from pairs import back, pair, session, widened
from random_networks import random_network

import onnx_invert
from onnx_invert.graph import write
from onnx_invert.lossless import EFFORTS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from digits import downsample_8x8, load_digits  # noqa: E402

MODELS = sorted(path.stem for path in (ROOT / "models").glob("*.onnx"))


def inputs(model):
    """Test digits where the network takes images, else drawn numbers."""
    size = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    digits = load_digits().x_test
    if size == 784:
        return digits
    return downsample_8x8(digits) if size == 64 else np.random.default_rng(0).standard_normal((1000, size), np.float32)


def lossless(model, x, bound):
    """The first effort that is lossless within `bound`, as `invert` looks for it."""
    for effort in EFFORTS[:-1]:  # the last keeps x itself: that would prove nothing
        plan, forward, inverse = pair(model, effort)
        error = np.abs(back(forward, inverse, x) - x).max()
        if error < bound:
            break
    return plan, forward, error


@pytest.mark.parametrize("name", MODELS)
def test_every_digit_comes_back(name, models):
    model = onnx.load(models / f"{name}.onnx")
    x = inputs(model)
    plan, forward, error = lossless(model, x, 5e-5)  # half of what is claimed
    assert error < 5e-5
    assert plan.size + plan.y_size >= plan.x_size
    first = model.graph.input[0].name
    for optimised, allowed in ((False, 0), (True, 1e-6)):
        (y,) = session(model, optimised=optimised).run(None, {first: x})
        same = session(forward, optimised=optimised).run([model.graph.output[0].name], {first: x})[0]
        assert np.abs(same - y).max() <= allowed * np.abs(y).max()


@pytest.mark.parametrize("name", [name for name in MODELS if name not in {"mnist_residual", "mnist_lenet"}])
def test_and_in_float64(name, models):
    """mnist_residual holds Erf and mnist_lenet Conv, for which onnxruntime has no float64 kernel."""
    model = widened(onnx.load(models / f"{name}.onnx"))
    x = inputs(model).astype(np.float64)[:200]
    assert lossless(model, x, 1e-10)[2] < 1e-10


def test_minimal_where_layers_only_narrow(models):
    plan, _, _ = pair(onnx.load(models / "mnist_mlp.onnx"))
    assert (plan.size, plan.surplus, plan.kept) == (774, 0, 0)


def test_invert_writes_both_and_check_measures_them(models, tmp_path):
    paths = tmp_path / "forward.onnx", tmp_path / "inverse.onnx"
    done = onnx_invert.invert(models / "mnist_mlp.onnx", paths[1], lossless=paths[0], data=load_digits().x_test)
    assert done.lossless.measured.passed
    assert done.report["lossless"]["latent"] == 774
    assert onnx_invert.check(*paths).passed
    # Without latents it is the plain inverse, which check holds to the model itself.
    assert onnx_invert.check(models / "mnist_mlp.onnx", paths[1]).passed


def test_a_solver_serves_where_the_latents_are_left_out(models):
    done = onnx_invert.invert(models / "widen_shrink.onnx", lossless=True, samples=32)
    assert done.lossless.measured.passed
    x = np.random.default_rng(0).standard_normal((5, 10), np.float32)
    assert np.abs(back(done.forward, done.model, x) - x).max() < 1e-4
    assert {node.op_type for node in done.model.graph.node} >= {"If"}


def test_files_that_are_no_pair_are_not_checked_as_one(models, tmp_path):
    for name in ("seed_mlp", "mnist_mlp"):
        paths = tmp_path / f"{name}_f.onnx", tmp_path / f"{name}_g.onnx"
        onnx_invert.invert(models / f"{name}.onnx", paths[1], lossless=paths[0], samples=8)
    assert not onnx_invert.check(tmp_path / "seed_mlp_f.onnx", tmp_path / "mnist_mlp_g.onnx").passed


def test_both_are_written_or_none(models, tmp_path, monkeypatch):
    paths = tmp_path / "forward.onnx", tmp_path / "inverse.onnx"
    paths[0].write_text("before")
    commit = write.Staged.commit

    def fail(self):
        if self.target == paths[1]:
            raise onnx_invert.FileError("the disk is full")
        commit(self)

    monkeypatch.setattr(write.Staged, "commit", fail)
    with pytest.raises(onnx_invert.FileError):
        onnx_invert.invert(models / "bijective.onnx", paths[1], lossless=paths[0], samples=8)
    assert paths[0].read_text() == "before"
    assert not paths[1].exists()


def network_comes_back(seed):
    network = random_network(seed)
    onnxruntime.set_default_logger_severity(4)
    x = network.draw(np.random.default_rng([seed, 1]))[0].astype(np.float32)
    kinds = {tensor.data_type for tensor in network.model.graph.initializer}
    if onnx.TensorProto.DOUBLE in kinds or network.model.graph.input[0].type.tensor_type.elem_type != 1:
        x = x.astype(np.float64)
    found = []
    for effort in EFFORTS:
        _, forward, inverse = pair(network.model, effort)
        again = back(forward, inverse, x)
        found.append(np.abs(again - x).max() / max(np.abs(x).max(), 1e-30))
        if found[-1] < 2.0**-14:
            return
    raise AssertionError(f"{network}: errors {found}")


@pytest.mark.parametrize("seed", range(20))
def test_random_networks(seed):
    network_comes_back(seed)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(20, 300))
def test_more_random_networks(seed):
    network_comes_back(seed)
