"""RealNVP of Keras layers alone, as Keras exports it: by halves that swap, and by constant masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import onnx
import onnxruntime as ort
import tensorflow as tf
from keras import layers, ops

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FEATURES = 6
SAMPLES = 64
COUPLINGS = 4
STEPS = 150


class Coupling:
    """z_b = x_b exp(s) + t where the mask b is 1; s = 1.5 tanh(…) and t come from the rest of x by Dense layers."""

    def __init__(self, index: int, features: int) -> None:
        self.hidden = layers.Dense(16, activation="tanh", name=f"hidden{index}")
        self.scale = layers.Dense(features, activation="tanh", name=f"scale{index}")
        self.shift = layers.Dense(features, name=f"shift{index}")

    def __call__(self, given: Any) -> tuple[Any, Any]:
        """s and t of the part that stays."""
        h = self.hidden(given)
        return 1.5 * self.scale(h), self.shift(h)


def halves() -> tuple[keras.Model, Any]:
    """Slices, Concatenate; the halves change places after each coupling."""
    half = FEATURES // 2
    couplings = [Coupling(i, half) for i in range(COUPLINGS)]
    x = keras.Input((FEATURES,), name="x")
    h, total = x, 0
    for coupling in couplings:
        a, b = h[:, :half], h[:, half:]
        s, t = coupling(a)
        h = layers.Concatenate()([b * ops.exp(s) + t, a])
        total = total + ops.sum(s, axis=1)

    def inverse(z: NDArray) -> NDArray:
        h = ops.convert_to_tensor(z)
        for coupling in reversed(couplings):
            b, a = h[:, :half], h[:, half:]
            s, t = coupling(a)
            h = ops.concatenate([a, (b - t) * ops.exp(-s)], axis=1)
        return ops.convert_to_numpy(h)

    return keras.Model(x, [h, total], name="keras_realnvp"), inverse


def masks() -> tuple[keras.Model, Any]:
    """Multiplications with 0 1 0 1 … and its complement."""
    couplings = [Coupling(i, FEATURES) for i in range(COUPLINGS)]
    changed = [(np.arange(FEATURES) + i).astype(np.float32) % 2 for i in range(COUPLINGS)]
    x = keras.Input((FEATURES,), name="x")
    h, total = x, 0
    for coupling, b in zip(couplings, changed, strict=True):
        s, t = coupling(h * (1 - b))
        s = s * b
        h = h * (1 - b) + (h * ops.exp(s) + t) * b
        total = total + ops.sum(s, axis=1)

    def inverse(z: NDArray) -> NDArray:
        h = ops.convert_to_tensor(z)
        for coupling, b in zip(reversed(couplings), reversed(changed), strict=True):
            s, t = coupling(h * (1 - b))
            h = h * (1 - b) + (h - t) * ops.exp(-s * b) * b
        return ops.convert_to_numpy(h)

    return keras.Model(x, [h, total], name="keras_masked"), inverse


FLOWS = {"keras_realnvp": halves, "keras_masked": masks}


def write(name: str, folder: Path) -> dict[str, Any]:
    """Build, train and export one flow; its entry of the index."""
    keras.utils.set_random_seed(sum(map(ord, name)))
    model, inverse = FLOWS[name]()
    x = bent()
    fit(model, x)
    z, log_det = (ops.convert_to_numpy(out) for out in model(x, training=False))
    path = folder / f"{name}.keras.onnx"
    model.export(path, format="onnx", verbose=False)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    found = ort.InferenceSession(str(path)).run(None, {proto.graph.input[0].name: x})
    for array, expected in zip(found, (z, log_det), strict=True):
        if not np.abs(array - expected).max() <= 1e-4:
            raise SystemExit(f"{name}: the model does not give what Keras gives")
    back = inverse(z)
    np.savez_compressed(folder / f"{name}.npz", x=x, z=z, log_abs_det=log_det, inverse=back)
    return {
        "name": name,
        "library": "keras",
        "kind": "coupling affine",
        "inputs": ["x"],
        "latents": ["z"],
        "log_det_by": "library",
        "inverse_error": float(f"{np.abs(back - x).max() / max(1.0, np.abs(x).max()):.1e}"),
        "log_det_error": float(f"{np.abs(jacobian_log_det(model, x[:4]) - log_det[:4]).max():.1e}"),
        "note": "",
        "files": {
            "keras": {
                "file": path.name,
                "outputs": ["z", "log_abs_det"],
                "batch": None,
                "nodes": len(proto.graph.node),
                "opset": proto.opset_import[0].version,
            }
        },
        "failures": {},
    }


def bent() -> NDArray[np.float32]:
    """Samples (64, 6), each coordinate bent by the one before."""
    noise = np.random.default_rng(0).normal(size=(SAMPLES, FEATURES))
    x = noise.copy()
    for i in range(1, FEATURES):
        x[:, i] = 0.7 * np.sin(2 * x[:, i - 1]) + 0.5 * noise[:, i]
    return x.astype(np.float32)


def fit(model: keras.Model, x: NDArray[np.float32]) -> None:
    """Adam on the likelihood under a standard normal."""
    optimizer = keras.optimizers.Adam(0.01)
    for _ in range(STEPS):
        with tf.GradientTape() as tape:
            z, log_det = model(x, training=True)
            loss = ops.mean(0.5 * ops.sum(ops.square(z), axis=1) - log_det)
        weights = model.trainable_weights
        optimizer.apply(tape.gradient(loss, weights), weights)


def jacobian_log_det(model: keras.Model, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """log|det ∂z/∂x| (N,) by automatic differentiation."""
    given = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(given)
        z = model(given, training=False)[0]
    return np.linalg.slogdet(tape.batch_jacobian(z, given).numpy().astype(np.float64))[1]
