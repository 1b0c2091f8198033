"""Samples that the plain iteration leaves: what starts solve, and that they change nothing else."""

from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx.reference import ReferenceEvaluator
from solvable import network
from solving import layers, normal, residuals, run

from onnx_invert import explain, invert, rescue
from onnx_invert.build.newton.inverse import Options
from onnx_invert.inverting import draft

SOLVED = 1e-5
SAMPLES = 32
WINE = Path(__file__).parents[2] / "models/surrogates/wine.onnx"
CUT, NORMALISED = 120, 89
"""5-61-4-169-112 with ReLU, cut at the 4; 98-4-149 with SiLU and a layer normalisation of four numbers."""


def plain(model, monkeypatch):
    """The inverse without starts."""
    with monkeypatch.context() as patch:
        patch.setattr(draft, "with_starts", lambda plan, options, *others: (options, None, None))
        return invert(model, method="newton", verify=False, tolerance=SOLVED).model


def loops(model):
    """How many there are; one that ends when few samples are left and the one for these are two."""
    return sum(node.op_type == "Loop" for node in model.graph.node)


@pytest.fixture(scope="module")
def rescued():
    return {seed: invert(network(seed).model, method="newton", verify=False, tolerance=SOLVED).model
            for seed in (CUT, NORMALISED)}  # fmt: skip


@pytest.mark.parametrize(("seed", "least"), [(CUT, 8), (NORMALISED, 4)])
def test_what_was_left_is_solved(seed, least, rescued, monkeypatch):
    drawn = network(seed)
    y = run(drawn.model, x=drawn.draw(SAMPLES))[0]
    y = y[np.linalg.norm(y, axis=1) > 0]
    before = run(plain(drawn.model, monkeypatch), y=y)[0]
    after = run(rescued[seed], y=y)[0]
    was, now = (residuals(run(drawn.model, x=x)[0], y) for x in (before, after))
    assert np.count_nonzero(was > SOLVED) >= least
    assert np.count_nonzero(now > SOLVED) <= 1
    # What was far below the tolerance is not touched, and nothing gets worse.
    np.testing.assert_array_equal(after[was < SOLVED / 10], before[was < SOLVED / 10])
    assert np.all(now <= np.maximum(was * 1.01, SOLVED))


def test_a_batch_of_nothing(rescued):
    """As the plain inverse, the second loop takes it."""
    for inverse in rescued.values():
        m = inverse.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        (x,) = run(inverse, y=np.zeros((0, m), np.float32))
        assert len(x) == 0


def test_a_model_that_is_solved_has_no_second_loop(monkeypatch):
    model = layers(normal(6, 20) / 3, "Tanh", normal(20, 3, seed=1) / 4, width=6)
    inverse = invert(model, method="newton", verify=False, tolerance=SOLVED).model
    assert loops(inverse) == 2
    assert inverse.SerializeToString() == plain(model, monkeypatch).SerializeToString()


def test_iterations_and_unroll_leave_it_out():
    model = network(NORMALISED).model
    for options in ({"iterations": 20}, {"unroll": 3}):
        assert loops(invert(model, method="newton", verify=False, **options).model) <= 4


def test_one_sample_and_a_sample_that_is_no_number(rescued):
    """The samples that are left are taken out of the batch; none, one and one that never ends are such a batch too."""
    drawn = network(CUT)
    y = run(drawn.model, x=drawn.draw(SAMPLES))[0]
    y = y[np.linalg.norm(y, axis=1) > 0][:8]
    whole = run(rescued[CUT], y=y)[0]
    for row in range(3):
        x = run(rescued[CUT], y=y[row : row + 1])[0]
        assert residuals(run(drawn.model, x=x)[0], y[row : row + 1]).max() < SOLVED
    broken = y.copy()
    broken[2] = np.nan
    back = run(rescued[CUT], y=broken)[0]
    others = np.arange(8) != 2
    assert np.isfinite(back[others]).all()
    assert residuals(run(drawn.model, x=back)[0], y)[others].max() < SOLVED
    assert whole.shape == back.shape


def test_other_runtimes_solve_them_too(rescued):
    drawn = network(CUT)
    onnx.checker.check_model(rescued[CUT], full_check=True)
    y = run(drawn.model, x=drawn.draw(SAMPLES))[0]
    y = y[np.linalg.norm(y, axis=1) > 0][:4]
    (by_reference,) = ReferenceEvaluator(rescued[CUT]).run(None, {"y": y})
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(rescued[CUT].SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for x in (by_reference, compiled({"y": y})[0]):
        assert residuals(run(drawn.model, x=x)[0], y).max() < SOLVED


def test_each_sample_takes_back_its_own_x(rescued):
    """Solved and unsolvable ones in turn: a sample's x is what it is in any other order, and none has another's."""
    drawn = network(NORMALISED)
    y = run(drawn.model, x=drawn.draw(SAMPLES))[0][:12]
    y[::3] = 1e3 * y[::3] + 7
    order = np.roll(np.arange(len(y)), 5)[::-1]
    (x,), (turned,) = run(rescued[NORMALISED], y=y), run(rescued[NORMALISED], y=y[order])
    reached, again = (run(drawn.model, x=found)[0] for found in (x[order], turned))
    np.testing.assert_allclose(residuals(reached, y[order]), residuals(again, y[order]), rtol=0.2, atol=SOLVED)
    assert residuals(again, y[order])[order % 3 != 0].max() < SOLVED


def tensors(model):
    """Of a whole file: element types of initializers, inputs, outputs and everything in between, Loops included."""
    graphs, found = [onnx.shape_inference.infer_shapes(model, strict_mode=True).graph], set()
    while graphs:
        graph = graphs.pop()
        found.update(tensor.data_type for tensor in graph.initializer)
        found.update(v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info))
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    graphs.append(attribute.g)
                elif attribute.name in {"to", "dtype"}:
                    found.add(attribute.i)
    return found


def test_a_float32_file_holds_no_float64(rescued):
    """Runtimes lack float64, even inside (docs/portability.md)."""
    wine = invert(WINE, verify=False).model
    for inverse in (wine, *rescued.values()):
        assert loops(inverse) >= 3
        assert onnx.TensorProto.FLOAT in tensors(inverse)
        assert onnx.TensorProto.DOUBLE not in tensors(inverse)


def test_few_samples_say_where_x_lies():
    """Of the starts' range; M uniform numbers span (M − 1) / (M + 1) of theirs in the mean."""
    plan = explain(layers(normal(3, 8), "Tanh", normal(8, 2), width=3), method="newton")
    options = Options()
    for count, least in ((3, 1.5), (10, 1.0), (63, 0.98)):
        low, high = np.float64([1e5, -3e-5, 7]), np.float64([2e5, -2e-5, 7])
        x = np.random.default_rng(0).uniform(low, high, (count, 3)).astype(np.float32)
        (drawn,) = rescue._to_fit(plan, {"x": x}, None, options)
        (others,) = rescue._to_fit(plan, None, {"x": x}, options)
        for found in (drawn["x"], others["x"]):
            assert len(found) == rescue.DRAWS
            spans = np.ptp(found.astype(np.float64), axis=0) / np.maximum(np.ptp(x.astype(np.float64), axis=0), 1e-300)
            assert (spans[:2] > least).all()
            assert (spans[:2] < (count + 1) / (count - 1) + 1e-3).all()
            assert (found[:, 2] == 7).all()


def test_units_that_no_drawn_x_has_are_told():
    """Verified on what is drawn, which tells nothing of x in metres beside pascals."""
    unit = 10.0 ** np.float64([5, -5, 0, 3, -3])
    model = layers(normal(5, 3) / unit[:, None], "Tanh", normal(3, 2, seed=1), width=5)
    x = (unit * normal(40, 5)).astype(np.float32)
    told = "--bounds or --prior  say where x lies and in which units"
    options = {"method": "newton", "iterations": 20, "force": True}
    assert any(told in note for note in invert(model, **options).notes)
    assert not any(told in note for note in invert(model, bounds=(-3 * unit, 3 * unit), **options).notes)
    assert not any(told in note for note in invert(model, data=x, **options).notes)
    same = layers(normal(5, 3), "Tanh", normal(3, 2, seed=1), width=5)
    assert invert(same, **options).notes == ()
