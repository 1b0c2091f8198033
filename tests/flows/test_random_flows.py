"""Random flows keep what their inverses promise, and their log-determinant is that of the Jacobian."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from random_flows import RandomFlow

import onnx_invert

CI, ALL = 60, 300


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(ALL if metafunc.config.getoption("--sweep") else CI))


def _run(model: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])  # type: ignore[attr-defined]
    return list(session.run(None, feed))


def _log_det(model: object, x: np.ndarray) -> np.ndarray:
    """slogdet of the Jacobian of every sample, by central differences."""
    step = 1e-6
    moved = np.stack([x + sign * step * unit for unit in np.eye(x.shape[1]) for sign in (1, -1)])
    (z,) = _run(model, {"x": moved.reshape(-1, x.shape[1])})
    pairs = z.reshape(x.shape[1], 2, *x.shape)
    jacobian = np.moveaxis((pairs[:, 0] - pairs[:, 1]) / (2 * step), 0, -1)
    return np.linalg.slogdet(jacobian)[1]


def test_a_random_flow_comes_back(seed: int) -> None:
    flow = RandomFlow(seed)
    model = flow.model()
    x = np.random.default_rng(seed).standard_normal((16, flow.size))
    (z,) = _run(model, {"x": x})
    made = onnx_invert.invert(model, method="closed-form", log_det=True)
    found, log_det = _run(made.model, {"z": z})
    assert made.guarantee.promises_x
    assert np.max(np.abs(found - x)) < 1e-7
    if made.guarantee.promises_every_y:
        drawn = np.random.default_rng(seed + 1).standard_normal(z.shape)
        back = _run(made.model, {"z": drawn})[0]
        assert np.max(np.abs(_run(model, {"x": back})[0] - drawn)) < 1e-6
    away = np.abs(_log_det(model, x) + log_det)
    # A central difference across a kink of a LeakyRelu or Relu measures neither side.
    assert np.median(away) < 1e-6
    assert np.mean(away < 1e-4) > 0.85
