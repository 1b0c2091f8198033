"""Train the small surrogates in tests/data/newton: scikit-learn pipelines on functions that are known, as ONNX.

    python tools/train_surrogates.py --out tests/data/newton/

A StandardScaler and an MLPRegressor each: `borehole`, the logarithm of the flow of water through a borehole from
eight inputs whose ranges differ by six orders of magnitude; `arm`, the position of the hand of an arm with three
joints. Needs scikit-learn and skl2onnx in an environment of its own (pip install scikit-learn skl2onnx).
Source: W. Harper & S. Gupta, BMI/ONWI-516, 1983 (borehole).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Radii of borehole and influence (m), transmissivity (m²/a) and head (m) of both aquifers, length (m), conductivity.
BOREHOLE_LOW = np.array([0.05, 100, 63070, 990, 63.1, 700, 1120, 9855])
BOREHOLE_HIGH = np.array([0.15, 50000, 115600, 1110, 116, 820, 1680, 12045])


def borehole(x: Array) -> Array:
    """log of the flow (m³/a), (N, 8) → (N, 1)."""
    rw, r, tu, hu, tl, hl, length, kw = x.T
    ratio = np.log(r / rw)
    flow = 2 * np.pi * tu * (hu - hl) / (ratio * (1 + 2 * length * tu / (ratio * rw**2 * kw) + tu / tl))
    return np.log(flow)[:, None]


def arm(q: Array) -> Array:
    """The hand of an arm that turns about an upright axis and bends twice, (N, 3) → (N, 3) in metres."""
    turn, shoulder, elbow = q.T
    out = 0.5 * np.cos(shoulder) + 0.4 * np.cos(shoulder + elbow)
    up = 0.3 + 0.5 * np.sin(shoulder) + 0.4 * np.sin(shoulder + elbow)
    return np.stack([out * np.cos(turn), out * np.sin(turn), up], axis=1)


def main() -> None:
    """Train and write both; print the error on fresh points."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/data/newton"), metavar="FOLDER")
    options = parser.parse_args()

    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    tasks = {
        "borehole": (borehole, BOREHOLE_LOW, BOREHOLE_HIGH),
        "arm": (arm, np.array([-2.0, 0.1, 0.2]), np.array([2.0, 1.5, 2.2])),
    }
    for name, (function, low, high) in tasks.items():
        x, fresh = (rng.uniform(low, high, (count, len(low))) for count in (4000, 1000))
        network = MLPRegressor(
            hidden_layer_sizes=(24, 24), activation="tanh", solver="lbfgs", max_iter=400, alpha=1e-4, random_state=0
        )
        model = make_pipeline(StandardScaler(), network).fit(x, function(x).squeeze())
        found = model.predict(fresh).reshape(len(fresh), -1)
        error = float(np.abs(found - function(fresh)).max())
        onnx_model = to_onnx(model, x[:1].astype(np.float32), target_opset={"": 17, "ai.onnx.ml": 3})
        (options.out / f"surrogate_{name}.onnx").write_bytes(onnx_model.SerializeToString())
        print(f"  surrogate_{name}.onnx: off by at most {error:.2g} on {len(fresh)} fresh points")


if __name__ == "__main__":
    main()
