"""The verification of a pair: what it leaves out, and that its failure is one of the whole call."""

import numpy as np
import onnx
import pytest

import onnx_invert
from onnx_invert import pairs
from onnx_invert.cli import main


@pytest.fixture
def model(tmp_path, monkeypatch):
    """y = x A, 8 → 3."""
    monkeypatch.chdir(tmp_path)
    made = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,3] y) { y = MatMul(x, w) }'
    )
    rng = np.random.default_rng(3)
    made.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal((8, 3)).astype(np.float32), "w"))
    onnx.save(made, "model.onnx")
    x = rng.standard_normal((40, 8)).astype(np.float32)
    np.save("x.npy", x)
    x[3, 2] = np.nan
    np.save("nan.npy", x)
    return made


def call(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return stop.value.code


def test_samples_that_are_not_finite_are_left_out(model):
    done = onnx_invert.invert(model, lossless=True, data=np.load("nan.npy"))
    assert done.lossless.measured.relative.size == 39
    assert done.lossless.measured.passed


@pytest.mark.parametrize("options", [(), ("--force",)])
def test_a_pair_that_fails_is_a_failure(options, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pairs, "DIGITS", {4: -1.0})  # which no sample keeps
    assert call("model.onnx", "-o", "g.onnx", "--lossless", "f.onnx", "--data", "x.npy", *options) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("FAILED")
    assert (tmp_path / "g.onnx").exists() == (tmp_path / "f.onnx").exists() == bool(options)
    assert options or "40 of 40 samples are off" in err


@pytest.mark.parametrize("option", ["--data", "--prior"])
def test_neither_file_replaces_what_is_read(option, model, tmp_path, capsys):
    before = (tmp_path / "x.npy").read_bytes()
    assert call("model.onnx", "-o", "g.onnx", "--lossless", "x.npy", option, "x.npy") == 2
    assert "would overwrite another file" in capsys.readouterr().err
    with pytest.raises(onnx_invert.FileError, match="would overwrite"):
        onnx_invert.invert("model.onnx", "x.npy", **{option[2:]: "x.npy"})
    assert (tmp_path / "x.npy").read_bytes() == before


def test_bounds_are_not_replaced(model, capsys):
    np.save("low.npy", np.zeros(8))
    assert call("model.onnx", "-o", "low.npy", "--bounds", "low.npy", "1") == 2
    assert "would overwrite another file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((30, 8), np.float32), "all the same"),
        (np.full((30, 8), 0.1, np.float32), "all the same"),
        (np.array(3, np.float32), "one number"),
    ],
)
def test_a_prior_of_nothing(x, message, model):
    with pytest.raises(onnx_invert.UsageError, match=message):
        onnx_invert.invert(model, prior=x)
