"""That one y has one x is proven where it holds, a fold is found where it does not; the rest is said to be tried."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

import onnx_invert
from onnx_invert.errors import NotInvertibleError
from onnx_invert.plan.steps import Root, Scale
from onnx_invert.plan.system_plan import SystemPlan


def _model(body: str, given: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x{given}) => (float[N,3] y) {body}'
    )


def _plan(model: onnx.ModelProto) -> SystemPlan:
    plan = onnx_invert.explain(model, recover=["x"], method="closed-form")
    assert isinstance(plan, SystemPlan)
    return plan


PROVEN = {
    "a saturating term": "{ t = Tanh(x) y = Add(x, t) }",
    "x times its sigmoid": "{ t = Sigmoid(x) u = Mul(x, t) y = Add(x, u) }",
    "a cube": "{ t = Mul(x, x) u = Mul(x, t) y = Add(x, u) }",
    "a wave not too high": "<float k = {0.9}> { t = Sin(x) u = Mul(t, k) y = Add(x, u) }",
    "two slopes that meet": """<float z = {0.3}, float a = {0.2}, float b = {0.24}>
        { c = Greater(x, z) u = Mul(x, a) v = Add(u, b) y = Where(c, x, v) }""",
    "Yeo-Johnson": """<float z = {0}, float l = {1.5}, float o = {1}, float m = {0.5}>
        { c = Less(x, z) a = Abs(x) b = Add(a, o) p = Pow(b, l) q = Sub(p, o) r = Div(q, l) s = Pow(b, m)
          t = Sub(s, o) u = Div(t, m) w = Neg(u) y = Where(c, w, r) }""",
    "a dip that is too flat": "<float c = {30}, float w = {0.1}, float k = {0.09}> "
    "{ u = Sub(x, c) v = Div(u, w) t = Tanh(v) r = Mul(t, k) y = Sub(x, r) }",
    "falls": "{ t = Tanh(x) a = Add(x, t) b = Add(a, x) y = Neg(b) }",
}


@pytest.mark.parametrize("body", PROVEN.values(), ids=PROVEN)
def test_what_rises_throughout_is_proven(body: str) -> None:
    plan = _plan(_model(body))
    assert [step.evidence.proven for step in plan.flat if isinstance(step, Root)] == [True]
    assert plan.guarantee is onnx_invert.Guarantee.BIJECTION
    assert plan.requirements == []


FOLDS = {
    "a narrow fold": (
        "<float l = {-0.01}, float h = {0.01}, float k = {1.5}> { c = Clip(x, l, h) d = Mul(c, k) y = Sub(x, d) }",
        "falls from -0.00999",
    ),
    "a dip far out": (
        "<float c = {30}, float w = {0.1}, float k = {3}> "
        "{ u = Sub(x, c) v = Div(u, w) t = Tanh(v) r = Mul(t, k) y = Sub(x, r) }",
        "falls from 29.76",
    ),
    "a spike": (
        "<float c = {3.3}, float w = {0.001}, float k = {0.01}> "
        "{ u = Sub(x, c) v = Div(u, w) q = Mul(v, v) n = Neg(q) t = Exp(n) r = Mul(t, k) y = Sub(x, r) }",
        "falls from 3.298",
    ),
    "a plateau": ("<float l = {-0.01}, float h = {0.01}> { c = Clip(x, l, h) y = Sub(x, c) }", "stands still"),
    "a jump back": (
        "<float z = {0.3}, float a = {0.2}, float b = {0.3}> "
        "{ c = Greater(x, z) u = Mul(x, a) v = Add(u, b) y = Where(c, x, v) }",
        "jumps back at 0.3",
    ),
}


@pytest.mark.parametrize("name", FOLDS)
def test_a_fold_is_refused_with_its_place(name: str) -> None:
    body, where = FOLDS[name]
    with pytest.raises(NotInvertibleError, match=where):
        _plan(_model(body))


def test_known_tensors_are_bounded_by_what_makes_them() -> None:
    positive = "{ s = Exp(b) t = Tanh(x) u = Mul(t, s) y = Add(x, u) }"
    (root,) = [step for step in _plan(_model(positive, ", float[N,3] b")).flat if isinstance(step, Root)]
    assert root.evidence.proven
    with pytest.raises(NotInvertibleError):  # folds where b < −1
        _plan(_model("{ t = Tanh(x) u = Mul(t, b) y = Add(x, u) }", ", float[N,3] b"))


def test_a_factor_is_proven_to_be_none_or_said_to_be_tried() -> None:
    positive = "{ s = Softplus(b) u = Mul(x, s) y = Add(x, u) }"
    (scale,) = [step for step in _plan(_model(positive, ", float[N,3] b")).flat if isinstance(step, Scale)]
    assert scale.evidence.proven
    plan = _plan(_model("{ u = Mul(x, b) y = Add(x, u) }", ", float[N,3] b"))
    assert "no factor is 0 (tried in one run, not proven)" in plan.tried[0]


TRIED = "{ t = Sin(x) y = Add(x, t) }"


def test_what_is_tried_is_no_plain_bijection(tmp_path: object) -> None:
    made = onnx_invert.invert(_model(TRIED), method="closed-form")
    stated = {entry.key: entry.value for entry in made.model.metadata_props}
    assert stated["onnx_invert.guarantee"] == "bijection, tried"
    assert "points, not proven)" in stated["onnx_invert.requirements"]
    assert made.report["guarantee"] == "bijection"
    assert made.report["evidence"] == "tried"
    assert made.report["tried"] == made.report["requirements"]
    proven = onnx_invert.invert(_model(PROVEN["a cube"]), method="closed-form")
    stated = {entry.key: entry.value for entry in proven.model.metadata_props}
    assert stated["onnx_invert.guarantee"] == "bijection"
    assert "onnx_invert.requirements" not in stated
    assert proven.report["evidence"] == "proven"


def test_a_bounded_function_reaches_not_every_y() -> None:
    wide = "<float k = {1000000}> { a = Div(x, k) t = Tanh(a) u = Sigmoid(a) s = Add(t, u) y = Mul(s, k) }"
    assert _plan(_model(wide)).guarantee is onnx_invert.Guarantee.LEFT


def test_bounds_hold_for_random_cells() -> None:
    """Every operator's bounds of value and slope against values in the cell, and differences of them."""
    from onnx_invert.rules.enclosures import functions as fn
    from onnx_invert.rules.enclosures.enclosure import Enclosure

    rng = np.random.default_rng(0)
    low = rng.normal(0, 3, 400)
    high = low + 10.0 ** rng.uniform(-3, 1, 400)
    one = np.ones(400)
    for name, function in fn.FUNCTIONS.items():
        shift, scale = {"Log": (20, 1), "Sqrt": (20, 1), "Acosh": (20, 1)}.get(name, (0, 1))
        if name in {"Atanh", "Asin", "Acos"}:
            shift, scale = 0, 0.02
        first, last = low * scale + shift, high * scale + shift
        made = function(Enclosure(first, last, one, one, one < 0))
        points = first + (last - first) * np.linspace(0, 1, 9)[:, None]
        values = [function(Enclosure(p, p)) for p in points]
        for point in values:
            assert np.all(point.low >= made.low - 1e-12)
            assert np.all(point.high <= made.high + 1e-12)
        assert made.fall is not None
        assert made.rise is not None
        slopes = (values[5].low - values[4].low) / (points[5] - points[4])
        size = 1e-6 * (1 + np.abs(slopes))
        assert np.all(slopes >= made.fall - size), name
        assert np.all(slopes <= made.rise + size), name
