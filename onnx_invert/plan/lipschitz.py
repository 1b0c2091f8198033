"""A bound of how much a part of a network stretches distances, from its weights alone.

The bound of a chain is the product of its parts': the largest singular value of a matrix, the steepest slope of
an activation, the greatest factor of a multiplication; where paths meet in a sum it is the sum of theirs.
Source: H. Gouk et al., Regularisation of neural networks by enforcing Lipschitz continuity, 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import onnx_ir as ir
import scipy.linalg
from numpy.typing import NDArray

from onnx_invert.plan.evaluation import run
from onnx_invert.plan.steps import Edge
from onnx_invert.plan.system import System
from onnx_invert.rules.dependence import ELEMENTWISE
from onnx_invert.rules.facts import NoInverse

STEEPEST: dict[str, float] = {
    **dict.fromkeys(("Relu", "Tanh", "Abs", "Neg", "Identity", "Softplus", "Softsign", "Sin", "Cos", "Atan"), 1.0),
    **dict.fromkeys(("Dropout", "Clip", "Asinh"), 1.0),
    "Erf": 2 / math.sqrt(math.pi),
    "Sigmoid": 0.25,
    "Gelu": 1.13,
    "Mish": 1.09,
    "HardSwish": 1.5,
    "Swish": 1.0999,
}
"""sup |f′|, rounded up."""

GATED: dict[str, float] = {"Sigmoid": 1.0999, "Erf": 2.2579}
"""sup |(t g(t))′| of the gates g = σ and g = 1 + erf, rounded up: at t = 2.3994 (where t tanh(t/2) = 2), and at t = 1.

It bounds the slope of x g(βx) for every β, one number for all elements or one for each: x g(βx) = t g(t) / β with
t = βx, and the derivative by x is that of t g(t) by t.
"""


def _bent(node: ir.Node) -> tuple[float, float]:
    """inf f′ and sup f′ of a function that is bent at 0, whatever the signs of its attributes are."""
    defaults = {"LeakyRelu": 0.01, "Selu": 1.6733}  # Selu's are rounded up
    alpha, gamma = node.attributes.get("alpha"), node.attributes.get("gamma")
    steep = float(alpha.as_float()) if alpha is not None else defaults.get(node.op_type, 1.0)
    factor = 1.0
    if node.op_type == "Selu":
        factor = float(gamma.as_float()) if gamma is not None else 1.0508
    match node.op_type:
        case "LeakyRelu":
            below = steep, steep
        case "Celu":  # exp(x / alpha), x < 0
            below = (0.0, 1.0) if steep > 0 else (1.0, math.inf)
        case _:
            below = 0.0, factor * steep
    return min(*below, factor), max(*below, factor)


SLOPES: dict[str, Callable[[ir.Node], tuple[float, float]]] = {
    **dict.fromkeys(("Relu", "Tanh", "Softplus", "Softsign", "Atan", "Asinh"), lambda _: (0.0, 1.0)),
    **dict.fromkeys(("Sin", "Cos", "Abs"), lambda _: (-1.0, 1.0)),
    "Neg": lambda _: (-1.0, -1.0),
    "Identity": lambda _: (1.0, 1.0),
    "Erf": lambda _: (0.0, STEEPEST["Erf"]),
    "Sigmoid": lambda _: (0.0, 0.25),
    **dict.fromkeys(("LeakyRelu", "Elu", "Celu", "Selu"), _bent),
}
"""inf f′ and sup f′."""

_FREQUENCIES = 1 << 12
"""At which a convolution's norm is looked at."""

LARGEST = 768
"""Numbers up to which the matrix of a convolution is made, at the size of what it is applied to."""

_SHAPED = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"})
"""They keep or drop elements, and repeat none."""


def lipschitz(
    system: System,
    x: ir.Value,
    y: ir.Value,
    nodes: Sequence[ir.Node],
    edges: Sequence[Edge],
    *,
    exact: bool = False,
    within: set[str] | None = None,
) -> float | NoInverse:
    """A Lipschitz constant (Euclidean, of a sample) of y as a function of x at `edges`; or the node without one.

    With `exact` the matrices of small convolutions are made, where they are applied to tensors of a fixed size. A
    factor that is an input of the model, moved at most, is taken for one within [−1, 1]: a mask. Such inputs are put
    into `within`.
    """
    bound: dict[ir.Value, float] = {}
    active = set(edges)
    for node in nodes:
        parts: dict[int, float] = {}
        for place, value in enumerate(node.inputs):
            if value is None:
                continue
            if (node, place) in active:
                parts[place] = 1.0
            elif value in bound:
                parts[place] = bound[value]
        if not parts:
            continue
        factor = _gated(node, parts, active, system) or _factor(node, parts, system, exact, within)
        if factor is None:
            return NoInverse(f"no Lipschitz bound is known of {node.name!r} ({node.op_type}) in a residual block")
        bound.update(dict.fromkeys(node.outputs, factor))
    return bound.get(y, 0.0)


def _factor(
    node: ir.Node, parts: dict[int, float], system: System, exact: bool, within: set[str] | None
) -> float | None:
    op = node.op_type
    shapes = system.concrete.shapes
    whole = shapes.get(node.outputs[0].name or "")
    sizes = [shapes.get(value.name or "") for place in parts if (value := node.inputs[place]) is not None]
    if op in ELEMENTWISE and any(size != whole for size in sizes):
        return None  # repeated by broadcasting
    if op in {"Add", "Sub", "Sum"}:
        return sum(parts.values())
    if op == "Concat":
        return math.sqrt(sum(value**2 for value in parts.values()))
    if len(parts) != 1:
        return None  # the slope of a product is bounded only where its factors are
    ((place, before),) = parts.items()
    constants = [None if v is None or v.const_value is None else v.const_value.numpy() for v in node.inputs]
    if op in STEEPEST and place == 0:
        return before * STEEPEST[op]
    if op in {"LeakyRelu", "Elu", "Celu", "Selu"}:
        steepest = max(map(abs, _bent(node)))
        return before * steepest if math.isfinite(steepest) else None
    if op in _SHAPED and place == 0:
        return before
    if op in {"Mul", "Div"} and op in ELEMENTWISE:
        other = constants[1 - place]
        given = _given(system, node.inputs[1 - place])
        if op == "Mul" and given is not None and within is not None:
            within.add(given)
            return before
        if other is None or (op == "Div" and place == 1) or not other.size:
            return None
        size = np.abs(other.astype(np.float64))
        return before * float(size.max() if op == "Mul" else 1 / size.min())
    turned = node.attributes.get("transA")
    if turned is not None and turned.as_int():
        return None
    weight = constants[1] if op in {"MatMul", "Gemm", "Conv"} and place == 0 else None
    if weight is None:
        return None
    if op == "Conv":
        norm = _of_convolution(node, weight)
        smaller = _at_its_size(node, system.opset) if exact else None
        return before * (norm if smaller is None else min(norm, smaller))
    if weight.ndim != 2:
        return None
    alpha = node.attributes.get("alpha")
    return before * _norm(weight) * (abs(float(alpha.as_float())) if alpha is not None else 1.0)


def _given(system: System, value: ir.Value | None) -> str | None:
    """The input of the model that a tensor is, moved at most; None if it is something else."""
    while value is not None and value not in system.unknowns:
        node = value.producer()
        if node is None:
            return value.name if value.const_value is None else None
        if node.op_type not in _SHAPED | {"Identity", "Cast", "Expand"}:
            return None
        value = node.inputs[0]
    return None


def _gated(node: ir.Node, parts: dict[int, float], active: Collection[Edge], system: System) -> float | None:
    """The bound of x · g(βx), β constant, where that is what the node makes; None where it is not."""
    if node.op_type != "Mul" or len(parts) != 2:
        return None
    for place in (0, 1):
        x, gate = node.inputs[place], _maker(node, 1 - place)
        if x is None or gate is None or not _sized_alike(system, x, node.outputs[0]):
            continue
        if gate.op_type == "Add":
            one = next((p for p in (0, 1) if _constant(gate, p) is not None and np.all(_constant(gate, p) == 1)), None)
            gate = None if one is None else _maker(gate, 1 - one)
            name = "Erf"
        else:
            name = "Sigmoid"
        if gate is not None and gate.op_type == name and _is_multiple(gate, node, place, active):
            return parts[place] * GATED[name]
    return None


def _is_multiple(gate: ir.Node, gated: ir.Node, place: int, active: Collection[Edge]) -> bool:
    """Whether what `gate` takes, and the operand at `place` of `gated`, are both constants times one tensor."""
    ends = {n.inputs[p]: (n, p) for n, p in _factors(gated, place)}
    for node, at in _factors(gate, 0):
        if node.inputs[at] in ends:
            return ((node, at) in active) == (ends[node.inputs[at]] in active)
    return False


def _factors(node: ir.Node, place: int) -> Iterator[Edge]:
    """The operand at `place`, and backwards from it the operands that it is a constant times of."""
    while True:
        yield node, place
        before = _maker(node, place)
        if before is None or before.op_type not in {"Mul", "Div"}:
            return
        place = next((p for p in (0, 1) if _constant(before, 1 - p) is not None), -1)
        if place == -1 or (before.op_type == "Div" and place == 1):
            return
        node = before


def _maker(node: ir.Node, place: int) -> ir.Node | None:
    value = node.inputs[place]
    return None if value is None else value.producer()


def _constant(node: ir.Node, place: int) -> NDArray[np.generic] | None:
    value = node.inputs[place]
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _sized_alike(system: System, one: ir.Value, other: ir.Value) -> bool:
    shapes = system.concrete.shapes
    return shapes.get(one.name or "") is not None and shapes.get(one.name or "") == shapes.get(other.name or "")


def _of_convolution(node: ir.Node, weight: NDArray[np.generic]) -> float:
    """A bound of the norm of a convolution, for any size of what it is applied to.

    Without edges it is at every frequency ω the product with Ŵ(ω) = Σ Wₖ exp(−i ω·k), so that its norm is the
    largest of Ŵ's. |uᴴ Ŵ(ω) v|² is a trigonometric polynomial of degree `size` − 1 along each axis, whose maximum is
    at most 1 / cos(π · degree / points) times that on a grid. Zeros at the edges, and strides, leave out rows and
    columns, which makes no norm larger. Groups stand beside one another.
    Sources: H. Sedghi, V. Gupta & P. Long, The singular values of convolutional layers, 2019; H. Ehlich & K. Zeller,
    Schwankung von Polynomen zwischen Gitterpunkten, 1964, for the grid.
    """
    group = node.attributes.get("group")
    kernel = weight.shape[2:]
    points = int(_FREQUENCIES ** (1 / max(1, len(kernel))))
    grid = [1 if size == 1 else max(min(64, points), 4 * size) for size in kernel]
    excess = math.prod(math.cos(math.pi * (size - 1) / n) for size, n in zip(kernel, grid, strict=True)) ** -0.5
    largest = 0.0
    for part in np.split(weight.astype(np.float64), group.as_int() if group is not None else 1):
        matrices = np.fft.fftn(part, grid, tuple(range(2, weight.ndim))) if kernel else part
        matrices = np.moveaxis(matrices, (0, 1), (-2, -1)).reshape(-1, *part.shape[:2])
        largest = max(largest, float(np.linalg.svd(matrices, compute_uv=False)[:, 0].max()))
    return largest * excess


def _at_its_size(node: ir.Node, opset: int) -> float | None:
    """The norm of a convolution of tensors whose size is fixed, from its matrix; None where that is too large."""
    x = node.inputs[0]
    sizes = [] if x is None or x.shape is None else list(x.shape)[1:]
    count = math.prod(size for size in sizes if isinstance(size, int))
    if x is None or x.dtype is None or not all(isinstance(size, int) for size in sizes) or not 0 < count <= LARGEST:
        return None
    basis = np.concatenate([np.eye(count), np.zeros((1, count))]).astype(x.dtype.numpy())
    made = run([node], {x.name or "": basis.reshape(-1, *sizes)}, [node.outputs[0].name or ""], opset)
    if made is None:
        return None
    rows = made[node.outputs[0].name or ""].astype(np.float64).reshape(count + 1, -1)
    return _norm(rows[:-1] - rows[-1]) if rows.shape[1] <= 4 * LARGEST else None


def _norm(weight: NDArray[np.generic]) -> float:
    return float(scipy.linalg.svdvals(weight.astype(np.float64))[0]) if weight.size else 0.0
