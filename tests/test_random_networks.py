"""No network gets a guarantee that its measured round trips contradict, and none is refused for nothing.

`--sweep` runs all 500 networks; otherwise a seeded sample of them.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from closed_form import invert
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from random_networks import ACTIVATIONS, Network, random_network
from round_trips import Trips, measure, reproduces

import onnx_invert.plan.plan
from onnx_invert import Guarantee, Inversion, NotInvertibleError, VerificationError

ALL = range(500)
SAMPLE = frozenset(int(seed) for seed in np.random.default_rng(11).choice(len(ALL), 60, replace=False))
SEEDS = [seed if seed in SAMPLE else pytest.param(seed, marks=pytest.mark.sweep) for seed in ALL]


def planned(model: onnx.ModelProto) -> Inversion | NotInvertibleError:
    """The inverse as planned, without the package's own measurement; or the refusal."""
    try:
        return invert(model, verify=False)
    except NotInvertibleError as error:
        return error


def measured(network: Network, inversion: Inversion) -> Trips | None:
    image = inversion.plan.images["y"]
    return measure(network, inversion.model, image, every_y=inversion.guarantee.promises_every_y)


def without_judgement(monkeypatch, model: onnx.ModelProto) -> onnx.ModelProto:
    """The inverse layer by layer, whatever the planner says of the path."""
    judge = onnx_invert.plan.plan.judge
    with monkeypatch.context() as patch:
        patch.setattr(onnx_invert.plan.plan, "judge", lambda stages: replace(judge(stages), blockers=()))
        return invert(model, verify=False).model


@pytest.mark.parametrize("seed", SEEDS)
def test_stated_guarantee_holds(seed, monkeypatch):
    """What is promised is measured; what is refused is refused in both types, and for a reason.

    The reason is tried where two matrices stand in the way: undoing the layers one by one, y does not come back.
    """
    network = random_network(seed)
    found = planned(network.exact)
    if isinstance(found, NotInvertibleError):
        assert all(blocker.reason and blocker.node for blocker in found.blockers)
        with pytest.raises(NotInvertibleError):
            invert(network.model)
        if any(two_matrices(network.exact, blocker.node, blocker.reason) for blocker in found.blockers):
            assert reproduces(network, without_judgement(monkeypatch, network.exact)) is not True, str(network)
        return
    trips = measured(network, found)
    if trips is not None:
        assert trips.contradictions(found.guarantee) == {}, f"{found.guarantee} on {network}"
    try:
        stored = invert(network.model)
    except NotInvertibleError:
        # A cast between two matrices keeps them apart, and is no cast in float64 throughout.
        assert any(node.op_type == "Cast" for node in network.model.graph.node)
    except VerificationError as error:
        assert error.inversion.guarantee is Guarantee.APPROXIMATE
        assert error.inversion.plan.guarantee is found.guarantee
    else:
        assert stored.guarantee is found.guarantee, str(network)
        assert stored.round_trip.passed
        assert typical_error(network, stored) <= 100 * max(stored.round_trip.tolerance, 1e-12), str(network)


def typical_error(network: Network, inversion: Inversion) -> float:
    """The median error of f(g(f(x))) in the model's own type, on samples of this test's own."""
    f, g = (ort.InferenceSession(model.SerializeToString()) for model in (network.model, inversion.model))
    dtype = np.float64 if f.get_inputs()[0].type == "tensor(double)" else np.float32
    y = [f.run(None, {"x": x.astype(dtype)})[0] for x in network.draw(np.random.default_rng(3))]
    again = [f.run(None, {"x": g.run(None, {"y": run})[0]})[0] for run in y]
    true, got = (network.samples(runs, network.rows).astype(np.float64) for runs in (y, again))
    finite = np.isfinite(true).all(axis=1)
    if not finite.any():
        return 0.0
    norm = np.linalg.norm(true[finite], axis=1)
    norm = np.where(norm > 0, norm, 1.0)
    return float(np.median(np.linalg.norm((got - true)[finite], axis=1) / np.maximum(norm, 1e-3 * np.median(norm))))


def test_the_networks_say_something():
    """The sample holds every activation and every verdict, and most of its trips are judged."""
    operations, verdicts, judged = set(), [], []
    for seed in sorted(SAMPLE):
        network = random_network(seed)
        found = planned(network.exact)
        if isinstance(found, NotInvertibleError):
            verdicts.append("refused")
            continue
        verdicts.append(found.guarantee.value)
        if len(judged) < 15:
            trips = measured(network, found)
            judged.append(trips is not None and trips.y.judged.mean() > 0.5)
    for seed in ALL:
        operations |= {node.op_type for node in random_network(seed).model.graph.node}
    assert set(ACTIVATIONS) - operations == {"Root"}  # written as Pow
    assert min(verdicts.count(kind) for kind in {*verdicts}) >= 3, verdicts
    assert {*verdicts} == {"refused", *(kind.value for kind in Guarantee if kind is not Guarantee.APPROXIMATE)}
    assert np.mean(judged) > 0.8


def two_matrices(model: onnx.ModelProto, first: str, reason: str) -> bool:
    """A widening or a loss of rank, something that is not affine, then another.

    Without anything between, the two may lie along different axes, and then do come back one by one; after
    rank 0 f is constant, which anything reproduces.
    """
    cause, _, later = reason.partition(" before ")
    names = [node.name for node in model.graph.node]
    start, end = (names.index(name.split(" … ")[-1]) for name in (first, later.split("'")[1]))
    curved = [node.name for node in model.graph.node[start:end] if node.op_type in ACTIVATIONS.keys() - {"Neg"}]
    return (
        bool(curved)
        and all("narrows" in r or "widens" in r or "rank" in r for r in (cause, later))
        and ("rank 0" not in reason)
    )


# -- chains of matrices and LeakyRelu, against a few lines of arithmetic ------------------------------------


@st.composite
def chains(draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths n0 … nd, and the rank of each matrix between them, most of them full."""
    widths = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=6)))
    full = [min(pair) for pair in pairwise(widths)]
    ranks = tuple(draw(st.sampled_from([r, r, r, max(1, r - 1)])) for r in full)
    return widths, ranks


def chain(widths: tuple[int, ...], ranks: tuple[int, ...], between: bool, dtype: int) -> onnx.ModelProto:
    """Matrices of these ranks in general position, a LeakyRelu between two of them or not."""
    rng = np.random.default_rng([*widths, *ranks])
    nodes, weights, value = [], [], "x"
    for index, (k, m, rank) in enumerate(zip(widths, widths[1:], ranks, strict=False)):
        left, right = (np.linalg.qr(rng.standard_normal((n, rank)))[0] for n in (k, m))
        matrix = (left * rng.uniform(0.5, 2, rank)) @ right.T
        weights.append(
            numpy_helper.from_array(matrix.astype(helper.tensor_dtype_to_np_dtype(dtype)), f"fc{index}.weight")
        )
        last = index + 2 == len(widths)
        nodes.append(
            helper.make_node("MatMul", [value, f"fc{index}.weight"], ["y" if last else f"h{index}"], name=f"fc{index}")
        )
        value = f"h{index}"
        if between and not last:
            nodes.append(helper.make_node("LeakyRelu", [value], [f"a{index}"], name=f"act{index}", alpha=0.25))
            value = f"a{index}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", dtype, ["N", widths[0]])],
        [helper.make_tensor_value_info("y", dtype, ["N", widths[-1]])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def expected(widths: tuple[int, ...], ranks: tuple[int, ...]) -> str:
    """What holds of matrices with bijections between them: no layer may lose what a later one cannot make."""
    injective = [rank == k for rank, k in zip(ranks, widths, strict=False)]
    surjective = [rank == m for rank, m in zip(ranks, widths[1:], strict=True)]
    for first, onto in enumerate(surjective):
        if not onto and not all(injective[first + 1 :]):
            return "refused"
    return {
        (True, True): "bijection",
        (False, True): "right-inverse",
        (True, False): "left-inverse",
        (False, False): "generalized-inverse",
    }[all(injective), all(surjective)]


def verdict(model: onnx.ModelProto) -> str:
    found = planned(model)
    return "refused" if isinstance(found, NotInvertibleError) else found.guarantee.value


@settings(max_examples=50)
@given(chains())
@example(((784, 128, 64, 10), (128, 64, 10)))
@example(((10, 64, 64, 10), (10, 64, 10)))
@example(((5, 2, 5), (2, 2)))
@example(((4, 4, 4), (3, 4)))
@example(((4, 4, 4), (4, 3)))
@example(((4, 4, 4), (3, 3)))
@example(((3, 1, 1, 3), (1, 1, 1)))
def test_chains_with_activations(sizes):
    widths, ranks = sizes
    for dtype in (TensorProto.FLOAT, TensorProto.DOUBLE):
        assert verdict(chain(widths, ranks, True, dtype)) == expected(widths, ranks)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6).map(tuple))
@example((10, 64, 10))
@example((10, 64, 64, 10))
@example((3, 6, 6, 3))
@example((4, 6, 8, 3))
@example((5, 3, 6, 4))
def test_chains_of_full_matrices_alone_are_one_matrix(widths):
    """Linear layers with nothing between them are their product, of rank min(widths): always invertible."""
    full = tuple(min(pair) for pair in pairwise(widths))
    rank = min(widths)
    assert verdict(chain(widths, full, False, TensorProto.DOUBLE)) == expected((widths[0], widths[-1]), (rank,))


@settings(max_examples=50)
@given(chains())
@example(((3, 6, 3), (3, 3)))
@example(((4, 4, 4), (3, 3)))
def test_refused_chains_do_not_come_back(sizes):
    """f(g(f(x))) is far from f(x) layer by layer wherever a chain with activations is refused."""
    widths, ranks = sizes
    if expected(widths, ranks) != "refused":
        return
    model = chain(widths, ranks, True, TensorProto.DOUBLE)
    network = Network(0, model, model, frozenset(), ("N", widths[0]), 0)
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert reproduces(network, without_judgement(monkeypatch, model)) is False


# -- what the sweep has found, by name ---------------------------------------------------------------------


def one_node(op: str, dtype: int = TensorProto.DOUBLE, **attributes: float) -> onnx.ModelProto:
    shape = ["N", 4]
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], name=op, **attributes)],
        op,
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("attributes", [{"alpha": 0.2}, {"alpha": 3.0}, {}])
def test_leaky_relu_keeps_float64(attributes):
    """1 / alpha as an attribute is rounded to float32: the inverse was off by 1e-8."""
    assert invert(one_node("LeakyRelu", **attributes)).round_trip.x.worst < 1e-15


def test_default_epsilon_is_the_float32_that_runtimes_use():
    """1e-5 as a float32 is 2.5e-13 from 1e-5: float64 batch normalisation failed its verification."""
    dtype = np.float64
    names = ["x", "scale", "bias", "mean", "variance"]
    parameters = [numpy_helper.from_array(np.full(4, 0.7, dtype), name) for name in names[1:]]
    graph = helper.make_graph(
        [helper.make_node("BatchNormalization", names, ["y"], name="bn")],
        "bn",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["N", 4])],
        parameters,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert invert(model).guarantee is Guarantee.BIJECTION


@pytest.mark.parametrize("op", ["Sin", "Cos"])
def test_float64_sin_and_cos_run_in_onnxruntime(op):
    """onnxruntime has Sin and Cos in float64, but neither Asin nor Acos."""
    assert invert(one_node(op)).guarantee is Guarantee.RIGHT


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_float64_matrix_of_this_condition_passes(condition, seed):
    """No float64 holds the inverse better than to eps · condition: that is rounding, and no failure."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in range(2))
    weight = (left * np.geomspace(1, 1 / condition, 6)) @ right
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")],
        "matrix",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["N", 6])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert invert(model).guarantee is Guarantee.BIJECTION
