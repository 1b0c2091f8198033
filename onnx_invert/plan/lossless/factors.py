"""The matrices of chosen steps, factored: what they really lose follows from their ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from onnx_invert.errors import ModelError
from onnx_invert.numerics.coordinates import coordinates
from onnx_invert.plan.lossless.steps import Effort, Link, Step, Undo
from onnx_invert.rules.completion import Operator
from onnx_invert.rules.facts import Matrix


def resolved(step: Step, effort: Effort) -> Step:
    """With the factors of its matrices, and the numbers of latents that their ranks ask for."""
    if not isinstance(step, Undo):
        return step
    return replace(step, links=tuple(_factored(link, step, effort) for link in step.links))


def _factored(link: Link, step: Undo, effort: Effort) -> Link:
    part = link.part
    if not isinstance(part, Matrix | Operator):
        return link
    if isinstance(part, Matrix) and part.weight.ndim > 2:
        return link
    build: Callable[[], np.ndarray] = part.matrix if isinstance(part, Operator) else lambda: _right(part)
    try:
        found = coordinates(build(), effort.cap)
    except ValueError as error:
        raise ModelError(f"The matrix of node {step.node.name!r} cannot be undone: {error}.") from error
    k = part.numbers[0] if isinstance(part, Operator) else part.lengths[0]
    lost = k - found.rank
    vectors = 1
    if isinstance(part, Matrix) and lost:
        shape = link.before
        if shape is None:
            raise ModelError(f"The shape of what node {step.node.name!r} multiplies is not known.")
        sizes = [size for size in shape if isinstance(size, int)]
        vectors = math.prod(sizes) // k
    return replace(link, latent="null space" if lost else "", numbers=vectors * lost, coordinates=found)


def _right(part: Matrix) -> np.ndarray:
    """The matrix as one that multiplies from the right."""
    return part.weight if part.side == "right" else part.weight.T
