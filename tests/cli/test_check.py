"""`onnx-invert check MODEL INVERSE`: claims, foreign inverses, and files that do not fit."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_models import BIAS, WEIGHT, affine, save, text


@pytest.fixture
def inverted(call):
    assert call("f.onnx", "-o", "g.onnx").code == 0
    return Path("g.onnx")


def foreign(matrix, bias, x="y", y="x"):
    """(x - bias) @ matrix, as another tool would write it."""
    model = affine(weight=matrix)
    graph = model.graph
    graph.node[0].op_type, graph.node[1].op_type = "Sub", "MatMul"
    graph.node[0].input[:], graph.node[0].output[:] = [x, "b"], ["h"]
    graph.node[1].input[:], graph.node[1].output[:] = ["h", "w"], [y]
    graph.input[0].name, graph.output[0].name = x, y
    graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(bias.astype(np.float32), "b"))
    return model


GOOD = np.linalg.inv(WEIGHT.astype(np.float64)).astype(np.float32)


def test_the_claim_of_its_own_file(inverted, call, files):
    before = files()
    done = call("check", "f.onnx", "g.onnx")
    assert done.code == 0
    assert done.out.splitlines()[0] == "the inverse states: bijection"
    assert "the samples show: bijection (g(f(x)) = x and f(g(y)) = y)" in done.out
    assert done.last.startswith("PASSED  bijection  x error ")
    assert files() == before


@pytest.mark.parametrize("names", [("y", "x"), ("input", "output"), ("x", "y")])
def test_an_inverse_that_somebody_else_wrote(names, call):
    save(foreign(GOOD, BIAS, *names), Path("g.onnx"))
    done = call("check", "f.onnx", "g.onnx")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "the inverse states no guarantee"
    assert "the samples show: bijection" in done.out
    assert done.last.startswith("PASSED  f(g(f(x))) = f(x)  x error ")


def test_one_that_is_wrong(call):
    save(foreign(GOOD * 1.01, BIAS), Path("g.onnx"))
    done = call("check", "f.onnx", "g.onnx")
    assert done.code == 1
    assert done.last.startswith("FAILED  f(g(f(x))) = f(x)  x error ")
    assert "the samples show: approximate" in done.out
    assert call("check", "f.onnx", "g.onnx", "--rtol", 0.1).code == 0


def test_a_wrong_file_that_claims_something(call):
    import hashlib

    model = foreign(GOOD * 1.01, BIAS)
    digest = hashlib.sha256(Path("f.onnx").read_bytes()).hexdigest()
    claims = {"onnx_invert.guarantee": "bijection", "onnx_invert.model_sha256": digest}
    onnx.helper.set_model_props(model, claims)
    save(model, Path("g.onnx"))
    done = call("check", "f.onnx", "g.onnx")
    assert done.code == 1
    assert done.last.startswith("FAILED  bijection")
    claims["onnx_invert.guarantee"] = "magic"
    onnx.helper.set_model_props(model, claims)
    save(model, Path("g.onnx"))
    assert "the inverse states 'magic', which is no guarantee known here" in call("check", "f.onnx", "g.onnx").out


def test_a_claim_for_another_model(inverted, call):
    other = affine()
    other.doc_string = "the same function in another file"
    save(other, Path("f.onnx"))
    done = call("check", "f.onnx", "g.onnx")
    assert done.code == 0
    assert done.out.splitlines()[0] == "the inverse was made for another model, or another version of it"


def test_quiet(inverted, call):
    done = call("check", "f.onnx", "g.onnx", "--quiet")
    assert done.out.count("\n") == 1
    assert done.last.startswith("PASSED")


def test_data_and_samples(inverted, call):
    np.save("x.npy", np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32))
    assert "9 samples, given data" in call("check", "f.onnx", "g.onnx", "--data", "x.npy").out
    assert "5 samples, given data" in call("check", "f.onnx", "g.onnx", "--data", "x.npy", "--samples", 5).out
    assert "7 samples, drawn" in call("check", "f.onnx", "g.onnx", "--samples", 7).out
    assert call("check", "f.onnx", "g.onnx", "--data", "gone.npy").code == 2


def test_given_inputs(call):
    save(text("g (float[N,3] a, float[N,3] b) => (float[N,3] y) { y = Add(a, b) }"), Path("f.onnx"))
    assert call("f.onnx", "-o", "g.onnx", "--recover", "a").code == 0
    done = call("check", "f.onnx", "g.onnx")
    assert done.code == 0, done.err
    assert done.last.startswith("PASSED  bijection")


def test_outputs_that_are_no_floats_are_left_alone(call):
    body = "g (float[N,3] x) => (float[N,3] y, int64[N,1] label) { y = Neg(x) label = ArgMax<axis = 1>(x) }"
    save(text(body), Path("f.onnx"))
    assert call("f.onnx", "-o", "g.onnx", "--from", "y").code == 0
    assert call("check", "f.onnx", "g.onnx").code == 0


def test_an_inverse_that_takes_a_label(call):
    save(text("g (float[N,1] x) => (int64[N,1] y) { y = Cast<to = 7>(x) }"), Path("f.onnx"))
    save(text("g (int64[N,1] y) => (float[N,1] x) { x = Cast<to = 1>(y) }"), Path("g.onnx"))
    done = call("check", "f.onnx", "g.onnx")
    assert done.code in (0, 1)
    assert done.last.startswith(("PASSED", "FAILED"))


CLASH = "The two files do not fit: "
UNFIT = {
    "other shapes": (
        "g (float[N,5] y) => (float[N,4] x) { z = Constant<value = float[1] {0.0}>() s = ReduceSum<keepdims = 1>(y) "
        "e = Constant<value = int64[2] {1, 4}>() q = Expand(s, e) x = Mul(q, z) }",
        CLASH + "'y' is float['N', 4] in the model; the inverse takes float['N', 5].",
    ),
    "other types": (
        "g (double[N,4] y) => (double[N,4] x) { x = Neg(y) }",
        CLASH + "'y' is float['N', 4] in the model; the inverse takes double['N', 4].",
    ),
    "other ranks": (
        "g (float[N,4,1] y) => (float[N,4,1] x) { x = Neg(y) }",
        CLASH + "'y' is float['N', 4] in the model; the inverse takes float['N', 4, 1].",
    ),
    "another output shape": (
        "g (float[N,4] y) => (float[N,8] x) { x = Concat<axis = 1>(y, y) }",
        CLASH + "'x' is float['N', 4] in the model; the inverse returns float['N', 8].",
    ),
    "no common names": (
        "g (float[N,4] p, float[N,4] q) => (float[N,4] r, float[N,4] s) { r = Neg(p) s = Neg(q) }",
        CLASH + "no output of the model is an input of the inverse",
    ),
    "an input that the model lacks": (
        "g (float[N,4] y, float[N,4] c) => (float[N,4] x) { x = Sub(y, c) }",
        "g.onnx takes 'c', which f.onnx does not have. Its inputs: x float(N, 4). Its outputs: 'y'.",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_two_files_that_do_not_fit(name, call, files):
    body, message = UNFIT[name]
    save(text(body), Path("g.onnx"))
    before = files()
    done = call("check", "f.onnx", "g.onnx", "--report", "r.json")
    assert done.code == 2
    assert message in done.err
    assert files() == before


@pytest.mark.parametrize(("weight", "code"), [(GOOD, 0), (GOOD + 0.1, 1)])
def test_an_inverse_of_one_sample(weight, code, call):
    """It runs once for each sample."""
    model = foreign(weight, BIAS)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    save(model, Path("g.onnx"))
    assert call("check", "f.onnx", "g.onnx", "--samples", 3).code == code


@pytest.mark.parametrize("pair", [("gone.onnx", "f.onnx"), ("f.onnx", "gone.onnx"), ("f.onnx", ".")])
def test_a_file_that_is_not_there(pair, call):
    done = call("check", *pair)
    assert done.code == 2
    assert "There is no file" in done.err


def test_the_report_may_not_overwrite_a_file(inverted, call):
    Path("f.onnx").rename("f.json")
    assert call("check", "f.json", "g.onnx", "--report", "f.json").code == 2
    Path("g.onnx").rename("g.json")
    assert call("check", "f.json", "g.json", "--report", "g.json").code == 2


def test_the_report(inverted, call):
    assert call("check", "f.onnx", "g.onnx", "--report", "r.json").code == 0
    report = json.loads(Path("r.json").read_text())
    assert (report["model"], report["inverse"]) == ("f.onnx", "g.onnx")
    assert (report["claim"], report["found"]) == ("bijection", "bijection")
