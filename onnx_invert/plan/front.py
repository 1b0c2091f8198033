"""The affine beginning of a model, multiplied out: h = x W + b."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.plan.layout import Layout
from onnx_invert.rules import RuleSet
from onnx_invert.rules.facts import Array, Diagonal, Matrix, NoInverse
from onnx_invert.rules.node import NodeView

_KEEP_ORDER = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})


@dataclass(frozen=True)
class Front:
    """value = x @ weight + shift for one sample x (n), flattened; `weight` (n, k), `nodes` what it replaces."""

    value: ir.Value
    weight: NDArray[np.float64]
    shift: NDArray[np.float64]
    nodes: tuple[ir.Node, ...]


def find_front(x: ir.Value, rules: RuleSet, opset: int, last: frozenset[ir.Value]) -> Front | None:
    """The longest run of affine nodes from `x` on that ends where it is no wider than x, or None.

    Every tensor in the run is used by the next node alone; none is in `last` before the end.
    """
    n = Layout.of(x).size
    weight: Array | None = None
    shift: Array = np.zeros(n)
    scale: Array = np.ones(n)
    value, nodes, best = x, list[ir.Node](), None
    while value not in last and len(value.uses()) == 1 and not value.is_graph_output():
        ((node, place),) = value.uses()
        if len(node.outputs) != 1:
            break
        parts = affine_parts(node, place, rules, opset)
        if parts is None:
            break
        value = node.outputs[0]
        layout = _layout(value)
        if layout is None:
            break
        for part in parts:
            if isinstance(part, Diagonal):
                a, b = (_flat(array, layout) for array in (part.scale, part.shift))
                shift = shift * a + b
                if weight is None:
                    scale = scale * a
                else:
                    weight = weight * a
            elif isinstance(part, Matrix):
                matrix = part.factor * part.weight.astype(np.float64)
                weight = scale[:, None] * matrix if weight is None else weight @ matrix
                shift = shift @ matrix
        nodes.append(node)
        if weight is not None and weight.shape[1] < n:
            best = Front(value, weight, shift, tuple(nodes))
    return best


def _layout(value: ir.Value) -> Layout | None:
    if value.shape is None or any(not isinstance(dim, int) for dim in list(value.shape)[1:]):
        return None
    return Layout.of(value)


def affine_parts(node: ir.Node, place: int, rules: RuleSet, opset: int) -> list[Diagonal | Matrix] | None:
    """The facts of an affine node that maps each sample by itself, flattened in one order; None for any other."""
    view = NodeView(node, place, opset)
    if node.op_type in _KEEP_ORDER and place == 0 and _keeps_samples(view):
        return []
    chain = rules.apply(view)
    if isinstance(chain, NoInverse):
        return None
    parts = list[Diagonal | Matrix]()
    x, y = view.shape(view.x), view.shape(view.y)
    if x is None or y is None:
        return None
    for fact in chain:
        if isinstance(fact, Diagonal):
            parts.append(fact)
        elif isinstance(fact, Matrix):
            rows = fact.side == "right" and fact.weight.ndim == 2
            # On other ranks, and where the rows are no samples, it maps each vector of a sample.
            if not rows or len(x) != 2 or len(y) != 2 or not (isinstance(x[0], str) or x[0] == 1):
                return None
            parts.append(fact)
        else:
            return None
    return parts


def _keeps_samples(view: NodeView) -> bool:
    """True if the first axis stays what it is, so that only the sizes within a sample change."""
    x, y = view.shape(view.x), view.shape(view.y)
    return bool(x) and bool(y) and x is not None and y is not None and x[0] == y[0]


def _flat(array: Array, layout: Layout) -> Array:
    """A scale or shift as it meets one flattened sample."""
    sizes = layout.sizes
    array = array.reshape(array.shape[1:]) if layout.batched and array.ndim == len(sizes) + 1 else array
    return np.broadcast_to(array, sizes).reshape(-1) if sizes else np.broadcast_to(array, (1,))
