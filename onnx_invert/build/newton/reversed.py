"""Samples that are left, solved from y's side (plan/reversal.py), before the second Loop has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.build.inverse import assemble, port_of
from onnx_invert.build.newton.solver import MARGIN, NEAR, Solver
from onnx_invert.build.newton.unknowns import unknowns_of
from onnx_invert.build.rows import zeros
from onnx_invert.build.tape import copy, weights
from onnx_invert.build.versions import OPSET
from onnx_invert.graph.emit import Emitter
from onnx_invert.numerics.start import Start
from onnx_invert.numerics.tolerance import eps
from onnx_invert.plan.layout import Layout
from onnx_invert.plan.newton import System
from onnx_invert.plan.program import program
from onnx_invert.plan.reversal import Chain
from onnx_invert.rules import RuleSet
from onnx_invert.rules.facts import Elementwise

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reversal:
    """A chain as equations for its last hidden tensor p: `system` has p as its unknown, and knows what the model's
    system knows and, as zeros, `chain.conditions` more; `nodes` make `x`, the unknown of the model's, of p."""

    chain: Chain
    system: System
    nodes: tuple[ir.Node, ...]
    x: ir.Value

    @property
    def p(self) -> ir.Value:
        """The unknown."""
        return self.system.unknowns[0]


def reverse(chain: Chain, rules: RuleSet, opset: int) -> Reversal:
    """The equations of plan/reversal.py for a chain."""
    last, e = chain.last, Emitter(chain.dtype)
    p = ir.Value(name="hidden", shape=ir.Shape(["N", len(last.weight)]), type=ir.TensorType(chain.dtype))
    wanted = [_times(e, p, last.weight, last.shift)]
    value = p
    for link in reversed(chain.links[:-1]):
        if isinstance(link, Elementwise):
            value = _undone(e, link, value)
            continue
        if link.widens:
            wanted.append(_times(e, value, link.beyond, -link.shift @ link.beyond))
        value = _times(e, value, link.pinv, -link.shift @ link.pinv)
    steps, _ = program((p,), wanted, rules, opset)
    system = System(steps, {tensor: Layout.of(tensor) for tensor in (p, *wanted)}, None, (p,))
    return Reversal(chain, system, tuple(e.nodes), value)


@dataclass(frozen=True)
class Reversed:
    """A system's equations from y's side, the pairs that they start from, and the units (m) of their outputs."""

    reversal: Reversal
    start: Start
    spread: Array


def build_conditions(reversal: Reversal) -> ir.Model:
    """p to all that the system knows."""
    system = reversal.system
    (p,) = system.unknowns
    e = Emitter(p.dtype or ir.DataType.FLOAT, [p.name or ""])
    values = {p: port_of(p)}
    port = values[p]
    copy(e, [step.node for step in system.program.steps], values)
    outputs = []
    for index, value in enumerate(system.wanted):
        output = e.op("Identity", values[value])
        output.name, output.shape, output.type = f"condition_{index}", value.shape, value.type
        outputs.append(output)
    return assemble(e, [port], outputs, {"": OPSET}, name="conditions")


def retry(
    e: Emitter, solver: Solver, other: Reversed, known: ir.Value, x: ir.Value, error: ir.Value, *, apart: bool
) -> tuple[ir.Value, ir.Value]:
    """x (N, n) and its error (N, 1): of samples that are unsolved the better of what they have and what is found."""
    reversal = other.reversal
    unsolved = solver.unsolved(known, x, error)
    last, conditions = reversal.chain.last, reversal.chain.conditions
    p = _times(e, known, last.pinv, -last.shift @ last.pinv)
    there = e.op("Concat", known, zeros(e, known, after=(conditions,)), axis=1) if conditions else known
    values = dict(solver.values)
    weights(e, [step.node for step in reversal.system.program.steps], values)
    beside = replace(
        solver,
        system=reversal.system,
        values=values,
        unknowns=unknowns_of(e, reversal.system, None, None, there),
        scale=e.constant(1 / other.spread[None, :], "scale"),
        # What is left in the conditions is small in these units, and is not in those of y.
        solved=NEAR * eps(e.dtype.numpy()) / MARGIN,
        own=False,
        kinks={},
    )
    # Those that are solved have nothing to do here.
    gap = e.op("Where", unsolved, beside.error(there, p), e.scalar(0.0))
    p = beside.rescue(there, p, gap, other.start, apart=apart)
    values[reversal.p] = p
    copy(e, reversal.nodes, values, "reversed")
    found = values[reversal.x]
    reached = solver.error(known, found)
    better = e.op("And", unsolved, e.op("Less", reached, error))
    return e.op("Where", better, found, x), e.op("Where", better, reached, error)


def _times(e: Emitter, value: ir.Value, weight: Array, shift: Array) -> ir.Value:
    product = e.op("MatMul", value, e.constant(weight, "weight"))
    total = e.op("Add", product, e.constant(shift[None, :], "shift"))
    product.shape = total.shape = ir.Shape(["N", weight.shape[1]])
    return total


def _undone(e: Emitter, fact: Elementwise, y: ir.Value) -> ir.Value:
    made = len(e.nodes)
    x = fact.principal.inverse(e, y)
    for output in _outputs(e.nodes[made:]):
        output.shape = y.shape
    return x


def _outputs(nodes: list[ir.Node]) -> Iterator[ir.Value]:
    for node in nodes:
        yield from node.outputs
