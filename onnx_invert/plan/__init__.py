"""From a graph and the names of what is known to a plan: which equation determines what, what is promised.

Plans hold no ONNX nodes of the inverse; `build` makes those. Nothing here touches files.
"""
