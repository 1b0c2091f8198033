"""Inverting by descent in torch and in TensorFlow, for benchmarks/solver.py: a network rebuilt from its ONNX weights,
and an optimiser on its input. What is timed here is theirs; nothing of onnx_invert is imported."""
