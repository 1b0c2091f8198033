"""Residual blocks: proven bounds, the log-determinant, accelerated sweeps, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import scipy.optimize
import scipy.special
from onnx import TensorProto, helper, numpy_helper

import onnx_invert
from onnx_invert.errors import NotInvertibleError
from onnx_invert.plan.lipschitz import GATED
from onnx_invert.plan.steps import Sweep
from onnx_invert.plan.system_plan import SystemPlan

SIZE = 6


class Residual:
    """y = x + g(x) in float64, g of two layers whose matrices are `gain` times orthogonal ones."""

    def __init__(self, activation: str, gain: float, *, beta: float = 1.0) -> None:
        rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        first, second = (gain * np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0] for _ in range(2))
        hidden = self.op("Add", self.op("MatMul", "x", self.weight(first)), self.weight(rng.standard_normal(SIZE)))
        if activation == "swish":
            gate = self.op("Sigmoid", self.op("Mul", hidden, self.weight(np.array([beta]))))
            hidden = self.op("Div", self.op("Mul", hidden, gate), self.weight(np.array([1.1])))
        else:
            hidden = self.op(activation, hidden)
        self.op("Add", "x", self.op("MatMul", hidden, self.weight(second)), output="y")

    def op(self, kind: str, *inputs: str, output: str = "") -> str:
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name]))
        return name

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, np.float64), name))
        return name

    def model(self) -> onnx.ModelProto:
        ports = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["N", SIZE]) for name in ("x", "y")]
        graph = helper.make_graph(self.nodes, "residual", ports[:1], ports[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def _gain(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    step = 1e-6
    ends = [[_run(model, {"x": x + s * step * unit})[0] for s in (1, -1)] for unit in np.eye(SIZE)]
    return np.linalg.slogdet(np.stack([(a - b) / (2 * step) for a, b in ends], axis=-1))[1]


@pytest.mark.parametrize(("activation", "beta"), [("Tanh", 1.0), ("swish", 0.7), ("swish", 30.0), ("swish", -4.0)])
def test_x_and_the_log_determinant_come_back(activation: str, beta: float) -> None:
    model = Residual(activation, 0.9, beta=beta).model()
    made = onnx_invert.invert(model, method="closed-form", log_det=True)
    x = 3 * np.random.default_rng(1).standard_normal((50, SIZE))
    found, log_det = _run(made.model, {"y": _run(model, {"x": x})[0]})
    assert made.guarantee.promises_x
    assert np.max(np.abs(found - x)) < 1e-12
    assert np.max(np.abs(log_det + _gain(model, x))) < 1e-6


@pytest.mark.parametrize("gate", GATED)
def test_the_slope_of_a_gated_activation_is_bounded(gate: str) -> None:
    """By what is stored, and by nothing much less: the steepest slope of t g(t), found by scipy."""
    g = scipy.special.expit if gate == "Sigmoid" else lambda t: 1 + scipy.special.erf(t)

    def slope(t: float) -> float:
        return float(scipy.optimize.approx_fprime(np.array([t]), lambda v: float(v[0] * g(v[0])), 1e-7)[0])

    steepest = max(abs(slope(t)) for t in np.linspace(-30, 30, 6001))
    assert GATED[gate] - 1e-3 < steepest < GATED[gate]


def test_a_bound_that_is_not_below_one_is_named() -> None:
    model = Residual("Tanh", 1.02).model()
    with pytest.raises(NotInvertibleError, match=r"a Lipschitz bound of g/s is below 1: the bound is 1\.04"):
        onnx_invert.invert(model, method="closed-form")
    assert onnx_invert.explain(model).guarantee is not None  # Newton takes it


def test_an_operator_without_a_bound_is_named() -> None:
    with pytest.raises(NotInvertibleError, match=r"no Lipschitz bound is known of .* \(Exp\)"):
        onnx_invert.invert(Residual("Exp", 0.1).model(), method="closed-form")


def test_acceleration_saves_sweeps_and_costs_no_more_than_one() -> None:
    """The loop stopped after fewer and fewer rounds, against plain sweeps of the forward model."""
    model = Residual("Tanh", 0.95).model()
    inverse = onnx_invert.invert(model, method="closed-form", verify=False)
    assert isinstance(inverse.plan, SystemPlan)
    (block,) = (step for step in inverse.plan.steps if isinstance(step, Sweep))
    assert block.contraction == pytest.approx(0.95**2)
    x = np.random.default_rng(1).standard_normal((200, SIZE))
    (y,) = _run(model, {"x": x})
    sweeps = 30
    plain = y
    for _ in range(sweeps):
        plain = y - (_run(model, {"x": plain})[0] - plain)
    found = _run(_stopped(inverse.model, sweeps - 1), {"y": y})[0]  # one sweep comes before the loop
    errors = [np.linalg.norm(end - x, axis=1) for end in (found, plain)]
    assert np.median(errors[0]) < 1e-3 * np.median(errors[1])
    assert np.mean(errors[0] < errors[1] + 1e-14) > 0.95
    # However it is accelerated, the residual never exceeds what the factor promises of plain sweeps, and one more.
    after = y - (_run(model, {"x": found})[0] - found)
    first = np.linalg.norm(_run(model, {"x": y})[0] - y, axis=1)
    assert np.all(np.linalg.norm(after - found, axis=1) <= 0.95 ** (2 * (sweeps - 1)) * first + 1e-14)


def _stopped(model: onnx.ModelProto, rounds: int) -> onnx.ModelProto:
    """The same model with a smaller trip count."""
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    count = next(tensor for tensor in model.graph.initializer if tensor.name == loop.input[0])
    count.CopyFrom(numpy_helper.from_array(np.asarray(rounds, np.int64), count.name))
    return model


def _wide(size: int) -> onnx.ModelProto:
    """x + tanh(x W), W half of an orthogonal matrix, in float32."""
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))[0] if size < 1000 else np.eye(size)[::-1]
    weight = numpy_helper.from_array((0.5 * q).astype(np.float32), "w")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name in ("x", "y")]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Add", ["x", "b"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "wide", ports[:1], ports[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_the_log_determinant_of_a_wide_block_is_eliminated_in_a_loop() -> None:
    model = _wide(300)
    made = onnx_invert.invert(model, method="closed-form", log_det=True, verify=False)
    x = np.random.default_rng(1).standard_normal((3, 300)).astype(np.float32)
    (y,) = _run(model, {"x": x})
    found = _run(made.model, {"y": y})
    w = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    slopes = 1 / np.cosh(x.astype(np.float64) @ w) ** 2
    wanted = np.linalg.slogdet(np.eye(300) + w * slopes[:, None, :])[1]
    np.testing.assert_allclose(found[0], x, atol=1e-5)
    np.testing.assert_allclose(found[1], -wanted, atol=1e-4)


def test_a_block_without_room_for_its_jacobian_has_no_log_determinant() -> None:
    with pytest.raises(NotInvertibleError, match="1100 numbers a sample is no product; 1024 are the most"):
        onnx_invert.invert(_wide(1100), method="closed-form", log_det=True, verify=False)
