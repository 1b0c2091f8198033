"""Elementwise roots beside scipy's brentq, on functions that are hard to bracket or to narrow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from scipy.optimize import brentq

import onnx_invert
from onnx_invert.plan.steps import Root

Function = Callable[[np.ndarray], np.ndarray]

CASES: dict[str, tuple[str, Function, np.ndarray]] = {
    "nearly flat around 0": (
        "s = Mul(x, x) c = Mul(s, x) q = Mul(c, s) l = Mul(x, small) y = Add(q, l)",
        lambda x: x**5 + 1e-3 * x,
        np.array([-3.0, -0.5, -1e-3, 0, 1e-6, 0.02, 0.3, 2, 50]),
    ),
    "steep in one place": (
        "a = Sub(x, one) b = Mul(a, large) t = Tanh(b) y = Add(x, t)",
        lambda x: x + np.tanh(1e3 * (x - 1)),
        np.array([-5.0, 0, 0.9, 0.9995, 1, 1.0002, 1.1, 7]),
    ),
    "a kink between slopes 100 and 1/1000": (
        "p = Relu(x) n = Min(x, zero) a = Mul(p, hundred) b = Mul(n, small) y = Add(a, b)",
        lambda x: 100 * max(x, 0) + 1e-3 * min(x, 0),
        np.array([-7e4, -1.0, -1e-5, 1e-6, 0.3, 900.0]),
    ),
    "exponential": (
        "e = Exp(x) y = Add(e, x)",
        lambda x: np.exp(x) + x,
        np.array([-200.0, -30, -2, 0, 1, 10, 40, 80]),
    ),
    "falling": (
        "e = Exp(x) a = Add(e, x) y = Neg(a)",
        lambda x: -np.exp(x) - x,
        np.array([-50.0, -1, 0, 3, 20]),
    ),
    "bent again and again": (
        "t = Sin(x) b = Mul(t, most) y = Add(x, b)",
        lambda x: x + 0.99 * np.sin(x),
        np.array([-31.0, -np.pi + 0.05, -0.1, 0, 0.5, 3, 3.3, 9.4, 40]),
    ),
    "a root near its end, where its slope is infinite": (
        "a = Abs(x) r = Sqrt(a) s = Sign(x) b = Mul(r, s) c = Mul(x, small) y = Add(b, c)",
        lambda x: np.sign(x) * np.sqrt(abs(x)) + 1e-3 * x,
        np.array([-100.0, -1e-6, -1e-9, 1e-8, 0.25, 3, 1e4]),
    ),
    "far away": (
        "t = Tanh(x) a = Mul(x, large) y = Add(a, t)",
        lambda x: 1e3 * x + np.tanh(x),
        np.array([-1e12, -1e5, 1e-12, 1e-3, 1e7]),
    ),
}


def _model(body: str, kind: str) -> onnx.ModelProto:
    numbers = {"zero": 0, "one": 1, "hundred": 100, "large": 1000, "small": 1e-3, "most": 0.99}
    given = ", ".join(f"{kind} {name} = {{{value}}}" for name, value in numbers.items())
    return onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 18]> g ({kind}[N,1] x) => ({kind}[N,1] y) <{given}> {{ {body} }}'
    )


@pytest.mark.parametrize("alone", [True, False], ids=["one by one", "together"])
@pytest.mark.parametrize("case", CASES)
def test_roots_are_those_of_brentq(case: str, alone: bool) -> None:
    body, function, x = CASES[case]
    made = onnx_invert.invert(_model(body, "double"), method="closed-form", verify=False)
    assert sum(isinstance(step, Root) for step in made.plan.steps) == 1
    y = np.array([function(one) for one in x])
    session = _session(made.model)
    rows = [y[i : i + 1, None] for i in range(len(y))] if alone else [y[:, None]]
    found = np.concatenate([session.run(["x"], {"y": row})[0][:, 0] for row in rows])
    span = 4 * np.abs(x).max() + 10
    oracle = np.array([brentq(lambda t, one=one: function(t) - one, -span, span, xtol=1e-300) for one in y])
    # Both stop where the function itself rounds: a step of x that moves y by some units of its last digit.
    step = 4 * np.finfo(np.float64).eps * np.maximum(np.abs(y), np.abs(x))
    slope = np.array(
        [(function(a + d) - function(a - d)) / (2 * d) for a, d in zip(x, 1e-6 * (np.abs(x) + 1e-6), strict=True)]
    )
    slack = step / np.abs(slope) + 4 * np.finfo(np.float64).eps * np.abs(x) + 1e-300
    assert (np.abs(found - oracle) <= slack).all(), (found - oracle, slack)


@pytest.mark.parametrize("case", CASES)
def test_in_float32_f_of_x_is_y_to_its_last_digits(case: str) -> None:
    body, _, x = CASES[case]
    made = onnx_invert.invert(_model(body, "float"), method="closed-form", verify=False)
    x = x.astype(np.float32)[:, None]
    model = _session(_model(body, "float"))
    (y,) = model.run(["y"], {"x": x})
    (found,) = _session(made.model).run(["x"], {"y": y})
    # Rounding of x alone moves y by as much as its neighbours do.
    near = [model.run(["y"], {"x": np.nextafter(x, np.float32(side))})[0] for side in (-np.inf, np.inf)]
    slack = np.maximum(*(np.abs(other - y) for other in near)) + 4 * np.finfo(np.float32).eps * np.abs(y)
    (again,) = model.run(["y"], {"x": found})
    assert (np.abs(again - y) <= slack).all()


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
