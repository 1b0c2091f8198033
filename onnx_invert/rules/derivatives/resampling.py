"""Derivatives of Resize and Upsample: along each axis a product with a constant matrix, which is the operation itself.

Source: ONNX Resize-10, -11, -13, -18, -19; Upsample-7, -9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.differential import At, Differential, Point, static, targets
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import NodeView, Shape
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

Matrix = NDArray[np.float64]


def separable(x: Shape, y: Shape, matrices: Mapping[int, Matrix]) -> At | NoInverse:
    """∂y is ∂x times a matrix (m, n) along each axis of `matrices`, from n places to m; the others stay.

    Axes behind the first of them have to be of fixed size, and all but one of those before it.
    """
    moved = sorted(axis for axis, matrix in matrices.items() if not _is_identity(matrix))
    if not moved:
        return lambda p: Differential(lambda e, t: t, lambda e, c: c)
    for shape in (x, y):
        if isinstance(refusal := targets(1, shape), NoInverse):
            return refusal
    unknown = [dim for dim in (*x[moved[0] :], *y[moved[0] :]) if isinstance(dim, str)]
    if unknown:
        return NoInverse(
            f"its image size {unknown[0]!r} is known only at run time", "give it a fixed size with --shape"
        )

    def at(p: Point) -> Differential:
        back, there = targets(p.seeds, x), targets(p.seeds, y)
        assert not isinstance(back, NoInverse)
        assert not isinstance(there, NoInverse)

        def along(e: Emitter, t: ir.Value, axis: int, behind: Shape, matrix: Matrix) -> ir.Value:
            places = math.prod(int(dim) for dim in behind)
            if places == 1:
                rows = e.op("Reshape", t, e.ints([-1, matrix.shape[1]]))
                return e.op("MatMul", rows, e.constant(matrix.T, f"axis{axis}"))
            columns = e.op("Reshape", t, e.ints([-1, matrix.shape[1], places]))
            return e.op("MatMul", e.constant(matrix, f"axis{axis}"), columns)

        def push(e: Emitter, t: ir.Value) -> ir.Value:
            for axis in reversed(moved):
                t = along(e, t, axis, y[axis + 1 :], matrices[axis])
            return e.op("Reshape", t, e.ints(there))

        def pull(e: Emitter, c: ir.Value) -> ir.Value:
            for axis in moved:
                c = along(e, c, axis, y[axis + 1 :], matrices[axis].T)
            return e.op("Reshape", c, e.ints(back))

        return Differential(push, pull)

    return at


def _is_identity(matrix: Matrix) -> bool:
    return matrix.shape[0] == matrix.shape[1] and bool(np.array_equal(matrix, np.eye(len(matrix))))


@dataclass(frozen=True)
class Sampling:
    """How a resized axis is read: where place i of the new axis lies on the old one, and what is taken there."""

    mode: str
    coordinates: str
    rounding: str
    cubic: float
    exclude_outside: bool

    def matrix(self, size: int, count: int, scale: float) -> Matrix:
        """(count, size): the weights of the old places for each new one."""
        places = self._places(size, count, scale)
        if self.mode == "nearest":
            return np.eye(size)[np.clip(self._rounded(places), 0, size - 1)]
        low = np.floor(places).astype(np.int64)
        share = places - low
        offsets, weights = _linear(share) if self.mode == "linear" else _cubic(share, self.cubic)
        matrix = np.zeros((count, size))
        for offset, weight in zip(offsets, weights, strict=True):
            at = low + offset
            inside = (at >= 0) & (at < size)
            kept = weight * inside if self.exclude_outside else weight
            np.add.at(matrix, (np.arange(count), np.clip(at, 0, size - 1)), kept)
        return matrix / matrix.sum(axis=1, keepdims=True) if self.exclude_outside else matrix

    def _places(self, size: int, count: int, scale: float) -> Matrix:
        # Which of two places is the nearest may be a matter of rounding: it is done as runtimes do it, in float32.
        kind = np.float32 if self.mode == "nearest" else np.float64
        i: NDArray[np.floating] = np.arange(count, dtype=kind)
        scale = float(kind(scale))
        match self.coordinates:
            case "asymmetric":
                return np.asarray(i / scale)
            case "align_corners":
                return np.asarray(i * (size - 1) / (count - 1) if count > 1 else 0 * i)
            case "pytorch_half_pixel":
                return np.asarray((i + 0.5) / scale - 0.5 if count > 1 else 0 * i)
            case "tf_half_pixel_for_nn":
                return np.asarray((i + 0.5) / scale)
            case "half_pixel_symmetric":
                exact = scale * size
                return np.asarray(size / 2 * (1 - count / exact) + (i + 0.5) / scale - 0.5)
        return np.asarray((i + 0.5) / scale - 0.5)

    def _rounded(self, places: Matrix) -> NDArray[np.int64]:
        match self.rounding:
            case "floor":
                found = np.floor(places)
            case "ceil":
                found = np.ceil(places)
            case "round_prefer_ceil":
                found = np.floor(places + 0.5)
            case _:
                found = np.ceil(places - 0.5)
        return found.astype(np.int64)


def _linear(share: Matrix) -> tuple[list[int], list[Matrix]]:
    return [0, 1], [1 - share, share]


def _cubic(share: Matrix, a: float) -> tuple[list[int], list[Matrix]]:
    """R. Keys, Cubic convolution interpolation for digital image processing, 1981."""

    def near(d: Matrix) -> Matrix:
        return np.asarray(((a + 2) * d - (a + 3)) * d * d + 1)

    def far(d: Matrix) -> Matrix:
        return np.asarray(((a * d - 5 * a) * d + 8 * a) * d - 4 * a)

    return [-1, 0, 1, 2], [far(share + 1), near(share), near(1 - share), far(2 - share)]


@rules.derivative("Resize")
def resize(node: NodeView) -> At | NoInverse:
    """∂y is ∂x, resized: nearest, linear or cubic.

    Refuses:   image sizes known only at run time, antialias, tf_crop_and_resize
    Source:    ONNX Resize-10, -11, -13, -18, -19
    """
    old = node.opset < 11
    coordinates = _text(node, "coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    if coordinates == "tf_crop_and_resize":
        return NoInverse("it crops to a region of interest", "cut with Slice instead")
    if node.integer("antialias", 0):
        return NoInverse("there is no derivative of antialiased resizing", "export without antialias")
    rounding = _text(node, "nearest_mode", "floor" if old else "round_prefer_floor")
    sampling = Sampling(
        _text(node, "mode", "nearest"),
        coordinates,
        rounding,
        node.number("cubic_coeff_a", -0.75),
        bool(node.integer("exclude_outside", 0)) and _text(node, "mode", "nearest") == "cubic",
    )
    return _resampled(node, sampling, 1 if old else 2)


@rules.derivative("Upsample")
def upsample(node: NodeView) -> At | NoInverse:
    """∂y is ∂x, resized: nearest or linear.

    Source:    ONNX Upsample-7, -9
    """
    sampling = Sampling(_text(node, "mode", "nearest"), "asymmetric", "floor", 0, False)
    return _resampled(node, sampling, 1)


def _resampled(node: NodeView, sampling: Sampling, place: int) -> At | NoInverse:
    """The matrix of each axis whose size is known; one known only at run time has to stay as it is.

    `place` is the operand of the scales; sizes stand behind it, where there are any.
    """
    if node.unknown:
        return NoInverse("its scales depend on what is unknown")
    shapes = static(node, node.x, node.y)
    if isinstance(shapes, NoInverse):
        return shapes
    x, y = shapes
    axes = [axis % len(x) for axis in _integers(node, "axes", range(len(x)))]
    scales = _scales(node, place, x, y, axes)
    if isinstance(scales, NoInverse):
        return scales
    matrices = {}
    for axis, scale in zip(axes, scales, strict=True):
        size, count = x[axis], y[axis]
        if isinstance(size, int) and isinstance(count, int):
            matrices[axis] = sampling.matrix(size, count, scale)
        elif scale != 1:
            return NoInverse(f"its image size {size!r} is known only at run time", "give it a fixed size with --shape")
    return separable(x, y, matrices)


def _scales(node: NodeView, place: int, x: Shape, y: Shape, axes: list[int]) -> list[float] | NoInverse:
    """By how much each axis grows, 1 where that is known only at run time and sizes are given."""
    given = node.operand(place)
    attribute = node.node.attributes.get("scales")
    if attribute is not None:
        return [float(scale) for scale in attribute.as_floats()]
    if given is not None and not (given.shape is not None and 0 in list(given.shape)):
        scales = node.constant(place)
        if scales is None:
            return NoInverse("its scales are known only at run time", "give the image fixed sizes with --shape")
        return [float(scale) for scale in scales]
    ratios = [
        y_size / x_size if isinstance(x_size := x[axis], int) and isinstance(y_size := y[axis], int) else 1.0
        for axis in axes
    ]
    policy = _text(node, "keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return ratios
    sizes = node.constant(place + 1)
    if sizes is None or any(isinstance(x[axis], str) for axis in axes):
        return NoInverse("its sizes are known only at run time", "give the image fixed sizes with --shape")
    wanted = [float(size) / int(x[axis]) for size, axis in zip(sizes, axes, strict=True)]
    return [min(wanted) if policy == "not_larger" else max(wanted)] * len(axes)


def _text(node: NodeView, name: str, default: str) -> str:
    attribute = node.node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def _integers(node: NodeView, name: str, default: range) -> list[int]:
    attribute = node.node.attributes.get(name)
    return list(default if attribute is None else attribute.as_ints())
