"""Kinks rounded off: the functions, their slopes, and that a width of 0 leaves both as they are."""

import numpy as np
import onnx_ir as ir
import pytest
from solving import normal, run

from onnx_invert.build.inverse import assemble
from onnx_invert.build.tape import Tape
from onnx_invert.graph.emit import Emitter
from onnx_invert.graph.write import to_proto
from onnx_invert.plan.program import program
from onnx_invert.rules import default_rules

SLOPES = np.array([0.3, -0.2, 0.0, 1.0, 2.0])
KINDS = [("Relu", {}, 0.0), ("LeakyRelu", {"alpha": 0.01}, 0.01), ("LeakyRelu", {}, 0.01), ("PRelu", {}, SLOPES)]


def evaluated(kind, attributes, x, width):
    """f and f′ of (N, 5) numbers in float64, as the solver's tape has them with such a `width` (N, 1)."""
    double = ir.TensorType(ir.DataType.DOUBLE)
    before = ir.Value(name="before", shape=ir.Shape(["N", 5]), type=double)
    operands = [before]
    if kind == "PRelu":
        slope = ir.tensor(SLOPES, name="slope")
        operands.append(ir.Value(name="slope", shape=ir.Shape([5]), type=double, const_value=slope))
    node = ir.Node("", kind, operands, attributes=[ir.AttrFloat32(k, v) for k, v in attributes.items()], name="bend")
    after = node.outputs[0]
    after.name, after.shape, after.type = "after", ir.Shape(["N", 5]), double
    steps, blockers = program((before,), (after,), default_rules(), 17)
    assert not blockers
    e = Emitter(ir.DataType.DOUBLE, ["x", "c", "y", "slopes"])
    ports = [ir.Value(name=name, shape=ir.Shape(["N", size]), type=double) for name, size in (("x", 5), ("c", 1))]
    tape = Tape.record(e, steps, {before: ports[0]}, 1, lambda _e, value: ports[1] if value is before else None)
    ones = e.op("Add", e.op("Mul", e.op("Unsqueeze", ports[0], e.ints([0])), 0.0), 1.0)
    pulled = e.op("Squeeze", tape.pull(e, {after: ones})[before], e.ints([0]))
    outputs = [e.op("Identity", value) for value in (tape.values[after], pulled)]
    for output, name in zip(outputs, ("y", "slopes"), strict=True):
        output.name, output.shape, output.type = name, ir.Shape(["N", 5]), double
    return run(to_proto(assemble(e, ports, outputs, {"": 17}, name="rounded")), x=x, c=width)


@pytest.mark.parametrize(("kind", "attributes", "below"), KINDS)
@pytest.mark.parametrize("width", [1.0, 1e-3])
def test_rounded_off(kind, attributes, below, width):
    """x⁺ is (x + √(x² + c²)) / 2, its slope that of finite differences."""
    x, c = 3 * width * normal(40, 5), np.full((40, 1), width)
    value, slope = evaluated(kind, attributes, x, c)
    np.testing.assert_allclose(value, below * x + (1 - below) * (x + np.hypot(x, width)) / 2, rtol=1e-6, atol=1e-12)
    step = 1e-5 * width
    ends = [evaluated(kind, attributes, x + move, c)[0] for move in (step, -step)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), atol=1e-6)


@pytest.mark.parametrize(("kind", "attributes", "below"), KINDS)
def test_no_width_is_no_rounding(kind, attributes, below):
    """Bit for bit, at 0 and next to it, too; the slope at 0 is that of the right side."""
    column = np.array([0.0, -0.0, 1e-300, -1e-300, 5e-324, -5e-324, 1.0, -1.0, 1e100, -1e100])
    x = np.repeat(column[:, None], 5, axis=1)
    value, slope = evaluated(kind, attributes, x, np.zeros((len(x), 1)))
    alpha = np.float64(np.float32(below)) if np.isscalar(below) else below
    np.testing.assert_array_equal(value, np.where(x < 0, alpha * x, x))
    np.testing.assert_allclose(slope, np.where(x < 0, below + 0 * x, 1.0), rtol=1e-6)
