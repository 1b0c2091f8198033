"""Keras and SavedModel files where TensorFlow is installed, and what is said where it is not."""

import sys

import numpy as np
import onnx
import onnx.parser
import pytest

import onnx_invert
from onnx_invert.errors import ModelError, UsageError
from onnx_invert.graph.keras import export, fill


@pytest.mark.parametrize("missing", ["keras", "tensorflow", "tf2onnx"])
def test_what_is_missing_is_said(missing, tmp_path, monkeypatch):
    for name in ("keras", "tensorflow", "tf2onnx"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else object())
    path = tmp_path / "m.keras"
    path.touch()
    with pytest.raises(UsageError, match=r"pip install 'onnx-invert\[keras\]'"):
        onnx_invert.invert(path)


def test_a_folder_that_is_a_saved_model_takes_that_way(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(UsageError, match="has to be exported to ONNX first"):
        onnx_invert.invert(tmp_path)


def test_no_such_file(tmp_path):
    with pytest.raises(UsageError, match="There is no file"):
        export(tmp_path / "m.keras", tmp_path)


def test_what_keras_says_is_one_line(tmp_path, monkeypatch):
    class Models:
        @staticmethod
        def load_model(path, compile):  # noqa: A002
            raise ValueError("first line\nsecond line")

    monkeypatch.setitem(sys.modules, "keras", type("keras", (), {"models": Models}))
    monkeypatch.setitem(sys.modules, "tensorflow", type("tensorflow", (), {}))
    monkeypatch.setitem(sys.modules, "tf2onnx", type("tf2onnx", (), {}))
    path = tmp_path / "m.keras"
    path.touch()
    with pytest.raises(ModelError, match=r"^m\.keras cannot be exported to ONNX: first line$"):
        export(path, tmp_path)


def test_what_a_layer_holds_beside_its_variables_is_a_weight():
    """The exporter makes an input of the mean of a Normalization."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 15]> g (float[N,2] x, float[1,2] mean) => (float[N,2] y) '
        "{ y = Sub(x, mean) }"
    )
    fill(model, {"mean": np.array([[1, 2]], np.float32), "elsewhere": np.zeros(1)})
    onnx.checker.check_model(model, full_check=True)
    assert [port.name for port in model.graph.input] == ["x"]
    assert [weight.name for weight in model.graph.initializer] == ["mean"]
