"""Constants of one number that meet tensors of several axes."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort

import onnx_invert
from onnx_invert.build.ranks import align
from onnx_invert.graph.emit import Emitter


def test_a_number_gets_the_axes_of_what_it_meets() -> None:
    """As far as they are known; what other nodes take for a number stays one."""
    e = Emitter(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(["N", 1, 3]), type=ir.TensorType(ir.DataType.FLOAT))
    unknown = ir.Value(name="u", type=ir.TensorType(ir.DataType.FLOAT))
    made = e.op("Mul", e.op("Abs", x), 2.0)
    picked = e.op("Add", e.op("Gather", made, e.count(0), axis=1), 1.0)
    held = e.op("Clip", x, 0.0, 1.0)
    left = e.op("Add", unknown, 1.0)
    align(e)
    ranks = [len(value.producer().inputs[1].shape) for value in (made, picked, held, left)]
    assert ranks == [3, 2, 0, 0]


def test_the_search_for_a_root_broadcasts_no_number_of_fewer_axes() -> None:
    """Within its loops, too."""
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[N,1] x) => (float[N,1] y) { t = Tanh(x) y = Add(x, t) }'
    )
    made = onnx_invert.invert(model, method="closed-form", verify=False).model
    numbers = {tensor.name for tensor in made.graph.initializer if not tensor.dims}
    loops = [node for node in made.graph.node if node.op_type == "Loop"]
    assert loops
    for loop in loops:
        (body,) = (attribute.g for attribute in loop.attribute if attribute.name == "body")
        met = [
            node for node in body.node if node.op_type in {"Add", "Sub", "Mul", "Div", "Less", "Max", "Min", "Where"}
        ]
        assert met
        assert not [node.name for node in met if numbers & set(node.input)]
    x = np.linspace(-3, 3, 11, dtype=np.float32)[:, None]
    (back,) = ort.InferenceSession(made.SerializeToString()).run(None, {"y": x + np.tanh(x)})
    np.testing.assert_allclose(back, x, atol=1e-6)
