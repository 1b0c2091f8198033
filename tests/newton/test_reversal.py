"""Chains of invertible layers, solved from the side of y."""

from itertools import pairwise

import numpy as np
import onnx
import pytest
from solvable import network
from solving import layers, normal, residuals, run

from onnx_invert import explain, invert, rescue
from onnx_invert.build.newton import solver
from onnx_invert.build.newton.reversed import build_conditions, reverse
from onnx_invert.graph.write import to_proto
from onnx_invert.plan.reversal import find_chain

SOLVED = 1e-5
WIDTHS = 10, 12, 14, 11


def leaky(widths=WIDTHS, kind="LeakyRelu"):
    """Random layers of these widths with a function between, and their matrices."""
    weights = [normal(*sizes, seed=i) * (2 / sizes[0]) ** 0.5 for i, sizes in enumerate(pairwise(widths))]
    steps = [step for weight in weights for step in (weight, kind)][:-1]
    return layers(*steps, width=widths[0]), [weight.astype(np.float32).astype(np.float64) for weight in weights]


def chain_of(model):
    plan = explain(model, method="newton")
    return find_chain(plan.systems[0], plan.rules, plan.solved.opset), plan


def up(u):
    return np.where(u > 0, u, 0.01 * u)


def test_what_no_layer_makes():
    """Zero at a p that the layers make; elsewhere as far as p's layers are from their nearest values, by lstsq."""
    model, (first, second, third) = leaky()
    chain, plan = chain_of(model)
    equations = to_proto(build_conditions(reverse(chain, plan.rules, plan.solved.opset)))
    p = up(up(normal(20, 10, seed=5) @ first) @ second)
    y, wide, narrow = (a.astype(np.float64) for a in run(equations, hidden=p.astype(np.float32)))
    np.testing.assert_allclose(y, p @ third, rtol=1e-4, atol=1e-5)
    scale = np.abs(np.where(p > 0, p, 100 * p)).max()
    assert max(np.abs(wide).max(), np.abs(narrow).max() / 100) < 1e-5 * scale
    p = normal(20, 14, seed=6)
    _, wide, narrow = (a.astype(np.float64) for a in run(equations, hidden=p.astype(np.float32)))
    u = np.where(p > 0, p, 100 * p)
    h, *_ = np.linalg.lstsq(second.T, u.T, rcond=None)
    far = np.linalg.norm(u - h.T @ second, axis=1)
    np.testing.assert_allclose(np.linalg.norm(wide, axis=1), far, rtol=1e-3)
    v = np.where(h.T > 0, h.T, 100 * h.T)
    x, *_ = np.linalg.lstsq(first.T, v.T, rcond=None)
    np.testing.assert_allclose(np.linalg.norm(narrow, axis=1), np.linalg.norm(v - x.T @ first, axis=1), rtol=1e-3)


@pytest.mark.parametrize("widths", [(10, 14, 12, 13), (10, 12, 11, 14, 9), (10, 12)])
def test_no_such_chain(widths):
    """The last layer widens; one narrows after one that widens; nothing but one layer."""
    assert chain_of(leaky(widths)[0])[0] is None


def test_functions_without_an_inverse_for_every_value():
    for kind in ("Relu", "Tanh", "Softplus"):
        assert chain_of(leaky(kind=kind)[0])[0] is None


def test_a_cut_system_is_such_a_chain():
    """105-90-30-35-39-34: from the tensor of 30 on, and x from it, where every layer narrows."""
    plan = explain(network(124).model, method="newton")
    first, second = (find_chain(system, plan.rules, plan.solved.opset) for system in plan.systems)
    assert (len(first.last.weight), first.conditions) == (39, 9)
    assert (len(second.last.weight), second.conditions) == (90, 0)


@pytest.mark.sweep
def test_it_solves_what_starts_leave(monkeypatch):
    """With as many starts, fewer are left, and a sample that is left is told."""
    monkeypatch.setattr(solver, "RESCUE_ITERATIONS", 240)
    model, _ = leaky()
    x = normal(48, WIDTHS[0], seed=9).astype(np.float32)
    (y,) = run(model, x=x)
    after = invert(model, method="newton", verify=False, tolerance=SOLVED, residual=True).model
    monkeypatch.setattr(rescue, "_reversed", lambda plan, chains, batches: [])
    before = invert(model, method="newton", verify=False, tolerance=SOLVED).model
    onnx.checker.check_model(after, full_check=True)
    back, told = run(after, y=y)
    measured = residuals(run(model, x=back)[0], y)
    np.testing.assert_allclose(told, measured, rtol=1e-2, atol=1e-6)
    was, now = (np.count_nonzero(residuals(run(model, x=a)[0], y) > SOLVED) for a in (run(before, y=y)[0], back))
    assert was >= 8
    assert now <= was / 4
