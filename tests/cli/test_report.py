"""`--report`: valid against the published schema whatever the outcome, and no number that JSON lacks."""

import json
from importlib.resources import files as resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from small_models import affine, save, text

from onnx_invert import __version__

SCHEMA = json.loads(resources("onnx_invert.report").joinpath("schema.json").read_text())
CHECK = {"$ref": "#/$defs/check", "$defs": SCHEMA["$defs"]}


def load(path="r.json", schema=SCHEMA):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    report = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse)
    jsonschema.Draft202012Validator(schema).validate(report)
    return report


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_passed(call):
    assert call("f.onnx", "-o", "g.onnx", "--report", "r.json").code == 0
    report = load()
    assert report["model"] == "f.onnx"
    assert report["guarantee"] == report["planned_guarantee"] == "bijection"
    assert report["method"] == "closed-form"
    assert (report["recovered"], report["known"], report["given"]) == (["x"], ["y"], [])
    assert report["unused_outputs"] == []
    assert [row["node"] for row in report["plan"]] == ["add", "mm"]
    assert report["plan"][1]["rank"] == 4
    assert report["plan"][1]["condition"] > 1
    assert report["round_trip"]["passed"]
    assert report["round_trip"]["samples"] == 256
    assert 0 < report["round_trip"]["x_error"]["median"] <= report["round_trip"]["x_error"]["max"] < 1e-5
    assert report["version"] == __version__


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_failed(force, call):
    assert call("f.onnx", "-o", "g.onnx", "--report", "r.json", "--rtol", "1e-12", *force).code == 1
    report = load()
    assert (report["guarantee"], report["planned_guarantee"]) == ("approximate", "bijection")
    assert not report["round_trip"]["passed"]
    assert report["round_trip"]["tolerance"] == 1e-12


def test_unverified(call):
    assert call("f.onnx", "-o", "g.onnx", "--report", "r.json", "--no-verify").code == 0
    assert load()["round_trip"] is None


def test_dry_run_and_given_inputs(call):
    body = "g (float[N,3] a, float[N,3] b) => (float[N,3] y, float[N,3] e) { y = Mul(a, b) e = Exp(b) }"
    save(text(body), Path("f.onnx"))
    assert call("f.onnx", "--dry-run", "--report", "r.json", "--recover", "a").code == 0
    report = load()
    assert (report["given"], report["unused_outputs"]) == (["b"], ["e"])
    assert report["requirements"]


def test_a_condition_without_bound(call):
    save(text("g (float[N,3] x) => (float[N,3] y) { y = Tanh(x) }"), Path("f.onnx"))
    assert call("f.onnx", "-o", "g.onnx", "--report", "r.json").code == 0
    report = load()
    assert report["condition"] is None
    assert report["plan"][0]["condition"] is None


def test_a_network_that_loses_dimensions(call):
    save(affine(weight=np.random.default_rng(0).standard_normal((6, 3))), Path("f.onnx"))
    assert call("f.onnx", "-o", "g.onnx", "--report", "r.json").code == 0
    report = load()
    assert report["guarantee"] == "right-inverse"
    assert [row["lost"] for row in report["plan"]] == [0, 3]
    assert not report["round_trip"]["x_error"]["promised"]


def test_samples_left_out(call):
    save(text("g (float[N,3] x) => (float[N,3] y) { y = Log(x) }"), Path("f.onnx"))
    x = np.ones((4, 3), np.float32)
    x[0] = -1
    np.save("x.npy", x)
    assert call("f.onnx", "-o", "g.onnx", "--report", "r.json", "--data", "x.npy").code == 0
    trip = load()["round_trip"]
    assert (trip["samples"], trip["skipped"], trip["source"]) == (3, 1, "given data")


@pytest.mark.parametrize("name", ["bijective", "autoencoder", "mnist_mlp", "widening"])
def test_the_shipped_networks(name, models, call):
    assert call(models / f"{name}.onnx", "-o", "g.onnx", "--report", "r.json").code == 0
    load()


def test_check(call):
    assert call("f.onnx", "-o", "g.onnx").code == 0
    assert call("check", "f.onnx", "g.onnx", "--report", "r.json").code == 0
    assert load(schema=CHECK)["found"] == "bijection"
    assert call("check", "f.onnx", "g.onnx", "--report", "r.json", "--rtol", "1e-12").code == 1
    assert load(schema=CHECK)["found"] == "approximate"


def test_no_report_where_there_is_nothing_to_report(call, files):
    save(text("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"), Path("f.onnx"))
    done = call("f.onnx", "-o", "g.onnx", "--report", "r.json", "--method", "closed-form")
    assert done.code == 3
    assert files() == {"f.onnx"}
