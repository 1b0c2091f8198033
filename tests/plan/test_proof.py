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
    "an Elu that goes up to the left, and less steep": "{ e = Elu<alpha = -0.5>(x) y = Add(x, e) }",
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
    "an Elu that goes up to the left": (
        "<float k = {0.5}, float w = {100000}, float e = {0.00001}> "
        "{ s = Mul(x, w) t = Elu<alpha = -1.0>(s) r = Mul(t, e) u = Mul(x, k) y = Add(u, r) }",
        "falls from -6.9",
    ),
    "an Elu that ends": (
        "<float w = {100000}, float e = {0.00001}> { s = Mul(x, w) t = Elu<alpha = 0.0>(s) r = Mul(t, e) "
        "a = Tanh(r) y = Add(a, r) }",
        "Several inputs|not one-to-one",
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
    assert stated["onnx_invert.guarantee"] == "bijection"
    assert stated["onnx_invert.evidence"] == "tried"
    assert "points, not proven)" in stated["onnx_invert.requirements"]
    assert made.report["guarantee"] == "bijection"
    assert made.report["evidence"] == "tried"
    assert made.report["tried"] == made.report["requirements"]
    proven = onnx_invert.invert(_model(PROVEN["a cube"]), method="closed-form")
    stated = {entry.key: entry.value for entry in proven.model.metadata_props}
    assert stated["onnx_invert.guarantee"] == "bijection"
    assert stated["onnx_invert.evidence"] == "proven"
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


def test_a_power_that_underflows_stands_not_still() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (double[N,3] x) => (double[N,3] y)
        <double p = {3}, double q = {5}> { t = Pow(x, p) u = Pow(x, q) y = Add(t, u) }"""
    )
    (root,) = [step for step in _plan(model).flat if isinstance(step, Root)]
    assert root.evidence.proven


def test_the_width_of_a_known_tensor_is_no_rounding() -> None:
    """It jumps back by 1e-3, and s moves the bounds by 1e-11 only: that is no float32 that lost its digits."""
    body = """<float o = {1}, float j = {-0.001}, float z = {0}, float w = {1e-11}>
        { s = Sigmoid(b) t = Mul(s, w) u = Add(x, t) v = Mul(u, u) r = Mul(u, v)
          c = Greater(x, o) d = Where(c, j, z) k = Add(u, r) y = Add(k, d) }"""
    try:
        plan = _plan(_model(body, ", float[N,3] b"))
    except NotInvertibleError:
        return
    assert plan.tried


def test_every_element_is_looked_at_in_its_own_domain() -> None:
    """One element starts at −20 and jumps back at −5, where the other is not defined yet."""
    body = """<float[3] c = {20, 1, 1}, float e = {-5}, float h = {0.0003}>
        { p = Add(x, c) r = Sqrt(p) g = Less(x, e) f = Cast<to = 1>(g) i = Mul(f, h) y = Add(r, i) }"""
    with pytest.raises(NotInvertibleError, match="jumps back at -5"):
        _plan(_model(body))


SWAPPED = {
    "an activation beside": "<float i = {0.1}> { s = MatMul(x, m) q = Add(x, i) t = Tanh(q) u = Mul(t, two)",
    "one behind a matrix": "{ s = MatMul(x, m) q = MatMul(x, n) t = Tanh(q) u = Mul(t, two)",
}


@pytest.mark.parametrize("body", SWAPPED.values(), ids=SWAPPED)
def test_a_matrix_on_the_straight_way_is_no_factor(body: str) -> None:
    """(x₂ + 2 tanh x₁, x₁ + 2 tanh x₂): its rows have the sum 1, and 0 is reached three times."""
    constants = "float[3,3] m = {0,1,0, 1,0,0, 0,0,1}, float[3,3] n = {1,0,0, 0,1,0, 0,0,1}, float two = {2}"
    body = body.replace("<", f"<{constants}, ", 1) if body.startswith("<") else f"<{constants}> {body}"
    with pytest.raises(NotInvertibleError):
        _plan(_model(f"{body} y = Add(s, u) }}"))


@pytest.mark.parametrize("activation", ["Elu<alpha = -3.0>", "Celu<alpha = -1.0>", "Selu<alpha = 1.0, gamma = -3.0>"])
def test_a_steep_activation_makes_no_contraction(activation: str) -> None:
    """x ± 0.64 h(x) turns round where h falls by more, or grows without bound."""
    sign = "Sub" if activation.startswith("Celu") else "Add"
    body = f"""<float[3,3] n = {{0.8,0,0.1, 0,0.8,0, 0,0.1,0.8}}>
        {{ q = MatMul(x, n) t = {activation}(q) u = MatMul(t, n) y = {sign}(x, u) }}"""
    with pytest.raises(NotInvertibleError):
        _plan(_model(body))


@pytest.mark.parametrize("top", [1e3, 5e3, 2e5])
def test_what_turns_round_far_out_alone_has_a_domain(top: float) -> None:
    # Of Shrink there are no bounds, so that this is tried: y = x − x² / 2 top turns round at x = top.
    nodes = "{ q = Shrink<lambd=0.0, bias=0.0>(x) s = Mul(q, q) t = Mul(s, w) y = Sub(x, t) }"
    body = f"<float w = {{{0.5 / top:.9f}}}> {nodes}"
    plan = _plan(_model(body))
    (root,) = [step for step in plan.flat if isinstance(step, Root)]
    assert root.domain.high is not None and 0.1 * top < float(np.max(root.domain.high)) <= top
    assert plan.guarantee is onnx_invert.Guarantee.LEFT and plan.tried


def test_what_turns_round_near_is_refused() -> None:
    body = "<float w = {0.01}> { q = Shrink<lambd=0.0, bias=0.0>(x) s = Mul(q, q) t = Mul(s, w) y = Sub(x, t) }"
    with pytest.raises(NotInvertibleError, match="turns round before"):
        _plan(_model(body))
