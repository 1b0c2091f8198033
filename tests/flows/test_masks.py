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
SCALED = """
    a = Mul(h, m) f, g = Split<axis = 1>(a, each) u = Tanh(f) k = Mul(u, m) v = Exp(u)
    l = Mul(g, v) c = Concat<axis = 1>(f, l) y = Mul(c, m)
"""

BODIES = {
    "one mask over and over": (AFFINE, 1),
    "what may be infinite in between": ("a = Mul(h, m) b = Exp(a) y = Mul(b, m)", 2),
    "a scale that is 1 under the mask": (SCALED.replace("Exp(u)", "Exp(k)"), 1),
    "a scale that is not": (SCALED, 2),
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


def test_a_network_under_a_constant_mask_takes_what_the_mask_leaves() -> None:
    """y = b·x + (1 − b)·(x·eˢ + t) with s, t of b·x: no column of zeros is multiplied, none is added."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y)
        <float[4] b = {0, 1, 1, 0}, float[4] c = {1, 0, 0, 1}> {
            a = Mul(b, x) h = Gemm<transB = 1>(a, v) s = Tanh(h) t = MatMul(a, w)
            e = Exp(s) k = Mul(x, e) l = Add(k, t) m = Mul(c, l) y = Add(a, m)
        }""")
    rng = np.random.default_rng(5)
    for name in "vw":
        weight = rng.standard_normal((4, 4)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    inverse = onnx_invert.invert(model, method="closed-form", verify=False).model
    x = rng.standard_normal((6, 4)).astype(np.float32)
    (y,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    session = ort.InferenceSession(inverse.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"y": y})[0], x, atol=2e-6)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inverse.graph.initializer}
    weights = [shapes[node.input[1]] for node in inverse.graph.node if node.op_type in {"Gemm", "MatMul"}]
    assert sorted(weights) == [(2, 4), (4, 2)]
    assert "Expand" not in {node.op_type for node in inverse.graph.node}
