"""ONNX files and graphs: read, normalise, emit nodes, write. The only code that touches files.

Nothing here knows how to invert anything.
"""
