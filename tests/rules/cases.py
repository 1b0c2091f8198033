"""The cases that the rules are held to: operator × opset × operands × shape, each with its guarantee."""

from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

RNG = np.random.default_rng(20240607)
BIJECTION, RIGHT, LEFT, GENERALIZED = "bijection", "right-inverse", "left-inverse", "generalized-inverse"


@dataclass(frozen=True)
class Example:
    op: str
    guarantee: str
    arguments: dict = field(default_factory=dict)
    label: str = ""

    def __str__(self):
        return f"{self.op}-{self.label}" if self.label else self.op


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def positive(*shape):
    return (0.5 + np.abs(RNG.standard_normal(shape))).astype(np.float32)


def ints(*values):
    return np.array(values, dtype=np.int64)


def floats(*values):
    return np.array(values, dtype=np.float32)


def away_from_zero(*shape):
    return positive(*shape) * np.where(RNG.random(shape) < 0.5, -1, 1).astype(np.float32)


EXAMPLES: list[Example] = []


def add(op, guarantee, label="", **arguments):
    EXAMPLES.append(Example(op, guarantee, arguments, label))


# Elementwise functions without attributes: operator, opset from which it exists, guarantee.
FUNCTIONS = {
    **dict.fromkeys(("Tanh", "Sigmoid", "Softplus", "Softsign", "Exp", "Log", "Sqrt", "Atan", "Asin", "Acos"), 7),
    **dict.fromkeys(("Sin", "Cos", "Tan", "Neg", "Reciprocal", "Elu", "Selu", "LeakyRelu"), 7),
    **dict.fromkeys(("Erf", "Sinh", "Asinh", "Acosh", "Atanh", "Cosh"), 9),
    "Celu": 12,
}
SEVERAL_BRANCHES = {"Sin", "Cos", "Tan", "Cosh"}
OPSETS = (7, 9, 13, 17, 21)

for name, since in FUNCTIONS.items():
    promise = RIGHT if name in SEVERAL_BRANCHES else BIJECTION
    add(name, promise, "opset17")
    for opset in OPSETS:
        if since <= opset != 17:
            add(name, promise, f"opset{opset}", opset=opset, surround=False, symbolic_batch=False)
    for dtype in (np.float64, np.float16):
        # The reference evaluator computes Erf in float32 precision, and onnxruntime has no float64 kernel for it.
        if name != "Celu" and (name, dtype) != ("Erf", np.float64):
            add(name, promise, np.dtype(dtype).name, dtype=dtype, symbolic_batch=False)
add("Tanh", BIJECTION, "scalar", shape=(), surround=False)
add("Exp", BIJECTION, "rank5", shape=(2, 1, 2, 1, 3))

for alpha in (2.0, 1.0, 0.3, 1e-3):
    add("LeakyRelu", BIJECTION, f"alpha{alpha:g}", attributes={"alpha": alpha})
for alpha in (0.0, -0.5, -1.0):
    add("LeakyRelu", RIGHT, f"alpha{alpha:g}", attributes={"alpha": alpha})
for label, slope in (
    ("row", positive(4)), ("one", positive(1)), ("column", positive(3, 1)), ("full", positive(3, 4)),
):  # fmt: skip
    add("PRelu", BIJECTION, label, operands={1: slope}, symbolic_batch=label not in {"column", "full"})
add("PRelu", BIJECTION, "channels", shape=(2, 3, 2, 2), operands={1: positive(3, 1, 1)})
add("PRelu", RIGHT, "mixed", operands={1: floats(0.5, -0.5, 0.0, 2.0)})
add("PRelu", RIGHT, "negative", operands={1: -positive(4)})
add("PRelu", RIGHT, "zero", operands={1: floats(0, 0, 0, 0)})
for opset in (7, 9, 16):
    add("PRelu", BIJECTION, f"opset{opset}", operands={1: positive(4)}, opset=opset, symbolic_batch=False)
for label, bounds in {
    "both": {1: np.float32(-0.5), 2: np.float32(0.7)}, "low": {1: np.float32(-0.5)}, "high": {2: np.float32(0.5)},
}.items():  # fmt: skip
    add("Clip", RIGHT, label, operands=bounds)
add("Clip", RIGHT, "opset7", attributes={"min": -0.5, "max": 0.7}, opset=7, surround=False, symbolic_batch=False)
add("Clip", BIJECTION, "none")
for alpha in (0.3, 7.7):
    add("Elu", BIJECTION, f"alpha{alpha:g}", attributes={"alpha": alpha})
    add("Celu", BIJECTION, f"alpha{alpha:g}", attributes={"alpha": alpha})
add("Selu", BIJECTION, "gamma", attributes={"alpha": 0.7, "gamma": 2.5})

for exponent in (1, 3, 5, -1, -3, 0.5, 1.5, -0.5, 1 / 3):
    add("Pow", BIJECTION, f"{exponent:.3g}", operands={1: np.float32(exponent)})
for exponent in (2, 4, -2):
    add("Pow", RIGHT, f"{exponent}", operands={1: np.float32(exponent)})
add("Pow", RIGHT, "int", operands={1: np.array(2, np.int64)})
add("Pow", RIGHT, "array-even", operands={1: floats(2, 4, 2, 6)})
add("Pow", BIJECTION, "array-odd", operands={1: floats(1, 3, 5, 1)})
add("Pow", BIJECTION, "array-fractional", operands={1: floats(0.5, 1.5, 0.25, 2.5)})
add("Pow", LEFT, "widening", shape=(3, 1), operands={1: floats(3, 5, 3, 1)})
for opset in (7, 12, 15):
    add("Pow", BIJECTION, f"opset{opset}", operands={1: np.float32(3)}, opset=opset, symbolic_batch=False)

# The other operand's shape, x's shape, whether x is repeated, whether the first axis may be symbolic.
BROADCASTS = {
    "scalar": ((), (3, 4), False, True),
    "row": ((4,), (3, 4), False, True),
    "column": ((3, 1), (3, 4), False, False),
    "full": ((3, 4), (3, 4), False, False),
    "rows": ((3, 4), (4,), True, False),
    "columns": ((3, 4), (3, 1), True, False),
    "batch": ((2, 3, 4), (3, 4), True, False),
    "both": ((3, 4), (1, 1), True, False),
    "outer": ((4,), (3, 1), True, True),
    "from-scalar": ((3, 4), (), True, False),
    "one": ((1, 1), (3,), False, False),
}
for name in ("Add", "Sub", "Mul", "Div"):
    for unknown in (0, 1):
        for label, (dims, shape, repeated, symbolic) in BROADCASTS.items():
            add(
                name, LEFT if repeated else BIJECTION, f"{label}-x{unknown}", unknown=unknown, shape=shape,
                operands={1 - unknown: away_from_zero(*dims)}, symbolic_batch=symbolic, surround=not repeated,
            )  # fmt: skip
        for label, dims, shape in (
            ("given", (3, 4), (3, 4)),
            ("given-row", (4,), (3, 4)),
            ("given-wide", (3, 4), (3, 1)),
        ):
            add(
                name, LEFT if label == "given-wide" else BIJECTION, f"{label}-x{unknown}", unknown=unknown,
                shape=shape, given={1 - unknown: away_from_zero(*dims)}, surround=False,
            )  # fmt: skip
    for opset in (7, 13, 14):
        add(name, BIJECTION, f"opset{opset}", operands={1: away_from_zero(4)}, opset=opset, symbolic_batch=False)
    for dtype in (np.float64, np.float16):
        add(name, BIJECTION, np.dtype(dtype).name, operands={1: away_from_zero(4).astype(dtype)}, dtype=dtype)
add("Mul", GENERALIZED, "zeros", operands={1: floats(1, 0, 2, 0)})
add("Mul", GENERALIZED, "all-zero", operands={1: floats(0, 0, 0, 0)})
add("Mul", LEFT, "widening-zeros", unknown=1, shape=(3, 1), operands={0: floats(1, 0, 2, 0)})
add("Mul", GENERALIZED, "widening-all-zero", shape=(3, 1), operands={1: floats(0, 0, 0, 0)})

LOW = draw(4, 2) @ draw(2, 4)
# W for x @ W, x's shape, guarantee.
PRODUCTS = {
    "square": (draw(4, 4), (3, 4), BIJECTION),
    "narrow": (draw(4, 2), (3, 4), RIGHT),
    "wide": (draw(4, 6), (3, 4), LEFT),
    "low-rank": (LOW, (3, 4), GENERALIZED),
    "vector": (draw(4), (3, 4), RIGHT),
    "x-vector": (draw(4, 4), (4,), BIJECTION),
    "x-vector-narrow": (draw(4, 2), (4,), RIGHT),
    "vectors": (draw(4), (4,), RIGHT),
    "rank3": (draw(4, 4), (2, 3, 4), BIJECTION),
    "rank4": (draw(4, 2), (2, 2, 3, 4), RIGHT),
    "rank5": (draw(4, 2), (2, 1, 2, 3, 4), RIGHT),
    "batched": (draw(2, 4, 4), (2, 3, 4), BIJECTION),
    "repeats": (draw(2, 4, 2), (3, 4), BIJECTION),
    "repeats-one": (draw(2, 4, 2), (1, 3, 4), BIJECTION),
    "repeats-wide": (draw(3, 4, 2), (3, 4), LEFT),
    "batched-repeats": (draw(3, 2, 4, 2), (2, 3, 4), LEFT),
    "batched-repeats-inner": (draw(3, 2, 4, 2), (3, 1, 3, 4), BIJECTION),
    "vector-repeats": (draw(3, 2, 4, 2), (4,), LEFT),
    "batch-of-one": (draw(1, 4, 2), (2, 3, 4), RIGHT),
    "new-axis": (draw(1, 4, 2), (3, 4), RIGHT),
}
for label, (weight, shape, promise) in PRODUCTS.items():
    free = len(shape) == 2 and weight.ndim == 2
    whole = label != "vectors"  # what follows would be a scalar
    add("MatMul", promise, label, shape=shape, operands={1: weight}, symbolic_batch=free, surround=whole)
    left = np.swapaxes(weight, -1, -2) if weight.ndim > 1 else weight
    turned = (*shape[:-2], shape[-1], shape[-2]) if len(shape) > 1 else shape
    add(
        "MatMul", promise, f"{label}-x1", unknown=1, shape=turned, operands={0: left}, symbolic_batch=False,
        surround=whole,
    )  # fmt: skip
for opset in (7, 9, 13):
    add("MatMul", RIGHT, f"opset{opset}", operands={1: draw(4, 2)}, opset=opset, symbolic_batch=False)
add("MatMul", BIJECTION, "float64", operands={1: draw(4, 4).astype(np.float64)}, dtype=np.float64)
add("MatMul", RIGHT, "float16", operands={1: draw(4, 2).astype(np.float16)}, dtype=np.float16)

BIASES = {"row": (5,), "row2": (1, 5), "column": (3, 1), "full": (3, 5), "scalar": (), "one": (1, 1), "none": None}
for turn_a in (0, 1):
    for turn_b in (0, 1):
        attributes = {"transA": turn_a, "transB": turn_b, "alpha": 0.5, "beta": 2.0}
        first = draw(4, 3) if turn_a else draw(3, 4)
        second = draw(5, 4) if turn_b else draw(4, 5)
        for kind, dims in BIASES.items():
            bias = {} if dims is None else {2: draw(*dims)}
            label = f"{kind}-{'tn'[not turn_a]}{'tn'[not turn_b]}"
            fixed = bool(turn_a) or dims in {(3, 1), (3, 5)}
            add(
                "Gemm", LEFT, f"A-{label}", shape=first.shape, operands={1: second, **bias}, attributes=attributes,
                symbolic_batch=not fixed,
            )  # fmt: skip
            add(
                "Gemm", RIGHT, f"B-{label}", unknown=1, shape=second.shape, operands={0: first, **bias},
                attributes=attributes, symbolic_batch=False,
            )  # fmt: skip
            if dims is not None:
                add(
                    "Gemm", BIJECTION if dims == (3, 5) else LEFT, f"C-{label}", unknown=2, shape=dims,
                    operands={0: first, 1: second}, attributes=attributes, symbolic_batch=False, surround=False,
                )  # fmt: skip
add("Gemm", LEFT, "given-C", operands={1: draw(4, 5)}, given={2: draw(5)}, attributes={"beta": 0.5})
add("Gemm", LEFT, "beta0", operands={1: draw(4, 5), 2: draw(5)}, attributes={"beta": 0.0})
for opset in (7, 9, 11, 13):
    add("Gemm", BIJECTION, f"opset{opset}", operands={1: draw(4, 4), 2: draw(4)}, opset=opset, symbolic_batch=False)

NORMAL = {1: away_from_zero(3), 2: draw(3), 3: draw(3), 4: positive(3)}
for opset in (7, 9, 14, 15, 17):
    add("BatchNormalization", BIJECTION, f"opset{opset}", shape=(2, 3, 2, 2), operands=NORMAL, opset=opset)
add("BatchNormalization", BIJECTION, "rank2", shape=(2, 3), operands=NORMAL)
add("BatchNormalization", GENERALIZED, "zero-scale", shape=(2, 3, 4), operands={**NORMAL, 1: floats(1, 0, 2)})
add("BatchNormalization", BIJECTION, "epsilon", shape=(2, 3), operands=NORMAL, attributes={"epsilon": 0.25})

for opset in (7, 13, 14, 17):
    add("Reshape", BIJECTION, f"zero-opset{opset}", shape=(3, 2, 2), operands={1: ints(0, -1)}, opset=opset)
add("Reshape", BIJECTION, "flat", operands={1: ints(-1)})
add("Reshape", BIJECTION, "split", operands={1: ints(-1, 2, 2)})
add("Reshape", BIJECTION, "mixes", operands={1: ints(2, -1)}, symbolic_batch=False)
add("Reshape", BIJECTION, "to-scalar", shape=(1, 1), operands={1: ints()}, symbolic_batch=False, surround=False)
add("Reshape", BIJECTION, "from-scalar", shape=(), operands={1: ints(1, 1)}, surround=False)
for axis in (0, 1, 2, -1):
    opset = 13 if axis < 0 else 9
    add("Flatten", BIJECTION, f"axis{axis}", shape=(3, 2, 2), attributes={"axis": axis}, opset=opset)
add("Flatten", BIJECTION, "opset17")
for perm in ([0, 2, 1], [2, 0, 1], None):
    add("Transpose", BIJECTION, f"{perm}", shape=(2, 3, 4), attributes={"perm": perm} if perm else {})
add("Unsqueeze", BIJECTION, "attribute", attributes={"axes": [0, 2]}, opset=11)
add("Unsqueeze", BIJECTION, "negative-attribute", attributes={"axes": [-1]}, opset=12)
add("Unsqueeze", BIJECTION, "operand", operands={1: ints(2, 0)}, opset=13)
add("Unsqueeze", BIJECTION, "negative-operand", operands={1: ints(0, -1)})
add("Squeeze", BIJECTION, "attribute", shape=(3, 1, 4), attributes={"axes": [1]}, opset=11)
add("Squeeze", BIJECTION, "operand", shape=(3, 1, 4), operands={1: ints(-2)})
add("Squeeze", BIJECTION, "all", shape=(3, 1, 4, 1), symbolic_batch=False)
add("Squeeze", BIJECTION, "all-opset11", shape=(3, 1, 4), opset=11, symbolic_batch=False)
add("Identity", BIJECTION)
for opset in (7, 10, 12, 13, 22):
    add("Dropout", BIJECTION, f"opset{opset}", opset=opset, surround=opset < 18, symbolic_batch=False)
add("Dropout", BIJECTION, "unused-mask", opset=10, outputs=2)
add("Dropout", BIJECTION, "not-training", operands={1: np.float32(0.5), 2: np.array(False)}, outputs=2)
for source in (np.float16, np.float32, np.float64):
    for target in ("FLOAT16", "FLOAT", "DOUBLE"):
        add(
            "Cast", BIJECTION, f"{np.dtype(source).name}-{target.lower()}", dtype=source,
            attributes={"to": getattr(TensorProto, target)},
        )  # fmt: skip
for opset in (7, 9, 19):
    add("Cast", BIJECTION, f"opset{opset}", attributes={"to": TensorProto.DOUBLE}, opset=opset, surround=False)

# Convolutions whose windows lie side by side: kernels of size 1, patches, groups, in one dimension and in two.
add("Conv", BIJECTION, "pointwise", shape=(2, 3, 4, 4), operands={1: draw(3, 3, 1, 1), 2: draw(3)})
add("Conv", LEFT, "widening", shape=(2, 2, 5), operands={1: draw(3, 2, 1)})
add(
    "Conv", BIJECTION, "patches", shape=(2, 1, 4, 6), operands={1: draw(4, 1, 2, 2)}, attributes={"strides": [2, 2]}
)  # fmt: skip
add(
    "Conv", BIJECTION, "groups", shape=(2, 2, 4), operands={1: draw(4, 1, 2)},
    attributes={"strides": [2], "group": 2},
)  # fmt: skip
add(
    "ConvTranspose", BIJECTION, "patches", shape=(2, 4, 2, 3), operands={1: draw(4, 1, 2, 2), 2: draw(1)},
    attributes={"strides": [2, 2]},
)  # fmt: skip

for attributes, guarantee in (({}, BIJECTION), ({"reverse": 1}, BIJECTION), ({"exclusive": 1}, GENERALIZED)):
    for axis, shape in ((1, (2, 5)), (-2, (2, 4, 3)), (3, (2, 3, 2, 6)), (1, (2, 1))):
        if not attributes.get("exclusive") or shape[axis] > 1:
            label = f"{'-'.join(attributes) or 'plain'}-{axis}-{'x'.join(map(str, shape))}"
            add("CumSum", guarantee, label, shape=shape, operands={1: np.array(axis)}, attributes=attributes, opset=14)
