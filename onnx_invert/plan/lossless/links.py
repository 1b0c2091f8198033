"""What each part of a completion loses, and the shapes between the parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnx_invert.plan.lossless.samples import Samples
from onnx_invert.plan.lossless.steps import Effort, Link, Part
from onnx_invert.rules.completion import Completed, Completion, Operator, Selection
from onnx_invert.rules.facts import Convert, Diagonal, Elementwise, Matrix, Paired, Rearrangement, Repeat
from onnx_invert.rules.node import Shape


def links_of(
    chain: Completion, before: Shape | None, after: Shape | None, effort: Effort, samples: Samples
) -> tuple[Link, ...] | None:
    """The chain with its shapes and an estimate of its latents; None where one of them cannot be had."""
    shapes = _shapes(chain, before, after)
    links = []
    for part, u, v in zip(chain, shapes, shapes[1:], strict=False):
        link = _link(part, u, v, effort, samples)
        if link is None:
            return None
        links.append(link)
    return tuple(links)


def _link(part: Part, before: Shape | None, after: Shape | None, effort: Effort, samples: Samples) -> Link | None:
    numbers = samples.numbers(before)
    plain = Link(part, before, after)

    def losing(latent: str, lost: int | None, *, remainder: bool = False) -> Link | None:
        return None if lost is None else Link(part, before, after, latent, lost, remainder)

    match part:
        case Matrix():
            k, m = part.lengths
            if before is None:  # its rank may turn out lower, and then z needs a shape
                return None
            if part.weight.ndim > 2:
                return plain if k <= m else None
            lost = max(0, k - m)
            return losing("null space", None if numbers is None else numbers // k * lost) if lost else plain
        case Operator():
            return losing("null space", max(0, part.numbers[0] - part.numbers[1]))
        case Diagonal():
            if np.all(part.scale):
                return plain
            if numbers is None or before is None:
                return None
            return losing("elements times 0", int(zeros(part, before, fixed=samples.fixed).size))
        case Elementwise():
            exact = len(part.branches) == 1 and part.principal.domain.covers(part.domain)
            if exact and not (effort.remainder and np.isinf(part.steepness)):
                return plain
            return losing("remainder", numbers, remainder=True)
        case Convert():
            if part.source.itemsize <= part.target.itemsize:
                return plain
            return losing("what rounding takes", numbers, remainder=True)
        case Completed():
            if part.take is None:
                return plain
            return losing(part.latent, samples.numbers(part.shape) if part.shape else numbers)
        case Selection():
            return losing("dropped elements", int(missing([part]).size))
        case Paired():
            return None if effort.remainder and part.requires else plain
        case Repeat() | Rearrangement():
            return plain


def _shapes(chain: Completion, before: Shape | None, after: Shape | None) -> list[Shape | None]:
    """The shapes before, between and after the parts of a chain, as far as they follow from one another."""
    shapes: list[Shape | None] = [before]
    for part in chain:
        shapes.append(_onwards(part, shapes[-1]))
    shapes[-1] = after
    for index in range(len(chain) - 1, 0, -1):
        if shapes[index] is None:
            shapes[index] = _backwards(chain[index], shapes[index + 1])
    return shapes


def _onwards(part: Part, shape: Shape | None) -> Shape | None:
    match part:
        case Rearrangement():
            return part.shape
        case Selection() | Operator():
            return part.made
        case Completed():
            return part.made or shape
        case Matrix():
            return _resized(part, shape, part.lengths[1])
        case Repeat():
            return None
        case _:
            return shape


def _backwards(part: Part, shape: Shape | None) -> Shape | None:
    match part:
        case Diagonal() | Elementwise() | Paired() | Convert():
            return shape
        case Matrix():
            return _resized(part, shape, part.lengths[0])
        case _:
            return None


def _resized(part: Matrix, shape: Shape | None, size: int) -> Shape | None:
    if shape is None:
        return None
    return (*shape[:-1], size) if part.side == "right" else (*shape[:-2], size, shape[-1])


def zeros(part: Diagonal, shape: Shape, *, fixed: bool) -> np.ndarray:
    """Places in a flattened sample that are multiplied by 0."""
    sizes = [int(size) for size in (shape if fixed else shape[1:])]
    scale = part.scale
    if not fixed and scale.ndim == len(shape):
        scale = scale.reshape(scale.shape[1:])
    return np.flatnonzero(np.broadcast_to(scale, sizes) == 0)


def missing(parts: Sequence[Selection]) -> np.ndarray:
    """Places in a flattened sample of x that no selection takes."""
    shape = parts[0].shape
    sizes = shape[1:] if shape and isinstance(shape[0], str) else shape
    whole = np.arange(math.prod(int(size) for size in sizes))
    return np.setdiff1d(whole, np.concatenate([part.index for part in parts]))
