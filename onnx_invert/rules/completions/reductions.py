"""Reductions: means and sums lose a null space, a maximum its losers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.completion import Completed, Completion, cut, reshaping, sized, target, total
from onnx_invert.rules.completions.windows import peak, squeezed
from onnx_invert.rules.facts import Diagonal, Fact, Matrix, NoInverse, Rearrangement
from onnx_invert.rules.node import NodeView, Shape
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()


def _gathered(node: NodeView) -> tuple[Rearrangement, Shape, Shape] | NoInverse:
    """x with the reduced axes merged into a last one, (…, k); that shape, and y's."""
    if node.unknown != 0 or (node.operand(1) is not None and node.constant(1) is None):
        return NoInverse("its axes are not constant")
    x, y = sized(node.shape(node.x)), sized(node.shape(node.y))
    if isinstance(x, NoInverse):
        return x
    if isinstance(y, NoInverse):
        return y
    given = node.ints("axes", 1)
    if not given and node.integer("noop_with_empty_axes", 0):
        return NoInverse("it reduces nothing")
    axes = sorted({axis % len(x) for axis in given}) if given else list(range(len(x)))
    if isinstance(refused := sized(x, axes), NoInverse):
        return refused
    kept = [axis for axis in range(len(x)) if axis not in axes]
    perm = [*kept, *axes]
    size = int(np.prod([int(x[axis]) for axis in axes]))
    merged: Shape = (*(x[axis] for axis in kept), size)
    turned = [target(x)[axis] for axis in perm]
    back = [int(i) for i in np.argsort(perm)]

    def forward(e: Emitter, value: ir.Value) -> ir.Value:
        return e.op("Reshape", e.op("Transpose", value, perm=perm), e.ints(target(merged)))

    def inverse(e: Emitter, value: ir.Value) -> ir.Value:
        return e.op("Transpose", e.op("Reshape", value, e.ints(turned)), perm=back)

    return Rearrangement(forward, inverse, merged), merged, y


def _linear(node: NodeView, weight: float | None) -> Completion | NoInverse:
    found = _gathered(node)
    if isinstance(found, NoInverse):
        return found
    moved, merged, y = found
    k = int(merged[-1])
    weights = Matrix(np.full((k, 1), weight or 1.0 / k, node.dtype.numpy()))
    return (moved, weights, reshaping((*merged[:-1], 1), y))


@rules.completion("ReduceMean")
def reduce_mean(node: NodeView) -> Completion | NoInverse:
    """z = coordinates in the null space of the mean, one less than it takes. Surplus: none."""
    return _linear(node, None)


@rules.completion("ReduceSum")
def reduce_sum(node: NodeView) -> Completion | NoInverse:
    """z = coordinates in the null space of the sum, one less than it takes. Surplus: none."""
    return _linear(node, 1.0)


def _peak(node: NodeView) -> tuple[Fact | Completed, ...] | NoInverse:
    found = _gathered(node)
    if isinstance(found, NoInverse):
        return found
    moved, merged, y = found
    return (moved, *peak(merged), reshaping(merged[:-1], y))


@rules.completion("ReduceMax")
def reduce_max(node: NodeView) -> Completion | NoInverse:
    """z = the distances from the first element, which hold the losers and who won. Surplus: none."""
    return _peak(node)


@rules.completion("ReduceMin")
def reduce_min(node: NodeView) -> Completion | NoInverse:
    """z = the distances from the first element, which hold the losers and who won. Surplus: none."""
    chain = _peak(node)
    if isinstance(chain, NoInverse):
        return chain
    minus = Diagonal(-np.ones(()))
    return (chain[0], minus, *chain[1:], minus)


@rules.completion("ReduceLogSumExp")
def reduce_log_sum_exp(node: NodeView) -> Completion | NoInverse:
    """z = the distances from the first element; x₁ = y − log(1 + Σ exp(z)). Surplus: none."""
    found = _gathered(node)
    if isinstance(found, NoInverse):
        return found
    moved, merged, y = found
    k, axis = int(merged[-1]), len(merged) - 1
    if k == 1:
        return (moved, squeezed(y))

    def take(e: Emitter, u: ir.Value, _: ir.Value) -> ir.Value:
        return e.op("Sub", cut(e, u, axis, 1, k), cut(e, u, axis, 0, 1))

    def give(e: Emitter, v: ir.Value, z: ir.Value) -> ir.Value:
        rows = e.op("Reshape", z, e.ints([-1, 1, k - 1]))
        top = e.op("Max", e.op("MaxPool", rows, kernel_shape=[k - 1]), 0.0)
        sums = total(e, e.op("Exp", e.op("Sub", rows, top)), [2])
        height = e.op("Add", top, e.op("Log", e.op("Add", sums, e.op("Exp", e.op("Neg", top)))))
        first = e.op("Sub", e.op("Reshape", v, e.ints([-1, 1, 1])), height)
        return e.op("Reshape", e.op("Concat", first, e.op("Add", rows, first), axis=2), e.ints(target(merged)))

    return (moved, Completed("distances from the first", take, give, (*merged[:-1], k - 1), y))
