"""Keras and SavedModel files: exported to ONNX first, by TensorFlow and tf2onnx if they are installed."""

from __future__ import annotations

import os
from pathlib import Path

from onnx_invert.errors import ModelError, UsageError


def export(path: Path, folder: Path) -> Path:
    """Export the model at `path` to an ONNX file in `folder` and return its path.

    Raises:
        UsageError: TensorFlow or tf2onnx is not installed.
        ModelError: they cannot read or export it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not path.exists():
        raise UsageError(f"There is no file {str(path)!r}.")
    try:
        import keras
        import tensorflow as tf
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"{path.name} has to be exported to ONNX first, which takes TensorFlow and tf2onnx "
            f"({error.name} is missing): pip install 'onnx-invert[keras]'"
        ) from error
    target = folder / f"{path.stem}.onnx"
    try:
        if path.is_dir():
            layer = keras.layers.TFSMLayer(str(path), call_endpoint="serving_default")
            signature = tf.saved_model.load(str(path)).signatures["serving_default"]
            specs = signature.structured_input_signature[1]
            inputs = [keras.Input(spec.shape[1:], dtype=spec.dtype, name=name) for name, spec in specs.items()]
            model = keras.Model(inputs, layer(*inputs))
        else:
            model = keras.models.load_model(path, compile=False)
        # Keras exports only what has been called once.
        model([keras.ops.zeros([size or 1 for size in tensor.shape], tensor.dtype) for tensor in model.inputs])
        model.export(str(target), format="onnx", verbose=False)
    except Exception as error:  # Keras, TensorFlow and tf2onnx raise whatever they please
        raise ModelError(f"{path.name} cannot be exported to ONNX: {str(error).splitlines()[0]}") from error
    return target
