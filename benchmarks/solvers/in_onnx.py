"""Inverses that are ONNX files, in onnxruntime; the layer-by-layer one in numpy where there is no such file."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from onnx_invert import NotInvertibleError, invert
from solvers.problem import Array, Outcome, Problem, Solver


def session(model: Path | onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """A session with so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


CALLS, LONG = 25, 0.5
"""Runs of which the median counts, and the seconds after which there are no more of them."""


def single(model: Path | onnx.ModelProto, threads: int) -> Solver:
    """One run of a network from y to x, the median of several after a first one, which finds its own data out of the
    cache. An optimiser's steps have that behind them."""
    opened = session(model, threads)
    name = opened.get_inputs()[0].name

    def run(problem: Problem, limit: float) -> Outcome:
        del limit
        (x, *_) = opened.run(None, {name: problem.y})
        seconds: list[float] = []
        while len(seconds) < CALLS and sum(seconds) < LONG:
            begun = time.perf_counter()
            (x, *_) = opened.run(None, {name: problem.y})
            seconds.append(time.perf_counter() - begun)
        return Outcome(x, median(seconds))

    return run


def inverse(model: Path, data: Array, threads: int, prior: Array | None = None) -> Solver:
    """This project's solver, with the outputs' units from `data`."""
    options: dict[str, Any] = {"method": "newton"} if prior is None else {"prior": prior}
    return single(invert(model, data=data, verify=False, **options).model, threads)


def layer_by_layer(model: Path, threads: int) -> Solver | None:
    """The closed form; where it is refused, the same steps by pseudo-inverses. None where a layer has none."""
    try:
        return single(invert(model, method="closed-form", verify=False).model, threads)
    except NotInvertibleError:
        return _pseudo_inverses(model)


def _pseudo_inverses(model: Path) -> Solver | None:
    """Back through a chain: pinv of the matrices, max(h, 0) as it is, artanh of what lies within (−1, 1)."""
    graph = onnx.load(model).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    steps: list[Any] = []
    for node in reversed(graph.node):
        constant = next((weights[name] for name in node.input if name in weights), None)
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "MatMul" and constant is not None:
            back = np.linalg.pinv(constant)
            steps.append(lambda h, w=back: h @ w)
        elif node.op_type == "Add" and constant is not None:
            steps.append(lambda h, b=constant: h - b)
        elif node.op_type == "LeakyRelu":
            steps.append(lambda h, a=attributes["alpha"]: np.where(h < 0, h / a, h))
        elif node.op_type == "Tanh":
            steps.append(lambda h: np.arctanh(np.clip(h, -1 + 1e-6, 1 - 1e-6)))
        elif node.op_type != "Relu":
            return None

    def run(problem: Problem, limit: float) -> Outcome:
        del limit
        begun = time.perf_counter()
        x = problem.y
        for step in steps:
            x = step(x)
        return Outcome(x.astype(np.float32), time.perf_counter() - begun)

    return run
