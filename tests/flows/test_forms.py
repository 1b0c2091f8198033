"""Nodes within the loop of a root in another form: the same numbers, and no product that goes through samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import onnx_invert

HEAD = (
    "g (double[N,3] x) => (double[N,3] y) <double[3,3] w = {0, 1, -2, 0, 0, 0.5, 0, 0, 0}, int64 zero = {0},"
    " int64[1] last = {-1}, int64[1] first = {0}, int64[1] ends = {-2}, double two = {2}, double[4] up = {0, 1, 3, 1},"
    " double[3,2,1] each = {1, 2, 3, 0.5, 1, 0.1}, double[3,1,2] back = {1, 2, 0.5, 1, 3, 1},"
    " double[2,3] wide = {1, 2, 0.5, 0.3, 1, 2}, double[3,1] tall = {1, 0.5, 2}, double[2,1] pair = {1, 2},"
    " double[5,1,1,1,1] scales = {1, 2, 0.5, 1.5, 0.1}, int64[2] both = {-2, -1}, double[4,1] odd = {0.5, 1, 0.5, 2}>"
)

BLOCKS = {
    "columns, a matrix for each element of x": """
        s = MatMul(x, w) e = Exp(s) u = Unsqueeze(x, last) c = Unsqueeze(u, last) h = MatMul(each, c) t = Tanh(h)
        k = MatMul(back, t) i = Gather<axis = -1>(k, zero) b = Squeeze(i, last) d = Mul(b, e) y = Add(d, x)
    """,
    "rows": """
        s = MatMul(x, w) e = Exp(s) u = Unsqueeze(x, last) c = Unsqueeze(u, last) h = MatMul(c, back) t = Tanh(h)
        k = MatMul(t, each) b = Squeeze(k, both) d = Mul(b, e) y = Add(d, x)
    """,
    "a matrix for each sample": """
        s = MatMul(x, w) e = Exp(s) r = Unsqueeze(e, last) m = Unsqueeze(r, last) a = Mul(m, wide)
        u = Unsqueeze(x, last) c = Unsqueeze(u, last) v = Mul(c, scales) p = MatMul(tall, v) q = MatMul(a, p)
        t = Tanh(q) b = ReduceSum<keepdims = 0>(t, both) h = ReduceSum<keepdims = 0>(b, first) y = Add(h, x)
    """,
    "powers": """
        s = MatMul(x, w) e = Exp(s) u = Unsqueeze(x, last) p = Pow(u, up) q = MatMul(p, odd) b = Squeeze(q, last)
        n = Pow(e, two) d = Mul(b, n) y = Add(d, x)
    """,
}


def _made(body: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {HEAD} {{ {body} }}')
    made = onnx_invert.invert(model, recover=["x"], method="closed-form", verify=False)
    return model, made.model


def _in_loops(graph: onnx.GraphProto, *, inside: bool = False) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        if inside:
            yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _in_loops(attribute.g, inside=True)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("samples", [1, 7])
def test_x_comes_back(name: str, samples: int) -> None:
    model, inverse = _made(BLOCKS[name])
    x = np.random.default_rng(1).standard_normal((samples, 3))
    (y,) = ReferenceEvaluator(model).run(None, {"x": x})
    session = ort.InferenceSession(inverse.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["x"], {"y": y})[0], x, rtol=1e-9, atol=1e-9)
    assert not {"Pow", "Gather"} & {
        node.op_type for node in _in_loops(inverse.graph) if node.name.startswith("forward/")
    }


@pytest.mark.parametrize("name", BLOCKS)
def test_no_product_goes_through_samples(name: str) -> None:
    """Matrices have at most one axis for what is not a sample, in front; columns lie side by side."""
    _, inverse = _made(BLOCKS[name])
    typed = onnx.shape_inference.infer_shapes(inverse, check_type=True)
    products = [node for node in _in_loops(typed.graph) if node.op_type == "MatMul"]
    assert products or name == "powers"
    assert not [node.name for node in products if node.name.startswith("forward/")]


class Tanh(OpRun):
    """Counts how often it runs."""

    op_domain = ""
    count = 0

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        Tanh.count += 1
        return (np.tanh(x),)


@pytest.mark.parametrize(("slope", "sign"), [(0.25, "Identity"), (1.0, "Neg"), (6.0, "Identity")])
def test_few_values_are_computed(slope: float, sign: str) -> None:
    """Of a thousand roots the slowest takes at most 10 values of the function, the first two among them."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,3] y) '
        f"<float k = {{{slope}}}> {{ t = Tanh(x) u = Mul(x, k) v = Add(u, t) y = {sign}(v) }}"
    )
    made = onnx_invert.invert(model, method="closed-form", verify=False)
    x = np.random.default_rng(2).standard_normal((400, 3)).astype(np.float32)
    (y,) = ReferenceEvaluator(model).run(None, {"x": x})
    Tanh.count = 0
    (found,) = ReferenceEvaluator(made.model, new_ops=[Tanh]).run(["x"], {"y": y})
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-6)
    assert 2 < Tanh.count <= 10
