"""onnx-invert."""
