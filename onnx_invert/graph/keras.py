"""Keras and SavedModel files: exported to ONNX first, by TensorFlow and tf2onnx if they are installed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

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
        proto = onnx.load(str(target), load_external_data=False)
        if len(proto.graph.input) > len(model.inputs):
            specs = [tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.name) for tensor in model.inputs]
            traced = tf.function(lambda *x: model(list(x))).get_concrete_function(*specs)
            held = {inner.name: value for value, inner in traced.graph.captures if value.dtype != tf.resource}
            fill(proto, {name: value.numpy() for name, value in held.items()})
            onnx.save(proto, str(target))
    except Exception as error:  # Keras, TensorFlow and tf2onnx raise whatever they please
        raise ModelError(f"{path.name} cannot be exported to ONNX: {str(error).splitlines()[0]}") from error
    return target


def fill(proto: onnx.ModelProto, constants: Mapping[str, NDArray[Any]]) -> None:
    """Make the inputs that are named in `constants` weights: numbers that a layer holds beside its variables (mean and
    variance of a Normalization) come out of the exporter as inputs."""
    for port in [port for port in proto.graph.input if port.name in constants]:
        proto.graph.input.remove(port)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(constants[port.name]), port.name))
