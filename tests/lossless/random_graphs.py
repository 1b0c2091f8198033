"""Random networks of every shape: dense, convolutions, pooling, norms, residuals, softmax, gates, picks, branches.

A network is grown node by node from a seed. What a sample looks like at the moment decides what may come next: a
vector, an image or a sequence of vectors. Sizes stay small, weights have gains near 1.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ONTO = ("LeakyRelu", "Tanh", "Sigmoid", "Softplus", "Elu", "Selu")
FOLDED = ("Relu", "Abs", "HardSwish", "Mish", "Gelu", "Clip", "HardSigmoid")
WRITTEN_OUT = ("silu", "gelu", "gelu_tanh")


@dataclass
class Growing:
    """The nodes so far, the weights, and the tensor that the next node takes."""

    seed: int
    nodes: list = field(default_factory=list)
    weights: list = field(default_factory=list)
    value: str = "x"
    shape: tuple = ()

    def __post_init__(self):
        self.rng = np.random.default_rng([self.seed, 77])

    def weight(self, array):
        array = np.asarray(array)
        name = f"w{len(self.weights)}"
        array = array if array.dtype.kind == "i" else array.astype(np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values):
        return self.weight(np.array(values, np.int64))

    def op(self, op, *inputs, outputs=1, **attributes):
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def matrix(self, rows, columns):
        left, _ = np.linalg.qr(self.rng.standard_normal((rows, min(rows, columns))))
        right, _ = np.linalg.qr(self.rng.standard_normal((columns, min(rows, columns))))
        return (left * self.rng.uniform(0.5, 1.5, min(rows, columns))) @ right.T

    # What fits anything.

    def activation(self, x):
        rng = self.rng
        op = str(rng.choice(ONTO if rng.random() < 0.4 else FOLDED if rng.random() < 0.8 else WRITTEN_OUT))
        if op == "Clip":
            return self.op("Clip", x, self.weight(np.float32(-0.5)), self.weight(np.float32(1.0)))
        if op == "silu":
            return self.op("Mul", x, self.op("Sigmoid", x))
        if op == "gelu":
            half = self.op("Erf", self.op("Div", x, self.weight(np.float32(np.sqrt(2)))))
            return self.op(
                "Mul",
                self.op("Mul", x, self.op("Add", half, self.weight(np.float32(1)))),
                self.weight(np.float32(0.5)),
            )
        if op == "gelu_tanh":
            cube = self.op("Mul", self.op("Pow", x, self.weight(np.float32(3))), self.weight(np.float32(0.044715)))
            inner = self.op("Mul", self.op("Add", x, cube), self.weight(np.float32(np.sqrt(2 / np.pi))))
            whole = self.op("Add", self.op("Tanh", inner), self.weight(np.float32(1)))
            return self.op("Mul", self.op("Mul", x, self.weight(np.float32(0.5))), whole)
        return self.op(op, x, **({"alpha": 0.2} if op == "LeakyRelu" else {}))

    def last(self, x, width, size):
        """A dense layer along the last axis."""
        y = self.op("MatMul", x, self.weight(self.matrix(size, width)))
        return self.op("Add", y, self.weight(self.rng.standard_normal(width) * 0.2)) if self.rng.random() < 0.7 else y

    def normalised(self, x):
        size = self.shape[-1]
        kind = self.rng.choice(["LayerNormalization", "written out", "LpNormalization"], p=[0.6, 0.1, 0.3])
        if kind == "LayerNormalization":
            scale, bias = self.rng.uniform(0.5, 1.5, size), self.rng.standard_normal(size) * 0.2
            return self.op(kind, x, self.weight(scale), self.weight(bias), axis=-1)
        if kind == "LpNormalization":
            return self.op(kind, x, axis=-1)
        square = self.op("ReduceMean", self.op("Mul", x, x), self.ints(-1))
        root = self.op("Sqrt", self.op("Add", square, self.weight(np.float32(1e-5))))
        return self.op("Div", x, root)

    def residual(self, x):
        inner = self.activation(self.same(x))
        return self.op("Add", x, inner)

    def gate(self, x):
        return self.op("Mul", x, self.op("Sigmoid", self.same(x)))

    def same(self, x):
        """A layer that keeps the shape."""
        if len(self.shape) == 3:
            c = self.shape[0]
            w = self.rng.standard_normal((c, c, 3, 3)) / np.sqrt(9 * c)
            return self.op("Conv", x, self.weight(w), pads=[1, 1, 1, 1])
        return self.last(x, self.shape[-1], self.shape[-1])

    def branches(self, x):
        axis = 1
        size = self.shape[0]
        if size < 2:
            return self.activation(x)
        cut = int(self.rng.integers(1, size))
        first, second = self.op("Split", x, self.ints(cut, size - cut), outputs=2, axis=axis)
        if self.rng.random() < 0.5:
            first = self.activation(first)
        if self.rng.random() < 0.3:
            return self.op("Concat", second, first, axis=axis)
        return self.op("Concat", first, self.op("Neg", second), axis=axis)

    def picked(self, x):
        """Gather, Slice or Pad along the first axis of a sample."""
        size, rank = self.shape[0], len(self.shape)
        kind = self.rng.choice(["Gather", "Slice", "Pad"])
        if kind == "Gather":
            count = int(self.rng.integers(max(1, size // 2), size + 2))
            self.shape = (count, *self.shape[1:])
            return self.op("Gather", x, self.weight(self.rng.integers(0, size, count)), axis=1)
        if kind == "Slice" and size > 2:
            start, step = int(self.rng.integers(0, 2)), int(self.rng.integers(1, 3))
            count = len(range(start, size, step))
            self.shape = (count, *self.shape[1:])
            return self.op("Slice", x, self.ints(start), self.ints(size), self.ints(1), self.ints(step))
        before, after = (int(v) for v in self.rng.integers(0, 2, 2))
        pads = [0] * (2 * (rank + 1))
        pads[1], pads[rank + 2] = before, after
        self.shape = (size + before + after, *self.shape[1:])
        return self.op("Pad", x, self.ints(*pads), self.weight(np.float32(0.5)))

    # Vectors.

    def dense(self, x):
        width = int(self.rng.choice([2, 3, 4, 6, 8, 12]))
        y = self.last(x, width, self.shape[-1])
        self.shape = (*self.shape[:-1], width)
        return y

    def softmax(self, x):
        return self.op(str(self.rng.choice(["Softmax", "LogSoftmax"])), x, axis=-1)

    def to_image(self, x):
        size = self.shape[0]
        if size % 4:
            return self.dense(x)
        self.shape = (size // 4, 2, 2)
        return self.op("Reshape", x, self.ints(0, *self.shape))

    # Images.

    def conv(self, x):
        rng, (c, h, w) = self.rng, self.shape
        m, k = int(rng.integers(1, 5)), int(rng.choice([1, 2, 3]))
        pad, stride = int(rng.integers(0, 2)) * (k > 1), int(rng.integers(1, 3))
        if h + 2 * pad < k or w + 2 * pad < k:
            return self.activation(x)
        group = c if m % c == 0 and rng.random() < 0.3 else 1
        weight = rng.standard_normal((m, c // group, k, k)) / np.sqrt(c // group * k * k)
        extra = [self.weight(rng.standard_normal(m) * 0.2)] if rng.random() < 0.6 else []
        y = self.op(
            "Conv",
            x,
            self.weight(weight),
            *extra,
            pads=[pad] * 4,
            strides=[stride] * 2,
            group=group,
            kernel_shape=[k, k],
        )
        self.shape = (m, (h + 2 * pad - k) // stride + 1, (w + 2 * pad - k) // stride + 1)
        return y

    def pool(self, x):
        c, h, w = self.shape
        kind = str(self.rng.choice(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"]))
        if kind.startswith("Global"):
            self.shape = (c, 1, 1)
            return self.op(kind, x)
        if h < 2 or w < 2:
            return self.activation(x)
        stride = 2 if self.rng.random() < 0.8 else 1
        self.shape = (c, (h - 2) // stride + 1, (w - 2) // stride + 1)
        return self.op(kind, x, kernel_shape=[2, 2], strides=[stride, stride])

    def channels(self, x):
        rng, c = self.rng, self.shape[0]
        scale, bias = rng.uniform(0.5, 1.5, c), rng.standard_normal(c) * 0.2
        if rng.random() < 0.5 or np.prod(self.shape[1:]) < 4:
            mean, var = rng.standard_normal(c) * 0.2, rng.uniform(0.5, 2, c)
            return self.op("BatchNormalization", x, *map(self.weight, (scale, bias, mean, var)))
        return self.op("InstanceNormalization", x, self.weight(scale), self.weight(bias))

    def flatten(self, x):
        self.shape = (int(np.prod(self.shape)),)
        return self.op("Flatten", x)

    def shuffled(self, x):
        c, h, w = self.shape
        if c % 4 == 0:
            self.shape = (c // 4, 2 * h, 2 * w)
            return self.op("DepthToSpace", x, blocksize=2)
        self.shape = (w, c, h)
        return self.op("Transpose", x, perm=[0, 3, 1, 2])

    # Sequences.

    def reduced(self, x):
        op = str(self.rng.choice(["ReduceMean", "ReduceMax", "ReduceLogSumExp"]))
        self.shape = self.shape[1:]
        return self.op(op, x, self.ints(1), keepdims=0)

    def turned(self, x):
        self.shape = self.shape[::-1]
        return self.op("Transpose", x, perm=[0, 2, 1])


ANY = ("activation", "activation", "residual", "branches", "picked")
MOVES = {
    1: (*ANY, "dense", "dense", "dense", "normalised", "softmax", "gate", "to_image"),
    2: (*ANY, "dense", "dense", "normalised", "softmax", "gate", "reduced", "turned", "flatten"),
    3: (*ANY, "conv", "conv", "conv", "pool", "channels", "flatten", "shuffled"),
}
SHARING = {"residual", "gate"}
"""Seldom: what takes a tensor twice is kept, and nothing behind it has to come back."""

SHAPES = ((6,), (12,), (16,), (3, 6), (4, 4), (1, 8, 8), (2, 6, 6), (3, 4, 4))


def random_graph(seed):
    """(model, inputs x)."""
    g = Growing(seed)
    first = SHAPES[seed % len(SHAPES)]
    g.shape = first
    for _ in range(int(g.rng.integers(2, 9))):
        move = str(g.rng.choice(MOVES[len(g.shape)]))
        while move in SHARING and g.rng.random() < 0.8:
            move = str(g.rng.choice(MOVES[len(g.shape)]))
        g.value = getattr(g, move)(g.value)
    graph = helper.make_graph(
        g.nodes,
        f"random_{seed}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *first])],
        [helper.make_tensor_value_info(g.value, TensorProto.FLOAT, ["N", *g.shape])],
        g.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model, g.rng.standard_normal((16, *first)).astype(np.float32)
