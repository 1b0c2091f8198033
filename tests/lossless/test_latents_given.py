"""Networks whose pair is exact though they have no inverse from y alone: z must be given, and everything says so."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
from pairs import back, session

import onnx_invert
from onnx_invert.cli import main

SCHEMA = json.loads((Path(onnx_invert.__file__).parent / "report/schema.json").read_text())

# Which element is largest leaves no way back: nothing from y alone is planned.
UNPLANNED = """g (float[N,6] x) => (float[N,2] y) {
    h = MatMul(x, a) r = Relu(h) m = Hardmax(r) y = MatMul(m, b)
}"""
# Planned, and fails where the solver may take but one step.
UNSOLVED = """g (float[N,6] x) => (float[N,2] y) {
    s = Sqrt(x) h = MatMul(s, c) t = Tanh(h) y = MatMul(t, d)
}"""


@pytest.fixture
def model(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    made = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {request.param}')
    shapes = {"a": (6, 4), "b": (4, 2), "c": (6, 9), "d": (9, 2)}
    for name, shape in shapes.items():
        if any(name in node.input for node in made.graph.node):
            array = (rng.standard_normal(shape) / 3).astype(np.float32)
            made.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(made, "model.onnx")
    np.save("x.npy", rng.uniform(0.1, 2, (40, 6)).astype(np.float32))
    return made


def call(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return stop.value.code


@pytest.mark.parametrize(
    ("model", "reason"),
    [(UNPLANNED, "no inverse from y alone is planned"), (UNSOLVED, "the inverse from y alone does not pass")],
    indirect=["model"],
)
def test_all_say_the_same(model, reason, capsys):
    files = "-o", "g.onnx", "--lossless", "f.onnx", "--data", "x.npy", "--iterations", "1"
    assert call("model.onnx", *files, "--report", "r.json") == 0
    out, err = capsys.readouterr()
    assert f"z must be given: {reason}" in out
    assert f"z must be given: {reason}" in err
    assert out.splitlines()[-1].startswith("PASSED  left-inverse of y and z")
    report = json.loads(Path("r.json").read_text())
    jsonschema.validate(report, SCHEMA)
    assert report["guarantee"] == "left-inverse"
    assert report["lossless"]["may_be_left_out"] is False
    assert report["lossless"]["reason"].startswith(reason)
    # The files: z is an input like any other, and there is no solver in them.
    forward, inverse = onnx.load("f.onnx"), onnx.load("g.onnx")
    told = {entry.key: entry.value for entry in inverse.metadata_props}
    assert told["onnx_invert.latents_given"] == report["lossless"]["reason"]
    assert {port.name for port in inverse.graph.input} == {"y", "latent"}
    assert not {node.op_type for node in inverse.graph.node} & {"If", "Loop"}
    x = np.load("x.npy")
    assert np.abs(back(forward, inverse, x) - x).max() < 1e-4
    with pytest.raises(Exception, match="latent"):
        session(inverse).run(None, {"y": np.zeros((1, 2), np.float32)})
    # check
    assert call("check", "f.onnx", "g.onnx", "--data", "x.npy", "--report", "c.json") == 0
    assert f"z must be given: {reason}" in capsys.readouterr().out
    checked = json.loads(Path("c.json").read_text())
    jsonschema.validate(checked, {**SCHEMA["$defs"]["check"], "$defs": SCHEMA["$defs"]})
    assert checked["latents_may_be_left_out"] is False
    assert call("check", "model.onnx", "g.onnx") == 2
    assert "check it with that" in capsys.readouterr().err
    # Python
    done = onnx_invert.invert("model.onnx", lossless=True, data=x, iterations=1)
    assert done.plan is None
    assert done.guarantee is onnx_invert.Guarantee.LEFT
    assert done.lossless.given.startswith(reason)
    assert done.round_trip.passed


@pytest.mark.parametrize("model", [UNPLANNED], indirect=True)
def test_explain_knows_what_is_not_planned(model, capsys):
    assert call("explain", "model.onnx", "--lossless", "--data", "x.npy") == 0
    assert "z must be given: no inverse from y alone is planned" in capsys.readouterr().out


@pytest.mark.parametrize("model", [UNSOLVED], indirect=True)
def test_what_concerns_the_inverse_from_y_alone_needs_one(model):
    assert (
        call("model.onnx", "-o", "g.onnx", "--lossless", "f.onnx", "--data", "x.npy", "--iterations", "1", "--force")
        == 1
    )
    told = {entry.key: entry.value for entry in onnx.load("g.onnx").metadata_props}
    assert told["onnx_invert.guarantee"] == "approximate"
    assert "onnx_invert.latents_given" not in told
    assert session(onnx.load("g.onnx")).run(None, {"y": np.zeros((3, 2), np.float32)})[0].shape == (3, 6)
    with pytest.raises(onnx_invert.VerificationError):
        onnx_invert.invert("model.onnx", lossless=True, residual=True, iterations=1, data=np.load("x.npy"))


@pytest.mark.parametrize("model", [UNSOLVED], indirect=True)
def test_points_of_its_fibre(model):
    x = np.load("x.npy")
    done = onnx_invert.invert("model.onnx", "g.onnx", lossless="f.onnx", iterations=1, data=x)
    (y,) = onnxruntime.InferenceSession("model.onnx").run(None, {"x": x[:1]})
    for fibre in (done.fibre(y), onnx_invert.fibre("g.onnx", "model.onnx", y)):
        points = fibre.sample(3, data=x)
        found = onnxruntime.InferenceSession("model.onnx").run(None, {"x": points.x})[0]
        assert np.abs(found - y).max() < 1e-5 * np.abs(y).max()


def test_a_sample_in_several_rows():
    """As scikit-learn's MLPRegressor of several outputs is exported: y of 3 numbers in 3 rows."""
    made = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,6] x) => (float[M,1] y) <int64[2] s = {-1, 1}> { h = MatMul(x, w) y = Reshape(h, s) }""")
    w = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    made.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    done = onnx_invert.invert(made, lossless=True, samples=16)
    assert (done.lossless.plan.y_size, done.lossless.plan.size, done.lossless.plan.surplus) == (3, 3, 0)
    x = np.random.default_rng(1).standard_normal((5, 6), np.float32)
    assert np.abs(back(done.forward, done.model, x) - x).max() < 1e-5
    (y,) = session(made).run(None, {"x": x})
    (plain,) = session(done.model).run(None, {"y": y})
    np.testing.assert_allclose(plain @ w, x @ w, atol=1e-5)
    points = done.fibre(y[:3]).sample(3)
    np.testing.assert_allclose(points.x @ w, np.repeat(x[:1] @ w, 3, axis=0), atol=1e-4)


def test_what_has_to_hold_of_a_given_factor_is_stated(tmp_path, monkeypatch, capsys):
    """c · x is undone by a division, whatever z holds."""
    monkeypatch.chdir(tmp_path)
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x, float[N,4] c) => (float[N,4] y)'
    onnx.save(onnx.parser.parse_model(f"{text} {{ r = Mul(x, c) y = Round(r) }}"), "model.onnx")
    arguments = ("model.onnx", "-o", "g.onnx", "--lossless", "f.onnx", "--recover", "x", "--report", "r.json")
    assert call(*arguments) == 0
    condition = "the other factor has no zero"
    assert f"if         Mul_0: {condition}" in capsys.readouterr().out
    assert json.loads(Path("r.json").read_text())["requirements"] == [f"Mul_0: {condition}"]
    for name in ("f.onnx", "g.onnx"):
        stated = {entry.key: entry.value for entry in onnx.load(name).metadata_props}
        assert (stated.get("onnx_invert.requirements") == f"Mul_0: {condition}") == (name == "g.onnx")
