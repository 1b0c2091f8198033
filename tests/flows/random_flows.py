"""Random flows in float64: couplings by slices, indices and masks, permutations, splits, residual blocks, nested."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float64]


class RandomFlow:
    """A graph x (N, size) → z (N, size) that is one-to-one by construction.

    Layers come until there are at least `nodes`; the outermost are of the `kinds` that are named.
    """

    def __init__(self, seed: int, nodes: int = 0, kinds: tuple[str, ...] = ()) -> None:
        self.rng = np.random.default_rng(seed)
        self.size = int(self.rng.integers(3, 8))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        value = "x"
        layers = int(self.rng.integers(2, 6))
        while layers > 0 or len(self.nodes) < nodes:
            kind = str(self.rng.choice(kinds)) if kinds else ""
            value = getattr(self, f"_{kind}" if kind else "layer")(value, self.size, 0)
            layers -= 1
        self.op("Identity", value, output="z")

    def model(self) -> onnx.ModelProto:
        """The model, opset 17."""
        ports = [
            helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["N", self.size if name == "x" else None])
            for name in ("x", "z")
        ]
        graph = helper.make_graph(self.nodes, "flow", ports[:1], ports[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def layer(self, x: str, size: int, depth: int) -> str:
        kinds = ["coupling", "indexed", "masked", "permutation", "linear", "elementwise", "residual", "parts"]
        kind = str(self.rng.choice(kinds if size > 2 and depth < 2 else kinds[3:7]))
        return str(getattr(self, f"_{kind}")(x, size, depth))

    def _coupling(self, x: str, size: int, depth: int) -> str:
        half = int(self.rng.integers(1, size))
        a, b = self.split(x, [half, size - half])
        if self.rng.random() < 0.5:
            a = self.layer(a, half, depth + 1)
        b = self.transform(a, b, half, size - half)
        if self.rng.random() < 0.3:
            b = self.layer(b, size - half, depth + 1)
        return self.op("Concat", *((a, b) if self.rng.random() < 0.7 else (b, a)), axis=1)

    def _indexed(self, x: str, size: int, depth: int) -> str:
        order = self.rng.permutation(size)
        half = int(self.rng.integers(1, size))
        kept, moved = np.sort(order[:half]), np.sort(order[half:])
        a, b = (self.op("Gather", x, self.ints(index), axis=1) for index in (kept, moved))
        b = self.transform(a, b, half, size - half)
        back = np.argsort(np.concatenate([kept, moved]))
        return self.op("Gather", self.op("Concat", a, b, axis=1), self.ints(back), axis=1)

    def _masked(self, x: str, size: int, depth: int) -> str:
        mask = np.zeros(size)
        mask[self.rng.permutation(size)[: int(self.rng.integers(1, size))]] = 1
        held = self.op("Mul", x, self.weight(mask))
        scale, shift = self.net(held, size, size), self.net(held, size, size)
        moved = self.op("Add", self.op("Mul", x, self.op("Exp", self.op("Tanh", scale))), shift)
        return self.op("Add", held, self.op("Mul", self.weight(1 - mask), moved))

    def _permutation(self, x: str, size: int, depth: int) -> str:
        return self.op("Gather", x, self.ints(self.rng.permutation(size)), axis=1)

    def _linear(self, x: str, size: int, depth: int) -> str:
        q, _ = np.linalg.qr(self.rng.standard_normal((size, size)))
        weight = q * self.rng.uniform(0.5, 2.0, size)
        return self.op("Add", self.op("MatMul", x, self.weight(weight)), self.weight(self.rng.standard_normal(size)))

    def _elementwise(self, x: str, size: int, depth: int) -> str:
        kind = self.rng.integers(3)
        if kind == 0:
            return self.op("LeakyRelu", x, alpha=float(self.rng.uniform(0.2, 0.8)))
        if kind == 1:
            return self.op("Add", x, self.op("Mul", self.op("Tanh", x), self.weight(self.rng.uniform(0.1, 2, size))))
        return self.op("Add", self.op("Mul", x, self.weight(self.rng.uniform(0.5, 2, size))), x)

    def _residual(self, x: str, size: int, depth: int) -> str:
        first, second = (self.rng.standard_normal((size, size)) for _ in range(2))
        first, second = (0.7 * w / np.linalg.norm(w, 2) for w in (first, second))
        inner = self.op("Tanh", self.op("MatMul", x, self.weight(first)))
        return self.op("Add", x, self.op("MatMul", inner, self.weight(second)))

    def _parts(self, x: str, size: int, depth: int) -> str:
        if size < 2:
            return self._linear(x, size, depth)
        half = int(self.rng.integers(1, size))
        parts = self.split(x, [half, size - half])
        made = [self.layer(part, n, depth + 1) for part, n in zip(parts, (half, size - half), strict=True)]
        return self.op("Concat", *made, axis=1)

    def transform(self, a: str, b: str, given: int, size: int) -> str:
        scale = self.op("Exp", self.op("Tanh", self.net(a, given, size)))
        return self.op("Add", self.op("Mul", b, scale), self.net(a, given, size))

    def net(self, x: str, given: int, size: int) -> str:
        hidden = self.op("Relu", self.op("MatMul", x, self.weight(self.rng.standard_normal((given, 8)))))
        return self.op("MatMul", hidden, self.weight(self.rng.standard_normal((8, size)) / 4))

    def split(self, x: str, sizes: list[int]) -> list[str]:
        names = [f"v{len(self.nodes)}_{index}" for index in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [x, self.ints(np.asarray(sizes))], names, axis=1))
        return names

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, array: Array) -> str:
        return self._initializer(np.asarray(array, np.float64))

    def ints(self, array: NDArray[np.int64]) -> str:
        return self._initializer(np.asarray(array, np.int64))

    def _initializer(self, array: NDArray[np.generic]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name
