"""What is iterated over in place of the unknowns x of a system, where it starts, and where it starts again.

Without bounds x = origin + v @ back, and v = (x − origin) @ forth; with bounds and a prior x is then held within them.
With bounds alone x = origin + v · width, and it is v that is held. A number whose ends are equal is the origin's, of
width 0; one with an infinite end counts in a unit of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.build.newton.box import Box, inwards
from onnx_invert.build.newton.iteration import Restarts
from onnx_invert.build.newton.objective import Coordinates
from onnx_invert.build.rows import zeros
from onnx_invert.graph.emit import Emitter
from onnx_invert.numerics.covariance import Root
from onnx_invert.numerics.prior import Prior
from onnx_invert.numerics.start import Start
from onnx_invert.plan.newton import System
from onnx_invert.rules.differential import second

Array = NDArray[np.float64]

SCALES = (0.03, 0.1, 0.3, 1.0, 0.1, 0.3)
"""How far from the first anchor a sample that stalls starts again, in standard deviations: near it first, where
activations are not saturated yet. More iterations than these need go through them again."""

PER_ANCHOR = 11
"""Iterations that one start takes, about."""

PER_START = 30
"""The same in the second Loop, with its smaller steps."""

WAYS = 4
"""To start, which take turns."""

WIDTHS = (0.0, 0.3, 0.1, 1.0)
"""By which kinks are rounded off at first, in each way to start, in units of the spread of what has the kink."""

LITTLE = (0.03, 0.01, 0.1, 0.003)
"""The same where a sample goes on from the best that it has found: so far it moves to the other side of a kink."""


@dataclass(frozen=True)
class Unknowns:
    """`coordinates` are v's (N, r). `origin` (1, n) or (N, n) as a tensor, None for 0; `middle` (n) the same if it is
    one for all samples. `back` (r, n) and `forth` (n, r) are None for the identity; `reach` is None, or with bounds
    and no prior the ends of v, whose units are `width` (n), 0 where x is fixed. `root` stands for both where the basis
    is σ I + PᵀP. `front` are the weight (n, k) and the shift (1, k) that the coordinates' own origin is after."""

    coordinates: Coordinates
    origin: ir.Value | None
    middle: Array | None
    back: ir.Value | None
    forth: Array | None
    reach: tuple[Array, Array] | None = None
    root: Root | None = None
    width: Array | None = None
    front: tuple[ir.Value, ir.Value] | None = None

    def around(self, e: Emitter, x: ir.Value) -> Unknowns:
        """The same with x (N, n) for the origin."""
        start = x
        if self.front is not None:
            weight, shift = self.front
            start = e.op("Add", e.op("MatMul", x, weight), shift)
        return replace(self, origin=x, middle=None, coordinates=replace(self.coordinates, origin=start))

    def decode(self, e: Emitter, v: ir.Value) -> ir.Value:
        """x (N, n)."""
        if self.coordinates.low is not None or self.root is not None:
            return self.coordinates.held(e, v)
        x = v if self.back is None else e.op("MatMul", v, self.back)
        return x if self.origin is None else e.op("Add", x, self.origin)

    def nearest(self, e: Emitter, x: ir.Value) -> ir.Value:
        """The point of the bounds nearest to x (N, n); the origin's numbers where x has none."""
        low, high = self.coordinates.low, self.coordinates.high
        assert low is not None and high is not None and self.origin is not None
        finite = e.op("Less", e.op("Abs", x), float(np.finfo(e.dtype.numpy()).max))
        return e.op("Min", e.op("Max", e.op("Where", finite, x, self.origin), low), high)

    def encode(self, e: Emitter, x: ir.Value) -> ir.Value:
        """v (N, r)."""
        away = x if self.origin is None else e.op("Sub", x, self.origin)
        if self.root is not None:
            return self._undone(e, away)
        if self.width is not None and self.coordinates.box is not None:
            per_width = e.constant(_over(1.0, self.width)[None, :], "per_width")
            return self.coordinates.box.hold(e, e.op("Mul", away, per_width))
        return away if self.forth is None else e.op("MatMul", away, e.constant(self.forth, "forth"))

    def _undone(self, e: Emitter, away: ir.Value) -> ir.Value:
        """away (σ I + PᵀP)⁻¹, as `Root.back` has it."""
        assert self.root is not None
        assert self.coordinates.turned is not None
        assert self.coordinates.basis is not None
        sigma = self.root.least
        shares = 1 / (sigma * (sigma + np.sum(np.square(self.root.rows), axis=1)))
        along = e.op("Mul", e.op("MatMul", away, self.coordinates.turned), e.constant(shares[None, :], "shares"))
        return e.op("Sub", e.op("Mul", away, 1 / sigma), e.op("MatMul", along, self.coordinates.basis))

    def of(self, e: Emitter, rows: ir.Value) -> Unknowns:
        """The same for some of the samples alone, whose indices are `rows` (K)."""
        c = self.coordinates
        if self.middle is not None or self.origin is None or c.origin is None:
            return self
        beginning = replace(c, origin=e.op("Gather", c.origin, rows, axis=0))
        return replace(self, origin=e.op("Gather", self.origin, rows, axis=0), coordinates=beginning)

    def restarts(self, iterations: int) -> Restarts:
        """Where a sample that stalls starts again: near the origin."""
        offsets = self._anywhere(self.coordinates.size, max(len(SCALES), iterations // PER_ANCHOR))
        return Restarts(offsets, np.zeros(len(offsets), bool))

    def rescues(
        self, e: Emitter, known: ir.Value, scale: ir.Value, iterations: int, start: Start | None, *, rounding: bool
    ) -> Restarts:
        """The same for those that this does not help: where `start` takes x to be, given the known numbers (N, m) in
        units of 1 / `scale` (1, m), in ways that take turns; with `rounding` most of them round kinks off, and where
        `start` has a regression a third of them goes on from the best that was found."""
        r = self.coordinates.size
        count = max(1, iterations // PER_START)
        turns = np.arange(count)
        # Both phases and the second alone; rounded off, the second in any case.
        way = turns % WAYS
        width = np.asarray(WIDTHS)[way] if rounding else None
        second = way != 0 if rounding else way % 2 == 1
        if start is None or self.middle is None or self.root is not None:
            return Restarts(self._anywhere(r, count), second, None, width)
        stored = self._turned(start.unknown - self.middle)
        if start.plausible is None:
            count = min(count, len(start.known))
            nowhere, all_of_them = np.zeros((count, r)), np.ones(count, bool)
            pairs = nearest(e, known, scale, start.known, stored, count)
            center = zeros(e, known, after=(r,))
            return Restarts(nowhere, all_of_them, center, own=pairs, paired=all_of_them)
        centered = self._in_coordinates(start.plausible)
        rng = np.random.default_rng(r)
        offsets = centered.factor.after(rng.standard_normal((count, centered.factor.size)))
        offsets[:1] = 0.0
        # After each way has had the regression, each has pairs, and then, with kinks to round off, the best x so far.
        kinds = turns // WAYS % (3 if rounding else 2)
        onwards = kinds == 2
        if width is not None:
            width, second = np.where(onwards, np.asarray(LITTLE)[way], width), second | onwards
        paired = kinds == 1
        offsets[paired] = 0.0
        own = nearest(e, known, scale, start.known, stored, int(paired.sum())) if paired.any() else None
        center = e.op("Add", expected(e, centered, known), zeros(e, known, after=(r,)))
        return Restarts(offsets, second, center, width, own, paired, onwards)

    def _in_coordinates(self, start: Prior) -> Prior:
        """The same of v."""
        assert self.middle is not None
        regression = start.regression
        if regression is not None:
            regression = regression.to(self._turned)
        return Prior(self._turned(start.mean - self.middle), Root(self._turned(start.factor.rows)), regression)

    def _turned(self, rows: Array) -> Array:
        """Differences of x (…, n) as those of v (…, r)."""
        if self.width is not None:
            return _over(rows, self.width)
        return rows if self.forth is None else rows @ self.forth

    def _anywhere(self, size: int, count: int) -> Array:
        """Normal numbers, or anywhere within the bounds."""
        rng = np.random.default_rng(size)
        if self.reach is None:
            return np.asarray(rng.standard_normal((count, size)) * np.resize(SCALES, count)[:, None])
        low, high = self.reach
        ends = np.isfinite(low) & np.isfinite(high)
        within = rng.uniform(np.where(ends, low, 0.0), np.where(ends, high, 0.0), (count, size))
        return np.where(ends, within, np.clip(rng.standard_normal((count, size)), low, high))


def unknowns_of(
    e: Emitter,
    system: System,
    bounds: tuple[Array, Array] | None,
    prior: Prior | None,
    known: ir.Value,
    units: Array | None = None,
    anchor: Array | None = None,
) -> Unknowns:
    """What is iterated over for x (N, n).

    The unknowns are x = m + w A: m from the prior, A its factor; without one `anchor` (n), 0 by default, and I. With a
    front h = x W + b and A W = U S Vᵀ, the least-norm w lies in the span of U: v = w U has the same norm,
    h = m W + b + v S Vᵀ and x = m + v Uᵀ A. So the loop sees the rank of A W instead of n. With bounds w itself is
    iterated over and x held within them; where there is no prior v is held (`boxed`), and begins next to the anchor.
    `units` (n) are those of numbers with an infinite end.
    """
    front, n = system.front, system.n
    if bounds is not None and prior is None:
        return boxed(e, system, bounds, units, np.zeros(n) if anchor is None else anchor)
    origin, factor = None if anchor is None else e.constant(anchor[None, :], "anchor"), None
    middle: Array | None = np.zeros(n) if anchor is None else anchor
    if prior is not None:
        origin, factor = expected(e, prior, known), prior.factor
        middle = prior.mean if prior.regression is None else None
    basis, turned, least = None, None, 0.0 if factor is None else factor.least
    if factor is not None and (bounds is not None or front is None):
        basis = e.constant(factor.rows, "factor")
        turned = e.op("Transpose", second(e, basis), perm=[1, 0]) if least else None
    whole = factor if least else None
    forth = None if factor is None or least else factor.back(np.eye(n))
    free = Coordinates(n if factor is None else factor.size, origin, basis, least=least, turned=turned)
    if bounds is not None:
        bounded = _bounded(e, free, system, inwards(*bounds, np.dtype(e.dtype.numpy())))
        return Unknowns(bounded, origin, middle, None, forth, root=whole)
    if front is None:
        return Unknowns(free, origin, middle, basis, forth, root=whole)
    reached = front.weight if factor is None else factor.before(front.weight)
    left, values, right = np.linalg.svd(reached, full_matrices=False)
    kept = values > values.max(initial=0.0) * max(reached.shape) * np.finfo(np.float64).eps
    span = left[:, kept]
    shift = e.constant(front.shift[None, :], "shift")
    first = None if origin is None else (e.constant(front.weight, "weight"), shift)
    start = shift if origin is None or first is None else e.op("Add", e.op("MatMul", origin, first[0]), shift)
    reduced = e.constant(values[kept, None] * right[kept], "basis")
    back = e.constant(span.T if factor is None else factor.after(span.T), "back")
    coordinates = Coordinates(int(np.count_nonzero(kept)), start, reduced)
    if whole is not None:  # symmetric, as its inverse is
        return Unknowns(coordinates, origin, middle, back, whole.back(span.T).T, front=first)
    return Unknowns(coordinates, origin, middle, back, span if forth is None else forth @ span, front=first)


def boxed(e: Emitter, system: System, bounds: tuple[Array, Array], units: Array | None, towards: Array) -> Unknowns:
    """v = (x − m) / width for x (N, n), held within its ends (box.py): m is the point of the bounds that is nearest to
    `towards` (n), and numbers of x may differ by any power of ten.

    A number is in units of its interval, or of `units` (n), 1 without, where that is infinite. One whose ends are
    equal has width 0 and so no slope: it stays m, and no other weighs less for it.
    """
    dtype = np.dtype(e.dtype.numpy())
    low, high = inwards(*bounds, dtype)
    bounded = _bounded(e, Coordinates(system.n), system, (low, high))
    middle = np.clip(towards, low, high)
    origin = e.constant(middle[None, :], "origin")
    most = float(np.finfo(dtype).max)
    with np.errstate(over="ignore"):
        across = high - low
    width = np.where(across < most, across, 1.0 if units is None else units)
    reach = (
        np.where(low > -most, _over(low - middle, width), -np.inf),
        np.where(high < most, _over(high - middle, width), np.inf),
    )
    box = Box(*(e.constant(np.clip(end, -most, most)[None, :], "end") for end in reach))
    bounded = replace(bounded, origin=origin, unit=e.constant(width[None, :], "width"), box=box)
    return Unknowns(bounded, origin, middle, None, None, reach, width=width)


def _bounded(e: Emitter, free: Coordinates, system: System, bounds: tuple[Array, Array]) -> Coordinates:
    """The coordinates with x held within the bounds, which its type has, and then taken through the front."""
    low, high = bounds
    front, moves = system.front, low < high
    return replace(
        free,
        low=e.constant(low[None, :], "low"),
        high=e.constant(high[None, :], "high"),
        moves=None if moves.all() else e.constant(moves[None, :].astype(np.float64), "moves"),
        weight=None if front is None else e.constant(front.weight, "weight"),
        shift=None if front is None else e.constant(front.shift[None, :], "shift"),
    )


def _over(rows: Array | float, width: Array) -> Array:
    """rows (…, r) / width (r), and 0 where that is 0."""
    shape = np.broadcast_shapes(np.shape(rows), width.shape)
    return np.divide(rows, width, out=np.zeros(shape), where=width > 0)


def nearest(e: Emitter, known: ir.Value, scale: ir.Value, pairs: Array, stored: Array, count: int) -> ir.Value:
    """The rows of `stored` (M, r) whose `pairs` (M, m) are nearest to `known`, nearest first (N, count, r)."""
    table = e.op("Mul", e.constant(pairs, "pairs"), scale)
    along = e.op("MatMul", e.op("Mul", known, scale), e.op("Transpose", table, perm=[1, 0]))
    squares = e.op("ReduceSum", e.op("Mul", table, table), e.ints([1]), keepdims=0)
    nearness = e.op("Sub", along, e.op("Mul", squares, 0.5))
    _, rows = e.ops("TopK", nearness, e.ints([min(count, len(pairs))]), outputs=2, axis=1)
    rows.dtype = ir.DataType.INT64
    return e.op("Gather", e.constant(stored, "stored"), rows, axis=0)


def expected(e: Emitter, prior: Prior, known: ir.Value) -> ir.Value:
    """m(y) as rows (N, n), or (1, n) where it is constant."""
    mean = e.constant(prior.mean[None, :], "mean")
    if prior.regression is None:
        return mean
    features, weights = prior.regression.features, prior.regression.weights
    m, p = features.landmarks.shape
    centred = e.op("Sub", known, e.constant(features.center[None, :], "center"))
    if features.turn is None:
        u = e.op("Mul", centred, e.constant(1 / features.scale[None, :], "rate"))
    else:
        u = e.op("MatMul", centred, e.constant(features.turn / features.scale[:, None], "rate"))
    value = e.op("MatMul", u, e.constant(weights[:m], "linear"))
    if p:
        squares = np.sum(np.square(features.landmarks), axis=0)[None, :]
        apart = e.op("MatMul", u, e.constant(-2 * features.landmarks, "landmarks"))
        apart = e.op("Add", apart, e.op("ReduceSum", e.op("Mul", u, u), e.ints([1]), keepdims=1))
        apart = e.op("Add", apart, e.constant(1 + squares, "squares"))
        near = e.op("Div", 1.0, e.op("Sqrt", e.op("Max", apart, 1.0)))
        value = e.op("Add", value, e.op("MatMul", near, e.constant(weights[m:], "weights")))
    if prior.regression.back is not None:
        value = e.op("MatMul", value, e.constant(prior.regression.back, "back"))
    value = e.op("Add", value, mean)
    if prior.ends is None:
        return value
    low, high = (e.constant(end[None, :], name) for end, name in zip(prior.ends, ("least", "most"), strict=True))
    return e.op("Min", e.op("Max", value, low), high)
