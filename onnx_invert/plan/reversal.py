"""Equations of a chain of layers, solved from the side of y: its last hidden tensor p is the unknown.

    x → affine → σ → … → p → affine → y        narrowing layers, then widening ones, and a last one that narrows to y

From p on, each layer is undone in closed form: σ⁻¹, the pseudo-inverse. Of what a layer h W + b that widens makes, not
every value is reached; u is, where (u − b) N = 0, the columns of N being all that W has no part in. So

    p W + b = y,        (u_k − b_k) N_k = 0  for every layer that widens

are the equations for p, linear but for σ⁻¹ of an invertible σ. Where σ is nearly flat below 0 they are solved from
much farther away than f(x) = y: there a step of x moves y by the product of all slopes, here one of p moves y by W.
What is found is close to a solution; the equations f(x) = y have the last word.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.plan.front import affine_parts
from onnx_invert.plan.layout import Layout
from onnx_invert.plan.newton import System
from onnx_invert.rules import RuleSet
from onnx_invert.rules.facts import Diagonal, Elementwise, Matrix, NoInverse
from onnx_invert.rules.node import NodeView

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """x @ weight + shift, `weight` (k, l), of full rank; `start` is x."""

    weight: Array
    shift: Array
    start: ir.Value

    @property
    def widens(self) -> bool:
        """True if not every value is made."""
        return bool(self.weight.shape[0] < self.weight.shape[1])

    @property
    def pinv(self) -> Array:
        """Undoes it exactly, for every value that it makes."""
        return np.asarray(np.linalg.pinv(self.weight))

    @property
    def beyond(self) -> Array:
        """The directions (l, l − k) that no x @ weight has, orthonormal."""
        _, _, right = np.linalg.svd(self.weight)
        return np.asarray(right[len(self.weight) :].T)


@dataclass(frozen=True)
class Chain:
    """The layers from a system's unknown to its known tensor: affine maps, the last of which narrows, and functions
    of the line onto itself."""

    links: tuple[Affine | Elementwise, ...]
    dtype: ir.DataType

    @property
    def last(self) -> Affine:
        """The layer that makes y of p."""
        last = self.links[-1]
        assert isinstance(last, Affine)
        return last

    @property
    def hidden(self) -> ir.Value:
        """The tensor p of the model."""
        return self.last.start

    @property
    def conditions(self) -> int:
        """How many there are beside p W + b = y."""
        layers = (link for link in self.links if isinstance(link, Affine))
        return sum(max(0, layer.weight.shape[1] - len(layer.weight)) for layer in layers)


def find_chain(system: System, rules: RuleSet, opset: int) -> Chain | None:
    """How the equations of a system are solved from y's side; None where its nodes are no such chain."""
    if len(system.unknowns) != 1 or len(system.wanted) != 1:
        return None
    (x,), (y,) = system.unknowns, system.wanted
    if x.dtype is None or not all(Layout.of(value).is_matrix for value in (x, y)):
        return None
    links = _links(x, y, rules, opset)
    if links is None or len(links) < 2 or not isinstance(links[-1], Affine) or links[-1].widens:
        return None
    layers = [link for link in links if isinstance(link, Affine)]
    widening = [layer.widens for layer in layers[:-1]]
    if sorted(widening) != widening or any(_rank(layer) < min(layer.weight.shape) for layer in layers):
        return None
    return Chain(tuple(links), x.dtype)


def _links(x: ir.Value, y: ir.Value, rules: RuleSet, opset: int) -> list[Affine | Elementwise] | None:
    """The nodes from x to y as affine maps and functions of the line onto itself in turns; None where one is neither,
    or where a tensor is used twice."""
    links = list[Affine | Elementwise]()
    value = x
    while value is not y:
        uses = tuple(value.uses())
        if len(uses) != 1 or value.is_graph_output():
            return None
        ((node, place),) = uses
        if len(node.outputs) != 1:
            return None
        parts = affine_parts(node, place, rules, opset)
        if parts is not None:
            earlier = links.pop() if links and isinstance(links[-1], Affine) else None
            links.append(_follow(earlier if isinstance(earlier, Affine) else None, value, parts))
        else:
            chain = rules.apply(NodeView(node, place, opset))
            if isinstance(chain, NoInverse) or not all(_is_bijection(fact) for fact in chain):
                return None
            links.extend(fact for fact in chain if isinstance(fact, Elementwise))
        value = node.outputs[0]
        if not Layout.of(value).is_matrix:
            return None
    return links


def _follow(before: Affine | None, value: ir.Value, parts: list[Diagonal | Matrix]) -> Affine:
    """Affine parts after `before`, or from `value` on, multiplied out."""
    width = Layout.of(value).size if before is None else before.weight.shape[1]
    start = value if before is None else before.start
    weight = np.eye(width) if before is None else before.weight
    shift = np.zeros(width) if before is None else before.shift
    for part in parts:
        if isinstance(part, Matrix):
            matrix = part.factor * part.weight.astype(np.float64)
            weight, shift = weight @ matrix, shift @ matrix
        else:
            scale = np.broadcast_to(part.scale.reshape(part.scale.shape[-1:]), shift.shape)
            weight, shift = weight * scale, shift * scale + part.shift.reshape(part.shift.shape[-1:])
    return Affine(weight, shift, start)


def _is_bijection(fact: object) -> bool:
    """True if it maps the line onto itself."""
    if not isinstance(fact, Elementwise) or len(fact.branches) != 1:
        return False
    return fact.principal.domain.is_reals and fact.principal.image.is_reals


def _rank(layer: Affine) -> int:
    return int(np.linalg.matrix_rank(layer.weight)) if np.isfinite(layer.weight).all() else 0
