"""Completions of several nodes together, and what is kept where there is none."""

import numpy as np
import onnx
import pytest
from pairs import back, pair

TEXTS = {
    "quantized": """q (float[N,4] x) => (float[N,4] y)
        <float s = {0.05}, int8 z = {3}> { a = QuantizeLinear(x, s, z) y = DequantizeLinear(a, s, z) }""",
    "split and concatenated": """c (float[N,4] x) => (float[N,4] y) <int64[2] l = {1, 3}>
        { a, b = Split<axis = 1>(x, l) c = Neg(a) y = Concat<axis = 1>(b, c) }""",
    "coupling": """c (float[N,4] x) => (float[N,4] y) <int64[2] l = {2, 2}>
        { a, b = Split<axis = 1>(x, l) s = Exp(a) m = Mul(b, s) c = Add(m, a) y = Concat<axis = 1>(a, c) }""",
    "slices": """c (float[N,4] x) => (float[N,4] y)
        <int64[1] o = {0}, int64[1] i = {2}, int64[1] e = {4}, int64[1] k = {1}>
        { a = Slice(x, o, i, k) b = Slice(x, i, e, k) c = Neg(a) y = Concat<axis = 1>(b, c) }""",
    "residual": """r (float[N,4] x) => (float[N,4] y) { a = Relu(x) y = Add(x, a) }""",
    "norm": """r (float[N,4] x) => (float[N,4] y) { m = ReduceMean<axes = [1]>(x) d = Sub(x, m) s = Mul(d, d)
        v = ReduceMean<axes = [1]>(s) r = Sqrt(v) y = Div(d, r) }""",
    "overlapping maxima": """m (float[N,1,4,4] x) => (float[N,1,2,2] y) { y = MaxPool<kernel_shape = [3, 3]>(x) }""",
    "no axis of samples": """r (float[2,3] x) => (float[2,3] y) { y = Relu(x) }""",
    "two layers of latents in double": """r (double[N,4] x) => (double[N] y)
        { a = Relu(x) y = ReduceMax<axes = [1], keepdims = 0>(a) }""",
}
KEPT = {"overlapping maxima": 16, "residual": 4, "norm": 2}
COUNTS = {
    "quantized": 4,
    "split and concatenated": 0,
    "coupling": 0,
    "slices": 0,
    "residual": 4,
    "norm": 2,
    "overlapping maxima": 16,
}


@pytest.mark.parametrize("per_node", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_small_networks(name, per_node):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {TEXTS[name]}')
    plan, forward, inverse = pair(model, per_node=per_node)
    double = "double" in TEXTS[name]
    shape = {"no axis of samples": (2, 3), "overlapping maxima": (9, 1, 4, 4)}.get(name, (9, 4))
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float64 if double else np.float32)
    assert np.abs(back(forward, inverse, x) - x).max() < (1e-14 if double else 1e-5)
    if name in COUNTS:
        assert plan.size == COUNTS[name]
    assert plan.kept == KEPT.get(name, 0)
