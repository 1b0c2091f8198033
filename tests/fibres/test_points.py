"""The fibre of y: what is returned has this y, whatever was asked for, and what does not is said."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from random_networks import random_network
from small_models import text

import onnx_invert
from onnx_invert.plan.lossless.freedom import free

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests/lossless")]
from digits import load_digits  # noqa: E402
from pairs import pair, session  # noqa: E402

DIGITS = load_digits()
NOT_IMPLEMENTED = onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented
NO_PAIR = {31, 56, 226, 269, 285, 287, 290}
"""Networks whose y has its samples along another axis, or that are one Identity: `pair` does not make theirs."""

RELU = """g (float[N,6] x) => (float[N,3] y) {
    h = MatMul(x, w1) a = Relu(h) y = MatMul(a, w2)
}"""


def network(body, **weights):
    model = text(body)
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return model


def relu_net():
    rng = np.random.default_rng(0)
    return network(RELU, w1=rng.standard_normal((6, 5)), w2=rng.standard_normal((5, 3)))


def run(model, x):
    """f by onnxruntime alone."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.fixture(scope="module")
def pairs(models):
    """Lossless pairs of the shipped classifiers, with what a part of the digits say."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = onnx_invert.invert(
                models / f"{name}.onnx", lossless=True, data=DIGITS.x_train[:1000], verify=False
            )
        return made[name]

    return get


@pytest.mark.parametrize("name", ["mnist_mlp", "mnist_relu", "mnist_residual", "mnist_lenet"])
def test_eight_images_with_the_same_ten_logits(name, models, pairs):
    y = run(models / f"{name}.onnx", DIGITS.x_test[405:406])
    points = pairs(name).fibre(y).sample(8, data=DIGITS.x_train)
    assert len(points) == 8
    assert np.abs(run(models / f"{name}.onnx", points.x) - y).max() < 1e-5
    x = points.x.reshape(8, 784)
    apart = [np.abs(a - b).mean() for i, a in enumerate(x) for b in x[:i]]
    assert min(apart) > 0.1
    assert x.min() >= 0
    assert x.max() <= 1
    np.testing.assert_allclose(points.distances[np.tril_indices(8, -1)], apart, rtol=1e-4)
    assert points.apart == points.distances[np.tril_indices(8, -1)].min()


def far_apart(name, digit, count, models, pairs):
    """Points of the first test digit of a class, 0.1 from each other, verified by onnxruntime alone."""
    x = DIGITS.x_test[np.flatnonzero(DIGITS.y_test == digit)[:1]]
    y = run(models / f"{name}.onnx", x)
    points = pairs(name).fibre(y).sample(count, data=DIGITS.x_train, apart=0.1)
    assert len(points) == count
    assert np.abs(run(models / f"{name}.onnx", points.x) - y).max() < 1e-5
    rows = points.x.reshape(count, 784)
    assert min(np.abs(a - b).mean() for i, a in enumerate(rows) for b in rows[:i]) > 0.1
    assert rows.min() >= 0
    assert rows.max() <= 1
    return points


def test_ones_are_drawn_more_widely(models, pairs):
    """Two 1s differ by 0.03 only: what is near their y does not do."""
    assert far_apart("mnist_mlp", 1, 3, models, pairs).wider > 1


@pytest.mark.sweep
@pytest.mark.parametrize("digit", range(10))
@pytest.mark.parametrize("name", ["mnist_mlp", "mnist_relu", "mnist_residual", "mnist_lenet", "seed_mlp"])
def test_eight_of_every_class(name, digit, models, pairs):
    far_apart(name, digit, 8, models, pairs)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("spread", [1e-170, 1e200])
def test_any_spread_that_is_a_number_is_one(spread, given):
    """With next to none all draws are the nearest plausible x; with a huge one they are held to the data's range."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6)).astype(np.float32)
    model = network(
        "g (float[N,6] x) => (float[N,2] y) { h = MatMul(x, w) y = Tanh(h) }", w=rng.standard_normal((6, 2))
    )
    fibre = onnx_invert.invert(model, lossless=True, data=x, verify=False).fibre(run(model, x[:1]))
    points = fibre.sample(1, spread=spread, data=x if given else None)
    assert points.relative[0] <= 1e-5
    assert (np.abs(points.inputs["x"]) <= np.abs(x).max() * 1.001).all()


def test_draws_that_are_farther_apart(models, pairs):
    y = run(models / "mnist_mlp.onnx", DIGITS.x_test[405:406])
    fibre = pairs("mnist_mlp").fibre(y)
    as_they_come, dispersed = fibre.sample(4, candidates=1), fibre.sample(4)
    assert dispersed.apart > 1.2 * as_they_come.apart
    points = fibre.sample(4, seed=1, spread=3, apart=0.1)
    assert points.apart > 0.1
    assert np.abs(run(models / "mnist_mlp.onnx", points.x) - y).max() < 1e-5
    # Their latents give them back.
    np.testing.assert_allclose(fibre.move(points.z).x, points.x, atol=1e-4)


@pytest.mark.parametrize("name", ["mnist_relu", "mnist_residual", "mnist_lenet"])
def test_networks_whose_latents_are_not_free(name, models, pairs):
    y = run(models / f"{name}.onnx", DIGITS.x_test[5:6])
    fibre = pairs(name).fibre(y)
    for options in ({}, {"data": DIGITS.x_train[1000:2000]}):
        points = fibre.sample(3, candidates=1, **options)
        assert np.abs(run(models / f"{name}.onnx", points.x) - y).max() < 1e-5
        assert points.distances[np.tril_indices(3, -1)].min() > 0.01


def test_the_seed_decides(models, pairs):
    y = run(models / "mnist_mlp.onnx", DIGITS.x_test[:1])
    fibre = pairs("mnist_mlp").fibre(y)
    one, same, other = (fibre.sample(2, seed=seed, candidates=2).x for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01


def test_free_latents_never_leave_the_fibre():
    """A ReLU behind a matrix that narrows: the matrix's null space is free, what lies behind the ReLU is not."""
    model = relu_net()
    done = onnx_invert.invert(model, lossless=True, samples=16)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 6), np.float32)
    fibre = done.fibre(run(model, x))
    assert fibre.free.sum() == 1
    start = fibre.sample(1).z[0]
    far = fibre.move(np.where(fibre.free, 50.0, 0.0), relative_to=start)
    assert far.steps.tolist() == [0]
    assert np.abs(far.z - start).max() > 49
    # A positive number for the negative part of a ReLU is none that an x has: the nearest x is another one.
    corrected = fibre.move(start + 2.0 * ~fibre.free)
    assert corrected.relative.max() < 1e-5
    assert np.abs(corrected.z - start - 2.0 * ~fibre.free).max() > 0.1


def moved_freely(seed):
    """Of a random network: how far y moved, relative, when its free latents did; None without any.

    In float64 where onnxruntime has the kernels: float32's rounding is amplified a thousand times by some of them.
    """
    network = random_network(seed)
    try:
        return moved(network.exact, network.draw(np.random.default_rng(seed))[0].astype(np.float64)), 1e-7
    except NOT_IMPLEMENTED:
        kind = onnx.helper.tensor_dtype_to_np_dtype(network.model.graph.input[0].type.tensor_type.elem_type)
        return moved(network.model, network.draw(np.random.default_rng(seed))[0].astype(kind)), 1e-2


def moved(model, x):
    plan, forward, inverse = pair(model)
    flags = np.repeat(free(plan), [slot.numbers for slot in plan.slots]).astype(bool)
    if not flags.any():
        return None
    f, g = session(forward), session(inverse)
    names, first = [output.name for output in f.get_outputs()], f.get_inputs()[0].name
    found = dict(zip(names, f.run(None, {first: x}), strict=True))
    z = found.pop("latent")
    noise = np.random.default_rng(0).standard_normal((len(z), int(flags.sum())))
    z[:, flags] += (noise * np.abs(z).max()).astype(z.dtype)
    y = {port.name: found[port.name] for port in g.get_inputs()}
    elsewhere = g.run(None, {**y, "latent": z})[0]
    assert np.abs(elsewhere - x).max() > 1e-3
    after = dict(zip(names, f.run(None, {first: elsewhere}), strict=True))
    return max(np.abs(after[n] - a).max() / max(np.abs(a).max(), np.abs(elsewhere).max()) for n, a in found.items())


def test_what_is_called_free_is_free():
    """On random networks, moved by anything, the latents that the plan calls free do not change y."""
    found = [moved_freely(seed) for seed in range(30)]
    measured = [(error, bound) for error, bound in found if error is not None]
    assert len(measured) >= 5
    for error, bound in measured:
        assert error < bound


@pytest.mark.sweep
@pytest.mark.parametrize("seed", sorted({*range(30, 300)} - NO_PAIR))
def test_and_on_more_networks(seed):
    error, bound = moved_freely(seed)
    assert error is None or error < bound


def test_without_a_derivative_points_come_by_their_latents():
    """As where a node has none: g⁺ at the latents of inputs near y, verified like any other, corrected by nothing."""
    rng = np.random.default_rng(0)
    model = network("g (float[N,6] x) => (float[N,2] y) { y = MatMul(x, w) }", w=rng.standard_normal((6, 2)))
    x = rng.standard_normal((50, 6), np.float32)
    fibre = onnx_invert.invert(model, lossless=True, samples=8).fibre(run(model, x[:1]))
    fibre._rows.net.derivative, fibre.note = None, "the network has no derivative"
    points = fibre.sample(4, data=x, bounded=False)
    np.testing.assert_allclose(run(model, points.x), np.repeat(run(model, x[:1]), 4, axis=0), atol=1e-5)
    relu = onnx_invert.invert(relu_net(), lossless=True, samples=16).fibre(np.float32([5, -5, 5]))
    relu._rows.net.derivative, relu.note = None, "the network has no derivative"
    with pytest.raises(onnx_invert.FibreError, match="not corrected: the network has no derivative"):
        relu.sample(2, data=x, bounded=False)


def test_one_sample_at_a_time():
    rng = np.random.default_rng(0)
    model = network("g (float[1,6] x) => (float[1,2] y) { y = MatMul(x, w) }", w=rng.standard_normal((6, 2)))
    x = rng.standard_normal((1, 6), np.float32)
    points = onnx_invert.invert(model, lossless=True, samples=4).fibre(run(model, x)).sample(3)
    assert points.x.shape == (3, 1, 6)
    assert points.z.shape == (3, 4)
    for row in points.x:
        np.testing.assert_allclose(run(model, row), run(model, x), atol=1e-5)


def test_an_input_that_is_given():
    model = network(
        "g (float[N,6] x, float[N,2] c) => (float[N,2] y) { h = MatMul(x, w) y = Mul(h, c) }",
        w=np.random.default_rng(0).standard_normal((6, 2)),
    )
    done = onnx_invert.invert(model, lossless=True, recover=["x"], samples=8)
    fibre = done.fibre({"y": np.float32([[1, 2]]), "c": np.float32([[2, -1]])})
    points = fibre.sample(3)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (y,) = session.run(None, {"x": points.x, "c": np.repeat(np.float32([[2, -1]]), 3, axis=0)})
    np.testing.assert_allclose(y, [[1, 2]] * 3, atol=2e-5)
    with pytest.raises(onnx_invert.UsageError, match="mapping"):
        done.fibre(np.float32([[1, 2]]))


def test_a_y_that_no_x_has():
    done = onnx_invert.invert(
        network("g (float[N,6] x) => (float[N,2] y) { h = MatMul(x, w) y = Relu(h) }", w=np.eye(6, 2)),
        lossless=True,
        samples=16,
    )
    with pytest.raises(onnx_invert.FibreError, match="0 of 2 points") as error:
        done.fibre(np.float32([[-1, 1]])).sample(2)
    assert error.value.exit_code == 1
    assert len(error.value.points) == 0


def test_a_fibre_of_one_point(models):
    done = onnx_invert.invert(models / "bijective.onnx", lossless=True, samples=8)
    with pytest.raises(onnx_invert.UsageError, match="loses nothing"):
        done.fibre(np.zeros((1, 64), np.float32)).sample(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.sample(0), "at least 1"),
        (lambda f: f.sample(1, apart=np.nan), "apart"),
        (lambda f: f.sample(1, candidates=0), "candidates"),
        (lambda f: f.sample(1, spread=0), "above 0"),
        (lambda f: f.sample(1, data=np.zeros((3, 5), np.float32)), r"shape \(3, 5\)"),
        (lambda f: f.sample(1, data=np.full((3, 6), np.nan, np.float32)), "not finite"),
        (lambda f: f.move(np.zeros(3)), "takes"),
    ],
)
def test_calls_that_make_no_sense(call, message):
    done = onnx_invert.invert(relu_net(), lossless=True, samples=16)
    with pytest.raises(onnx_invert.UsageError, match=message):
        call(done.fibre(np.zeros((1, 3), np.float32)))


def test_arrays_that_are_no_y():
    done = onnx_invert.invert(relu_net(), lossless=True, samples=16)
    for y, message in (
        (np.zeros((2, 3)), "2 samples"),
        (np.full((1, 3), np.inf), "NaN or infinity"),
        (np.full((1, 3), 1e300), "float32 does not hold"),
        (np.zeros((1, 4)), "shape"),
        ({"z": np.zeros((1, 3))}, "No array for 'y'"),
    ):
        with pytest.raises(onnx_invert.UsageError, match=message):
            done.fibre(y)
    with pytest.raises(onnx_invert.UsageError, match="tolerance"):
        done.fibre(np.zeros(3), tolerance=0)
    with pytest.raises(onnx_invert.UsageError, match="lossless"):
        onnx_invert.invert(relu_net(), samples=8).fibre(np.zeros(3))
