"""Dense linear algebra behind the rules: pseudo-inverse, rank, null space, condition.

Lives here: numpy and scipy on plain arrays. Must not live here: onnx, graphs, files, what a node is.
"""
