"""Blocks whose numbers determine one another: x and the log-determinant in float64, what is proven and refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_invert
from onnx_invert.errors import NotInvertibleError
from onnx_invert.plan.steps import Coupled, Solve, Sweep
from onnx_invert.plan.system_plan import SystemPlan

SIZE = 6


class Graph:
    """x (N, …) → y in float64, written node by node."""

    def __init__(self, *sizes: int) -> None:
        self.sizes, self.nodes, self.weights = sizes or (SIZE,), list[onnx.NodeProto](), list[onnx.TensorProto]()

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, np.float64), name))
        return name

    def low_rank(self, x: str, b: np.ndarray, a: np.ndarray, act: str = "Tanh", output: str = "") -> str:
        """x + act(x Bᵀ) Aᵀ, of B (m, n) and A (n, m)."""
        bent = self.op(act, self.op("MatMul", x, self.weight(b.T)))
        return self.op("Add", x, self.op("MatMul", bent, self.weight(a.T)), output=output)

    def model(self, given: tuple[str, list[int | str]] | None = None) -> onnx.ModelProto:
        ports = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["N", *self.sizes]) for name in ("x", "y")]
        inputs = [
            *ports[:1],
            *([helper.make_tensor_value_info(given[0], TensorProto.DOUBLE, given[1])] if given else []),
        ]
        graph = helper.make_graph(self.nodes, "block", inputs, ports[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = {port.name: feeds[port.name] for port in session.get_inputs()}
    return dict(zip([port.name for port in session.get_outputs()], session.run(None, wanted), strict=True))


def _gain(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """slogdet of the Jacobian of each sample, by central differences."""
    step, count = 1e-6, x[0].size
    columns = []
    for unit in np.eye(count).reshape(-1, *x.shape[1:]):
        above, below = (_run(model, {"x": x + side * step * unit})["y"].reshape(len(x), -1) for side in (1, -1))
        columns.append((above - below) / (2 * step))
    return np.linalg.slogdet(np.stack(columns, axis=-1))[1]


def _sylvester(rank: int, features: int = SIZE) -> onnx.ModelProto:
    """Q R tanh(R̃ Qᵀ x): both triangular, their diagonals within (−1, 1)."""
    rng = np.random.default_rng(rank)
    q = np.linalg.qr(rng.standard_normal((features, rank)))[0]
    r, s = (np.triu(rng.standard_normal((rank, rank)), 1) + np.diag(rng.uniform(-0.9, 0.9, rank)) for _ in "rs")
    graph = Graph(features)
    graph.low_rank("x", s @ q.T, q @ r, output="y")
    return graph.model()


def _planars() -> onnx.ModelProto:
    """Two planar terms and a scale."""
    rng = np.random.default_rng(3)
    graph = Graph()
    value = graph.op("Mul", "x", graph.weight(rng.uniform(0.5, 2, SIZE)))
    total = value
    axes = graph.op("Constant", value_ints=[1])
    for _ in range(2):
        w = rng.standard_normal(SIZE) / 3
        s = graph.op("ReduceSum", graph.op("Mul", value, graph.weight(w)), axes, keepdims=1)
        total = graph.op("Add", total, graph.op("Mul", graph.op("Tanh", s), graph.weight(w[::-1] + w)))
    graph.op("Identity", total, output="y")
    return graph.model()


def _negative() -> onnx.ModelProto:
    """A determinant that is negative everywhere: the slope of LeakyReLU is 0.5 at least."""
    rng = np.random.default_rng(0)
    b = np.linalg.qr(rng.standard_normal((SIZE, 2)))[0].T
    a = b.T @ np.diag([-4.0, 1.0])
    graph = Graph()
    bent = graph.op("LeakyRelu", graph.op("MatMul", "x", graph.weight(b.T)), alpha=0.5)
    graph.op("Add", "x", graph.op("MatMul", bent, graph.weight(a.T)), output="y")
    return graph.model()


def _monotone(norm: float = 3.0) -> onnx.ModelProto:
    """x + Wᵀ tanh(W x), whose bound is norm²."""
    w = np.random.default_rng(1).standard_normal((9, SIZE))
    w *= norm / np.linalg.norm(w, 2)
    graph = Graph()
    graph.low_rank("x", w, w.T, output="y")
    return graph.model()


PROVEN = {
    "sylvester, 3 of 6": (_sylvester(3), Coupled),
    "sylvester, all 6": (_sylvester(6), Solve),
    "planar terms side by side": (_planars(), Coupled),
    "a negative determinant": (_negative(), Coupled),
    "a convex function's gradient": (_monotone(), Solve),
}


@pytest.mark.parametrize("name", PROVEN)
def test_what_is_proven_is_a_bijection(name: str) -> None:
    model, kind = PROVEN[name]
    made = onnx_invert.invert(model, method="closed-form", log_det=True)
    assert isinstance(made.plan, SystemPlan)
    (block,) = (step for step in made.plan.steps if isinstance(step, Coupled | Solve))
    assert isinstance(block, kind)
    assert block.proof
    assert not made.plan.tried
    assert made.guarantee is onnx_invert.Guarantee.BIJECTION
    for scale in (0.1, 1.0, 30.0):
        x = scale * np.random.default_rng(1).standard_normal((100, SIZE))
        found = _run(made.model, _run(model, {"x": x}))
        assert np.max(np.abs(found["x"] - x)) < 1e-12 * max(1, scale)
        assert np.max(np.abs(found["log_det"] + _gain(model, x))) < 1e-6


@pytest.mark.parametrize("rank", [2, 6])
def test_several_solutions_are_refused(rank: int) -> None:
    """Both turn over somewhere: I + D K is singular for some slopes D."""
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((SIZE, rank)))[0]
    graph = Graph()
    graph.low_rank("x", q.T, -1.3 * q, output="y")
    with pytest.raises(NotInvertibleError):
        onnx_invert.invert(graph.model(), method="closed-form")
    plan = onnx_invert.explain(graph.model())
    assert not isinstance(plan, SystemPlan)  # all equations together, by the solver


def _steep() -> onnx.ModelProto:
    """Closed form, a residual block of two hidden layers that is no contraction, closed form."""
    rng = np.random.default_rng(0)
    graph = Graph()
    first = graph.op("MatMul", "x", graph.weight(np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0]))
    hidden = first
    for before, after in ((SIZE, 10), (10, 10), (10, SIZE)):
        w = rng.standard_normal((before, after))
        bent = hidden if hidden is first else graph.op("Tanh", hidden)
        hidden = graph.op("MatMul", bent, graph.weight(1.25 * w / np.linalg.norm(w, 2)))
    block = graph.op("Add", first, hidden)
    graph.op("Add", graph.op("Mul", block, graph.weight(rng.uniform(0.5, 2, SIZE))), block, output="y")
    return graph.model()


def test_a_block_that_is_no_contraction_is_solved_and_the_rest_is_not() -> None:
    model = _steep()
    with pytest.raises(NotInvertibleError, match=r"the bound is 1\.953"):
        onnx_invert.invert(model, method="closed-form")
    made = onnx_invert.invert(model, log_det=True, residual=True)
    assert isinstance(made.plan, SystemPlan)
    assert [type(step).__name__ for step in made.plan.steps if isinstance(step, Solve)] == ["Solve"]
    assert len(made.plan.rows) > 2
    assert made.guarantee is onnx_invert.Guarantee.RIGHT
    assert "one of what solves it comes back" in " ".join(row.rule for row in made.plan.rows)
    assert any("the determinant" in text or "a determinant" in text for text in made.plan.tried)
    x = np.random.default_rng(1).standard_normal((200, SIZE))
    found = _run(made.model, _run(model, {"x": x}))
    assert np.max(np.abs(found["x"] - x)) < 1e-12
    assert np.max(np.abs(found["log_det"] + _gain(model, x))) < 1e-6
    assert np.max(found["residual"]) < 1e-14


def test_it_runs_without_a_loop() -> None:
    for model in (_sylvester(3), _monotone(1.5)):
        made = onnx_invert.invert(model, unroll=1, log_det=True)
        assert all(node.op_type != "Loop" for node in made.model.graph.node)
        assert made.guarantee is onnx_invert.Guarantee.BIJECTION


def test_a_block_of_every_place_alone_is_solved_there() -> None:
    """x + W₂ tanh(W₁ tanh(W₀ x)) at every place of an image: matrices of 3, not of 48."""
    rng = np.random.default_rng(0)
    graph = Graph(3, 4, 4)
    first = hidden = graph.op("Transpose", "x", perm=[0, 2, 3, 1])
    for before, after in ((3, 8), (8, 8), (8, 3)):
        w = rng.standard_normal((before, after))
        bent = hidden if hidden == first else graph.op("Tanh", hidden)
        hidden = graph.op("MatMul", bent, graph.weight(1.2 * w / np.linalg.norm(w, 2)))
    graph.op("Add", "x", graph.op("Transpose", hidden, perm=[0, 3, 1, 2]), output="y")
    made = onnx_invert.invert(graph.model(), log_det=True, verify=False)
    assert isinstance(made.plan, SystemPlan)
    (block,) = made.plan.steps[-1:] if isinstance(made.plan.steps[-1], Solve) else made.plan.steps[:1]
    assert isinstance(block, Solve)
    assert block.own == (1,)
    x = rng.standard_normal((5, 3, 4, 4))
    found = _run(made.model, _run(graph.model(), {"x": x}))
    assert np.max(np.abs(found["x"] - x)) < 1e-12
    assert np.max(np.abs(found["log_det"] + _gain(graph.model(), x))) < 1e-6


def test_a_contraction_under_a_mask_counts_what_the_mask_leaves() -> None:
    """m · (x + m · tanh(x W)), W mixing places in time: the block of the Jacobian where the mask is 1."""
    rng = np.random.default_rng(0)
    graph = Graph(2, 5)
    w = rng.standard_normal((5, 5))
    held = graph.op("Mul", "x", "m")
    bent = graph.op("Tanh", graph.op("MatMul", held, graph.weight(0.9 * w / np.linalg.norm(w, 2))))
    graph.op("Mul", graph.op("Add", held, graph.op("Mul", bent, "m")), "m", output="y")
    model = graph.model(("m", ["N", 1, 5]))
    made = onnx_invert.invert(model, recover=["x"], method="closed-form", log_det=True, verify=False)
    assert isinstance(made.plan, SystemPlan)
    (block,) = (step for step in made.plan.steps if isinstance(step, Sweep))
    assert block.within == ("m",)
    assert any("'m' lies within [−1, 1]" in text for text in made.plan.requirements)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0.0]])[:, None]
    x = rng.standard_normal((3, 2, 5)) * mask
    found = _run(made.model, {"m": mask, **_run(model, {"x": x, "m": mask})})
    np.testing.assert_allclose(found["x"], x, atol=1e-12)
    for sample, live in enumerate(np.broadcast_to(mask, x.shape).reshape(3, -1) > 0):
        feeds = {"m": mask[[sample]]}
        columns = []
        for unit in 1e-6 * np.eye(10)[live].reshape(-1, 1, 2, 5):
            above, below = (_run(model, {"x": x[[sample]] + side * unit, **feeds})["y"] for side in (1, -1))
            columns.append((above - below).reshape(-1)[live] / 2e-6)
        assert abs(found["log_det"][sample] + np.linalg.slogdet(np.array(columns).T)[1]) < 1e-6


def test_convolutions_are_bounded_by_their_norm_and_not_by_their_taps() -> None:
    """A 3×3 blur of norm 1: the sum of its taps' norms is 1 too, that of a checkered one is not its norm."""
    taps = np.array([[0, 1, 0], [1, 1, -1], [0, -1, 0]]) / 3.0  # |Ŵ| = |1 + 2i sin ω₁ + 2i sin ω₂| / 3 ≤ √17 / 3
    graph = Graph(1, 6, 6)
    conv = graph.op("Conv", "x", graph.weight(0.6 * taps[None, None]), pads=[1, 1, 1, 1])
    graph.op("Add", "x", graph.op("Tanh", conv), output="y")
    plan = onnx_invert.explain(graph.model(), method="closed-form")
    assert isinstance(plan, SystemPlan)
    (block,) = (step for step in plan.steps if isinstance(step, Sweep))
    assert block.contraction is not None
    exact = 0.6 * np.sqrt(17) / 3
    assert exact <= block.contraction < 1.01 * exact
