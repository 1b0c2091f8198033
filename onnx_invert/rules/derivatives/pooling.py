"""Derivatives of pooling: averages are products with a constant matrix per axis, maxima and norms weighted sums.

For the latter the windows are laid side by side: a grid of count · kernel places per axis, which is the image itself
where windows neither overlap nor are padded. ∂y is the sum over each window of weight · ∂x; the weights are found at
the point, once. One product with a 0/1 matrix sums the windows of a row of them: that is the fastest form in
onnxruntime, three to eight times faster than sums and products over split axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.derivatives.picks import padded, trimmed
from onnx_invert.rules.derivatives.pointwise import filled, number
from onnx_invert.rules.derivatives.resampling import Matrix, separable
from onnx_invert.rules.derivatives.windows import Windows, integers
from onnx_invert.rules.differential import At, Differential, Point, ones_like, static, targets
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import NodeView, Shape
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


@dataclass(frozen=True)
class Grid:
    """Windows side by side. `lead` are the sizes of batch and channels."""

    lead: Shape
    windows: Windows

    @property
    def sizes(self) -> tuple[int, ...]:
        """Those of the grid: count · kernel."""
        return tuple(count * kernel for count, kernel in zip(self.windows.counts, self.windows.kernel, strict=True))

    def places(self, axis: int) -> NDArray[np.int64]:
        """For each place of the grid that of the image; outside of the image where it is padding."""
        w = self.windows
        starts = np.arange(w.counts[axis]) * w.strides[axis] - w.before[axis]
        return np.asarray(starts[:, None] + np.arange(w.kernel[axis]) * w.dilations[axis]).reshape(-1)

    def inside(self, axis: int) -> NDArray[np.bool_]:
        """Where the grid is not padding."""
        places = self.places(axis)
        return np.asarray((places >= 0) & (places < self.windows.sizes[axis]))

    def unpadded(self, e: Emitter, grid: ir.Value) -> ir.Value:
        """With 0 in place of padding."""
        inside = np.ones(())
        for axis in range(len(self.sizes)):
            inside = np.multiply.outer(inside, self.inside(axis))
        return grid if inside.all() else e.op("Mul", grid, e.constant(inside, "inside"))

    def is_image(self, axis: int) -> bool:
        """True if the grid is the image from its start on."""
        places, size = self.places(axis), self.windows.sizes[axis]
        return len(places) <= size and np.array_equal(places, np.arange(len(places)))

    def laid(self, e: Emitter, t: ir.Value, first: int, *, exact: bool) -> ir.Value:
        """(…, *image) → (…, *grid), the spatial axes from `first` on. Padding holds anything, 0 if not `exact`.

        A product with a 0/1 matrix is faster than Gather on the last axis, but rounds in some runtimes.
        """
        rank = len(self.sizes)
        cut = {}
        for axis in reversed(range(rank)):
            places, size = self.places(axis), self.windows.sizes[axis]
            if self.is_image(axis):
                cut[first + axis] = (0, size - len(places))
            elif axis == rank - 1 and not exact:
                t = e.op("MatMul", t, e.constant(self._taken(axis), "windows"))
            else:
                held = [int(place) for place in np.clip(places, 0, size - 1)]
                t = e.op("Gather", t, e.ints(held), axis=first + axis)
        return trimmed(e, t, cut)

    def merged(self, e: Emitter, c: ir.Value, first: int, lead: list[int]) -> ir.Value:
        """(…, *grid) → (…, *image): the adjoint of `laid`, where the padding of c is 0."""
        rank = len(self.sizes)
        sizes, behind, shaped = list(self.sizes), {}, True
        for axis in reversed(range(rank)):
            if self.is_image(axis):
                behind[first + axis] = (0, self.windows.sizes[axis] - sizes[axis])
                continue
            taken, after = self._taken(axis), sizes[axis + 1 :]
            shaped = axis == rank - 1
            if shaped:
                c = e.op("MatMul", c, e.constant(taken.T, "windows"))
            else:
                c = e.op("Reshape", c, e.ints([-1, sizes[axis], math.prod(after)]))
                c = e.op("MatMul", e.constant(taken, "windows"), c)
            sizes[axis] = self.windows.sizes[axis]
        if not shaped:
            c = e.op("Reshape", c, e.ints([*lead, *sizes]))
        return padded(e, c, first + rank, behind)

    def _taken(self, axis: int) -> Matrix:
        """(image, grid): 1 where a place of the grid is that of the image."""
        return np.asarray(self.places(axis) == np.arange(self.windows.sizes[axis])[:, None], dtype=np.float64)

    def averaging(self, axis: int, *, padding: bool) -> Matrix:
        """(counts, image): the mean of each window along an axis; padding that the node asks for may count."""
        w = self.windows
        counted = self.places(axis) < w.sizes[axis] + w.after[axis] if padding else self.inside(axis)
        sums = self._taken(axis).reshape(w.sizes[axis], w.counts[axis], w.kernel[axis]).sum(axis=2)
        return np.asarray((sums / counted.reshape(-1, w.kernel[axis]).sum(axis=1)).T)

    @property
    def _rows(self) -> Matrix:
        """(kernel · grid, counts): sums the windows of one row of them, which is `kernel` rows of the grid."""
        wide, high = self.windows.kernel[-1], 1 if len(self.sizes) == 1 else self.windows.kernel[-2]
        return np.asarray(np.tile(np.kron(np.eye(self.windows.counts[-1]), np.ones((wide, 1))), (high, 1)))

    def total(self, e: Emitter, grid: ir.Value, lead: list[int]) -> ir.Value:
        """(*lead, *grid) → (*lead, *counts): the sum over each window."""
        rows = self._rows
        sums = e.op("MatMul", e.op("Reshape", grid, e.ints([-1, rows.shape[0]])), e.constant(rows, "sum"))
        counts = self.windows.counts
        for axis in reversed(range(len(counts) - 2)):
            behind = math.prod(counts[axis + 1 :])
            blocks = e.op("Reshape", sums, e.ints([-1, self.windows.kernel[axis], behind]))
            sums = e.op("ReduceSum", blocks, e.ints([1]), keepdims=0)
        return e.op("Reshape", sums, e.ints([*lead, *counts]))

    def repeated(self, e: Emitter, c: ir.Value, lead: list[int]) -> ir.Value:
        """(*lead, *counts) → (*lead, *grid): the adjoint of `total`, every window full of its number."""
        counts = self.windows.counts
        for axis in range(len(counts) - 2):
            behind = math.prod(counts[axis + 1 :])
            c = e.op("Reshape", c, e.ints([-1, 1, behind]))
            c = e.op("Expand", c, e.ints([1, self.windows.kernel[axis], 1]))
        rows = self._rows.T
        c = e.op("MatMul", e.op("Reshape", c, e.ints([-1, counts[-1]])), e.constant(rows, "repeat"))
        return e.op("Reshape", c, e.ints([*lead, *self.sizes]))

    def copied(self, e: Emitter, y: ir.Value, lead: list[int]) -> ir.Value:
        """`repeated`, to the last bit also in runtimes whose products round: it is compared with."""
        kernel, counts = self.windows.kernel, self.windows.counts
        if len(counts) == 2 and e.dtype == ir.DataType.FLOAT:
            # Far from the places where nearest could round either way.
            scales = e.constant(np.asarray([1, 1, *kernel]), "kernel")
            return e.op("Resize", y, e.constant(np.zeros(0), "roi"), scales, mode="nearest")
        split = [size for count in counts for size in (count, 1)]
        wide = [size for factor in kernel for size in (1, factor)]
        y = e.op("Expand", e.op("Reshape", y, e.ints([*lead, *split])), e.ints([1] * len(lead) + wide))
        return e.op("Reshape", y, e.ints([*lead, *self.sizes]))

    def weighted(self, p: Point, weight: ir.Value | float) -> Differential:
        """∂y is the sum of weight · ∂x over each window; the weight is 0 on padding."""
        lead = targets(p.seeds, self.lead)
        assert not isinstance(lead, NoInverse)
        scalar = not isinstance(weight, ir.Value)

        def push(e: Emitter, t: ir.Value) -> ir.Value:
            t = self.laid(e, t, 3, exact=False)
            if scalar:
                return e.op("Mul", self.total(e, t, lead), weight)
            return self.total(e, e.op("Mul", t, weight), lead)

        def pull(e: Emitter, c: ir.Value) -> ir.Value:
            if scalar:
                return self.merged(e, self.repeated(e, e.op("Mul", c, weight), lead), 3, lead)
            return self.merged(e, e.op("Mul", self.repeated(e, c, lead), weight), 3, lead)

        return Differential(push, pull)


def _grid(node: NodeView) -> Grid | NoInverse:
    """The windows of a pooling node."""
    shapes = static(node, node.x, node.y)
    if isinstance(shapes, NoInverse):
        return shapes
    x, y = shapes
    windows = Windows.of(node, x[2:], y[2:], integers(node, "kernel_shape", ()))
    if isinstance(windows, NoInverse):
        return windows
    if isinstance(refusal := targets(1, x), NoInverse):
        return refusal
    grid = Grid(x[:2], windows)
    kernel = enumerate(windows.kernel)
    if not all(grid.inside(axis).reshape(-1, size).any(axis=1).all() for axis, size in kernel):
        return NoInverse("one of its windows holds padding alone", "use less padding")
    return grid


def _by_weights(node: NodeView, weigh: Callable[[Point, Grid, list[int]], ir.Value]) -> At | NoInverse:
    """∂y is the sum of weight · ∂x over each window; `weigh` finds the weights (N, C, *grid) at the point,
    0 on padding."""
    if node.output:
        return NoInverse("its second output is used as a number")
    grid = _grid(node)
    if isinstance(grid, NoInverse):
        return grid

    def at(p: Point) -> Differential:
        lead = targets(1, grid.lead)
        assert not isinstance(lead, NoInverse)
        return grid.weighted(p, weigh(p, grid, lead[1:]))

    return at


@rules.derivative("MaxPool")
def max_pool(node: NodeView) -> At | NoInverse:
    """∂y is the mean of ∂x over the largest elements of each window.

    Refuses:   image sizes that are known only at run time
    Source:    ONNX MaxPool-1, -8, -10, -11, -12, -22
    """

    def weigh(p: Point, grid: Grid, lead: list[int]) -> ir.Value:
        e = p.e
        largest = e.op("Equal", grid.laid(e, p.input(0), 2, exact=True), grid.copied(e, p.outputs[0], lead))
        hits = grid.unpadded(e, number(e, largest))
        ties = grid.total(e, hits, lead)
        return e.op("Mul", hits, grid.repeated(e, e.op("Div", e.scalar(1.0), ties), lead))

    return _by_weights(node, weigh)


@rules.derivative("LpPool")
def lp_pool(node: NodeView) -> At | NoInverse:
    """∂y is the sum of sign(x) · (|x| / y) ** (p − 1) · ∂x over each window.

    Refuses:   image sizes that are known only at run time
    Source:    ONNX LpPool-1, -2, -11, -18, -22
    """
    power = node.integer("p", 2)

    def weigh(p: Point, grid: Grid, lead: list[int]) -> ir.Value:
        e = p.e
        inverse = e.op("Div", e.scalar(1.0), filled(e, p.outputs[0]))
        x = grid.laid(e, p.input(0), 2, exact=True)
        return grid.unpadded(e, _norm_slope(e, x, grid.repeated(e, inverse, lead), power))

    return _by_weights(node, weigh)


@rules.derivative("AveragePool")
def average_pool(node: NodeView) -> At | NoInverse:
    """∂y is the mean of ∂x over each window, with or without its padding.

    Refuses:   image sizes that are known only at run time
    Source:    ONNX AveragePool-1, -7, -10, -11, -19, -22
    """
    grid = _grid(node)
    if isinstance(grid, NoInverse):
        return grid
    axes = range(len(grid.sizes))
    if all(grid.is_image(axis) for axis in axes):
        return lambda p: grid.weighted(p, 1 / math.prod(grid.windows.kernel))
    matrices = {axis + 2: grid.averaging(axis, padding=bool(node.integer("count_include_pad", 0))) for axis in axes}
    return separable((*grid.lead, *grid.windows.sizes), (*grid.lead, *grid.windows.counts), matrices)


def _norm_slope(e: Emitter, x: ir.Value, inverse: ir.Value, power: int) -> ir.Value:
    """sign(x) · (|x| / y) ** (p − 1), of 1 / y."""
    if power == 1:
        return e.op("Sign", x)
    share = e.op("Mul", x, inverse)
    if power == 2:
        return share
    return e.op("Mul", e.op("Sign", x), e.op("Pow", e.op("Abs", share), float(power - 1)))


def _globally(node: NodeView, weigh: Callable[[Point, list[int]], ir.Value]) -> At | NoInverse:
    """∂y is the sum of weight · ∂x over the whole image; `weigh` is given its axes, counted from the end."""
    shapes = static(node, node.x)
    if isinstance(shapes, NoInverse):
        return shapes
    axes = list(range(2 - len(shapes[0]), 0))

    def at(p: Point) -> Differential:
        weight, summed = weigh(p, axes), p.e.ints(axes)
        return Differential(
            lambda e, t: e.op("ReduceSum", e.op("Mul", t, weight), summed, keepdims=1),
            lambda e, c: e.op("Mul", c, weight),
        )

    return at


def _alike(p: Point, hits: ir.Value, axes: list[int]) -> ir.Value:
    """hits / Σ hits over the image."""
    return p.e.op("Div", hits, p.e.op("ReduceSum", hits, p.e.ints(axes), keepdims=1))


@rules.derivative("GlobalAveragePool")
def global_average_pool(node: NodeView) -> At | NoInverse:
    """∂y is the mean of ∂x over the image."""
    return _globally(node, lambda p, axes: _alike(p, ones_like(p.e, p.input(0)), axes))


@rules.derivative("GlobalMaxPool")
def global_max_pool(node: NodeView) -> At | NoInverse:
    """∂y is the mean of ∂x over the largest elements of the image."""
    return _globally(node, lambda p, axes: _alike(p, number(p.e, p.e.op("Equal", p.input(0), p.outputs[0])), axes))


@rules.derivative("GlobalLpPool")
def global_lp_pool(node: NodeView) -> At | NoInverse:
    """∂y is the sum of sign(x) · (|x| / y) ** (p − 1) · ∂x over the image."""
    power = node.integer("p", 2)

    def weigh(p: Point, axes: list[int]) -> ir.Value:
        inverse = p.e.op("Div", p.e.scalar(1.0), filled(p.e, p.outputs[0]))
        return _norm_slope(p.e, p.input(0), inverse, power)

    return _globally(node, weigh)
