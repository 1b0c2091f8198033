"""Random feed-forward networks. One seed is one network, in two copies that differ in rounding alone.

`Network.model` is stored in its own type, with casts in it; `Network.exact` holds the same numbers in
float64, unrounded, and every cast goes to float64. What is true of the one is true of the other, but in
the second a wrong guarantee cannot hide behind the rounding of float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

POSITIVE, UNIT, CLOSED_UNIT, FROM_ONE = "positive", "unit", "closed unit", "from one"
ROWS = 12

# What an activation needs of its input, and what it makes sure of its output.
ACTIVATIONS: dict[str, tuple[set[str], set[str]]] = {
    "Tanh": (set(), {UNIT, CLOSED_UNIT}),
    "Sigmoid": (set(), {POSITIVE, UNIT, CLOSED_UNIT}),
    "Softplus": (set(), {POSITIVE}),
    "Softsign": (set(), {UNIT, CLOSED_UNIT}),
    "Erf": (set(), {UNIT, CLOSED_UNIT}),
    "LeakyRelu": (set(), set()),
    "PRelu": (set(), set()),
    "Elu": (set(), set()),
    "Selu": (set(), set()),
    "Celu": (set(), set()),
    "Exp": (set(), {POSITIVE}),
    "Log": ({POSITIVE}, set()),
    "Sqrt": ({POSITIVE}, {POSITIVE}),
    "Pow": (set(), set()),
    "Root": ({POSITIVE}, {POSITIVE}),
    "Reciprocal": ({POSITIVE}, {POSITIVE}),
    "Neg": (set(), set()),
    "Sinh": (set(), set()),
    "Asinh": (set(), set()),
    "Cosh": (set(), {POSITIVE, FROM_ONE}),
    "Acosh": ({FROM_ONE}, set()),
    "Atanh": ({UNIT}, set()),
    "Atan": (set(), set()),
    "Sin": (set(), {CLOSED_UNIT}),
    "Cos": (set(), {CLOSED_UNIT}),
    "Tan": (set(), set()),
    "Asin": ({CLOSED_UNIT}, set()),
    "Acos": ({CLOSED_UNIT}, set()),
}

# What reaches every number: narrowing may follow.
ONTO = {"LeakyRelu", "PRelu", "Pow", "Neg", "Sinh", "Asinh", "Log", "Acosh", "Atanh"}

# onnxruntime's CPU provider has no float64 kernel for these.
FLOAT32_ONLY = {"Tan", "Sinh", "Asinh", "Cosh", "Acosh", "Atanh", "Atan", "Asin", "Acos", "Erf", "Celu", "Selu"}
FLOAT32_ONLY |= {"Elu", "Softsign", "Softplus"}


@dataclass(frozen=True)
class Network:
    """A model of one input `x` and one output `y`, its float64 twin, and how to draw for it.

    `domain` is what x has to satisfy; `rows` the axis of y that is the batch where it is symbolic.
    """

    seed: int
    model: onnx.ModelProto
    exact: onnx.ModelProto
    domain: frozenset[str]
    shape: tuple[int | str, ...]
    rows: int | None

    def draw(self, rng: np.random.Generator) -> list[np.ndarray[Any, Any]]:
        """Inputs in float64: one batch where the batch is symbolic, else several runs."""
        if self.rows is not None:
            return [_draw(rng, (ROWS, *self.shape[1:]), self.domain)]
        return [_draw(rng, self.shape, self.domain) for _ in range(6)]

    def samples(self, runs: list[np.ndarray[Any, Any]], rows: int | None = 0) -> np.ndarray[Any, Any]:
        """The runs as one row a sample; `rows` is the axis of the batch where it is symbolic."""
        if self.rows is None:
            return np.stack([run.reshape(-1) for run in runs])
        return np.moveaxis(runs[0], rows or 0, 0).reshape(runs[0].shape[rows or 0], -1)

    def back(self, samples: np.ndarray[Any, Any], like: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """Samples of y in the shape that runs have."""
        if self.rows is None:
            return [sample.reshape(run.shape) for sample, run in zip(samples, like, strict=True)]
        moved = np.moveaxis(like[0], self.rows, 0).shape
        return [np.moveaxis(samples.reshape(moved), 0, self.rows)]

    def __str__(self) -> str:
        steps = [f"{node.op_type}" for node in self.model.graph.node]
        return f"network {self.seed}: x{list(self.shape)} {' '.join(steps)}"


def random_network(seed: int) -> Network:
    """The network of a seed."""
    rng = np.random.default_rng([seed, 20_240_607])
    builder = _Builder(rng, TensorProto.DOUBLE if rng.random() < 0.3 else TensorProto.FLOAT)
    for _ in range(rng.integers(1, 9)):
        builder.layer()
    return builder.finish(seed)


@dataclass
class _Builder:
    """Grows a network node by node, with the values of one batch at hand to keep the scale near one."""

    rng: np.random.Generator
    dtype: int
    nodes: list[tuple[str, list[str], str, dict[str, Any]]] = field(default_factory=list)
    weights: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    holds: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        rng = self.rng
        self.axis: int | None = None
        self.trend = str(rng.choice(["any", "same", "narrower", "wider", "hourglass"]))
        kind = rng.choice(["symbolic", "one", "three", "none"], p=[0.5, 0.15, 0.15, 0.2])
        rank = int(rng.integers(1, 6))
        inner = [int(rng.integers(1, 4)) for _ in range(max(0, rank - 1 - (kind != "none")))]
        width = self._width(int(np.prod(inner)))
        lead: list[int | str] = {"symbolic": ["N"], "one": [1], "three": [3], "none": []}[kind]
        self.shape: tuple[int | str, ...] = (*lead, *inner, width)
        if kind == "symbolic":
            self.axis = 0
        domains: list[set[str]] = [set(), set(), set(), {POSITIVE}, {UNIT, CLOSED_UNIT}, {POSITIVE, FROM_ONE}]
        self.domain = frozenset(domains[rng.integers(len(domains))])
        self.holds = set(self.domain)
        self.value = "x"
        self.h = _draw(rng, tuple(ROWS if d == "N" else int(d) for d in self.shape), self.domain)

    def layer(self) -> None:
        """A product, a bias, perhaps a normalisation, an activation and something that moves elements."""
        with np.errstate(all="ignore"):
            self._layer()

    def _layer(self) -> None:
        rng = self.rng
        if not self.holds or rng.random() < 0.5:
            self._product()
            if rng.random() < 0.7:
                self._shift()
        if rng.random() < 0.15:
            self._batch_normalization()
        if rng.random() < 0.12:
            self._scale()
        if rng.random() < 0.8:
            self._activation()
        if rng.random() < 0.35:
            self._layout()
        if rng.random() < 0.1:
            self._cast()

    def finish(self, seed: int) -> Network:
        """Both copies."""
        if not self.nodes:
            self._op("Identity", "x")
        x_shape, y_shape = self._declared()
        return Network(
            seed=seed,
            model=self._model(self.dtype, x_shape, y_shape),
            exact=self._model(TensorProto.DOUBLE, x_shape, y_shape, exact=True),
            domain=self.domain,
            shape=x_shape,
            rows=self.axis,
        )

    def _declared(self) -> tuple[tuple[int | str, ...], tuple[int | str, ...]]:
        y = tuple("N" if axis == self.axis else int(size) for axis, size in enumerate(self.h.shape))
        return self.shape, y

    def _model(
        self, dtype: int, x_shape: tuple[int | str, ...], y_shape: tuple[int | str, ...], *, exact: bool = False
    ) -> onnx.ModelProto:
        numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
        nodes = []
        constants = dict(self.weights)
        for index, (op, inputs, output, attributes) in enumerate(self.nodes):
            values = dict(attributes)
            if op == "Cast":
                wide, narrow = TensorProto.DOUBLE, TensorProto.FLOAT
                other = narrow if dtype == wide else wide
                values["to"] = wide if exact else other if values["to"] == "other" else dtype
            y = "y" if index + 1 == len(self.nodes) else output
            if op == "Celu" and exact:
                nodes += _celu(inputs[0], y, f"celu_{index}")
                constants[f"celu_{index}.alpha"] = np.asarray(values["alpha"])
            else:
                nodes.append(helper.make_node(op, inputs, [y], name=f"{op.lower()}_{index}", **values))
        initializers = [
            numpy_helper.from_array(array if array.dtype.kind == "i" else array.astype(numpy_type), name)
            for name, array in constants.items()
        ]
        graph = helper.make_graph(
            nodes,
            "random",
            [helper.make_tensor_value_info("x", dtype, x_shape)],
            [helper.make_tensor_value_info("y", dtype, y_shape)],
            initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _op(self, op: str, *inputs: str | np.ndarray[Any, Any] | list[int], holds: set[str] | None = None, **kw: Any):
        """Add a node that takes the current value where an input is "x"; arrays become weights."""
        names, feeds = [], {}
        for item in inputs:
            if isinstance(item, str):
                name, array = self.value, self.h
            else:
                array = np.asarray(item)
                array = array.astype(np.int64 if array.dtype.kind == "i" else np.float64)
                name = f"w{len(self.weights)}"
                self.weights[name] = array
            names.append(name)
            feeds[name] = array
        output = f"h{len(self.nodes)}"
        self.nodes.append((op, names, output, kw))
        if op != "Cast":
            node = helper.make_node(op, names, [output], **kw)
            with np.errstate(all="ignore"):
                self.h = np.asarray(ReferenceEvaluator(node).run(None, feeds)[0], dtype=np.float64)
        self.value = output
        self.holds = set() if holds is None else holds

    def _width(self, others: int, old: int | None = None) -> int:
        """How many numbers a layer makes of `old`, in a network of this one's trend."""
        widths = np.array([1, 2, 3, 4, 5, 6, 8, 10, 16, 24, 32, 64])
        fits = widths * max(1, others) <= 192
        trend = self.trend
        if trend == "hourglass":
            trend = "narrower" if len(self.nodes) < 5 else "wider"
        if old is not None and trend != "any":
            if trend == "same" or self.rng.random() < 0.3:
                return old if old <= 64 else 64
            fits &= widths < old if trend == "narrower" else widths > old
        return int(self.rng.choice(widths[fits])) if fits.any() else min(old or 1, 64)

    def _gain(self, y: np.ndarray[Any, Any]) -> float:
        spread = float(np.std(y[np.isfinite(y)])) if np.isfinite(y).any() else 0.0
        return 0.7 / spread if 1e-6 < spread < 1e6 else 1.0

    def _matrix(self, rows: int, columns: int) -> np.ndarray[Any, Any]:
        """A matrix with singular values between 1/2 and 2; one in ten has less than full rank."""
        rng = self.rng
        full = min(rows, columns)
        rank = full
        how = rng.choice(["full", "product", "copy", "dead out", "dead in"], p=[0.9, 0.04, 0.02, 0.02, 0.02])
        if how == "product":
            rank = int(rng.integers(1, full + 1))
        left = np.linalg.qr(rng.standard_normal((rows, rank)))[0]
        right = np.linalg.qr(rng.standard_normal((columns, rank)))[0]
        matrix = (left * rng.uniform(0.5, 2, rank)) @ right.T
        if how == "copy":
            matrix[:, 0] = matrix[:, -1]
        elif how == "dead out":
            matrix[:, rng.integers(columns)] = 0
        elif how == "dead in":
            matrix[rng.integers(rows)] = 0
        return matrix

    def _product(self) -> None:
        rng, h = self.rng, self.h
        rank, last = h.ndim, h.ndim - 1
        kinds = []
        if last != self.axis:
            kinds += ["right"] * 4
            if rank == 2:
                kinds += ["gemm"] * 4
            if rank >= 3 and self.axis != rank - 3 and h.shape[-3] > 1:
                kinds += ["stack"]
            if rank >= 2 and h.shape[-1] > 1:
                kinds += ["vector"]
        if rank >= 2 and self.axis != rank - 2:
            kinds += ["left"] * 2
            if rank == 2 and last != self.axis:
                kinds += ["gemm b", "gemm a transposed"]
        if not kinds:
            return
        kind = kinds[rng.integers(len(kinds))]
        others = int(np.prod([size for axis, size in enumerate(h.shape) if axis != self.axis])) // h.shape[-1]
        k, m = h.shape[-1], self._width(others, h.shape[-1])
        if kind == "right":
            w = self._matrix(k, m)
            self._op("MatMul", "x", w * self._gain(h @ w))
        elif kind == "stack":
            w = np.stack([self._matrix(k, m) for _ in range(h.shape[-3])])
            self._op("MatMul", "x", w * self._gain(h @ w))
        elif kind == "vector":
            w = rng.standard_normal(k)
            self._op("MatMul", "x", w * self._gain(h @ w))
            if self.axis is not None and self.axis > self.h.ndim - 1:
                self.axis = None
        elif kind == "left":
            others = int(np.prod([s for axis, s in enumerate(h.shape) if axis not in (self.axis, rank - 2)]))
            w = self._matrix(self._width(others, h.shape[-2]), h.shape[-2])
            self._op("MatMul", w * self._gain(w @ h), "x")
        else:
            self._gemm(kind, m)

    def _gemm(self, kind: str, m: int) -> None:
        rng, h = self.rng, self.h
        alpha, beta = float(rng.choice([1.0, 1.0, 0.5, -2.0])), float(rng.choice([1.0, 1.0, 0.5]))
        more: dict[str, Any] = {"alpha": alpha, "beta": beta}
        if kind == "gemm":
            w = self._matrix(h.shape[1], m)
            w *= self._gain(alpha * (h @ w))
            flip = bool(rng.random() < 0.5)
            bias = [rng.standard_normal(m) * 0.3] if rng.random() < 0.7 else []
            self._op("Gemm", "x", w.T if flip else w, *bias, transB=int(flip), **more)
        elif kind == "gemm a transposed":
            w = self._matrix(h.shape[0], self._width(h.shape[1], h.shape[0]))
            self._op("Gemm", "x", w * self._gain(alpha * (h.T @ w)), transA=1, **more)
        else:
            w = self._matrix(self._width(h.shape[1], h.shape[0]), h.shape[0])
            self._op("Gemm", w * self._gain(alpha * (w @ h)), "x", **more)

    def _vector(self) -> tuple[int, ...]:
        """A shape that broadcasts against h without widening it."""
        if self.h.ndim - 1 == self.axis or self.rng.random() < 0.2:
            return ()
        return (self.h.shape[-1],)

    def _shift(self) -> None:
        b = self.rng.standard_normal(self._vector()) * 0.3
        match self.rng.choice(["Add", "Add", "Add", "swapped", "Sub", "from"]):
            case "Add":
                self._op("Add", "x", b)
            case "swapped":
                self._op("Add", b, "x")
            case "Sub":
                self._op("Sub", "x", b)
            case _:
                self._op("Sub", b, "x")

    def _scale(self) -> None:
        rng = self.rng
        shape = self._vector()
        b = rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)
        kind = rng.choice(["Mul", "Div", "zeros", "repeat"])
        if kind == "zeros" and shape:
            b[rng.integers(shape[-1])] = 0
        if kind == "repeat" and self.h.shape and self.h.shape[-1] == 1 and self.h.ndim - 1 != self.axis:
            b = rng.uniform(0.5, 2, 4)
            self._op(str(rng.choice(["Mul", "Add"])), "x", b)
        elif kind == "Div":
            self._op("Div", "x", b)
        else:
            self._op("Mul", "x", b)

    def _batch_normalization(self) -> None:
        if self.h.ndim < 2 or self.axis == 1:
            return
        rng, channels = self.rng, self.h.shape[1]
        scale = rng.uniform(0.5, 1.5, channels)
        if rng.random() < 0.1:
            scale[rng.integers(channels)] = 0
        bias, mean = rng.standard_normal((2, channels)) * 0.3
        self._op("BatchNormalization", "x", scale, bias, mean, rng.uniform(0.5, 2, channels), epsilon=1e-5)

    def _activation(self) -> None:
        rng = self.rng
        allowed = [op for op, (needs, _) in ACTIVATIONS.items() if needs <= self.holds]
        special = [op for op in allowed if ACTIVATIONS[op][0]]
        if self.dtype == TensorProto.DOUBLE:
            allowed = [op for op in allowed if op not in FLOAT32_ONLY]
            special = [op for op in special if op not in FLOAT32_ONLY]
        pool = special if special and rng.random() < 0.7 else allowed
        if self.trend in {"narrower", "hourglass"} and rng.random() < 0.8:
            pool = [op for op in pool if op in ONTO] or ["LeakyRelu"]
        op = pool[rng.integers(len(pool))]
        holds = set(ACTIVATIONS[op][1])
        size = np.abs(self.h[np.isfinite(self.h)]).max(initial=0)
        if op in {"Sinh", "Cosh", "Exp", "Pow", "Tan"} and size > 6:
            op, holds = "LeakyRelu", set()
        match op:
            case "LeakyRelu":
                self._op(
                    op,
                    "x",
                    holds=holds,
                    alpha=float(
                        rng.choice([0.01, 0.2, 0.5, 1.0, 2.0, 0.0, -0.5], p=[0.2, 0.2, 0.2, 0.1, 0.2, 0.05, 0.05])
                    ),
                )
            case "PRelu":
                slope = rng.uniform(0.1, 2, self._vector())
                if slope.ndim and rng.random() < 0.15:
                    slope[rng.integers(slope.size)] = rng.choice([0.0, -0.4])
                self._op(op, "x", slope)
            case "Elu" | "Celu":
                self._op(op, "x", alpha=float(rng.choice([0.5, 1.0, 2.0])))
            case "Pow":
                power = float(rng.choice([1, 2, 3, 3, 5]))
                self._op(op, "x", np.asarray(power))
            case "Root":
                self._op("Pow", "x", np.asarray(float(rng.choice([0.5, 1.5, -1.0, -2.0, -0.5]))), holds=holds)
            case _:
                self._op(op, "x", holds=holds)

    def _layout(self) -> None:
        rng, h = self.rng, self.h
        kind = rng.choice(["Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity"])
        holds = self.holds
        if kind == "Transpose":
            perm = [int(i) for i in rng.permutation(h.ndim)]
            if h.ndim and perm[-1] == self.axis:
                perm = perm[::-1]
            self._op("Transpose", "x", holds=holds, perm=perm)
            if self.axis is not None:
                self.axis = perm.index(self.axis)
        elif kind == "Reshape" and self.axis in (0, None):
            sizes = list(h.shape if self.axis is None else h.shape[1:])
            if len(sizes) > 1:
                cut = int(rng.integers(len(sizes) - 1))
                sizes[cut : cut + 2] = [sizes[cut] * sizes[cut + 1]]
            elif sizes:
                divisors = [d for d in range(1, sizes[0] + 1) if sizes[0] % d == 0]
                d = int(rng.choice(divisors))
                sizes = [sizes[0] // d, d]
            lead = [] if self.axis is None else [int(rng.choice([0, -1]))]
            self._op("Reshape", "x", [*lead, *sizes], holds=holds)
        elif kind == "Flatten" and self.axis in (0, None) and h.ndim:
            axis = 1 if self.axis == 0 else int(rng.integers(0, h.ndim + 1))
            self._op("Flatten", "x", holds=holds, axis=axis)
        elif kind == "Squeeze":
            ones = [axis for axis, size in enumerate(h.shape) if size == 1 and axis != self.axis]
            if ones and h.ndim > 1:
                axis = ones[rng.integers(len(ones))]
                self._op("Squeeze", "x", [axis], holds=holds)
                if self.axis is not None and axis < self.axis:
                    self.axis -= 1
        elif kind == "Unsqueeze" and h.ndim < 5:
            axis = int(rng.integers(0, h.ndim + 1))
            self._op("Unsqueeze", "x", [axis], holds=holds)
            if self.axis is not None and axis <= self.axis:
                self.axis += 1
        elif kind == "Identity":
            self._op("Identity", "x", holds=holds)

    def _cast(self) -> None:
        holds = self.holds
        self._op("Cast", "x", holds=holds, to="other")
        self._op("Cast", "x", holds=holds, to="own")


def _celu(x: str, y: str, name: str) -> list[onnx.NodeProto]:
    """Celu(x) = alpha · Elu(x / alpha): ONNX has Celu in float32 only."""
    return [
        helper.make_node("Div", [x, f"{name}.alpha"], [f"{name}.x"], name=f"{name}.div"),
        helper.make_node("Elu", [f"{name}.x"], [f"{name}.y"], name=name),
        helper.make_node("Mul", [f"{name}.y", f"{name}.alpha"], [y], name=f"{name}.mul"),
    ]


def _draw(rng: np.random.Generator, shape: tuple[int | str, ...], domain: frozenset[str]) -> np.ndarray[Any, Any]:
    sizes = tuple(int(size) for size in shape)
    if FROM_ONE in domain:
        return 1 + np.abs(rng.standard_normal(sizes))
    if POSITIVE in domain:
        return np.abs(rng.standard_normal(sizes)) + 1e-3
    if UNIT in domain:
        return rng.uniform(-0.95, 0.95, sizes)
    return rng.standard_normal(sizes)
