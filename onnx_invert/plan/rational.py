"""Where y is a rational function of x in pieces, and y itself tells on which piece x lies: a root in closed form.

The blocks of splines, of soft clips and of leaky units choose a piece by comparing x with thresholds T, by its sign,
or by a floor; what is left is y = P(x) / Q(x), both of degree 2 at most. As y rises with x, x ≥ T says the same as
y ≥ H, with H = y at T; and H mostly is at hand, as the table of the spline's own heights. Which tensor it is, is
tried, at many x in a run of the model. None of this is a promise: what comes of it is put into y = φ(x) when the
inverse runs, and a root is searched for where it does not fit (build/system/root.py).
Source for splines: C. Durkan et al., Neural spline flows, 2019, §3.1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.in_place import InPlace
from onnx_invert.plan.rational_trial import COMPARISONS, Trial
from onnx_invert.plan.steps import Domain, Edge, Evidence
from onnx_invert.plan.system import System
from onnx_invert.rules.enclosures.enclosure import Enclosure
from onnx_invert.rules.static import constant

LAYOUT = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Expand"})
"""Nodes that keep the order of all elements, an Expand if it repeats none."""

NEAR, NOWHERE = 1e-30, 1e-20
"""Within the first of 0 the sign of a slope is looked for; y is within the second of it then, if it does not jump."""

MOST_SOURCES = 64

Degrees = tuple[int, int]
"""Of numerator and denominator."""


@dataclass(frozen=True)
class Rational:
    """How a block is P/Q in pieces.

    `shades` are x itself in other layouts, scaled, shifted, or filled where nobody looks; `pure` those of them that
    are x unscaled. `held` follow from the piece alone, `smooth` is all else that moves with x. For the operands in
    `told`, thresholds of x, another tensor is one of y. A Floor in `floors` has one value throughout.
    """

    pure: frozenset[ir.Value]
    shades: frozenset[ir.Value]
    held: frozenset[ir.Value]
    smooth: frozenset[ir.Value]
    told: Mapping[Edge, ir.Value]
    floors: Mapping[ir.Node, float]
    exact: bool = False
    """That y rises is proven, and x has y's sign; on either side P and Q are of degree 1: x is no guess."""
    onto: bool = False
    """Every y has an x."""


def rational(block: InPlace, domain: Domain, unseen: Collection[ir.Node], evidence: Evidence) -> Rational | None:
    """What is known of such a block; None if it is none, or y does not rise with x, or does not tell the pieces.

    `evidence` is for one x of every y.
    """
    walk = _Walk(block.system, block.x, unseen)
    if block.dtype.itemsize <= 2 or not all(walk.follow(node) for node in block.nodes):
        return None
    if block.y not in walk.degrees or block.y in walk.shades:
        return None
    tables = {edge: walk.tables(*edge, block.nodes) for edge in walk.thresholds}
    watching = [*tables, *((node, 0) for node in (*walk.signs, *walk.floors))]
    wanted = [v for table in tables.values() for v in table] + [node.outputs[0] for node, _ in watching]
    wanted += [v for node, _ in watching for v in node.inputs if v is not None] + [n.outputs[0] for n in walk.fills]
    trial = Trial.of(block, domain, wanted)
    if trial is None or not trial.rises():
        return None
    told = {edge: trial.threshold(edge, table, walk.filled(edge)) for edge, table in tables.items()}
    floors = {node: trial.level(node) for node in walk.floors}
    if not all(trial.keeps_sign(node) for node in walk.signs):
        return None
    found = {edge: value for edge, value in told.items() if value is not None}
    levels = {node: level for node, level in floors.items() if level is not None}
    if len(found) < len(told) or len(levels) < len(floors):
        return None
    pure, shades, held = (frozenset(kind) for kind in (walk.pure, walk.shades, walk.held))
    exact = domain.is_reals and walk.is_linear and _rises_through_zero(walk, block, proven=evidence.proven)
    return Rational(pure, shades, held, frozenset(walk.degrees), found, levels, exact, evidence.onto)


def _rises_through_zero(walk: _Walk, block: InPlace, *, proven: bool) -> bool:
    """Whether y is 0 at 0 and rises, whatever the known tensors are; that it rises or falls may be `proven` already.

    On either side of 0 the slope of (p₀ + p₁x) / (q₀ + q₁x) is (p₁q₀ − p₀q₁) / Q², of one sign: the one that it has
    at 0, if Q > 0.
    """

    def bounds(value: ir.Value, low: Sequence[float], high: Sequence[float]) -> Enclosure | None:
        if walk.shape(value) != block.shape:
            return None
        with np.errstate(all="ignore"):
            return block.function(value).at(np.array(low), np.array(high))

    zero = bounds(block.y, [0.0], [0.0])
    if zero is None or not np.all((zero.low == 0) & (zero.high == 0)):
        return False
    top = block.function().top
    under = [bounds(value, [-top], [top]) for value in walk.denominators]
    if any(found is None or not np.all(found.low > 0) for found in under):
        return False
    near = bounds(block.y, [-NEAR, 0.0], [0.0, NEAR])
    if near is None or not np.all((near.low >= -NOWHERE) & (near.high <= NOWHERE)):
        return False  # it may jump there
    return proven or (not near.jumps.any() and bool(np.all(near.slope[0] > 0)))


@dataclass
class _Walk:
    """What each tensor of a block is, node by node."""

    system: System
    x: ir.Value
    unseen: Collection[ir.Node]
    pure: set[ir.Value] = field(default_factory=set)
    shades: set[ir.Value] = field(default_factory=set)
    held: set[ir.Value] = field(default_factory=set)
    degrees: dict[ir.Value, Degrees] = field(default_factory=dict)
    """Of what is neither known nor held; with a denominator, or in two pieces, it may meet nothing of its kind."""
    thresholds: list[Edge] = field(default_factory=list)
    signs: list[ir.Node] = field(default_factory=list)
    floors: list[ir.Node] = field(default_factory=list)
    fills: list[ir.Node] = field(default_factory=list)
    denominators: list[ir.Value] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pure.add(self.x)
        self.shades.add(self.x)
        self.degrees[self.x] = (1, 0)

    def follow(self, node: ir.Node) -> bool:
        """Note what a node makes; False if it is nothing of a rational function."""
        if node in self.unseen:
            return True
        moving = [v for place, v in enumerate(node.inputs) if v is not None and self._moves(node, place)]
        if not moving:
            return True
        if all(value in self.held for value in moving):
            self.held.update(node.outputs)
            return True
        if node.domain not in {"", "ai.onnx"} or len(node.outputs) != 1:
            return False
        shade = len(moving) == 1 and moving[0] in self.shades
        if shade and node.op_type in COMPARISONS:
            self.thresholds.append((node, 1 if self._moves(node, 0) else 0))
            self.held.add(node.outputs[0])
            return True
        if shade and node.op_type in {"Sign", "Floor"}:
            (self.signs if node.op_type == "Sign" else self.floors).append(node)
            self.held.add(node.outputs[0])
            return True
        degrees = self._degrees(node, moving)
        if degrees is None:
            return False
        self.degrees[node.outputs[0]] = degrees
        return True

    def _moves(self, node: ir.Node, place: int) -> bool:
        value = node.inputs[place]
        return (node, place) not in self.system.frozen and (value in self.degrees or value in self.held)

    def _degrees(self, node: ir.Node, moving: Sequence[ir.Value]) -> Degrees | None:
        output, kind = node.outputs[0], node.op_type
        smooth = [self.degrees[value] for value in moving if value in self.degrees]
        single = moving[0] if len(moving) == 1 else None
        if kind in LAYOUT:
            shapes = [self.shape(value) for value in (moving[0], output)]
            # Sizes are written as numbers, of which one may be −1.
            free = [sum(not isinstance(dim, int) for dim in value.shape or ()) for value in (moving[0], output)]
            if max(free) > 1 or (kind == "Expand" and shapes[0] != shapes[1]):
                return None
            self._shade(output, moving[0], pure=True)
            return smooth[0][0], smooth[0][1] if output in self.shades else 1
        if kind == "Where":
            return self._chosen(node)
        if kind == "Abs" and single in self.shades:
            self.signs.append(node)
            return smooth[0]
        if kind == "Neg":
            return smooth[0]
        if kind == "Pow":
            exponent = constant(node, 1)
            square = exponent is not None and exponent.size == 1 and float(exponent.reshape(-1)[0]) == 2
            return (2, 0) if square and smooth[0] == (1, 0) and single is not None else None
        if kind not in {"Add", "Sub", "Mul", "Div"}:
            return None
        if len(smooth) == 1:
            if kind == "Div" and (under := node.inputs[1]) in self.degrees and self._moves(node, 1):
                assert under is not None
                self.denominators.append(under)
                return (0, smooth[0][0]) if smooth[0][1] == 0 else None
            scalar = any((array := constant(node, place)) is not None and array.size == 1 for place in (0, 1))
            if scalar and single is not None:
                self._shade(output, single, pure=False)
            elif kind in {"Add", "Sub"} and smooth[0] == (1, 0) and self._is_level(node):
                self._shade(output, next(v for v in moving if v in self.degrees), pure=False)
            return smooth[0]
        (p, q), (r, s) = smooth
        if q or s:
            return None
        if kind == "Div":
            self.denominators.append(moving[1])
            return p, max(r, 1)
        degree = p + r if kind == "Mul" else max(p, r)
        return (degree, 0) if degree <= 2 else None

    def _shade(self, output: ir.Value, source: ir.Value, *, pure: bool) -> None:
        if source in self.shades:
            self.shades.add(output)
        if pure and source in self.pure:
            self.pure.add(output)

    def _is_level(self, node: ir.Node) -> bool:
        """Whether what is added to x is a multiple of its floor: x on the circle."""
        value = next((v for v in node.inputs if v in self.held), None)
        while value is not None and (maker := value.producer()) is not None and maker.op_type in {"Mul", "Div"}:
            value = next((v for v in maker.inputs if v in self.held), None)
        return value is not None and value.producer() in self.floors

    def _chosen(self, node: ir.Node) -> Degrees | None:
        """Of a choice between two: a fill of x by a number is x, to those who look."""
        chosen, kept = node.inputs[1], node.inputs[2]
        if node.inputs[0] in self.degrees:
            return None
        filled = constant(node, 2)
        if chosen in self.pure and filled is not None and filled.size == 1:
            self._shade(node.outputs[0], chosen, pure=True)
            self.fills.append(node)
            return 1, 0
        both = [
            self.degrees[v] for place, v in ((1, chosen), (2, kept)) if v in self.degrees and self._moves(node, place)
        ]
        return max(p for p, _ in both), 1

    @property
    def is_linear(self) -> bool:
        """Whether the pieces are the two sides of 0, and no degree is above 1."""
        if self.thresholds or self.floors or self.fills:
            return False
        return all(max(degrees) <= 1 for degrees in self.degrees.values()) and all(map(self._is_scaled, self.signs))

    def _is_scaled(self, node: ir.Node) -> bool:
        value = node.inputs[0]
        while value is not None and value not in self.pure:
            maker = value.producer()
            if maker is None or maker.op_type not in {*LAYOUT, "Mul", "Div"}:
                return False
            value = next((v for v in maker.inputs if v in self.shades), None)
        return True

    def tables(self, node: ir.Node, place: int, nodes: Sequence[ir.Node]) -> list[ir.Value]:
        """The known tensors of a threshold's shape that the block looks something up in, and the threshold itself."""
        threshold = node.inputs[place]
        if threshold is None:
            return []
        shape = self.shape(threshold)
        found: dict[ir.Value, None] = {}
        if threshold.const_value is None or threshold.const_value.size > 1:
            waiting = [v for other in nodes if other.op_type in {"Gather", "GatherElements"} for v in other.inputs[:1]]
            for _ in range(MOST_SOURCES):
                value = waiting.pop(0) if waiting else None
                if value is None or value in self.degrees or value in self.held:
                    continue
                if self.shape(value) == shape and value is not threshold:
                    found[value] = None
                maker = value.producer()
                if maker is not None and maker.op_type in {*LAYOUT, "Concat"}:
                    waiting += [v for v in maker.inputs if v is not None]
        return [*found, threshold]

    def filled(self, edge: Edge) -> list[ir.Node]:
        """The fills that x has passed where it meets a threshold."""
        node, place = edge
        value, found = node.inputs[1 - place], []
        while value is not self.x and value is not None and (maker := value.producer()) is not None:
            found += [maker] if maker in self.fills else []
            value = next((v for v in maker.inputs if v in self.shades), None)
        return found

    def shape(self, value: ir.Value) -> tuple[int, ...] | None:
        """The sizes of a tensor when the plan is made."""
        if value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        return self.system.concrete.shapes.get(value.name or "")
