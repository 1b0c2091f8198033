"""Random functions of each element in float64, one-to-one or not, and the points at which they break if they do."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float64]

SIZE = 3


class HostileGraph:
    """A graph x (N, 3) → y (N, 3) in which the unknown meets itself; some take a second input `b` (N, 3).

    `places` are numbers near which it may have kinks, dips and jumps.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.places: list[float] = [0.0]
        self.given = bool(self.rng.random() < 0.3)
        value = self.monotone("x") if self.rng.random() < 0.7 else "x"
        for _ in range(int(self.rng.integers(1, 4))):
            value = self._sum(value) if self.rng.random() < 0.8 else self._cases(value)
        self.op("Identity", value, output="y")

    def model(self) -> onnx.ModelProto:
        """The model, opset 18."""
        names = ["x", "b"] if self.given else ["x"]
        ports = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["N", SIZE]) for name in (*names, "y")]
        graph = helper.make_graph(self.nodes, "hostile", ports[:-1], ports[-1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    def points(self) -> Array:
        """Inputs (n, 3): ordinary, large, tiny, and beside every place."""
        near = [
            p + s * w * max(1.0, abs(p))
            for p in self.places
            for w in (0, 1e-9, 1e-6, 1e-3, 0.02, 0.1, 0.3, 1)
            for s in (1, -1)
        ]
        far = [s * 10.0**k for k in (-320, -300, -30, -8, -3, 1, 2, 3, 5, 8) for s in (1, -1)]
        plain = [*self.rng.standard_normal(60), *(10 * self.rng.standard_normal(60))]
        line = np.asarray([*near, *far, *plain])
        return np.stack([self.rng.permutation(line) for _ in range(SIZE)], axis=1)

    def monotone(self, x: str) -> str:
        kind = int(self.rng.integers(6))
        if kind == 0:
            return self.op("Mul", x, self.weight(self.rng.uniform(0.3, 3, SIZE) * self.rng.choice([-1, 1], SIZE)))
        if kind == 1:
            return self.op("Add", x, self._place())
        if kind == 2:
            return self.op("LeakyRelu", x, alpha=float(self.rng.uniform(0.05, 2)))
        if kind == 3:
            return self.op("Mul", x, self.op("Mul", x, x))
        if kind == 4 and self.given:
            return self.op(
                "Mul", x, self.op(str(self.rng.choice(["Exp", "Sigmoid", "Softplus"])), self.op("Tanh", "b"))
            )
        return self.op("Neg", x)

    def _sum(self, x: str) -> str:
        bump = self._bump(x)
        size = float(10.0 ** self.rng.uniform(-2, 1)) * float(self.rng.choice([-1, 1]))
        scaled = self.op("Mul", bump, self.weight(np.asarray(size)))
        if self.given and self.rng.random() < 0.4:
            scaled = self.op("Mul", scaled, self.op("Sigmoid", "b"))
        return self.op("Add", x, scaled) if self.rng.random() < 0.8 else self.op("Sub", scaled, x)

    def _bump(self, x: str) -> str:
        width = float(10.0 ** self.rng.uniform(-3, 1))
        u = self.op("Div", self.op("Sub", x, self._place()), self.weight(np.asarray(width)))
        kind = int(self.rng.integers(10))
        if kind == 0:
            ends = np.sort(self.rng.uniform(-1, 1, 2))
            return self.op("Clip", u, self.weight(ends[0]), self.weight(ends[1]))
        if kind == 1:
            return self.op("Abs", u)
        if kind == 2:
            return self.op("Mul", u, self.op("Sigmoid", u))
        if kind == 3:
            return self.op("Exp", self.op("Neg", self.op("Mul", u, u)))
        if kind == 4:
            return self.op("Max", u, self.weight(self.rng.uniform(-1, 1)))
        if kind == 5:
            return self.op("Mul", self.op("Tanh", u), self.op("Sigmoid", u))
        simple = ["Tanh", "Sigmoid", "Softplus", "Sin", "Erf", "Relu"]
        return self.op(str(self.rng.choice(simple)), u)

    def _cases(self, x: str) -> str:
        place = self._place()
        where = self.op(str(self.rng.choice(["Less", "GreaterOrEqual"])), x, place)
        scale, shift = self.rng.uniform(0.2, 3), float(self.rng.choice([0, 0, 0.1, -0.1]))
        # Continuous at the place where the shift is 0.
        other = self.op("Add", self.op("Mul", self.op("Sub", x, place), self.weight(np.asarray(scale))), place)
        other = self.op("Add", other, self.weight(np.asarray(shift)))
        return self.op("Where", where, *((x, other) if self.rng.random() < 0.5 else (other, x)))

    def _place(self) -> str:
        scale = float(self.rng.choice([1.0, 10.0, 60.0]))
        at = float(np.round(self.rng.normal() * scale, 3)) if self.rng.random() < 0.8 else 0.0
        self.places.append(at)
        return self.weight(np.asarray(at))

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, array: Array | float) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, np.float64), name))
        return name
