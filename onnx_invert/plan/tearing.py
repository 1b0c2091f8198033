"""Blocks that a few numbers tear open: all that mixes the elements of x passes through a tensor s smaller than x.

With s held, y = F(x, s) is undone element by element, x = G(y, s); and s = H(x). So s is a root of

    φ(s) = s − H(G(y, s)),        det ∂y/∂x = det F_x · det φ′,        φ′ = I + H_x F_x⁻¹ F_s

where φ′ is diagonal if each number of s follows from its own part of x, and that part from it: one number a sample
for planar flows, s = w·x + b, and radial ones, s = ‖x − x₀‖. Where det ∂y/∂x keeps its sign for all x, and y grows
with x beyond all bounds, there is one x for every y (Hadamard), so that φ has one root and goes through it in the
same direction for every y. That the sign is kept is tried at some thousand x, not proven.
Sources: D. Rezende & S. Mohamed, Variational inference with normalizing flows, 2015, for the flows; H. Elmqvist &
M. Otter, Methods for tearing systems of equations in object-oriented modeling, 1994, for the method.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import scipy.optimize
from numpy.typing import NDArray

from onnx_invert.plan.affine import is_affine
from onnx_invert.plan.carry import by_sample, carried, in_place, numbers
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.evaluation import run
from onnx_invert.plan.inner import inner_steps
from onnx_invert.plan.steps import Edge, Tear
from onnx_invert.plan.system import System
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import FLOATS

Array = NDArray[np.float64]

CANDIDATES = 8
"""Tensors that are tried as s, those nearest to x first."""

DRAWS = 2048
"""Points x at which the sign of the determinant is tried; as many again around where s is least."""

FLAT = 1e-8
"""A factor of the determinant below this counts as 0: central differences tell no less."""

_NOT_NEGATIVE = frozenset(
    {"Abs", "Exp", "Relu", "Sigmoid", "Softplus", "Sqrt", "ReduceL1", "ReduceL2", "ReduceSumSquare"}
)
_KEEP_SIGN = frozenset(
    {"Add", "Sum", "ReduceSum", "ReduceMean", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Cast"}
)


def torn(system: System, x: ir.Value, y: ir.Value, nodes: Sequence[ir.Node]) -> Tear | None:
    """The block torn open, if some tensor between tears it and the determinant keeps its sign."""
    shape = system.concrete.shapes.get(x.name or "", ())
    open_whole = system.known[x].none and system.is_known(y)
    if not open_whole or not shape or system.frozen or system.concrete.shapes.get(y.name or "") != shape:
        return None
    ids = numbers(np.ones(shape, bool))
    for s in _candidates(system, nodes, ids.size, shape[0]):
        edges = tuple((node, place) for node in nodes for place, value in enumerate(node.inputs) if value is s)
        tail = _needed(nodes, y, edges)
        held = carried(system, {x: ids}, y, tail, edges)
        if held is None or not in_place(held, ids) or not is_affine(system, x, tail, edges, known=True):
            continue
        head = upstream([s], {x})
        head = [node for node in nodes if node in set(head)]
        own = numbers(np.ones(system.concrete.shapes[s.name or ""], bool))
        parts = carried(system, {s: own}, y, [node for node in tail if node is not s.producer()])
        back = None if parts is None else carried(system, {x: parts}, s, head)
        if back is None or not in_place(back, own):
            continue
        inner = inner_steps(system, x, y, tail, edges)
        if inner is None:
            continue
        least = 0.0 if _not_negative(s) else None
        sign = _Trial(system, x, y, s, edges, tail, head).sign(least)
        if isinstance(sign, str):
            system.folded.add(y)
            system.blocked[y] = NoInverse(f"{sign}: several inputs may have one output", "--method newton  finds one")
            return None
        whole_mask = np.ones(shape, bool)
        return Tear(tuple(nodes), x, y, whole_mask, s, edges, tuple(inner), tuple(head), sign > 0, least)
    return None


def _candidates(system: System, nodes: Sequence[ir.Node], count: int, rows: int) -> list[ir.Value]:
    """Tensors of at most half as many numbers as x has, with its samples along the first axis, in running order."""
    found = []
    for node in nodes[:-1]:
        for value in node.outputs:
            shape = system.concrete.shapes.get(value.name or "")
            if not shape or value.shape is None or len(value.shape) != len(shape) or shape[0] != rows:
                continue
            if 0 < 2 * int(np.prod(shape)) <= count and value.dtype in FLOATS:
                found.append(value)
    return found[:CANDIDATES]


def _needed(nodes: Sequence[ir.Node], y: ir.Value, frozen: Collection[Edge]) -> list[ir.Node]:
    """Those of `nodes` that y needs, the frozen operands held."""
    wanted = {y}
    found = []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            found.append(node)
            wanted.update(v for place, v in enumerate(node.inputs) if v is not None and (node, place) not in frozen)
    return found[::-1]


def _not_negative(value: ir.Value) -> bool:
    """Whether no number of a tensor is ever below 0, as far as the nodes next to it say."""
    for _ in range(16):
        node = value.producer()
        if node is None or node.inputs[0] is None:
            return False
        if node.op_type in _NOT_NEGATIVE:
            return True
        if node.op_type == "Mul":
            return node.inputs[0] is node.inputs[1]
        if node.op_type == "Pow":
            power = node.inputs[1].const_value if node.inputs[1] is not None else None
            return power is not None and bool(np.all(power.numpy() % 2 == 0))
        if node.op_type not in _KEEP_SIGN:
            return False
        value = node.inputs[0]
    return False


@dataclass
class _Trial:
    """The parts of a torn block as functions of arrays, in float64, to see what its determinant does."""

    system: System
    x: ir.Value
    y: ir.Value
    s: ir.Value
    edges: Sequence[Edge]
    tail: Sequence[ir.Node]
    head: Sequence[ir.Node]

    def __post_init__(self) -> None:
        system, x = self.system, self.x
        self.shape = system.concrete.shapes[x.name or ""]
        made = {output for node in (*self.tail, *self.head) for output in node.outputs} | {x}
        others = {v for node in (*self.tail, *self.head) for v in node.inputs if v is not None and v not in made}
        self.others = {value for value in others if value.const_value is None}
        free = x.shape is not None and len(x.shape) > 0 and not isinstance(x.shape[0], int)
        self.many = free and not self.others and by_sample(system, x, self.y, self.tail)
        self.renamed = {(node.name or "", place): "held" for node, place in self.edges}

    def sign(self, least: float | None) -> int | str:
        """1 or −1, that of φ′, the same wherever it was tried; or what was found instead."""
        rng = np.random.default_rng(0)
        around = [self._draws(rng, None)]
        if least is not None and (low := self._lowest()) is not None:
            around.append(self._draws(rng, low))
        signs: list[Array] = []
        for x in (x for batch in around for x in batch):
            found = self._at(x)
            if found is None:
                return "it could not be tried whether it has one solution"
            factors, slopes = found
            if not np.isfinite(factors).all() or np.any(np.abs(factors) < FLAT) or np.any(slopes == 0):
                return "its Jacobian is singular, or not defined, at some inputs"
            signs.append(np.concatenate([np.sign(a).reshape(len(x), -1) for a in (factors, slopes)], axis=1))
        table = np.concatenate(signs)
        count = int(np.prod(self.system.concrete.shapes[self.s.name or ""][1:]))
        if np.any(table != table[0]) or np.any(table[0, :count] != table[0, 0]):
            return "the determinant of its Jacobian changes its sign"
        return int(table[0, 0])

    def _draws(self, rng: np.random.Generator, centre: Array | None) -> list[Array]:
        """Batches of x, from near to far."""
        rows, batches = (DRAWS, 1) if self.many else (self.shape[0], 64)
        shape = (rows, *self.shape[1:])
        found = []
        for _ in range(batches):
            size = 10.0 ** rng.uniform(-2.0 if centre is None else -4.0, 2.0, (rows, *[1] * (len(shape) - 1)))
            found.append((0.0 if centre is None else centre) + size * rng.standard_normal(shape))
        return found

    def _at(self, x: Array) -> tuple[Array, Array] | None:
        """The factors φ′ at x, by central differences, and those of F_x; None where they could not be had."""
        s = self._run(self.head, {self.x: x}, self.s)
        y = None if s is None else self._run(self.tail, {self.x: x}, self.y, s)
        if s is None or y is None:
            return None
        step = 1e-6 * (1 + np.abs(s))
        ends = []
        for held in (s + step, s - step, s):
            zero, one = (self._run(self.tail, {self.x: np.full_like(x, at)}, self.y, held) for at in (0.0, 1.0))
            if zero is None or one is None:
                return None
            slopes = one - zero
            with np.errstate(all="ignore"):
                there = self._run(self.head, {self.x: (y - zero) / slopes}, self.s)
            if there is None:
                return None
            ends.append(there)
        return 1 - (ends[0] - ends[1]) / (2 * step), slopes

    def _lowest(self) -> Array | None:
        """An x, one sample, at which the sum of s is least: what is singular at a norm's zero shows near it."""
        if not self.many or int(np.prod(self.shape[1:])) > DRAWS:
            return None

        def total(flat: Array) -> float:
            s = self._run(self.head, {self.x: flat.reshape(1, *self.shape[1:])}, self.s)
            return np.inf if s is None else float(np.sum(s**2))

        found = scipy.optimize.minimize(total, np.zeros(int(np.prod(self.shape[1:]))), method="BFGS")
        return np.asarray(found.x.reshape(1, *self.shape[1:]))

    def _run(
        self, nodes: Sequence[ir.Node], feeds: dict[ir.Value, Array], wanted: ir.Value, held: Array | None = None
    ) -> Array | None:
        """What `nodes` make of `feeds`, the operands that take s held."""
        drawn = self.system.concrete.sample(self.system.opset)
        named: dict[str, NDArray[np.generic]] = {value.name or "": array for value, array in feeds.items()}
        if not self.many:
            nodes = [self.system.concrete.nodes.get(node.name or "", node) for node in nodes]
            for value in self.others:
                if value.name in drawn:
                    array = drawn[value.name or ""]
                    named[value.name or ""] = array.astype(np.float64) if array.dtype.kind == "f" else array
        if held is not None:
            named["held"] = held
        renamed = self.renamed if held is not None else None
        made = run(nodes, named, [wanted.name or ""], self.system.opset, renamed=renamed, wide=True)
        return None if made is None else np.asarray(made[wanted.name or ""], np.float64)
