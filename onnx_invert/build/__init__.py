"""From a plan to the inverse as an ONNX graph. Adjacent affine steps become one product here.

Decides nothing about guarantees, runs nothing, touches no files.
"""
