"""Roots over the whole range of a type, of infinite y and of what is no number; samples within a domain."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

import onnx_invert

TYPES = {"float16": (np.float16, 10), "float": (np.float32, 1), "double": (np.float64, 11)}


def _model(name: str, sign: str) -> onnx.ModelProto:
    """y = x / 4 + tanh x, or its negative."""
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({name}[N,3] x) => ({name}[N,3] y) <float q = {{0.25}}> '
        f"{{ k = Cast<to = {TYPES[name][1]}>(q) t = Tanh(x) u = Mul(x, k) v = Add(u, t) y = {sign}(v) }}"
    )


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


@pytest.mark.parametrize("sign", ["Identity", "Neg"])
@pytest.mark.parametrize("name", TYPES)
def test_x_comes_back_over_the_whole_range_of_its_type(name: str, sign: str) -> None:
    model, dtype = _model(name, sign), TYPES[name][0]
    made = onnx_invert.invert(model, method="closed-form")
    assert made.guarantee is onnx_invert.Guarantee.BIJECTION
    # Half precision has no numbers to spare, others are searched up to an eighth of their largest.
    top = float(np.finfo(dtype).max) / (1.01 if dtype is np.float16 else 8.1)
    sizes = top ** np.linspace(0, 1, 12)
    x = np.concatenate([sizes, -sizes, [0.0, 1e-3, -0.5, 2.0, -6.0, 0.25]]).reshape(-1, 3).astype(dtype)
    back = _run(made.model, {"y": _run(model, {"x": x})})
    np.testing.assert_allclose(back.astype(float), x.astype(float), rtol=16 * np.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("name", TYPES)
def test_infinite_y_gives_infinite_x_and_no_number_none(name: str) -> None:
    made = onnx_invert.invert(_model(name, "Neg"), method="closed-form", residual=True)
    y = np.array([[np.inf, -np.inf, 1.0], [np.nan, 0.0, 0.5]], TYPES[name][0])
    session = ort.InferenceSession(made.model.SerializeToString(), providers=["CPUExecutionProvider"])
    x, residual = session.run(["x", "residual"], {"y": y})
    assert x[0, 0] == -np.inf
    assert x[0, 1] == np.inf
    assert np.isnan(x[1, 0])
    assert np.isfinite([x[0, 2], x[1, 1], x[1, 2]]).all()
    assert not np.isfinite(residual).any()  # none of the two samples counts as reproduced


def test_samples_are_drawn_within_the_domain() -> None:
    """A piecewise linear function on [0, 1), that is moved to [−3, 5)."""
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 18]> g (float[N,2] x) => (float[N,2] y)
        <float[5] heights = {0.0, 0.1, 0.5, 0.7, 1.0}, float half = {0.5}, float three = {3}, int64 one = {1}>
        {
            u = Add(x, three) t = Mul(u, half) c = Floor(t) i = Cast<to=7>(c) k = Add(i, one) s = Sub(t, c)
            a = Gather(heights, i) b = Gather(heights, k) d = Sub(b, a) r = Mul(s, d) y = Add(a, r)
        }
    """)
    made = onnx_invert.invert(model, method="closed-form")
    assert made.round_trip is not None
    assert made.round_trip.source.endswith("within the domain")
    low, high = made.plan.bounds["x"]  # type: ignore[union-attr]
    np.testing.assert_allclose(low, -3, atol=1e-4)
    np.testing.assert_allclose(high, 5, atol=1e-4)


COLUMNS = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,3] y)
    <float[3] low = {-1.3, 500, 0.5}, float[3] high = {-0.7, 1800, 90}, float[3] unit = {0.1, 400, -20}> {
        a = Min(x, high) b = Max(a, low) u = Div(b, unit)
        c = Min(x, high) d = Max(c, low) v = Div(d, unit) t = Tanh(v)
        y = Add(u, t)
    }"""


def test_every_column_has_its_own_ends():
    """Intervals that have no point in common; y at an end is that of all x beyond, and gives the end."""
    model = onnx.parser.parse_model(COLUMNS)
    made = onnx_invert.invert(model)
    low, high = np.float32([-1.3, 500, 0.5]), np.float32([-0.7, 1800, 90])
    found = made.plan.bounds["x"]
    np.testing.assert_allclose(found[0][0], low, rtol=1e-4)
    np.testing.assert_allclose(found[1][0], high, rtol=1e-4)
    x = np.stack([low - 0.05 * np.abs(low), low, (low + high) / 2, high, high + 0.05 * np.abs(high)])
    y = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    (back,) = ort.InferenceSession(made.model.SerializeToString()).run(None, {"y": y})
    np.testing.assert_allclose(back, np.clip(x, low, high), rtol=1e-4)


def test_ends_go_back_through_scales_and_shifts():
    """x lies between 1 − 1.8 and 1 + 1.8 where s = (1 − x) / 0.6 lies within ±3, and samples are drawn there."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (double[N,2] x) => (double[N,2] y)
        <double one = {1}, double unit = {0.6}, double low = {-3}, double high = {3}> {
            d = Sub(one, x) s = Div(d, unit)
            a = Min(s, high) b = Max(a, low) c = Min(s, high) e = Max(c, low) t = Tanh(e) y = Add(b, t)
        }"""
    )
    made = onnx_invert.invert(model)
    assert made.round_trip.source.endswith("within the domain")
    np.testing.assert_allclose(made.plan.bounds["x"], [[[-0.8, -0.8]], [[2.8, 2.8]]], rtol=1e-4)


SCALE, SHIFT = np.array([-4.0, 0.3], np.float32), np.array([0.9, 2.5], np.float32)


def _behind_scales() -> onnx.ModelProto:
    """A coupling whose second half is a logit of v ∈ (0, 1): v₀ = −4 x₀ of two columns, v₁ = 2.5 − x₃."""
    return onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y)
        <float[2] scale = {-4.0, 0.3}, float[2] shift = {0.9, 2.5}, int64[4] order = {1, 2, 0, 3}, float one = {1},
         float[2,2] w = {0.5, -0.25, 0.75, 0.5}>
        {
            p, q = Split<axis = 1>(x)
            r = Mul(p, scale) s = Sub(shift, q) t = Concat<axis = 1>(r, s) u = Gather<axis = 1>(t, order)
            a, v = Split<axis = 1>(u)
            h = MatMul(a, w) k = Tanh(h)
            m = Sub(one, v) i = Log(v) j = Log(m) d = Sub(i, j) e = Add(d, k)
            y = Concat<axis = 1>(a, e)
        }
    """)


def test_the_ends_of_a_domain_are_carried_over_factors_and_summands() -> None:
    model = _behind_scales()
    made = onnx_invert.invert(model, method="closed-form")
    assert made.round_trip is not None
    assert made.round_trip.source.endswith("within the domain")
    low, high = made.plan.bounds["x"]  # type: ignore[union-attr]
    # v is [−4 x₀, 2.5 − x₃]; the other columns have no ends.
    np.testing.assert_allclose(low, [[-0.25, -np.inf, -np.inf, 1.5]], atol=1e-5)
    np.testing.assert_allclose(high, [[0.0, np.inf, np.inf, 2.5]], atol=1e-5)
    # Never wider than the truth: at the ends, rounded to the type of x, v is still within [0, 1].
    for end in (low, high):
        x = np.where(np.isfinite(end), end, 0).astype(np.float32)[0]
        v = np.array([x[0] * SCALE[0], SHIFT[1] - x[3]])
        assert ((v >= 0) & (v <= 1)).all()
        assert np.isfinite(
            _run(model, {"x": np.clip(x, low[0] + 1e-4, high[0] - 1e-4)[None].astype(np.float32)})
        ).all()


def test_a_factor_of_0_says_nothing_of_x() -> None:
    """Beside a domain of v = 0 · x + 0.5 stands all of x, and x does not come back."""
    model = _behind_scales()
    for weight in model.graph.initializer:
        if weight.name == "scale":
            weight.float_data[:] = [0.0, 0.3]
    with pytest.raises(onnx_invert.NotInvertibleError):
        onnx_invert.invert(model, method="closed-form")


def test_a_factor_of_0_leaves_x_without_ends() -> None:
    """The same beside x₀ itself, with which x comes back: of x₀ the domain of v says nothing."""
    model = _behind_scales()
    for weight in model.graph.initializer:
        if weight.name == "scale":
            weight.float_data[:] = [0.0, 0.3]
    zero = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "zero")
    shift = onnx.numpy_helper.from_array(np.array([0.5, 0.0], np.float32), "half")
    model.graph.initializer.extend([zero, shift])
    (split,) = (index for index, node in enumerate(model.graph.node) if node.output[0] == "r")
    model.graph.node[split].output[0] = "r0"
    model.graph.node.insert(split + 1, onnx.helper.make_node("Add", ["r0", "half"], ["r"]))
    model.graph.node.append(onnx.helper.make_node("Gather", ["x", "zero"], ["first"], axis=1))
    model.graph.output.append(onnx.helper.make_tensor_value_info("first", onnx.TensorProto.FLOAT, ["N", 1]))
    made = onnx_invert.invert(model, method="closed-form")
    low, high = made.plan.bounds["x"]  # type: ignore[union-attr]
    np.testing.assert_allclose(low, [[-np.inf, -np.inf, -np.inf, 1.5]], atol=1e-5)
    np.testing.assert_allclose(high, [[np.inf, np.inf, np.inf, 2.5]], atol=1e-5)
