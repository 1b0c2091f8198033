"""GELU, SiLU and their like where an exporter wrote them out: x times a gate of x, in several nodes.

Such a region is recognised by what it computes, not by how it is written: elementwise nodes between one tensor x and
one tensor y, of constants that are single numbers, run on numbers over the range where the functions differ.

    y = f(x),  z = min(x, 0)        x = z where z < 0, else the root of f(x) = y on x ≥ 0

The sign of z is the branch: f falls to its least value at x₀ < 0 and rises from there. The branches are parted at 0
and not at x₀, and on the left one z is x itself, because y tells little there. Rounding of y by ε moves x by
ε / |f′(x)|: left of x₀ |f′| ≤ 0.13 (GELU), 0.10 (SiLU), so that at least 7 roundings of y would be in x; at x₀, where
the branches meet, f′ = 0 and half the digits are gone, √(2ε / f″); in the tail all are. On x ≥ 0, f′ ≥ 1/2: 2 at most.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import scipy.special
from numpy.typing import NDArray

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.completion import Completed
from onnx_invert.rules.completions.elements import (
    Unary,
    folded,
    gelu_slope,
    hard_swish_root,
    mish_slope,
    newton,
    swish_slope,
)

Array = NDArray[np.float64]

LARGEST = 12
"""Nodes of a region at most: GELU by tanh, with x³ as products, takes nine."""

AGREES = 2e-6
"""How far a region may be from a function, beside 1 + |x|: its constants are float32. GELU's two forms differ
by 5e-4."""

GRID: Array = np.concatenate([np.linspace(-12, 12, 193), [-0.751791, -1e-3, 1e-3, 40.0, -40.0]])


def _softplus(x: Array) -> Array:
    return np.asarray(np.logaddexp(x, 0.0))


def _clip(x: Array, low: float | Array = -np.inf, high: float | Array = np.inf) -> Array:
    return np.asarray(np.minimum(np.maximum(x, low), high))


UNARY: Mapping[str, Callable[[Array], Array]] = {
    "Erf": scipy.special.erf,
    "Exp": np.exp,
    "Identity": np.asarray,
    "Log": np.log,
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
    "Relu": lambda x: np.maximum(x, 0.0),
    "Sigmoid": scipy.special.expit,
    "Softplus": _softplus,
    "Tanh": np.tanh,
}

SEVERAL: Mapping[str, Callable[..., Array]] = {
    "Add": np.add,
    "Clip": _clip,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mul": np.multiply,
    "Pow": np.power,
    "Sub": np.subtract,
}

KNOWN = frozenset({*UNARY, *SEVERAL, "HardSigmoid"})


@dataclass(frozen=True)
class Gate:
    """`value` is x, `part` how it comes back from y; `whole` if no node but those of the region takes x."""

    value: ir.Value
    part: Completed
    whole: bool


def gate(output: ir.Value, order: Mapping[ir.Node, int], dependent: Container[ir.Value]) -> Gate | None:
    """The function that ends in `output`, or None. `order` are places in running order, of nodes that matter."""
    found = _region(output, order, dependent)
    if found is None:
        return None
    x, region = found
    with np.errstate(all="ignore"):
        values = _computed(x, region)
    part = None if values is None else _recognised(values, _again(x, region))
    if part is None:
        return None
    return Gate(x, part, not x.is_graph_output() and all(node in region for node, _ in x.uses()))


def _region(
    output: ir.Value, order: Mapping[ir.Node, int], dependent: Container[ir.Value]
) -> tuple[ir.Value, list[ir.Node]] | None:
    """The nodes from the nearest tensor that all of `output` is made of and several of them use."""
    region: list[ir.Node] = []
    ends = {output}
    while len(region) < LARGEST:
        last = max(ends, key=lambda value: order.get(value.producer(), -1))  # type: ignore[arg-type]
        node = last.producer()
        if node is None or node not in order or node.op_type not in KNOWN:
            return None
        ends.remove(last)
        ends |= {value for value in node.inputs if value is not None and value in dependent}
        region.append(node)
        if len(ends) == 1 and len(tuple((x := next(iter(ends))).uses())) > 1:
            return x, region[::-1]
    return None


def _computed(x: ir.Value, region: list[ir.Node]) -> Array | None:
    """What the region makes of `GRID`."""
    values: dict[ir.Value, Array] = {x: GRID}
    made = GRID
    for node in region:
        operands = []
        for value in node.inputs:
            if value in values:
                operands.append(values[value])
            elif value is not None and value.const_value is not None and value.const_value.size == 1:
                operands.append(np.asarray(_number(value)))
            else:
                return None
        if node.op_type == "HardSigmoid":
            slope, shift = (node.attributes.get(name) for name in ("alpha", "beta"))
            made = _clip(
                operands[0] * (0.2 if slope is None else slope.as_float())
                + (0.5 if shift is None else shift.as_float()),
                0.0,
                1.0,
            )
        else:
            made = np.asarray((UNARY.get(node.op_type) or SEVERAL[node.op_type])(*operands), np.float64)
        values[node.outputs[0]] = made
    return made


def _number(value: ir.Value | None) -> float:
    """A constant of one number."""
    assert value is not None
    assert value.const_value is not None
    return float(value.const_value.numpy().reshape(()))


def _again(x: ir.Value, region: list[ir.Node]) -> Unary:
    """The region itself on another tensor: what is undone is this function, with the constants that it has."""

    def value(e: Emitter, other: ir.Value) -> ir.Value:
        made = {x: other}
        for node in region:
            operands = [made[v] if v in made else e.scalar(_number(v)) for v in node.inputs]
            settings = {name: attribute.as_float() for name, attribute in node.attributes.items()}
            made[node.outputs[0]] = e.op(node.op_type, *operands, **settings)
        return made[region[-1].outputs[0]]

    return value


def _recognised(y: Array, value: Unary) -> Completed | None:
    """Which function has these values on `GRID`."""
    x = GRID
    one = y[np.flatnonzero(x == 1.0)[0]]
    alpha = float(scipy.special.logit(one)) if 0.5 < one < 1 else 1.0
    swish = newton(value, swish_slope(alpha), 0.3 / alpha)
    gelu = newton(value, gelu_slope, 0.3)
    known: list[tuple[str, Array, Unary]] = [
        ("GELU", x * scipy.special.ndtr(x), gelu),
        ("GELU", 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), gelu),
        ("SiLU", x * scipy.special.expit(x), swish),
        ("Swish", x * scipy.special.expit(alpha * x), swish),
        ("Mish", x * np.tanh(_softplus(x)), newton(value, mish_slope, 0.3)),
        ("HardSwish", x * _clip(x / 6 + 0.5, 0.0, 1.0), hard_swish_root),
    ]
    for name, expected, root in known:
        if np.all(np.abs(y - expected) <= AGREES * (1 + np.abs(x))):
            return replace(folded(root), latent=f"negative part of {name}")
    return None
