"""What is known of a tensor in pieces: put together right, with little, and carried on once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import onnx_invert
from onnx_invert.build.inverse import assemble
from onnx_invert.build.system.columns import Column, join, turn
from onnx_invert.build.system.pieces import Piece, Pieces, line_of, masked
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.steps import Forward, Undo


def port(name: str, width: int, axis: int) -> ir.Value:
    sizes = [4, 4]
    sizes[axis] = width
    return ir.Value(name=name, shape=ir.Shape(sizes), type=ir.TensorType(ir.DataType.FLOAT))


def run(e: Emitter, inputs: list[ir.Value], made: ir.Value, feeds: dict[str, np.ndarray]) -> np.ndarray:
    output = e.op("Identity", made)
    output.shape = ir.Shape([None, None])
    model = ir.to_proto(assemble(e, inputs, [output], {"": 17}))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {port.name: feeds[port.name] for port in session.get_inputs()})[0]


@pytest.mark.parametrize("seed", range(12))
def test_columns_of_several_values_stand_where_they_belong(seed: int) -> None:
    rng = np.random.default_rng(seed)
    axis, widths = int(rng.integers(2)), {"a": int(rng.integers(2, 6)), "b": int(rng.integers(9, 40))}
    ports = {name: port(name, width, axis) for name, width in widths.items()}
    feeds = {
        name: rng.normal(size=[width if a == axis else 4 for a in range(2)]).astype(np.float32)
        for name, width in widths.items()
    }
    names = rng.choice(["a", "b"], int(rng.integers(1, 24)))
    wanted = [(str(name), int(rng.integers(widths[str(name)]))) for name in names]
    e = Emitter(ir.DataType.FLOAT, reserved=["a", "b"])
    columns = [Column(ports[name], at, widths[name]) for name, at in wanted]
    made = join(e, axis, columns, inner=[4][axis:])
    assert join(e, axis, columns, inner=[4][axis:]) is made
    expected = np.stack([feeds[name].take(at, axis) for name, at in wanted], axis)
    np.testing.assert_array_equal(run(e, list(ports.values()), made, feeds), expected)


def test_the_newer_piece_counts_and_what_is_not_known_is_no_hole() -> None:
    e = Emitter(ir.DataType.FLOAT, reserved=["a", "b"])
    a, b = port("a", 5, 1), port("b", 2, 1)
    pieces = Pieces((4, 5), [])
    pieces.add(masked(a, np.broadcast_to(np.array([True, True, True, False, False]), (4, 5))))
    pieces.add(Piece(b, 1, np.array([2, 3])))
    feeds = {"a": np.arange(20, dtype=np.float32).reshape(4, 5), "b": -np.ones((4, 2), np.float32)}
    found = run(e, [a, b], pieces.whole(e, e.truths), feeds)
    assert found.shape == (4, 5)
    np.testing.assert_array_equal(found[:, :4], np.hstack([feeds["a"][:, :2], feeds["b"]]))
    assert pieces.known[:, :4].all()
    assert not pieces.known[:, 4].any()


def test_two_turns_are_none() -> None:
    e = Emitter(ir.DataType.FLOAT)
    a = port("a", 4, 1)
    assert turn(e, turn(e, a, [1, 0]), [1, 0]) is a


def test_a_mask_along_two_axes_is_no_line() -> None:
    assert line_of(np.eye(3, dtype=bool)) is None
    axis, index = line_of(np.broadcast_to(np.array([True, False, True]), (4, 3))) or (None, None)
    assert axis == 1
    np.testing.assert_array_equal(index, [0, 2])


def coupling() -> onnx.ModelProto:
    """An affine layer before a coupling whose halves are found one after the other."""
    return onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x) => (float[N, 4] y)
        <float[4] s = {2.0, 0.5, 3.0, 4.0}, int64[2] half = {2, 2}>
        {
            m = Mul(x, s)
            a, b = Split<axis = 1>(m, half)
            t = Tanh(a)
            c = Add(b, t)
            u = Tanh(c)
            d = Add(a, u)
            y = Concat<axis = 1>(d, c)
        }
    """)


def test_halves_that_are_found_one_after_the_other_are_carried_on_together() -> None:
    model = coupling()
    plan = onnx_invert.explain(model, method="closed-form")
    done = Counter((step.node.name, type(step)) for step in plan.flat if isinstance(step, Undo | Forward))
    assert set(done.values()) == {1}
    made = onnx_invert.invert(model, verify=False).model
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    y = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    back = ort.InferenceSession(made.SerializeToString()).run(None, {"y": y})[0]
    np.testing.assert_allclose(back, x, rtol=1e-5, atol=1e-6)
