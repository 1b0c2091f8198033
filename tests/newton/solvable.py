"""Random networks as after initialisation, of every shape that the solver is for. One seed is one network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ACTIVATIONS = ("Relu", "LeakyRelu", "Gelu", "Tanh", "Silu", "Softplus")
FAMILIES = ("dense", "normalised", "residual", "convolutional")
WIDEST, DEEPEST = 256, 6

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Network:
    """x (N, …) → y (N, m), float32, with what it is made of."""

    model: onnx.ModelProto
    family: str
    activation: str
    name: str
    shape: tuple[int, ...]

    def draw(self, count: int) -> Array:
        """Normal inputs."""
        rng = np.random.default_rng(count)
        return rng.standard_normal((count, *self.shape)).astype(np.float32)


def network(seed: int) -> Network:
    """Families and activations take turns; widths are log-uniform from 4 to 256, depth up to 6."""
    rng = np.random.default_rng(seed)
    family = FAMILIES[seed % len(FAMILIES)]
    activation = ACTIVATIONS[seed // len(FAMILIES) % len(ACTIVATIONS)]
    build = _Build(rng, activation)
    if family == "convolutional":
        shape: tuple[int, ...] = _convolutional(build, rng)
    else:
        shape = (_width(rng),)
        build.start(shape)
        (_residual if family == "residual" else _dense)(build, rng, normalised=family == "normalised")
    name = f"{seed} {family} {activation} {'-'.join(build.sizes)}"
    return Network(build.model(shape), family, activation, name, shape)


def _width(rng: np.random.Generator, most: int = WIDEST) -> int:
    return round(math.exp(rng.uniform(math.log(4), math.log(most))))


def _dense(build: _Build, rng: np.random.Generator, *, normalised: bool) -> None:
    depth = int(rng.integers(2, DEEPEST + 1))
    for _ in range(depth - 1):
        build.linear(_width(rng))
        if normalised:
            build.normalise()
        build.activate()
    build.linear(_width(rng))


def _residual(build: _Build, rng: np.random.Generator, *, normalised: bool) -> None:
    """A stem, one or two blocks h + W act(W′ LN(h)), a head: at most six layers."""
    del normalised
    width = _width(rng)
    build.linear(width)
    for _ in range(int(rng.integers(1, 3))):
        before = build.value
        if rng.random() < 0.5 and width > 2:
            build.normalise()
        build.linear(_width(rng))
        build.activate()
        build.linear(width)
        build.add(before)
    build.linear(_width(rng))


def _convolutional(build: _Build, rng: np.random.Generator) -> tuple[int, ...]:
    """Convolutions with pooling, then one or two dense layers."""
    shape = (int(rng.integers(1, 4)), *[int(rng.choice([8, 12, 16]))] * 2)
    build.start(shape)
    for _ in range(int(rng.integers(1, 3))):
        build.convolve(int(rng.integers(4, 17)))
        build.activate()
        build.pool("MaxPool" if rng.random() < 0.5 else "AveragePool")
    build.flatten()
    if rng.random() < 0.5:
        build.linear(_width(rng))
        build.activate()
    build.linear(_width(rng, 64))
    return shape


class _Build:
    """A chain of nodes under construction."""

    def __init__(self, rng: np.random.Generator, activation: str) -> None:
        self._rng, self._activation = rng, activation
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        # He's variance for what is one-sided, Glorot's for tanh; biases of zero or uniform, as frameworks have them.
        self._gain = 1.0 if activation == "Tanh" else 2.0
        self._biased = rng.random() < 0.5
        self.value, self.sizes = "x", list[str]()
        self._shape: tuple[int, ...] = ()

    def start(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self.sizes.append("x".join(map(str, shape)))

    def linear(self, width: int) -> None:
        fan = self._shape[0]
        weight = self._rng.standard_normal((fan, width)) * math.sqrt(self._gain / fan)
        self._shape = (width,)
        self._op("Gemm", self._weight(weight), self._weight(self._bias(width, fan)))
        self.sizes.append(str(width))

    def convolve(self, channels: int) -> None:
        fan = self._shape[0] * 9
        weight = self._rng.standard_normal((channels, self._shape[0], 3, 3)) * math.sqrt(self._gain / fan)
        self._shape = (channels, *self._shape[1:])
        self._op("Conv", self._weight(weight), self._weight(self._bias(channels, fan)), pads=[1, 1, 1, 1])
        self.sizes.append(f"c{channels}")

    def pool(self, kind: str) -> None:
        self._shape = (self._shape[0], self._shape[1] // 2, self._shape[2] // 2)
        self._op(kind, kernel_shape=[2, 2], strides=[2, 2])
        self.sizes.append(kind[:3].lower())

    def flatten(self) -> None:
        self._shape = (math.prod(self._shape),)
        self._op("Flatten")

    def normalise(self) -> None:
        (width,) = self._shape
        scale = self._weight(np.ones(width))
        self._op("LayerNormalization", scale, self._weight(np.zeros(width)))
        self.sizes.append("ln")

    def add(self, other: str) -> None:
        self._op("Add", other)
        self.sizes.append("+")

    def activate(self) -> None:
        if self._activation == "LeakyRelu":
            self._op("LeakyRelu", alpha=0.01)
        elif self._activation == "Silu":
            value = self.value
            self._op("Sigmoid")
            self._op("Mul", value)
        elif self._activation == "Gelu":
            value = self.value
            self._op("Mul", self._weight(np.full((), math.sqrt(0.5))))
            self._op("Erf")
            self._op("Add", self._weight(np.ones(())))
            self._op("Mul", value)
            self._op("Mul", self._weight(np.full((), 0.5)))
        else:
            self._op(self._activation)

    def model(self, shape: tuple[int, ...]) -> onnx.ModelProto:
        self._nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *self._shape])],
            self._weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _bias(self, width: int, fan: int) -> Array:
        end = 1 / math.sqrt(fan) if self._biased else 0.0
        return self._rng.uniform(-end, end, width) if end else np.zeros(width)

    def _weight(self, array: Array) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def _op(self, kind: str, *others: str, **attributes: Any) -> None:
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, [self.value, *others], [f"{name}_out"], name=name, **attributes))
        self.value = f"{name}_out"
