"""GELU and its like written out: found by what they compute, with the branch in z and every digit back."""

import numpy as np
import onnx
import onnx.parser
import pytest
import scipy.special
from pairs import back, pair, widened

FORMS = {
    "SiLU": ("SiLU", "s = Sigmoid(u) v = Mul(u, s)"),
    "SiLU by exp": ("SiLU", "n = Neg(u) e = Exp(n) d = Add(one, e) v = Div(u, d)"),
    "x · sigmoid(1.702 x)": ("Swish", "k = Mul(u, quick) s = Sigmoid(k) v = Mul(s, u)"),
    "GELU, divided": ("GELU", "a = Div(u, root) b = Erf(a) c = Add(b, one) d = Mul(u, c) v = Mul(d, half)"),
    "GELU, halved first": ("GELU", "a = Mul(u, over) b = Erf(a) c = Add(one, b) d = Mul(half, u) v = Mul(d, c)"),
    "GELU by tanh": (
        "GELU",
        """p = Mul(u, u) q = Mul(p, u) r = Mul(q, cube) s = Add(u, r) t = Mul(s, slope) w = Tanh(t)
        c = Add(w, one) d = Mul(u, half) v = Mul(d, c)""",
    ),
    "GELU by tanh and Pow": (
        "GELU",
        """q = Pow(u, three) r = Mul(q, cube) s = Add(u, r) t = Mul(s, slope) w = Tanh(t) c = Add(w, one)
        d = Mul(u, c) v = Mul(d, half)""",
    ),
    "Mish": ("Mish", "s = Softplus(u) t = Tanh(s) v = Mul(u, t)"),
    "HardSwish": ("HardSwish", "s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(u) v = Mul(u, s)"),
    "HardSwish by Clip": ("HardSwish", "s = Add(u, three) t = Clip(s, zero, six) w = Mul(u, t) v = Div(w, six)"),
}

CONSTANTS = {
    **{"one": 1, "half": 0.5, "three": 3, "six": 6, "zero": 0, "quick": 1.702},
    **{"root": 2**0.5, "over": 0.5**0.5, "cube": 0.044715, "slope": (2 / np.pi) ** 0.5},
}


def network(body, before="u = MatMul(x, first)", after="y = MatMul(v, last)"):
    """32 → 24 → the function → 5."""
    used = {name: value for name, value in CONSTANTS.items() if name in body}
    weights = ", ".join(f"float {name} = {{{value!r}}}" for name, value in used.items()).replace("np.float64", "")
    width = 5 if "last" in after else 24
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,{32 if "first" in before else 24}] x) => '
        f"(float[N,{width}] y) <{weights}> {{ {before} {body} {after} }}"
    )
    rng = np.random.default_rng(0)
    for name, shape in (("first", (32, 24)), ("last", (24, 5))):
        weight = (rng.standard_normal(shape) / 4).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    return model


def draw(count=500, width=32):
    return np.random.default_rng(1).standard_normal((count, width)) * 3


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_found(name):
    function, body = FORMS[name]
    model = network(body)
    plan, forward, inverse = pair(model)
    assert [(slot.latent, slot.numbers) for slot in plan.slots] == [
        ("null space", 8),
        (f"negative part of {function}", 24),
        ("null space", 19),
    ]
    assert (plan.kept, plan.surplus) == (0, 24)
    x = draw().astype(np.float32)
    assert np.abs(back(forward, inverse, x) - x).max() < 1e-4
    if not any(op in body for op in ("Erf", "Softplus", "HardSigmoid")):  # onnxruntime has none in float64
        _, forward, inverse = pair(widened(model))
        assert np.abs(back(forward, inverse, draw()) - draw()).max() < 1e-10


@pytest.mark.parametrize("name", ["SiLU", "GELU, divided", "GELU by tanh", "Mish", "HardSwish"])
def test_at_the_fold_and_in_the_tail(name):
    """Where the branches meet, where f is flat and where y is 0 for x of any size."""
    model = network(FORMS[name][1], before="u = Identity(x)", after="y = Identity(v)")
    x = np.concatenate([np.linspace(-3, 3, 1993), [-0.75179, -1.27846, -20, -100, 100, 0, 1e-6, 1e-30]])
    x = np.resize(x, (len(x) // 24 + 1, 24)).astype(np.float32)
    _, forward, inverse = pair(model)
    np.testing.assert_allclose(back(forward, inverse, x), x, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "body",
    [
        "s = Sigmoid(u) g = Mul(u, s) v = Add(g, u)",  # x is used once more
        "s = Tanh(u) v = Mul(u, s)",  # another function
        "a = Mul(u, over) b = Erf(a) c = Add(b, one) v = Mul(u, c)",  # 2 · GELU
        "s = Sigmoid(u) v = Mul(s, s)",
        "s = Mul(u, u) t = Softmax(s) v = Mul(u, t)",  # not elementwise
    ],
)
def test_what_is_none_of_them_is_kept(body):
    plan, forward, inverse = pair(network(body))
    assert not any("negative part" in slot.latent for slot in plan.slots)
    x = draw().astype(np.float32)
    assert np.abs(back(forward, inverse, x) - x).max() < 1e-4


@pytest.mark.parametrize(("function", "least"), [("gelu", -0.129), ("silu", -0.0998)])
def test_why_the_left_branch_is_kept(function, least):
    """The slopes that the docs state, by differences."""
    x = np.linspace(-30, 30, 600_001)
    y = x * (scipy.special.ndtr(x) if function == "gelu" else scipy.special.expit(x))
    slope = np.gradient(y, x)
    fold = x[np.argmin(y)]
    assert np.abs(slope[x < fold]).max() == pytest.approx(-least, rel=1e-2)
    assert slope[x >= 0].min() == pytest.approx(0.5, abs=1e-3)
