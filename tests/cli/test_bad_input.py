"""Every way in which a model can be bad: the message, the exit code, and nothing written or left behind."""

import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from bad_models import CASES, broken, weight_as_input
from small_models import affine, external, save, text


@pytest.mark.parametrize("name", CASES)
def test_a_bad_model_is_named_and_nothing_is_written(name, call, files):
    make, code, parts = CASES[name]
    save(make(), Path("m.onnx"))
    before = files()
    done = call("m.onnx", "-o", "g.onnx", "--report", "r.json")
    assert done.code == code
    assert done.err.startswith("error: ")
    assert done.out == ""
    for part in parts:
        assert part in done.err
    assert files() == before


@pytest.mark.parametrize("name", [name for name in CASES if "IR version" not in name])  # only a run shows that one
def test_explain_refuses_it_too(name, call):
    make, code, parts = CASES[name]
    save(make(), Path("m.onnx"))
    done = call("explain", "m.onnx")
    assert done.code == code
    assert all(part in done.err for part in parts)


def test_a_weight_that_is_an_input_stands_in_the_way(call):
    save(broken(weight_as_input), Path("m.onnx"))
    done = call("m.onnx", "-o", "g.onnx", "--recover", "x", "--method", "closed-form")
    assert done.code == 3
    assert "node 'mm' (MatMul): its other operand is not constant" in done.err
    assert "'w' is an input of the model" in done.err


def test_every_blocking_node_is_listed(call, files):
    save(
        text("g (float[N,3] x) => (float[N,3] y) { [one] a = Ceil(x)\n [two] b = Relu(a)\n [three] y = Floor(b) }"),
        Path("m.onnx"),
    )
    before = files()
    done = call("m.onnx", "-o", "g.onnx", "--method", "closed-form")
    assert done.code == 3
    assert done.err.startswith("error: Cannot invert m.onnx: 3 nodes are in the way.")
    for name in ("'one' (Ceil)", "'two' (Relu)", "'three' (Floor)"):
        assert f"node {name}: " in done.err
    assert files() == before


def test_nodes_in_the_way_for_one_reason_are_listed_together(call):
    nodes = "\n".join(f"[r{i}] x{i + 1} = Ceil(x{i})" for i in range(6))
    save(text(f"g (float[N,3] x0) => (float[N,3] x6) {{ {nodes} }}"), Path("m.onnx"))
    done = call("m.onnx", "-o", "g.onnx", "--method", "closed-form")
    assert done.code == 3
    assert done.err.startswith("error: Cannot invert m.onnx: 6 nodes are in the way.")
    assert "nodes 'r0', 'r1', 'r2', 'r3' and 2 more (Ceil): what rounding takes does not come back" in done.err


def test_what_was_tried_is_not_proposed(call):
    """The solver is what --method auto comes to last: where it has refused, it is no way out."""
    model = "g (float[N,3] x) => (float[N,3] y) { r = Round(x)  s = Exp(r)  t = Mul(r, s)  y = Add(t, r) }"
    save(text(model), Path("m.onnx"))
    done = call("m.onnx", "-o", "g.onnx")
    assert done.code == 3
    assert "nor can Newton's method take it" in done.err
    assert "--method newton" not in done.err


def test_operands_that_go_together_at_other_sizes_alone(call):
    """A batch that only a broadcast fixes: the model runs with 1 or 5 samples, which its input does not say."""
    model = """g (float[N,3,1,1] x) => (float[M,3,1,1] y) <float[5,1,1,1] c = {1.0, 2.0, 3.0, 4.0, 5.0}> {
        [scale] s = Mul(x, c)  t = Tanh(s)  y = Add(t, x)
    }"""
    save(text(model), Path("m.onnx"))
    done = call("m.onnx", "-o", "g.onnx")
    assert done.code == 3
    assert "the size 'N' of its operand, against 5, may be repeated or not" in done.err
    assert "try  give 'N' a fixed size" in done.err


NO_MODEL = {
    "no such file": (lambda: None, "There is no file 'm.onnx'."),
    "a directory": (lambda: Path("m.onnx").mkdir(), "'m.onnx' is a directory, not an ONNX file."),
    "empty": (lambda: Path("m.onnx").touch(), "m.onnx is empty (0 bytes)."),
    "text": (lambda: Path("m.onnx").write_text("hello world"), "m.onnx is not an ONNX file, or was cut short"),
    "noise": (
        lambda: Path("m.onnx").write_bytes(np.random.default_rng(1).bytes(5000)),
        "m.onnx is not an ONNX file, or was cut short: its 5000 bytes do not parse.",
    ),
    "a pipe": (lambda: os.mkfifo("m.onnx"), "'m.onnx' is a device or a pipe, no regular file"),
    "a link to nothing": (lambda: Path("m.onnx").symlink_to("gone"), "There is no file 'm.onnx'."),
}


@pytest.mark.parametrize("command", ["invert", "explain"])
@pytest.mark.parametrize("name", NO_MODEL)
def test_a_path_that_is_no_model(name, command, call, files):
    make, message = NO_MODEL[name]
    make()
    before = files()
    done = call(command, "m.onnx", *(["-o", "g.onnx"] if command == "invert" else []))
    assert done.code == 2
    assert message in done.err
    assert files() == before


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("name", NO_MODEL)
def test_check_and_run_refuse_it_too(name, command, call, files):
    NO_MODEL[name][0]()
    np.save("y.npy", np.ones((1, 4), np.float32))
    before = files()
    rest = ["f.onnx"] if command == "check" else ["-i", "y.npy", "-o", "x.npy"]
    done = call(command, "m.onnx", *rest)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "m.onnx" in done.err
    assert files() == before


def archive(*names):
    with zipfile.ZipFile("m.onnx", "w") as made:
        for name in names:
            made.writestr(name, "x")


def array():
    np.save("m.npy", np.ones(3))
    Path("m.npy").rename("m.onnx")


LOOKALIKES = {
    "PyTorch": (lambda: archive("archive/data.pkl", "archive/version"), "torch.onnx.export"),
    "a program of PyTorch's": (lambda: archive("m/models/model.json"), "torch.onnx.export"),
    "PyTorch of old": (
        lambda: Path("m.onnx").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."),
        "torch.onnx.export",
    ),
    "Keras": (lambda: archive("config.json", "metadata.json", "model.weights.h5"), "name it .keras"),
    "HDF5": (lambda: Path("m.onnx").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "save it as .keras"),
    "TensorFlow Lite": (lambda: Path("m.onnx").write_bytes(b"\x1c\0\0\0TFL3" + bytes(50)), "tf2onnx.convert --tflite"),
    "onnxruntime's own": (lambda: Path("m.onnx").write_bytes(b"\x1c\0\0\0ORTM" + bytes(50)), "that it was made from"),
    "a pickle": (lambda: Path("m.onnx").write_bytes(pickle.dumps({"a": 1})), "skl2onnx"),
    "weights alone": (
        lambda: Path("m.onnx").write_bytes((16).to_bytes(8, "little") + b'{"a": {}}       ' + bytes(8)),
        "export the model itself to ONNX",
    ),
    "an array": (array, "arrays go to --data"),
    "arrays": (lambda: archive("x.npy"), "arrays go to --data"),
    "a zip": (lambda: archive("model.onnx"), "unpack it"),
    "a zip that was cut short": (lambda: Path("m.onnx").write_bytes(b"PK\x03\x04" + bytes(30)), "cut short"),
    "a pointer": (lambda: Path("m.onnx").write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "a web page": (lambda: Path("m.onnx").write_text("<!doctype html><html></html>"), "download the model again"),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_a_file_of_another_kind_says_what_to_do(name, call, files):
    make, message = LOOKALIKES[name]
    make()
    before = files()
    done = call("m.onnx", "-o", "g.onnx")
    assert done.code == 2
    assert done.err.startswith("error: m.onnx is not an ONNX file. It is ")
    assert message in done.err
    assert files() == before


def test_a_name_that_is_too_long(call):
    done = call("x" * 300 + ".onnx", "-o", "g.onnx")
    assert done.code == 2
    assert "File name too long" in done.err


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
def test_truncated(share, models, call, files):
    data = (models / "bijective.onnx").read_bytes()
    Path("m.onnx").write_bytes(data[: int(len(data) * share)])
    before = files()
    done = call("m.onnx", "-o", "g.onnx", "--method", "closed-form")
    assert done.code == 2
    assert "m.onnx" in done.err
    assert files() == before


def test_truncated_at_any_byte(call, files):
    data = affine().SerializeToString()
    before = files() | {"m.onnx"}
    for length in range(len(data)):
        Path("m.onnx").write_bytes(data[:length])
        done = call("explain", "m.onnx")
        assert (done.code, done.err[:7]) == (2, "error: "), length
    assert files() == before


EXTERNAL = {
    "missing": ({"location": "gone.bin"}, "Weight 'w' of m.onnx lies in 'gone.bin', which does not exist."),
    "above the folder": (
        {"location": "../weights.bin"},
        "Weight 'w' of m.onnx lies in '../weights.bin', outside the model's folder. It is not read",
    ),
    "absolute": ({"location": "/etc/hostname"}, "lies in '/etc/hostname', outside the model's folder"),
    "no location": ({"location": ""}, "lies in '', outside the model's folder"),
    "through a link": ({"location": "link.bin"}, "lies in 'link.bin', outside the model's folder"),
    "too short": (
        {"offset": 8},
        "Weight 'w' of m.onnx needs bytes 8 to 72 of 'weights.bin', which has 64: the file was cut short",
    ),
    "a negative offset": ({"offset": -4}, "states offset -4 and length 64 in 'weights.bin'"),
    "a negative length": ({"length": -1}, "states offset 0 and length -1 in 'weights.bin'"),
    "a length that does not fit": ({"length": 32}, "states offset 0 and length 32"),
    "an offset that is no number": ({"offset": "abc"}, "has unreadable offsets"),
}


@pytest.mark.parametrize("name", EXTERNAL)
def test_external_data(name, call, folder, files):
    inner = folder / "models"
    inner.mkdir()
    entries, message = EXTERNAL[name]
    (inner / "link.bin").symlink_to("/etc/hostname")
    (folder / "weights.bin").write_bytes(b"\0" * 64)
    external(inner, "m.onnx", **entries)
    before = files(), sorted(inner.iterdir())
    done = call(inner / "m.onnx", "-o", inner / "g.onnx")
    assert done.code == 2
    assert message in done.err
    assert (files(), sorted(inner.iterdir())) == before


def test_external_data_of_a_function_is_held_to_the_same(call, folder):
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "l" : 1]>
        g (float[N,2] x) => (float[N,2] y) { y = l.f(x) }
        <domain: "l", opset_import: ["" : 17]>
        f (a) => (b) { c = Constant<value = float[2] {1.0, 2.0}>() b = Add(a, c) }"""
    )
    tensor = model.functions[0].node[0].attribute[0].t
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    save(model, Path("m.onnx"))
    done = call("m.onnx", "-o", "g.onnx")
    assert done.code == 2
    assert "outside the model's folder" in done.err


def test_a_model_that_is_never_finite(call, files):
    body = "g (float[N,2] x) => (float[N,2] y) { c = Constant<value = float[1] {-1e9}>() a = Add(x, c) y = Log(a) }"
    save(text(body), Path("m.onnx"))
    before = files()
    done = call("m.onnx", "-o", "g.onnx", "--method", "closed-form")
    assert done.code == 2
    assert "The model returns NaN or infinity on all 256 samples" in done.err
    assert "--data" in done.err
    assert files() == before


def test_keras_without_tensorflow(call, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    Path("m.keras").write_bytes(b"")
    done = call("m.keras", "-o", "g.onnx")
    assert done.code == 2
    assert "pip install 'onnx-invert[keras]'" in done.err


def test_a_keras_file_that_is_not_there(call):
    done = call("m.keras", "-o", "g.onnx")
    assert done.code == 2
    assert "There is no file 'm.keras'." in done.err


def test_a_good_output_survives_every_failure(call):
    good = Path("g.onnx")
    shutil.copy("f.onnx", good)
    before = good.read_bytes()
    for make, code, _ in CASES.values():
        save(make(), Path("m.onnx"))
        assert call("m.onnx", "-o", "g.onnx").code == code
        assert good.read_bytes() == before


def test_explain_with_a_prior_that_is_not_there(call):
    save(affine(), Path("m.onnx"))
    done = call("explain", "m.onnx", "--prior", "none.npy")
    assert done.code == 2
    assert "There is no file 'none.npy'" in done.err
