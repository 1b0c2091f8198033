"""x of a root in closed form, where y is a rational function of x on the piece that y itself tells.

The nodes that choose the piece run once, with y for x and the heights H for the thresholds T. From y back to the
quotient P(u) / Q(u) what is added and multiplied is undone, t being what is left of y there; u is x, or the distance
from the knot that P and Q measure x from, so that no digits cancel. Then

    P(u) − t Q(u) = 0,    u = −2c / (b + √(b² − 4ac))

at the root where P − t Q rises, as φ does where Q is positive. That is no more than a guess: φ at it tells whether it
is x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_invert.build.system import quadratic
from onnx_invert.build.system.function import Phi, Twins
from onnx_invert.build.system.pieces import Piece
from onnx_invert.build.system.quadratic import Number, Polynomial
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.rational import LAYOUT, Rational
from onnx_invert.rules.static import constant

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation


@dataclass(frozen=True)
class Guess:
    """x, and the size of what makes y at it: rounding of φ there is some units in the last place of that."""

    x: ir.Value
    size: ir.Value
    exact: bool = False
    """x is no guess."""
    rise: ir.Value | None = None
    """Where this is not above 0, y is not reached."""
    same: Callable[[Realisation], list[ir.Value]] | None = None
    """Whether x lies on the piece that it was looked for on, from what the nodes make of x."""


def guess(e: Emitter, phi: Phi, y: ir.Value) -> Guess | None:
    """x for y by the closed form; None if there is none."""
    found = phi.step.rational
    if found is None:
        return None
    told = {edge: phi.part(table, edge) for edge, table in found.told.items() if table is not edge[0].inputs[edge[1]]}
    pieces = phi.inside(e, y, told)
    _run_on_y(pieces, phi, found)
    back = _Back(e, phi, found, pieces, y)
    try:
        x, size = back.solve(phi.step.y, y, 1.0)
    except _NotWrittenError:
        return None
    if found.exact:
        return Guess(x, size, True, back.rise)
    signals = _signals(phi, found)
    if signals is None:
        return None
    whole = back.size(y)
    size = whole if size is whole else e.op("Add", size, whole)
    return Guess(x, size, same=lambda inside: [signal.kept(e, phi, pieces, inside) for signal in signals])


@dataclass(frozen=True)
class _Signal:
    """A tensor that tells the piece, or the sign of which does; anything where `seen`, if there is such, is false."""

    value: ir.Value
    by_sign: bool = False
    seen: ir.Value | None = None

    def kept(self, e: Emitter, phi: Phi, pieces: Realisation, inside: Realisation) -> ir.Value:
        """Where it is what it was, in x's layout."""
        one, other = pieces.read(self.value), inside.read(self.value)
        same = e.op("Equal", *((e.op("Sign", one), e.op("Sign", other)) if self.by_sign else (one, other)))
        same = _like_x(e, phi, same, self.value)
        if self.seen is None:
            return same
        return e.op("Or", same, e.op("Not", _like_x(e, phi, inside.read(self.seen), self.seen)))


def _like_x(e: Emitter, phi: Phi, made: ir.Value, value: ir.Value) -> ir.Value:
    dims = [[dim if isinstance(dim, int) else -1 for dim in phi.dims(v)] for v in (value, phi.step.x)]
    if dims[0] == dims[1]:
        return made
    laid_out = e.op("Reshape", made, e.ints(dims[1]))
    laid_out.type = ir.TensorType(ir.DataType.BOOL)
    return laid_out


def _signals(phi: Phi, found: Rational) -> list[_Signal] | None:
    """What tells the piece, one number for every x; None if something has more."""
    told: list[_Signal] = []
    users = {value: node for node in reversed(phi.left) for value in node.inputs if value is not None}
    sides = {node: node.inputs[1 - place] for node, place in found.told}
    for node in phi.left:
        output = node.outputs[0]
        if node in sides:
            told.append(_Signal(_counted(output, users), seen=_seen(sides[node], phi.step.x, found)))
        elif node in found.floors or (node.op_type == "Sign" and output in found.held):
            told.append(_Signal(output))
        elif node.op_type == "Abs" and output in found.smooth and node.inputs[0] is not None:
            told.append(_Signal(node.inputs[0], by_sign=True))
    size = math.prod(phi.before.shape(phi.step.x))
    values = [value for signal in told for value in (signal.value, signal.seen) if value is not None]
    return told if all(math.prod(phi.before.shape(value)) == size for value in values) else None


def _seen(value: ir.Value | None, x: ir.Value, found: Rational) -> ir.Value | None:
    """The condition of the fill that x has passed on the way to `value`, if there is one."""
    while value is not None and value is not x and (node := value.producer()) is not None:
        if node.op_type == "Where":
            return node.inputs[0]
        value = next((operand for operand in node.inputs if operand in found.shades), None)
    return None


def _counted(comparison: ir.Value, users: Mapping[ir.Value, ir.Node]) -> ir.Value:
    """How many thresholds x has passed, where that is what follows from them; else the comparison itself."""
    value = comparison
    while (node := users.get(value)) is not None and node.op_type in {"Cast", "ReduceSum"}:
        value = node.outputs[0]
        if node.op_type == "ReduceSum":
            return value
    return comparison


def _run_on_y(pieces: Realisation, phi: Phi, found: Rational) -> None:
    """Everything that follows from the piece alone; what is made of x by scaling and shifting is y as it is."""
    twins: Twins = {}
    for node in phi.left:
        output = node.outputs[0]
        if node in found.floors:
            rank = len(output.shape or ())
            pieces.put(output, Piece(pieces.e.with_rank(pieces.e.scalar(found.floors[node]), rank)))
        elif output in found.pure or output in found.held or (node.op_type in LAYOUT and output in found.shades):
            phi.run(pieces, node, twins)
        elif output in found.shades:
            shade = next(value for value in node.inputs if value in found.shades)
            pieces.put(output, Piece(pieces.read(shade)))


class _NotWrittenError(Exception):
    """No closed form is written for this."""


class _Back:
    """From y back to x."""

    def __init__(self, e: Emitter, phi: Phi, found: Rational, pieces: Realisation, y: ir.Value) -> None:
        self.e, self.phi, self.found, self.pieces, self.y = e, phi, found, pieces, y
        self.sizes: dict[ir.Value, ir.Value] = {}
        self.rise: ir.Value | None = None

    def solve(self, value: ir.Value, t: ir.Value, gain: Number) -> tuple[ir.Value, ir.Value]:
        """x where `value` is t, in its layout, and the size of what makes y; y moves by `gain` with `value`."""
        e, node = self.e, value.producer()
        if value in self.found.pure:
            left = quadratic.times(e, gain, t)
            assert isinstance(left, ir.Value)
            return t, self.size(left)
        assert node is not None
        moving = [place for place, operand in enumerate(node.inputs) if self._moves(node, place) and operand]
        first, second = (*node.inputs, None)[:2]
        if node.op_type in LAYOUT:
            assert first is not None
            if self.phi.dims(first) == self.phi.dims(value):
                return self.solve(first, t, gain)
            if not (isinstance(gain, float) and gain == 1):
                raise _NotWrittenError
            x, size = self.solve(first, self._laid_out(t, first), gain)
            return self._laid_out(x, value), self._laid_out(size, value)
        if node.op_type == "Where":
            condition = self.pieces.operand(node, 0)
            assert condition is not None
            one, other = (
                self.solve(v, t, gain) if v is not None and p in moving else None
                for p, v in ((1, second), (2, node.inputs[2]))
            )
            if one is None or other is None:
                both = one or other
                assert both is not None
                return both
            if self.rise is not None:
                raise _NotWrittenError  # two sides, each with values of its own that it does not reach
            return e.op("Where", condition, one[0], other[0]), e.op("Where", condition, one[1], other[1])
        if node.op_type == "Neg":
            assert first is not None
            return self.solve(first, e.op("Neg", t), gain)
        if (
            len(moving) == 2
            or node.op_type not in {"Add", "Sub", "Mul", "Div"}
            or (node.op_type, moving) == ("Div", [1])
        ):
            return self._quotient(value, t, gain)
        inner = node.inputs[moving[0]]
        known = self._number(node, 1 - moving[0])
        assert inner is not None
        if node.op_type == "Add":
            t = e.op("Sub", t, known)
        elif node.op_type == "Sub":
            t = e.op("Sub", known, t) if moving == [1] else e.op("Add", t, known)
        elif node.op_type == "Mul":
            t, gain = e.op("Div", t, known), quadratic.times(e, gain, known)
        else:
            t, gain = e.op("Mul", t, known), quadratic.over(e, gain, known)
        return self.solve(inner, t, gain)

    def _quotient(self, value: ir.Value, t: ir.Value, gain: Number) -> tuple[ir.Value, ir.Value]:
        """Where P / Q = t, or P = t."""
        e, node = self.e, value.producer()
        over, under = value, None
        if node is not None and node.op_type == "Div" and self._moves(node, 1):
            above, under = node.inputs[0], node.inputs[1]
            assert above is not None and under is not None
            over = above
        around = self._around([v for v in (over, under) if v is not None and (v is not over or self._is_smooth(v))])
        if isinstance(around, ir.Node):
            source = around.inputs[0]
            assert source is not None
            middle: Number = self._known(around, 1)
        else:
            source, middle = around, 0.0
        self.origin = around
        if node is not None and over is not value and not self._moves(node, 0):
            p: Polynomial = [self._number(node, 0)]
        else:
            p = self._polynomial(over)
        q: Polynomial = [1.0] if under is None else self._polynomial(under)
        if self.found.exact:
            x, self.rise = quadratic.reached(e, p, q, t)
            assert isinstance(x, ir.Value)
            return self.solve(source, x, 1.0)
        u, slope = quadratic.root(e, p, q, t)
        slope = quadratic.times(e, gain, quadratic.over(e, slope, quadratic.at(e, q, u)))
        at = quadratic.plus(e, middle, u)
        assert isinstance(at, ir.Value)
        x, _ = self.solve(source, at, 1.0)
        # What x is rounded by, and the distance from the knot, moves y by so much.
        reach = u
        if isinstance(middle, ir.Value) and isinstance(u, ir.Value):
            reach = e.op("Add", self.size(middle), self.size(u))
        moved, left = quadratic.times(e, reach, slope), quadratic.times(e, gain, t)
        sizes = [self.size(part) for part in (moved, left) if isinstance(part, ir.Value)]
        return x, sizes[0] if left is self.y else e.op("Add", *sizes)

    def _around(self, values: list[ir.Value]) -> ir.Node | ir.Value:
        """The Sub of x and a knot by which alone x comes into polynomials, or x itself."""
        found: dict[ir.Node | ir.Value, None] = {}
        waiting, seen = list(values), set(values)
        while waiting:
            value = waiting.pop()
            node = value.producer()
            if value in self.found.pure:
                found[value] = None
                continue
            assert node is not None
            distance = node.op_type == "Sub" and node.inputs[0] in self.found.shades and constant(node, 1) is None
            if distance and value not in self.found.shades:
                found[node] = None
                continue
            for place, operand in enumerate(node.inputs):
                if operand is not None and self._moves(node, place) and operand not in seen:
                    seen.add(operand)
                    waiting.append(operand)
        if len(found) != 1:
            raise _NotWrittenError
        return next(iter(found))

    def _polynomial(self, value: ir.Value) -> Polynomial:
        e, node = self.e, value.producer()
        if value is self.origin or node is self.origin:
            return [0.0, 1.0]
        if value in self.found.pure or node is None:
            raise _NotWrittenError
        if node.op_type == "Abs":
            # x has the sign of y, which stands for it here.
            sign = e.op("Sign", self._known(node, 0))
            operand = node.inputs[0]
            assert operand is not None
            return quadratic.product(e, [sign], self._polynomial(operand))
        terms = [
            self._polynomial(operand)
            if self._moves(node, place) and operand is not None
            else [self._number(node, place)]
            for place, operand in enumerate(node.inputs)
        ]
        match node.op_type:
            case "Neg":
                return quadratic.combined(e, [0.0], terms[0], -1.0)
            case "Pow":
                return quadratic.product(e, terms[0], terms[0])
            case "Add":
                return quadratic.combined(e, terms[0], terms[1], 1.0)
            case "Sub":
                return quadratic.combined(e, terms[0], terms[1], -1.0)
            case "Mul":
                return quadratic.product(e, terms[0], terms[1])
            case "Div" if len(terms[1]) == 1:
                return [quadratic.over(e, c, terms[1][0]) for c in terms[0]]
        raise _NotWrittenError

    def _moves(self, node: ir.Node, place: int) -> bool:
        value = node.inputs[place]
        return value is not None and self._is_smooth(value) and (node, place) not in self.pieces.replaced

    def _is_smooth(self, value: ir.Value) -> bool:
        return value in self.found.smooth

    def _known(self, node: ir.Node, place: int) -> ir.Value:
        value = self.pieces.operand(node, place)
        assert value is not None
        return value

    def _number(self, node: ir.Node, place: int) -> Number:
        array = None if (node, place) in self.pieces.replaced else constant(node, place)
        single = array is not None and array.size == 1
        return float(array.reshape(-1)[0]) if single and array is not None else self._known(node, place)

    def _laid_out(self, made: ir.Value, like: ir.Value) -> ir.Value:
        dims = [dim if isinstance(dim, int) else -1 for dim in self.phi.dims(like)]
        found = self.e.op("Reshape", made, self.e.ints(dims))
        found.type = made.type
        return found

    def size(self, number: ir.Value) -> ir.Value:
        """|number|, made once."""
        if number not in self.sizes:
            self.sizes[number] = self.e.op("Abs", number)
        return self.sizes[number]
