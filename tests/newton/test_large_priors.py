"""Priors for images of 64 × 64 × 3, fitted to data that stay on the disk."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from solving import layers, normal, residuals, run

from onnx_invert import Guarantee, arrays, invert
from onnx_invert.numerics import covariance

sys.path.insert(0, str(Path(__file__).parent.parent / "numerics"))
from test_covariance import N, images

X, FRESH = images(160, seed=5), images(8, seed=6)
DENSE = layers(normal(N, 24, seed=1) / 60, "Tanh", normal(24, 6, seed=2) / 3, width=N)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(covariance, "RANK", 40)


def convolutional():
    """Three channels, convolved with stride 4, pooled, and six numbers of the rest."""
    weights = {"w": normal(4, 3, 4, 4) / 4, "v": normal(64, 6, seed=3) / 8}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[4, 4]),
        helper.make_node("Tanh", ["c"], ["t"]),
        helper.make_node("AveragePool", ["t"], ["p"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def shaped(model, x):
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    return x.reshape(-1, *dims)


@pytest.mark.parametrize(("kind", "make"), [("conditional", lambda: DENSE), ("gaussian", convolutional)])
def test_images_come_back_nearer_than_their_variance(kind, make):
    model = make()
    x = shaped(model, FRESH)
    inversion = invert(model, prior=shaped(model, X), prior_kind=kind, data=x, method="newton")
    assert inversion.guarantee is Guarantee.RIGHT
    assert inversion.round_trip.unsolved == 0
    back = run(inversion.model, y=run(model, x=x)[0])[0]
    variance = np.mean(np.square(FRESH - X.mean(axis=0)))
    # Six numbers tell the six strongest waves apart, which hold more than nine tenths of it.
    assert np.mean(np.square(back - x)) < 0.4 * variance


def test_bounds_and_a_large_prior():
    low, high = FRESH.min() - 0.1, FRESH.max() + 0.1
    inversion = invert(DENSE, prior=X, bounds=(low, high), data=FRESH)
    assert inversion.round_trip.unsolved == 0
    back = run(inversion.model, y=run(DENSE, x=FRESH)[0])[0]
    assert back.min() >= low - 1e-6
    assert back.max() <= high + 1e-6


@pytest.mark.parametrize("name", ["x.npy", "stored.npz", "compressed.npz"])
def test_large_arrays_stay_on_the_disk(name, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "LARGE", 1 << 16)
    path = tmp_path / name
    {"x.npy": np.save, "stored.npz": np.savez, "compressed.npz": np.savez_compressed}[name](path, X)
    (mapped,) = arrays.load(path, scratch=tmp_path).values()
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, X)


def test_the_prior_is_the_same_from_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "LARGE", 1 << 16)
    np.savez_compressed(tmp_path / "x.npz", X)
    y = run(DENSE, x=FRESH)[0]
    here, there = (invert(DENSE, prior=prior, verify=False).model for prior in (X, tmp_path / "x.npz"))
    np.testing.assert_array_equal(run(here, y=y)[0], run(there, y=y)[0])
    assert residuals(run(DENSE, x=run(there, y=y)[0])[0], y).max() < 1e-5


def test_several_inputs_of_an_npz(tmp_path, monkeypatch):
    """A small member beside a large one; what all samples share stays whole, whatever chunk is read."""
    monkeypatch.setattr(arrays, "LARGE", 1 << 16)
    monkeypatch.setattr("onnx_invert.solving.CHUNK", 16)
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,40] a, float[N,5] b, float[5] c) => (float[N,5] y) {
            s = Slice(a, zero, five, one) t = Tanh(s) u = Add(t, b) y = Mul(u, c)
        }""")
    for name, value in {"zero": 0, "five": 5, "one": 1}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    a, b = normal(900, 40).astype(np.float32), normal(900, 5, seed=1).astype(np.float32)
    np.savez_compressed(tmp_path / "x.npz", a=a, b=b, c=np.arange(1.0, 6, dtype=np.float32))
    inversion = invert(model, recover=["a", "b"], prior=tmp_path / "x.npz", prior_kind="gaussian")
    assert inversion.round_trip.unsolved == 0
