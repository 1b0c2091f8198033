"""Bounds enclose: every operator's, with whatever attributes, against the reference implementation of ONNX."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.helper
import onnx.reference
import onnx_ir as ir
import pytest

from onnx_invert.rules.enclosures import functions as fn
from onnx_invert.rules.enclosures.enclosure import Enclosure, exactly
from onnx_invert.rules.enclosures.operators import OPERATORS

POINTS = 25

LOGICAL = {"Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"}

UNARY: list[tuple[str, dict[str, object]]] = [
    *((name, {}) for name in (*fn.FUNCTIONS, "Identity", "Neg", "Reciprocal", "Abs", "Sin", "Cos", "Relu", "Mish")),
    *((name, {}) for name in ("Sign", "Floor", "Ceil", "Round", "HardSwish")),
    *(("LeakyRelu", {"alpha": alpha}) for alpha in (0.0625, 0.0, 3.0, -0.5)),
    *((name, {"alpha": alpha}) for name in ("Elu", "Celu") for alpha in (1.0, 0.25, 5.0, -0.5, -2.0)),
    ("Elu", {"alpha": 0.0}),
    *(("Selu", {"alpha": alpha, "gamma": gamma}) for alpha in (1.625, 0.25, -1.0) for gamma in (1.0625, -0.75)),
    *(("HardSigmoid", {"alpha": alpha, "beta": beta}) for alpha in (0.25, -1.5) for beta in (0.5, 3.0)),
    *(("Gelu", {"approximate": how}) for how in ("none", "tanh")),
    *(("Swish", {"alpha": alpha}) for alpha in (1.0, -0.5)),
]

BINARY: list[tuple[str, list[float]]] = [
    *(("Pow", [power]) for power in (2.0, 3.0, 5.0, 0.5, 1.7, 0.0, 1.0, 64.0, 65.0, -1.0, -2.0)),
    *((name, [other]) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min") for other in (0.7, -1e-300, 1e300)),
    ("Mul", [0.0]),
    ("PRelu", [0.25]),
    ("PRelu", [-0.5]),
    ("PRelu", [4.0]),
    ("Clip", [-1.0, 2.0]),
    ("Clip", [1.0, -1.0]),
    *(
        (name, [other])
        for name in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")
        for other in (0.0, 1.5)
    ),
]

DOMAINS = {"Log": (0, np.inf), "Sqrt": (0, np.inf), "Acosh": (1, np.inf), "Pow": (0, np.inf)}
DOMAINS |= dict.fromkeys(("Atanh", "Asin", "Acos"), (-1, 1))


def _cells(domain: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Small, large, tiny and huge ones, across 0 and beside it, at it, points, and such without an end."""
    rng = np.random.default_rng(7)
    size = 10.0 ** np.concatenate([rng.uniform(-3, 2, 120), rng.uniform(-300, 300, 60)])
    centre = rng.standard_normal(size.size) * size
    width = size * 10.0 ** rng.uniform(-6, 1, size.size)
    low, high = np.r_[centre, centre, -size, np.zeros(60)], np.r_[centre + width, centre, np.zeros(180), size[:60]]
    special = [(-np.inf, np.inf), (-np.inf, 0), (0, np.inf), (-1, np.inf), (0, 0), (-5e-324, 5e-324), (0, 5e-324)]
    special += [(-1.7e308, 1.7e308), (1e308, 1.7e308), (-1, 1), (1, 1), (-745.2, -744), (5, 6)]
    low = np.r_[low, [pair[0] for pair in special]]
    high = np.r_[high, [pair[1] for pair in special]]
    inside = (high >= domain[0]) & (low <= domain[1])
    return np.clip(low[inside], *domain), np.clip(high[inside], *domain)


def _samples(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Points in cells, their ends and what lies close to them too, in order; finite ones."""
    top = np.finfo(np.float64).max
    first, last = np.clip(low, -top, top), np.clip(high, -top, top)
    even = np.linspace(0, 1, POINTS)[:, None]
    points = [first * (1 - even) + last * even]
    for size in (1e-200, 1e-8, 1.0, 30.0):
        points += [first + size, last - size, np.full_like(first, size), np.full_like(first, -size)]
    return np.sort(np.clip(np.concatenate([np.atleast_2d(p) for p in points]), first, last), axis=0)


def _worst(fine: np.ndarray, points: np.ndarray, values: np.ndarray, *bounds: np.ndarray) -> str:
    """What lies outside first: the point, the value, its bounds and the cell."""
    if fine.all():
        return ""
    row, cell = np.argwhere(~fine)[0]
    shown = [points[row, cell], values[row, cell], *(bound.reshape(-1)[cell] for bound in bounds)]
    return ", ".join(repr(float(part)) for part in shown)


def _reference(op: str, attributes: dict[str, object], others: list[float]) -> onnx.reference.ReferenceEvaluator:
    names = [f"c{place}" for place in range(len(others))]
    kind = onnx.TensorProto.DOUBLE
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, ["x", *names], ["y"], **attributes)],
        "g",
        [onnx.helper.make_tensor_value_info("x", kind, [None, None])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.BOOL if op in LOGICAL else kind, [None, None])],
        [onnx.helper.make_tensor(name, kind, [], [value]) for name, value in zip(names, others, strict=True)],
    )
    opset = 22
    return onnx.reference.ReferenceEvaluator(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    )


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _values(op: str, attributes: dict[str, object], others: list[float], x: np.ndarray) -> np.ndarray:
    """What the operator makes of x; by its formula where the reference computes in float32, or takes no alpha < 0."""
    alpha = float(attributes.get("alpha", 1.0))  # type: ignore[arg-type]
    match op:
        case "Elu" | "Selu":
            gamma = float(attributes.get("gamma", 1.0))  # type: ignore[arg-type]
            return gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))
        case "Celu":
            return np.maximum(x, 0) + np.where(x < 0, alpha * np.expm1(np.minimum(x, 0) / alpha), 0)
        case "Swish":
            return x / (1 + np.exp(-alpha * x))
        case "HardSwish":
            return x * np.clip(x / 6 + 0.5, 0, 1)
        case "Erf":
            return _erf(x)
        case "Gelu" if attributes["approximate"] == "none":
            return x * (1 + _erf(x * np.sqrt(0.5))) / 2
        case "Gelu":
            return x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        case "Mish":
            return x * np.tanh(np.logaddexp(0, x))
        case "Softplus":
            return np.logaddexp(0, x)
        case "Sigmoid":
            return np.exp(-np.logaddexp(0, -x))
        case _:
            return np.asarray(_reference(op, attributes, others).run(None, {"x": x})[0], np.float64)


@pytest.mark.parametrize(
    ("op", "attributes", "others"),
    [*((op, attributes, []) for op, attributes in UNARY), *((op, {}, others) for op, others in BINARY)],
    ids=lambda part: str(part) if part else "",
)
def test_bounds_hold(op: str, attributes: dict[str, object], others: list[float]) -> None:
    """Values lie within their bounds, and the slope of every chord within those of the slope (mean value theorem)."""
    domain = DOMAINS.get(op, (-np.inf, np.inf))
    if op == "Pow" and others[0].is_integer() and others[0] <= 64:
        domain = (-np.inf, np.inf)
    low, high = (end[:, None] for end in _cells(domain))
    cells = Enclosure(low, high, np.ones_like(low), np.ones_like(low), np.zeros(low.shape, bool))
    x = ir.val("x", ir.DataType.DOUBLE, ir.Shape([1]))
    constants = [ir.val(f"c{i}", const_value=ir.tensor(np.float64(v))) for i, v in enumerate(others)]
    node = ir.node(op, [x, *constants], attributes)
    with np.errstate(all="ignore"):
        made = OPERATORS[op](node, [cells, *(exactly(np.full(1, v)) for v in others)])
        if op == "Pow" and others[0] < 0:
            assert made is None
            return
        assert made is not None
        points = _samples(low[:, 0], high[:, 0])
        values = _values(op, attributes, others, points)
        bounds = [np.broadcast_to(b[..., 0], low.shape[0]) for b in (*made.value, *made.slope, made.jumps)]
        bottom, top, fall, rise, jumps = bounds
        # What the reference's own rounding may leave: of x too, where x is large.
        off = 1e-14 * np.abs(values) + 1e-300
        if op in {"Sin", "Cos"}:
            off = off + 1e-15
        if op in {"Elu", "Selu", "Celu", "Swish", "Mish", "Gelu", "Sigmoid", "Exp", "HardSigmoid", "Acos"}:
            off = off + 4e-16 * (1 + np.abs(points) * (np.abs(values) < 1e300) * (np.abs(points) < 1e3))
        fine = np.isfinite(values)
        if op in LOGICAL:  # it may be otherwise at one point of a cell
            fine &= (points != others[0]) | (low[:, 0] == high[:, 0])
        assert not _worst(~fine | (values >= bottom - off), points, values, bottom, top, low, high)
        assert not _worst(~fine | (values <= top + off), points, values, bottom, top, low, high)
        for stride in (1, 4, 12):
            gap = points[stride:] - points[:-stride]
            slope = values[stride:] / gap - values[:-stride] / gap
            slack = (off[stride:] + off[:-stride]) / gap + 1e-13 * np.abs(slope) + 1e-305
            told = np.isfinite(slope) & np.isfinite(slack) & (gap > 0) & np.isfinite(gap) & ~jumps
            told &= fine[stride:] & fine[:-stride]
            assert not _worst(~told | (slope >= fall - slack), points[stride:], slope, fall, rise, low, high)
            assert not _worst(~told | (slope <= rise + slack), points[stride:], slope, fall, rise, low, high)
