"""Files that are handed over in place of an ONNX model: what they are, told by their first bytes, and what to do."""

from __future__ import annotations

import zipfile
from pathlib import Path

_PYTORCH = "a PyTorch file: load it in PyTorch and export it with torch.onnx.export"

_STARTS = (
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, Keras's old format: load it in Keras and save it as .keras"),
    (4, b"TFL3", "a TensorFlow Lite file: convert it with  python -m tf2onnx.convert --tflite"),
    (4, b"ORTM", "in onnxruntime's own format: give the .onnx file that it was made from"),
    (0, b"\x93NUMPY", "an array, no model: arrays go to --data, --prior or -i"),
    (0, b"GGUF", "a GGUF file, which holds weights without a graph: export the model itself to ONNX"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself: run  git lfs pull"),
    (0, b"<!DOCTYPE", "a web page: download the model again"),
    (0, b"<html", "a web page: download the model again"),
)
_LONGEST = 32


def lookalike(path: Path) -> str | None:
    """What a file that is no ONNX model is, and what to do; None where its first bytes do not tell."""
    with path.open("rb") as file:
        head = file.read(_LONGEST)
    for offset, start, told in _STARTS:
        if head[offset : offset + len(start)].lower() == start.lower():
            return told
    if head[:2] == b"\x80\x02" and b"l\xfc\x9cF\xf9 j\xa8P\x19" in head:  # the number that opens PyTorch's old format
        return _PYTORCH
    if head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return "a pickle: load what it holds, and export it with skl2onnx or torch.onnx.export"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "a safetensors file, which holds weights without a graph: export the model itself to ONNX"
    return _archive(path) if head[:2] == b"PK" else None


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError):
        return "a zip archive that was cut short"
    if any(name.endswith(("/data.pkl", "/models/model.json")) for name in names):
        return _PYTORCH
    if {"config.json", "metadata.json"} <= set(names):
        return "a Keras file: name it .keras"
    if any(name.endswith(".npy") for name in names):
        return "an archive of arrays, no model: arrays go to --data, --prior or -i"
    return "a zip archive: unpack it, and give the .onnx file in it"
