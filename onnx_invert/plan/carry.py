"""Labels carried through a block: which element of a known tensor follows from which unknown one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.elements import Mask
from onnx_invert.plan.steps import Edge
from onnx_invert.plan.system import System
from onnx_invert.rules.moving import Labels
from onnx_invert.rules.static import UnsizedError


def through(
    system: System,
    x: ir.Value,
    y: ir.Value,
    nodes: Sequence[ir.Node],
    ids: Labels,
    frozen: Sequence[Edge] = (),
    instead: Labels | None = None,
) -> Labels | None:
    """The labels that those of x leave on y, which has its sizes, 0 where y is not known; None where they cannot.

    The operands `frozen` are known, or have the labels `instead`.
    """
    labels = carried(system, {x: ids}, y, nodes, frozen, instead)
    if labels is None or labels.shape != ids.shape:
        return None
    mask = system.mask(y)
    return labels if mask is None else np.where(mask, labels, 0)


def carried(
    system: System,
    start: Mapping[ir.Value, Labels],
    y: ir.Value,
    nodes: Sequence[ir.Node],
    frozen: Sequence[Edge] = (),
    instead: Labels | None = None,
) -> Labels | None:
    """The labels that those of `start` leave on y, known or not; None where they leave none."""
    found = dict(start)
    still = set(frozen)
    for node in nodes:
        if still:
            held = {node.inputs[place]: place for place in range(len(node.inputs)) if (node, place) in still}
        else:
            held = {}
        try:
            made = system.labels(node, lambda value, held=held: instead if value in held else found.get(value))  # type: ignore[misc]
        except UnsizedError:
            return None
        found.update((o, label) for o, label in zip(node.outputs, made, strict=True) if label.any())
    return found.get(y)


def by_sample(system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node]) -> bool:
    """Whether, along the first axis of both, each sample of y follows from that sample of x alone."""
    shape = system.concrete.shapes.get(x.name or "", ())
    if not shape:
        return False
    samples = np.arange(1, shape[0] + 1).reshape(-1, *[1] * (len(shape) - 1))
    labels = carried(system, {x: np.array(np.broadcast_to(samples, shape))}, y, nodes)
    if labels is None or labels.shape[:1] != shape[:1]:
        return False
    return bool(np.all((labels == 0) | (labels == samples.reshape(-1, *[1] * (labels.ndim - 1)))))


def in_place(labels: Labels, ids: Labels) -> bool:
    """Whether every element follows from the one at its own place alone."""
    return bool(np.array_equal(labels, ids))


def numbers(mask: Mask) -> Labels:
    """A label of its own for every element of a mask, 0 elsewhere."""
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.arange(1, int(mask.sum()) + 1)
    return ids
