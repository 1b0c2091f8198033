"""What users hand over as a model: a path of any kind, or a message."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import onnx

from onnx_invert.graph.given_sizes import GivenShapes, give_sizes
from onnx_invert.graph.read import Source, from_proto, read

ModelLike = str | os.PathLike[str] | onnx.ModelProto


def open_model(model: ModelLike, stack: ExitStack, shapes: GivenShapes | None = None) -> Source:
    """Read a model; what has to be exported first goes into a temporary folder that lives as long as `stack`.

    Args:
        model: a path or a message.
        stack: closed by the caller when the model is not needed any more.
        shapes: sizes of its inputs to fix; the file itself stays as it is.

    Raises:
        FileError, ModelError: it cannot be read, or is unsound.
        UsageError: `shapes` are no shapes of its inputs.
    """
    source = _opened(model, stack)
    if shapes:
        give_sizes(source.model, shapes)
    return source


def _opened(model: ModelLike, stack: ExitStack) -> Source:
    if isinstance(model, onnx.ModelProto):
        return from_proto(model)
    path = Path(model)
    if path.suffix == ".keras" or (path.is_dir() and (path / "saved_model.pb").exists()):
        from onnx_invert.graph.keras import export  # only these files need TensorFlow

        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="onnx-invert-"))
        return read(export(path, Path(folder)))
    return read(path)
