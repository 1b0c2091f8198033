"""The laws of an `Elementwise` fact, and of a `Paired` one's derivative, each held alone and in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.facts import Branch, Elementwise
from onnx_invert.testing.case import Runner
from onnx_invert.testing.values import inside

Array = NDArray[np.float64]

COUNT = 6
"""Arrays of the case's shape that are drawn."""

STEP = float(np.cbrt(np.finfo(np.float64).eps))
"""Of a central difference: its truncation, h², and its rounding, eps / h, are then of one size."""

DIFFERENCE = 10 * STEP**2
"""Relative error of a central difference, h² · f‴ / f′ / 6; a step of twice the length shows where it is larger."""

INVERSE = 1e3 * float(np.finfo(np.float64).eps)
"""Relative error of an inverse in float64, over its condition: composed of some tens of operations."""


def evaluate(emit: Callable[[Emitter, list[ir.Value]], ir.Value], arrays: list[Array]) -> Array:
    """What `emit` emits, run in onnx's reference evaluator in float64."""
    e = Emitter(ir.DataType.DOUBLE, [f"v{i}" for i in range(len(arrays))])
    ports = [
        ir.Value(name=f"v{i}", shape=ir.Shape(a.shape), type=ir.TensorType(ir.DataType.DOUBLE))
        for i, a in enumerate(arrays)
    ]
    result = emit(e, ports)
    if result in ports or result in e.initializers:
        result = e.op("Identity", result)
    initializers = [value for value in e.initializers if value.uses()]
    graph = ir.Graph(ports, [result], nodes=e.nodes, initializers=initializers, opset_imports={"": 17}, name="fact")
    proto = ir.serde.serialize_model(ir.Model(graph, ir_version=8))
    found = Runner(proto, "the fact").reference({f"v{i}": a for i, a in enumerate(arrays)})
    return np.asarray(next(iter(found.values())), dtype=np.float64)


def check_elementwise(fact: Elementwise, shape: tuple[int, ...], case: object) -> None:
    """Its branches invert it and have the images they state; its derivative is that of `forward`."""
    for branch in fact.branches:
        where = f"{case}, branch {branch.label or branch.domain}"
        x = inside(branch.domain, (COUNT, *shape))
        y = fact.forward(x)
        ends = np.broadcast_to(branch.image.low, x.shape), np.broadcast_to(branch.image.high, x.shape)
        assert np.all((y >= ends[0]) & (y <= ends[1])), f"f(x) lies in the image that is stated\n  {where}"
        with np.errstate(all="ignore"):
            back = evaluate(lambda e, v, b=branch: b.inverse(e, v[0]), [y])  # type: ignore[misc]
            near = np.maximum(np.abs(fact.forward(x * (1 + 1e-7)) - y), np.abs(fact.forward(x * (1 - 1e-7)) - y))
            condition = np.maximum(1, np.abs(y) / np.maximum(near / 1e-7, 1e-300))
            good = np.abs(back - x) <= INVERSE * condition * np.maximum(np.abs(x), 1e-300)
        assert good.all(), (
            f"inverse(forward(x)) = x on every branch\n  {where}\n  x {x[~good][:3]}, got {back[~good][:3]}"
        )
        if branch.domain.hole is None:
            _check_ends(fact, branch, where)
    x = inside(fact.domain, (COUNT, *shape))
    check_derivative(fact.forward, lambda e, v: fact.derivative(e, v[0], v[1]), x, [x, fact.forward(x)], case)


def _check_ends(fact: Elementwise, branch: Branch, where: str) -> None:
    with np.errstate(all="ignore"):
        found = branch.domain.through(fact.forward)
    for got, end in ((found.low, branch.image.low), (found.high, branch.image.high)):
        value = np.asarray(got, dtype=np.float64)
        # π/2 is rounded, so tan of it is only very large.
        infinite = np.isinf(end) & (np.abs(value) > 1e15)
        good = np.isnan(value) | np.isclose(value, end, rtol=1e-12, atol=1e-12) | infinite
        assert np.all(good), f"the image's ends are f at the domain's ends\n  {where}\n  f {value}, stated {end}"


def check_derivative(
    forward: Callable[[Array], Array],
    emit: Callable[[Emitter, list[ir.Value]], ir.Value],
    x: Array,
    operands: list[Array],
    case: object,
) -> None:
    """The emitted derivative against central differences, away from kinks and from the domain's ends."""
    h = STEP * np.maximum(np.abs(x), 0.1)
    with np.errstate(all="ignore"):
        left, middle, right = forward(x - h), forward(x), forward(x + h)
        slope = (right - left) / (2 * h)
        coarse = (forward(x + 2 * h) - forward(x - 2 * h)) / (4 * h)
        sides = np.abs((right - middle) - (middle - left)) / h
        rounding = np.finfo(np.float64).eps * np.maximum(np.abs(middle), 1e-300) / h
    got = np.broadcast_to(evaluate(emit, operands), slope.shape)
    # At a kink the two one-sided slopes differ by far more than h.
    smooth = np.isfinite(slope) & np.isfinite(coarse) & (sides <= 1e-2 * np.abs(slope) + 1e-4)
    error = np.abs(got - slope)
    good = error <= DIFFERENCE * np.abs(slope) + np.abs(slope - coarse) + 10 * rounding
    bad = smooth & ~good
    assert not bad.any(), (
        f"the derivative is that of f\n  {case}\n  at x {x[bad][:3]}: got {got[bad][:3]}, differences {slope[bad][:3]}"
    )
    assert smooth.mean() > 0.5, (
        f"the derivative is that of f\n  {case}\n  f is smooth at only {smooth.mean():.0%} of x"
    )
