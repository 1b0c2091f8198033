"""Products with given masks: what stands where a mask is 0 is thrown away, whatever it is."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

import onnx_invert

COUPLING = "p, q = Split<axis = 1>(x, each) r = Add(q, p) h = Concat<axis = 1>(p, r)"

AFFINE = "a = Mul(h, m) b = Mul(a, s) c = Add(b, t) y = Mul(c, m)"

BODIES = {
    "one mask over and over": (AFFINE, 1),
    "what may be infinite in between": ("a = Mul(h, m) b = Exp(a) y = Mul(b, m)", 2),
    "another mask": ("k = Neg(m) a = Mul(h, k) b = Mul(a, s) y = Mul(b, m)", 2),
}


def _inverse(body: str) -> onnx.ModelProto:
    weights = "<int64[2] each = {1, 2}, float[1,3] s = {2, 0.5, 4}, float[1,3] t = {1, 2, 3}>"
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        f"g (float[N,3] x, float[N,1] m) => (float[N,3] y) {weights} {{ {COUPLING} {body} }}"
    )
    return onnx_invert.invert(model, recover=["x"], method="closed-form", verify=False).model


@pytest.mark.parametrize("case", BODIES)
def test_what_a_mask_sets_to_0_comes_back_as_0(case: str) -> None:
    """Of NaN and infinite y too; x of the others is not touched. One Where over all of y does for one mask."""
    body, guards = BODIES[case]
    inverse = _inverse(body)
    session = ort.InferenceSession(inverse.SerializeToString(), providers=["CPUExecutionProvider"])
    mask = np.array([[0], [1], [0], [0], [0.5]], np.float32)
    y = np.array([[np.nan] * 3, [3, 4, 5], [np.inf, -np.inf, 7], [0, 0, 0], [1, 2, 3]], np.float32)
    (x,) = session.run(None, {"y": y, "m": mask})
    np.testing.assert_array_equal(x[mask[:, 0] == 0], 0)
    assert np.isfinite(x).all()
    zeros = {tensor.name for tensor in inverse.graph.initializer if not np.any(onnx.numpy_helper.to_array(tensor))}
    assert sum(node.op_type == "Where" and node.input[1] in zeros for node in inverse.graph.node) == guards
