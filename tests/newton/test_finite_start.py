"""Networks that 0 is no input of: a logarithm, a reciprocal. The solver begins where samples lie, not at 0."""

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest

import onnx_invert

RNG = np.random.default_rng(5)


def network(front: str) -> onnx.ModelProto:
    """4 numbers, each through `front` alone, then an MLP to 2."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x) => (float[N,2] y) {{
            h = {front}(x)  u = Gemm(h, w1, b1)  r = Relu(u)  y = Gemm(r, w2)
        }}
    """)
    weights = {
        "w1": RNG.standard_normal((4, 12)) / 2,
        "b1": RNG.standard_normal(12) / 2,
        "w2": RNG.normal(size=(12, 2)),
    }
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()
    )
    return model


def unsolved(model: onnx.ModelProto, inversion: onnx_invert.Inversion, x: np.ndarray) -> float:
    """Which part of the samples has a relative residual above 1e-5."""
    f, g = (ort.InferenceSession(m.SerializeToString()) for m in (model, inversion.model))
    (y,) = f.run(None, {"x": x})
    (found,) = g.run(None, {"y": y})
    again = f.run(None, {"x": found})[0]
    return float(np.mean(~(np.linalg.norm(again - y, axis=1) < 1e-5 * np.linalg.norm(y, axis=1))))


@pytest.mark.parametrize(("front", "bounds"), [("Log", None), ("Reciprocal", None), ("Log", (0, 4))])
def test_the_first_loop_begins_where_f_is_defined(front, bounds):
    model = network(front)
    inversion = onnx_invert.invert(model, bounds=bounds, iterations=100)  # no second loop
    assert unsolved(model, inversion, RNG.uniform(0.2, 3, (128, 4)).astype(np.float32)) < 0.1


@pytest.mark.sweep
def test_the_second_loop_starts_where_f_is_defined():
    model = network("Log")
    inversion = onnx_invert.invert(model)
    assert inversion.guarantee is onnx_invert.Guarantee.RIGHT
    assert unsolved(model, inversion, RNG.uniform(0.2, 3, (128, 4)).astype(np.float32)) == 0
