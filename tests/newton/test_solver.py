"""The solver in the graph: against pseudo-inverses and least squares by scipy, on edges, in other runtimes."""

import numpy as np
import onnx
import openvino
import pytest
import scipy.linalg
import scipy.optimize
from onnx.reference import ReferenceEvaluator
from solving import layers, normal, residuals, run

import onnx_invert
from onnx_invert import Guarantee, NotInvertibleError, UsageError, VerificationError, invert
from onnx_invert.cli import main
from onnx_invert.solving import Choices

WIDEN_SHRINK = layers(normal(6, 20) / 2, "LeakyRelu", normal(20, 5, seed=1) / 4, width=6)


def newton(model, **options):
    return invert(model, method="newton", **options)


@pytest.mark.parametrize(("n", "m"), [(9, 4), (4, 4), (30, 1)])
def test_a_linear_map_gives_the_least_norm(n, m):
    weight = normal(n, m)
    y = normal(7, m, seed=1)
    inverse = newton(layers(weight, width=n, dtype=np.float64), verify=False).model
    np.testing.assert_allclose(run(inverse, y=y)[0], y @ scipy.linalg.pinv(weight), rtol=1e-9, atol=1e-9)


def test_more_equations_than_unknowns_give_least_squares():
    """Also for a y that no x gives: tanh(x W) against scipy."""
    weight = normal(3, 8) / 2
    inversion = newton(layers(weight, "Tanh", weight.T @ normal(3, 8, seed=2), width=3, dtype=np.float64))
    assert inversion.guarantee is Guarantee.LEFT
    model = layers(weight, "Sin", width=3, dtype=np.float64)
    y = np.sin(0.3 * normal(4, 3, seed=3) @ weight) + 0.05 * normal(4, 8, seed=4)
    found = run(newton(model, verify=False, iterations=200).model, y=y)[0]
    (spread,) = Choices().options(onnx_invert.explain(model, method="newton"), None).spreads
    for row, target in zip(found, y, strict=True):
        best = scipy.optimize.least_squares(lambda x, t=target: (np.sin(x @ weight) - t) / spread, row)
        np.testing.assert_allclose(row, best.x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Tanh", "Softplus", "Erf", "Sigmoid"])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_widening_and_narrowing_at_any_scale(activation, scale):
    last = normal(40, 4, seed=1) * scale
    inversion = invert(layers(normal(8, 40) / 3, activation, last, width=8))
    assert inversion.report["method"] == "newton"
    assert inversion.guarantee is Guarantee.RIGHT
    assert inversion.round_trip.y.worst < 1e-5
    assert inversion.round_trip.unsolved == 0


def test_a_closed_form_is_preferred():
    model = layers(normal(6, 4), "LeakyRelu", width=6)
    assert invert(model).report["method"] == "closed-form"
    assert newton(model).report["method"] == "newton"


def test_options_that_a_closed_form_does_not_use_say_so(tmp_path, capfd):
    model = layers(normal(6, 4), "LeakyRelu", width=6)
    with pytest.warns(UserWarning, match="--tolerance: the inverse is a closed form"):
        assert len(invert(model, tolerance=1e-3).notes) == 1
    with pytest.raises(UsageError, match="--iterations and --tolerance"):
        invert(model, method="closed-form", iterations=3, tolerance=1e-3)
    onnx.save(model, tmp_path / "f.onnx")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "f.onnx"), "-o", str(tmp_path / "g.onnx"), "--unroll", "4"])
    assert stop.value.code == 0
    assert "note: --unroll: the inverse is a closed form" in capfd.readouterr().err


def test_check_holds_a_solver_to_what_it_claims(tmp_path):
    onnx.save(layers(normal(8, 40) / 3, "Tanh", normal(40, 4, seed=1), width=8), tmp_path / "f.onnx")
    newton(tmp_path / "f.onnx", output=tmp_path / "g.onnx", residual=True)
    result = onnx_invert.check(tmp_path / "f.onnx", tmp_path / "g.onnx")
    assert result.claim is Guarantee.RIGHT
    assert result.passed
    assert result.round_trip.drawn is None


def test_more_equations_and_yet_not_one_to_one():
    """ReLU at the end of 6-7: with every negative value gone x does not come back, and all y do."""
    weight = normal(6, 7)
    inversion = newton(layers(weight, "Relu", np.eye(7), width=6))
    assert inversion.guarantee in {Guarantee.GENERALIZED, Guarantee.APPROXIMATE}
    assert not inversion.round_trip.x.promised
    stated = {p.key: p.value for p in inversion.model.metadata_props}["onnx_invert.guarantee"]
    assert stated == inversion.guarantee.value == inversion.report["guarantee"]


def test_relu_alone_starts_at_its_kink():
    inversion = invert(layers("Relu", width=5))
    assert inversion.round_trip.unsolved == 0


def test_a_bottleneck_is_cut():
    model = layers(normal(30, 4) / 5, "Tanh", normal(4, 25, seed=1), "LeakyRelu", width=30)
    plan = onnx_invert.explain(model, method="newton")
    assert [(system.m, system.n) for system in plan.systems] == [(25, 4), (4, 30)]
    assert plan.guarantee is Guarantee.GENERALIZED
    assert newton(model).round_trip.y.worst < 1e-5


def test_a_final_softmax_is_compared_by_its_logarithm():
    model = layers(normal(12, 20) / 2, "Relu", 2 * normal(20, 5, seed=1), "Softmax", width=12)
    inversion = invert(model)
    x = normal(64, 12, seed=2).astype(np.float32)
    y = run(model, x=x)[0]
    again = run(model, x=run(inversion.model, y=y)[0])[0]
    assert y.min() < 1e-8
    np.testing.assert_allclose(again, y, rtol=1e-3, atol=1e-30)  # small probabilities to their own digits


def test_a_final_sigmoid_is_peeled_off():
    model = layers(normal(12, 20) / 2, "Softplus", normal(20, 5, seed=1) / 2, "Sigmoid", width=12)
    plan = onnx_invert.explain(model)
    assert plan.rows[0].op == "Sigmoid"
    assert invert(model).round_trip.unsolved == 0


def test_the_residual_is_that_of_the_returned_x():
    inverse = newton(WIDEN_SHRINK, residual=True).model
    y = np.vstack([run(WIDEN_SHRINK, x=normal(20, 6, seed=2).astype(np.float32))[0], 1e3 * normal(3, 5, seed=3)])
    x, residual = run(inverse, y=y.astype(np.float32))
    assert residual.shape == (23,)
    measured = residuals(run(WIDEN_SHRINK, x=x)[0], y.astype(np.float32))
    np.testing.assert_allclose(residual, measured, rtol=1e-3, atol=3e-7)


def test_what_no_x_gives_comes_back_with_its_residual():
    model = layers(normal(6, 10) / 2, "Tanh", np.abs(normal(10, 3, seed=1)), width=6)
    inverse = newton(model, residual=True, verify=False).model
    y = np.full((2, 3), 1e3, np.float32)  # |y| is at most the sum of the weights
    x, residual = run(inverse, y=y)
    assert np.isfinite(x).all()
    assert np.all(residual > 0.9)


@pytest.mark.parametrize("what", [np.nan, np.inf], ids=str)
def test_not_a_number_in_one_sample_leaves_the_others(what):
    inverse = newton(WIDEN_SHRINK, verify=False).model
    y = run(WIDEN_SHRINK, x=normal(4, 6, seed=2).astype(np.float32))[0]
    broken = y.copy()
    broken[1, 2] = what
    x = run(inverse, y=broken)[0]
    assert np.isnan(x[1]).all()
    assert residuals(run(WIDEN_SHRINK, x=x)[0], y)[[0, 2, 3]].max() < 1e-5


def test_bounds_hold():
    model = layers(normal(20, 30) / 4, "Relu", normal(30, 4, seed=1) / 4, width=20)
    x = np.random.default_rng(3).uniform(-0.5, 2.0, (50, 20)).astype(np.float32)
    inversion = newton(model, bounds=(-0.5, np.full(20, 2.0)), data=x, residual=True)
    assert inversion.round_trip.unsolved == 0
    y = np.vstack([run(model, x=x)[0], 1e4 * np.ones((1, 4), np.float32)])
    back, residual = run(inversion.model, y=y)
    assert back.min() >= -0.5
    assert back.max() <= 2.0
    assert residual[-1] > 0.1


@pytest.mark.parametrize(
    "bounds", [(1, 0), (np.inf, np.inf), (0, np.nan), (1, 1), (np.zeros(3), 1), ("a", 1)], ids=str
)
def test_bounds_that_make_no_sense(bounds):
    with pytest.raises(UsageError, match="--bounds"):
        newton(WIDEN_SHRINK, bounds=bounds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "--method magic"),
        ({"iterations": 0}, "--iterations 0"),
        ({"unroll": 0}, "--unroll 0"),
        ({"unroll": 5, "iterations": 5}, "leave --iterations out"),
        ({"tolerance": 0.0}, "--tolerance 0"),
        ({"method": "closed-form", "bounds": (0, 1)}, "keeps no bounds"),
        ({"prior": np.zeros((9, 6)), "prior_kind": "odd"}, "--prior-kind odd"),
    ],
    ids=str,
)
def test_choices_that_make_no_sense(options, message):
    with pytest.raises(UsageError, match=message):
        invert(WIDEN_SHRINK, **options)


def test_unrolled_it_has_no_loop():
    inverse = newton(WIDEN_SHRINK, unroll=20).model
    assert not any(node.op_type == "Loop" for node in inverse.graph.node)
    assert {p.key: p.value for p in inverse.metadata_props}["onnx_invert.iterations"] == "20"


@pytest.mark.parametrize("opset", [16, 17, 18, 21])
def test_every_opset(opset):
    inverse = newton(WIDEN_SHRINK, opset=opset).model
    onnx.checker.check_model(inverse, full_check=True)
    assert inverse.opset_import[0].version == opset


def test_weights_are_stored_once():
    big = layers(normal(600, 500), "Relu", normal(500, 3, seed=1), width=600)
    inverse = newton(big, verify=False, residual=True).model
    sizes = sorted(tuple(tensor.dims) for tensor in inverse.graph.initializer if len(tensor.dims) > 1)
    # W itself is there for the residual alone; the loop has the basis of its rows, and x comes by that of its columns.
    assert [size for size in sizes if np.prod(size) > 5000] == [(500, 500), (500, 600), (600, 500)]
    assert sum(size == (500, 3) for size in sizes) == 1


def test_other_runtimes_return_the_same():
    inverse = newton(WIDEN_SHRINK).model
    y = run(WIDEN_SHRINK, x=normal(6, 6, seed=2).astype(np.float32))[0]
    x = run(inverse, y=y)[0]
    (reference,) = ReferenceEvaluator(inverse).run(None, {"y": y})
    np.testing.assert_allclose(reference, x, rtol=1e-4, atol=1e-4)
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(inverse.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    np.testing.assert_allclose(compiled({"y": y})[0], x, rtol=1e-4, atol=1e-4)


def test_both_sides_large_take_products():
    """300 equations for 400 unknowns: conjugate gradients on products with J."""
    model = layers(normal(400, 420) / 20, "Tanh", normal(420, 300, seed=1) / 20, width=400)
    plan = onnx_invert.explain(model, method="newton")
    assert not plan.systems[0].is_dense
    inversion = newton(model, samples=8)
    assert inversion.round_trip.unsolved == 0
    with pytest.raises(UsageError, match="conjugate"):
        newton(model, unroll=3, verify=False)


def test_a_shared_input_twice_and_a_residual_block():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x, float[N,4] c) => (float[N,4] y) {
            a = Tanh(x)  half = Constant<value = float {0.5}>()  b = Mul(a, half)  s = Mul(x, b)
            t = Add(x, s)  y = Add(t, c)
        }
    """)
    inversion = invert(model, recover=["x"], method="newton")
    assert [value.name for value in inversion.model.graph.input] == ["y", "c"]
    assert inversion.round_trip.unsolved == 0


def test_several_inputs_and_outputs():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] a, float[N,2,3] b) => (float[N,4] p, float[N,6] q) {
            flat = Flatten(b)  p = Relu(a)  z = Softplus(flat)  c = Concat<axis=1>(a, z)
            one = Constant<value_ints = [1]>()  q0 = ReduceSum<keepdims=1>(c, one)  q = Add(flat, q0)
        }
    """)
    inversion = invert(model, recover=["a", "b"], force=True)
    assert [value.name for value in inversion.model.graph.output] == ["a", "b"]
    assert inversion.report["method"] == "newton"


def test_what_is_flat_is_refused():
    with pytest.raises(NotInvertibleError, match="flat between jumps"):
        newton(layers(normal(4, 3), "Floor", width=4))


def test_samples_that_are_not_solved_are_told():
    """Two iterations leave most of them unsolved, and nothing is promised."""
    with pytest.raises(VerificationError) as failed:
        newton(layers(normal(4, 9), "Sin", normal(9, 4, seed=1), width=4), unroll=2)
    assert failed.value.inversion.guarantee is Guarantee.APPROXIMATE
    assert failed.value.inversion.report["round_trip"]["unsolved"] > 25


def test_a_conditional_prior_starts_from_the_range_of_its_data(monkeypatch):
    """x at the corners of its range: less lies beyond it than around m(y). A y far from all data, next to saturation,
    is reached as often as from m(y): either leaves one or none of these 450."""
    model = layers(normal(12, 20, seed=1), "Tanh", normal(20, 3, seed=2), width=12)
    x = np.sign(normal(600, 12, seed=3)).astype(np.float32)
    fresh, far = x[150:200], 3 * x[150:]

    def inverse():
        return invert(model, prior=x[:150], data=fresh, iterations=60, verify=False).model

    held = inverse()
    monkeypatch.setattr("onnx_invert.build.newton.inverse._Build._anchored", lambda _, solver, *rest: solver)
    y = run(model, x=fresh)[0]
    free = inverse()
    near, plain = (run(found, y=y)[0] for found in (held, free))
    beyond, before = (np.mean(np.square(np.maximum(np.abs(found) - 1, 0))) for found in (near, plain))
    assert beyond < 0.7 * before
    assert residuals(run(model, x=near)[0], y).max() < 2e-6
    y = run(model, x=far)[0]
    for solver in (held, free):
        assert np.sum(residuals(run(model, x=run(solver, y=y)[0])[0], y) > 2e-6) <= 0.01 * len(far)
