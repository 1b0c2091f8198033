"""What is infinite on the way to y, and leaves no trace there, leaves none in the derivative."""

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest

import onnx_invert


def session(model):
    return ort.InferenceSession(model.SerializeToString())


@pytest.mark.parametrize(
    "body",
    [
        "z = Exp(u)  c = Less(x, zero)  y = Where(c, z, x)",
        "z = Log(x)  t = Tanh(z)  c = Greater(x, zero)  y = Where(c, t, x)",
        "z = Exp(u)  p = Add(z, one)  y = Reciprocal(p)",
        "z = Exp(u)  p = Add(z, one)  y = Div(x, p)",
        "z = Exp(u)  y = Min(z, one)",
        "z = Exp(u)  w = Mul(z, x)  y = Clip(w, zero, one)",
        "z = Exp(u)  n = Neg(z)  e = Exp(n)  y = Add(e, x)",
    ],
)
def test_what_is_infinite_on_the_way_and_replaced(body):
    """exp 900 is infinite, and log −3 no number: not chosen, or where y saturates, nothing of it is left."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (double[N,3] x) => (double[N,3] y) <double zero = {{0.0}}, double one = {{1.0}}, double k = {{300.0}}> {{
            u = Mul(x, k)  {body}
        }}""")
    x, step = np.array([[3.0, -1.5, 2.5], [-3.0, 0.5, 1e-3], [2.0, -2.0, 4.0]]), 1e-7
    f = session(model)
    with np.errstate(all="ignore"):
        ahead, behind = (f.run(None, {"x": x + sign * step})[0] for sign in (1, -1))
    expected = (ahead - behind) / (2 * step)
    assert np.isfinite(expected).all()
    for mode in ("forward", "reverse"):
        (found,) = session(onnx_invert.jacobian(model, mode=mode)).run(None, {"x": x})
        np.testing.assert_allclose(found, expected[:, :, None] * np.eye(3), rtol=1e-5, atol=1e-5)
