"""Random functions that may have folds, dips, jumps and flat parts: whatever is promised of them holds everywhere.

What is refused, or fails its verification, is no matter here; what passes is held to points that were chosen to
break it. A fold shows where another x has the same y; where y does not change between the two, x is lost to rounding.
"""

from __future__ import annotations

import warnings

import numpy as np
import onnxruntime as ort
import pytest
from hostile_graphs import HostileGraph

import onnx_invert

CI, ALL = 24, 400


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(ALL if metafunc.config.getoption("--sweep") else CI))


def _session(model: object) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])  # type: ignore[attr-defined]


def broken(seed: int) -> str:
    """What of a promise does not hold, in words; empty where all does."""
    graph = HostileGraph(seed)
    model = graph.model()
    try:
        made = onnx_invert.invert(model, method="closed-form", recover=["x"])
    except (onnx_invert.NotInvertibleError, onnx_invert.VerificationError):
        return ""
    except onnx_invert.ModelError as error:
        assert "Could not find an implementation" in str(error)  # onnxruntime lacks some operators in float64
        return ""
    if not made.guarantee.promises_x:
        return ""
    f, g = _session(model), _session(made.model)
    x = graph.points()
    low, high = made.plan.bounds.get("x", (np.full((1, 1), -np.inf), np.full((1, 1), np.inf)))  # type: ignore[union-attr]
    x = x[((x > low) & (x < high)).all(axis=1)]
    b = (
        {"b": graph.rng.standard_normal(x.shape) * graph.rng.choice([0.1, 3.0, 20.0], (len(x), 1))}
        if graph.given
        else {}
    )

    def forward(at: np.ndarray) -> np.ndarray:
        return f.run(["y"], {"x": at, **b})[0]

    y = forward(x)
    back = g.run(["x"], {"y": y, **{k: v for k, v in b.items() if k in {i.name for i in g.get_inputs()}}})[0]
    with np.errstate(all="ignore"):
        away = np.abs(back - x) > 1e-6 * np.maximum(1, np.abs(x))
        moved = np.zeros_like(y)
        for share in np.linspace(0, 1, 33):
            moved = np.fmax(moved, np.abs(forward(x + share * (back - x)) - y))
        # Rounding of a sum is that of its largest term, which may be much larger than the sum.
        size = np.abs(y) + np.abs(x) + 100
        wrong = away & (moved > 1e-9 * size) & np.isfinite(y) & (np.abs(y) < 1e200) & (np.abs(x) > 1e-290)
        wrong |= ~np.isfinite(back) & np.isfinite(y) & (np.abs(y) < 1e200)
    if not wrong.any():
        return ""
    row, column = np.argwhere(wrong)[0]
    found = f"x = {x[row, column]!r}, y = {y[row, column]!r} gives {back[row, column]!r}"
    return f"{made.guarantee.value}, {made.report['evidence']}: {found} ({int(wrong.sum())} numbers)"


def test_what_is_promised_holds_where_it_would_break(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert broken(seed) == ""
