"""The law of completions, operator by operator, and that it finds what is wrong."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from onnx_invert.rules import default_rules
from onnx_invert.rules.completion import Completed, remainder
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.registry import RuleSet
from onnx_invert.testing import check_completion

RNG = np.random.default_rng(5)


def w(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def square(count):
    return {"kernel_shape": [count, count], "strides": [count, count]}


# name: (operator, surplus, numbers of z, the rest)
CASES = {
    **{
        f"Normalizer {norm}": ("Normalizer", 1, 1, {"domain": "ai.onnx.ml", "attributes": {"norm": norm}})
        for norm in ("L1", "L2", "MAX")
    },
    "ArrayFeatureExtractor": (
        "ArrayFeatureExtractor",
        1,
        2,
        {"operands": {1: ints(2, 0, 2)}, "domain": "ai.onnx.ml", "surround": False},
    ),
    "MatMul narrow": ("MatMul", 0, 2, {"operands": {1: w(6, 4)}, "shape": (6,)}),
    "MatMul wide": ("MatMul", 2, 0, {"operands": {1: w(4, 6)}}),
    "MatMul rank 3": ("MatMul", 0, 6, {"operands": {1: w(6, 4)}, "shape": (3, 6)}),
    "MatMul from the left": ("MatMul", 0, 6, {"operands": {0: w(2, 4)}, "unknown": 1, "shape": (4, 3)}),
    "MatMul large": ("MatMul", 0, 260, {"operands": {1: w(300, 40)}, "shape": (300,)}),
    "MatMul deficient": ("MatMul", 3, 3, {"operands": {1: w(5, 2) @ w(2, 5)}, "shape": (5,)}),
    "Gemm": (
        "Gemm",
        0,
        2,
        {"operands": {1: w(4, 6), 2: w(4)}, "attributes": {"transB": 1, "alpha": 0.5}, "shape": (6,)},
    ),
    "Mul with zeros": ("Mul", 2, 2, {"operands": {1: np.array([1, 0, 2, 0], np.float32)}}),
    "Add of a given": ("Add", 0, 0, {"given": {1: w(5, 4)}}),
    "Tanh": ("Tanh", 0, 0, {}),
    "LeakyRelu": ("LeakyRelu", 0, 0, {"attributes": {"alpha": 0.3}}),
    "Cosh": ("Cosh", 4, 4, {}),
    "square": ("Pow", 4, 4, {"operands": {1: np.array(2, np.float32)}}),
    "Relu": ("Relu", 4, 4, {}),
    "Abs": ("Abs", 4, 4, {}),
    "Clip": ("Clip", 4, 4, {"operands": {1: np.array(-0.5, np.float32), 2: np.array(0.5, np.float32)}}),
    "ThresholdedRelu": ("ThresholdedRelu", 4, 4, {"attributes": {"alpha": 0.5}}),
    "HardSigmoid": ("HardSigmoid", 4, 4, {}),
    "HardSwish": ("HardSwish", 4, 4, {}),
    "Gelu": ("Gelu", 4, 4, {"opset": 20, "emits": ["Erf"]}),
    "Gelu by tanh": ("Gelu", 4, 4, {"opset": 20, "attributes": {"approximate": "tanh"}}),
    "Swish": ("Swish", 4, 4, {"opset": 24}),
    "Mish": ("Mish", 4, 4, {"opset": 18}),
    "Round": ("Round", 4, 4, {}),
    "Floor": ("Floor", 4, 4, {}),
    "Ceil": ("Ceil", 4, 4, {}),
    "Cast": ("Cast", 4, 4, {"attributes": {"to": TensorProto.INT32}, "surround": False}),
    "Cast wider": ("Cast", 0, 0, {"attributes": {"to": TensorProto.DOUBLE}}),
    "Cast narrower": ("Cast", 4, 4, {"attributes": {"to": TensorProto.FLOAT}, "dtype": np.float64}),
    "QuantizeLinear": (
        "QuantizeLinear",
        4,
        4,
        {"operands": {1: np.array(0.05, np.float32), 2: np.array(3, np.int8)}, "surround": False},
    ),
    "QuantizeLinear by channel": (
        "QuantizeLinear",
        6,
        6,
        {
            "operands": {1: np.array([0.05, 0.1], np.float32), 2: ints(3, 5).astype(np.int8)},
            "shape": (2, 3),
            "surround": False,
        },
    ),
    "Softmax": ("Softmax", 1, 1, {}),
    "Softmax along another axis": ("Softmax", 3, 3, {"attributes": {"axis": 1}, "shape": (4, 3)}),
    "LogSoftmax": ("LogSoftmax", 1, 1, {}),
    "LayerNormalization": ("LayerNormalization", 6, 6, {"operands": {1: w(5), 2: w(5)}, "shape": (3, 5)}),
    "RMSNormalization": ("RMSNormalization", 3, 3, {"operands": {1: w(5)}, "shape": (3, 5), "opset": 23}),
    "InstanceNormalization": ("InstanceNormalization", 4, 4, {"operands": {1: w(2), 2: w(2)}, "shape": (2, 3, 4)}),
    "GroupNormalization": (
        "GroupNormalization",
        4,
        4,
        {"operands": {1: w(4), 2: w(4)}, "attributes": {"num_groups": 2}, "shape": (4, 3), "opset": 21},
    ),
    "MeanVarianceNormalization": (
        "MeanVarianceNormalization",
        4,
        4,
        {"attributes": {"axes": [2, 3]}, "shape": (2, 3, 4)},
    ),
    "LpNormalization": ("LpNormalization", 1, 1, {}),
    "LpNormalization of absolutes": ("LpNormalization", 3, 3, {"attributes": {"p": 1, "axis": 1}, "shape": (4, 3)}),
    "MaxPool": ("MaxPool", 0, 24, {"attributes": square(2), "shape": (2, 4, 4)}),
    "MaxPool with a rest": ("MaxPool", 0, 16, {"attributes": square(2), "shape": (1, 5, 4)}),
    "AveragePool": ("AveragePool", 0, 24, {"attributes": square(2), "shape": (2, 4, 4)}),
    "AveragePool overlapping": ("AveragePool", 0, 12, {"attributes": {"kernel_shape": [3, 3]}, "shape": (1, 4, 4)}),
    "GlobalAveragePool": ("GlobalAveragePool", 0, 16, {"shape": (2, 3, 3)}),
    "GlobalMaxPool": ("GlobalMaxPool", 0, 16, {"shape": (2, 3, 3)}),
    "ReduceMean": ("ReduceMean", 0, 9, {"attributes": {"axes": [2], "keepdims": 0}, "shape": (3, 4)}),
    "ReduceSum": ("ReduceSum", 0, 8, {"operands": {1: ints(1)}, "shape": (3, 4)}),
    "ReduceMax": ("ReduceMax", 0, 8, {"attributes": {"axes": [1], "keepdims": 1}, "shape": (3, 4)}),
    "ReduceMin": ("ReduceMin", 0, 9, {"attributes": {"axes": [2], "keepdims": 0}, "shape": (3, 4)}),
    "ReduceLogSumExp": ("ReduceLogSumExp", 0, 9, {"attributes": {"axes": [2], "keepdims": 0}, "shape": (3, 4)}),
    "Conv": ("Conv", 0, 23, {"operands": {1: w(3, 2, 3, 3), 2: w(3)}, "shape": (2, 5, 5)}),
    "Conv grouped": (
        "Conv",
        0,
        0,
        {"operands": {1: w(4, 2, 3, 3)}, "attributes": {"group": 2, "pads": [1, 1, 1, 1]}, "shape": (4, 4, 4)},
    ),
    "Conv 1×1": ("Conv", 0, 18, {"operands": {1: w(2, 4, 1, 1), 2: w(2)}, "shape": (4, 3, 3)}),
    "Conv on patches": (
        "Conv",
        0,
        8,
        {"operands": {1: w(2, 1, 2, 2)}, "attributes": {"strides": [2, 2]}, "shape": (1, 4, 4)},
    ),
    "ConvTranspose": (
        "ConvTranspose",
        90,
        0,
        {"operands": {1: w(2, 3, 2, 2), 2: w(3)}, "attributes": {"strides": [2, 2]}, "shape": (2, 3, 3)},
    ),
    "Slice": ("Slice", 0, 3, {"operands": {1: ints(1), 2: ints(6), 3: ints(1), 4: ints(2)}, "shape": (6,)}),
    "Slice backwards": (
        "Slice",
        0,
        5,
        {"operands": {1: ints(5), 2: ints(-6), 3: ints(1), 4: ints(-1)}, "shape": (8,)},
    ),
    "Gather": ("Gather", 1, 4, {"operands": {1: ints(4, 0, 4)}, "attributes": {"axis": 1}, "shape": (6,)}),
    "Split": ("Split", 0, 2, {"operands": {1: ints(3, 2)}, "attributes": {"axis": 1}, "shape": (5,), "outputs": 2}),
    "Concat": ("Concat", 3, 0, {"given": {1: w(5, 3)}, "attributes": {"axis": 1}}),
    "Pad": ("Pad", 1, 1, {"operands": {1: ints(0, 1, 0, -1)}}),
    "Pad reflected": ("Pad", 3, 0, {"operands": {1: ints(0, 1, 0, 2)}, "attributes": {"mode": "reflect"}}),
    "Tile": ("Tile", 3, 0, {"operands": {1: ints(1, 2)}, "shape": (3,)}),
    "Expand": ("Expand", 4, 0, {"operands": {1: ints(1, 2, 4)}, "shape": (1, 4)}),
    "DepthToSpace": ("DepthToSpace", 0, 0, {"attributes": {"blocksize": 2}, "shape": (4, 2, 2)}),
    "DepthToSpace by columns": (
        "DepthToSpace",
        0,
        0,
        {"attributes": {"blocksize": 2, "mode": "CRD"}, "shape": (4, 2, 2)},
    ),
    "SpaceToDepth": ("SpaceToDepth", 0, 0, {"attributes": {"blocksize": 2}, "shape": (1, 4, 2)}),
}

ELSEWHERE = {
    "DequantizeLinear": "it takes whole numbers, so only behind QuantizeLinear: test_operations.py",
}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    op, surplus, numbers, rest = CASES[name]
    count = check_completion(op, surplus=surplus, **rest)
    assert count.z == numbers
    assert bool(count.latent) == bool(numbers)


@pytest.mark.parametrize(
    "name", ["MatMul narrow", "Softmax", "LayerNormalization", "MaxPool", "ReduceLogSumExp", "Slice"]
)
def test_in_double(name):
    op, surplus, _, rest = CASES[name]
    operands = {i: a.astype(np.float64) if a.dtype.kind == "f" else a for i, a in rest.get("operands", {}).items()}
    check_completion(op, surplus=surplus, dtype=np.float64, **{**rest, "operands": operands})


def test_every_completion_goes_through_it():
    tried = {case[0] for case in CASES.values()}
    assert {op for _, op in default_rules().completions} - tried == set(ELSEWHERE)


def test_a_third_partys_completion():
    mine = RuleSet()

    @mine.completion("Relu")
    def relu(node):
        return (remainder(latent="what is below 0"),)

    others = RuleSet(default_rules().rules, default_rules().refusals, {}, {})
    assert check_completion("Relu", surplus=4, rules=others.union(mine)).latent == "what is below 0"


def broken(take, give, latent="z"):
    rules = RuleSet(default_rules().rules, default_rules().refusals, {}, {})

    @rules.completion("Relu")
    def relu(node):
        return (Completed(latent, take, give),)

    return rules


BROKEN = {
    "x = ": (lambda e, x, y: e.op("Min", x, 0.0), lambda e, y, z: y),
    "z is finite": (lambda e, x, y: e.op("Log", e.op("Sub", x, y)), lambda e, y, z: e.op("Add", y, z)),
    "runs everywhere": (lambda e, x, y: e.op("Sub", x, y), lambda e, y, z: e.op("Add", y, e.op("Elu", z))),
}


@pytest.mark.parametrize("law", BROKEN)
def test_what_is_wrong_is_found(law):
    with pytest.raises(AssertionError, match=law if law != "x = " else r"g⁺\(y, z\) = x"):
        check_completion("Relu", surplus=4, rules=broken(*BROKEN[law]))


def test_a_latent_too_many_is_found():
    with pytest.raises(AssertionError, match="surplus"):
        check_completion("Relu")
    nothing = RuleSet(default_rules().rules, {}, {}, {})
    nothing.completion("Relu")(lambda node: NoInverse("no"))
    with pytest.raises(AssertionError, match="kept"):
        check_completion("Relu", surplus=4, rules=nothing)


def test_the_page_states_every_latent():
    page = (Path(__file__).resolve().parents[2] / "docs/operators.md").read_text("utf-8")
    rules = default_rules()
    for domain, op in {*rules.completions, *rules.rules}:
        latent, surplus = rules.latent(op, domain)
        assert latent.startswith(("z = ", "x ", "x = ", "nothing is lost", "Every element")), latent
        assert surplus
        name = f"{domain}::{op}" if domain else op
        assert f"| {name} | {latent} | {surplus} |" in page.replace("\\|", "|")


def test_what_is_said_to_lose_nothing_does_not():
    within = np.random.default_rng(0).uniform(0.1, 0.9, (5, 4)).astype(np.float32)
    rest = {
        "Acosh": {"samples": 1 + within, "surround": False},
        "Add": {"operands": {1: w(4)}},
        "Sub": {"operands": {1: w(4)}},
        "Reshape": {"operands": {1: ints(-1, 2, 2)}},
        "Squeeze": {"operands": {1: ints(1)}, "shape": (1, 4)},
        "Unsqueeze": {"operands": {1: ints(1)}},
        "Transpose": {"attributes": {"perm": [0, 2, 1]}, "shape": (2, 4)},
    }
    ops = [op for (_, op), text in default_rules().kept.items() if text == "nothing is lost"]
    assert len(ops) > 20
    for op in ops:
        check_completion(
            op, **rest.get(op, {"samples": within, "surround": op not in {"Acos", "Asin", "Atanh", "Log", "Sqrt"}})
        )
