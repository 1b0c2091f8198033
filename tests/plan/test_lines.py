"""What one line tells of a node that moves elements is what the arrays of all elements tell."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import onnx_ir as ir
import pytest

from onnx_invert.plan.elements import Pool
from onnx_invert.plan.lines import Lines
from onnx_invert.plan.moves import InPlace, Pick
from onnx_invert.plan.placing import carried, placing
from onnx_invert.rules.dependence import places

SAMPLES = 3


def value(name: str, size: int) -> tuple[ir.Value, ir.Value]:
    """A tensor of samples, and the same where their number is known."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    return tuple(ir.Value(name=name, shape=ir.Shape([n, size]), type=kind) for n in ("N", SAMPLES))


def node(op: str, inputs: list, outputs: list, constants: dict, **attributes) -> tuple[ir.Node, ir.Node]:
    """A node, and its twin where the number of samples is known."""
    weights = []
    for name, array in constants.items():
        weight = ir.Value(name=name, shape=ir.Shape(np.shape(array)), type=ir.TensorType(ir.DataType.INT64))
        weight.const_value = ir.tensor(np.asarray(array, np.int64))
        weights.append(weight)
    return tuple(
        ir.node(op, [*(v[i] for v in inputs), *weights], attributes, outputs=[v[i] for v in outputs]) for i in (0, 1)
    )


def gather(rng: np.random.Generator) -> tuple[ir.Node, ir.Node, int]:
    """A choice of elements, with repetitions."""
    size, count = rng.integers(1, 7, 2)
    return (*node("Gather", [value("x", size)], [value("y", count)], {"i": rng.integers(0, size, count)}, axis=1), 0)


def permute(rng: np.random.Generator) -> tuple[ir.Node, ir.Node, int]:
    """A permutation, which may leave elements where they are."""
    size = rng.integers(1, 6)
    return (*node("Gather", [value("x", size)], [value("y", size)], {"i": rng.permutation(size)}, axis=1), 0)


def concat(rng: np.random.Generator) -> tuple[ir.Node, ir.Node, int]:
    """Two tensors one after the other; or twice the same."""
    a, b = rng.integers(1, 5, 2)
    return (*node("Concat", [value("a", a), value("b", b)], [value("y", a + b)], {}, axis=1), int(rng.integers(2)))


def split(rng: np.random.Generator) -> tuple[ir.Node, ir.Node, int]:
    """Two parts."""
    a, b = rng.integers(1, 5, 2)
    return (*node("Split", [value("x", a + b)], [value("y", a), value("z", b)], {"sizes": [a, b]}, axis=1), 0)


def flip(rng: np.random.Generator) -> tuple[ir.Node, ir.Node, int]:
    """A Slice backwards, by steps."""
    size, step = rng.integers(1, 6), rng.integers(1, 3)
    constants = {"start": [size - 1], "end": [-(1 << 40)], "axis": [1], "step": [-step]}
    return (*node("Slice", [value("x", size)], [value("y", -(-size // step))], constants), 0)


@pytest.mark.parametrize("make", [gather, permute, concat, split, flip])
def test_a_line_tells_what_arrays_tell(make):
    rng, pool, seen = np.random.default_rng(0), Pool(), set()
    for _ in range(60):
        node, twin, place = make(rng)
        shape = tuple(twin.inputs[place].shape.numpy())
        sources = places(twin, place, shape)
        lines = Lines.of(node, place, sources, shape)
        assert lines is not None
        state = pool.of(np.broadcast_to(rng.random(shape[1]) < 0.5, shape))
        assert lines.carried(pool, state) == carried(pool, sources, state)
        before, *known = (
            pool.of(np.broadcast_to(rng.random(n) < share, (SAMPLES, n)))
            for n, share in [(shape[1], 0.4), *((o.shape[1], 0.7) for o in twin.outputs)]
        )
        known = [None if rng.random() < 0.3 else state for state in known]
        expected = placing(pool, node, place, sources, before, known, (0,))
        found = lines.placing(pool, before, known)
        assert (found is None) == (expected is None)
        if found is None or expected is None:
            seen.add(None)
            continue
        assert found.new is expected.new
        assert found.hits == expected.hits
        assert len(found.forms) == len(expected.forms)
        for one, other in zip(found.forms, expected.forms, strict=True):
            assert type(one) is type(other)
            assert all(np.array_equal(a, b) for a, b in zip(astuple(one), astuple(other), strict=True))
        seen |= {type(form) for form in found.forms}
    assert None in seen
    assert Pick in seen
    assert InPlace in seen or make in {gather, concat, split}


def test_two_fixed_axes_are_no_line():
    x, y = (ir.Value(name=name, shape=ir.Shape(["N", 2, 3]), type=ir.TensorType(ir.DataType.FLOAT)) for name in "xy")
    assert (
        Lines.of(ir.node("Concat", [x], {"axis": 1}, outputs=[y]), 0, [np.arange(1, 13).reshape(2, 2, 3)], (2, 2, 3))
        is None
    )
