"""Log-determinants where given masks set elements to 0: of the elements that are left, by finite differences."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

import onnx_invert
from onnx_invert.errors import NotInvertibleError

SAMPLES, CHANNELS, LENGTH = 3, 2, 4

WEIGHTS = "<double[2,2,1] w = {1, 2, -1, 1.5}, double[2,2] v = {1, 2, -1, 1.5}, double[1,2,1] s = {3, 0.25}>"

BODIES = {
    "a matrix on channels, and a scale": """
        a = Mul(x, m) b = Transpose<perm = [0, 2, 1]>(a) c = MatMul(b, v) d = Transpose<perm = [0, 2, 1]>(c)
        f = Mul(d, s) y = Mul(f, m)
    """,
    "a function that is not steep at 0": """
        a = Mul(x, m) b = LeakyRelu<alpha = 0.25>(a) c = Add(b, s) d = Sigmoid(c) y = Mul(d, m)
    """,
    "moved before it is scaled": """
        a = Mul(x, m) b = Transpose<perm = [0, 2, 1]>(a) mm = Transpose<perm = [0, 2, 1]>(m) f = Mul(b, mm)
        g = Mul(f, t) h = Transpose<perm = [0, 2, 1]>(g) y = Mul(h, m)
    """,
}


def _model(body: str, mask: str = "N,1,4") -> onnx.ModelProto:
    weights = WEIGHTS.replace(">", ", double[1,4,1] t = {2, 3, 0.5, 0.1}>")
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> '
        f"g (double[N,2,4] x, double[{mask}] m) => (double[N,2,4] y) {weights} {{ {body} }}"
    )


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = {port.name: feeds[port.name] for port in session.get_inputs()}
    return dict(zip([port.name for port in session.get_outputs()], session.run(None, wanted), strict=True))


def _left(model: onnx.ModelProto, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """slogdet of the Jacobian of the elements that the mask leaves, by central differences."""
    step = 1e-6
    found = []
    for sample in range(len(x)):
        places = np.flatnonzero(np.broadcast_to(mask[sample], x[sample].shape))
        columns = []
        for place in places:
            unit = np.zeros(x[sample].size)
            unit[place] = step
            ends = [
                _run(model, {"x": (x[sample].reshape(-1) + sign * unit).reshape(1, *x.shape[1:]), "m": mask[[sample]]})
                for sign in (1, -1)
            ]
            columns.append((ends[0]["y"] - ends[1]["y"]).reshape(-1)[places] / (2 * step))
        found.append(np.linalg.slogdet(np.stack(columns, axis=1))[1])
    return np.array(found)


@pytest.mark.parametrize("name", BODIES)
def test_only_what_is_left_counts(name: str) -> None:
    model = _model(BODIES[name])
    made = onnx_invert.invert(model, recover=["x"], method="closed-form", log_det=True, verify=False)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0.0]])[:, None, :]
    x = np.random.default_rng(0).standard_normal((SAMPLES, CHANNELS, LENGTH)) * mask
    found = _run(made.model, {"m": mask, "y": _run(model, {"x": x, "m": mask})["y"]})
    np.testing.assert_allclose(found["x"], x, atol=1e-12)
    np.testing.assert_allclose(found["log_det"], -_left(model, x, mask), atol=1e-6)


def test_a_matrix_that_mixes_what_is_left_with_what_is_not_is_refused() -> None:
    model = _model("a = Mul(x, m) b = Conv(a, w) c = Mul(b, s) y = Mul(c, m)", "N,2,4")
    with pytest.raises(NotInvertibleError, match="mixes elements some of which a given mask may set to 0"):
        onnx_invert.invert(model, recover=["x"], method="closed-form", log_det=True, verify=False)


def test_a_mask_made_of_another_in_a_way_that_is_not_followed_is_refused() -> None:
    """1 − m along one channel: both come from m, and are 0 at different places."""
    body = """
        k = Sub(one, m) both = Concat<axis = 1>(m, k) a = Mul(x, both) b = Conv(a, w) y = Mul(b, both)
    """
    model = _model(body)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1.0), "one"))
    with pytest.raises(NotInvertibleError, match="mixes elements"):
        onnx_invert.invert(model, recover=["x"], method="closed-form", log_det=True, verify=False)


PRODUCTS = {
    "of x itself": "y = Mul(x, m)",
    "of a function": "t = Tanh(x) a = Add(t, x) y = Mul(a, m)",
    "the other way round": "y = Mul(m, x)",
}


@pytest.mark.parametrize("body", PRODUCTS.values(), ids=PRODUCTS)
def test_a_factor_of_0_that_is_no_mask_has_no_finite_log_determinant(body: str) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (double[N,3] x, double[N,3] m) => (double[N,3] y) {{ {body} }}'
    )
    made = onnx_invert.invert(model, recover=["x"], log_det=True, method="closed-form")
    m = np.array([[1.0, 2.0, 0.0], [1.0, 1.0, 0.0], [1.0, 2.0, 4.0]])
    x = np.array([[0.3, -1.0, 0.5]] * 3)
    y = _run(model, {"x": x, "m": m})["y"]
    log_det = _run(made.model, {"y": y, "m": m})["log_det"]
    assert log_det[0] == np.inf  # x is lost where the factor is 0
    assert np.isfinite(log_det[1:]).all()  # a mask: the elements that it leaves, and no sample minds another
    assert "x is 0 wherever 'm' is" in made.plan.requirements[0]
