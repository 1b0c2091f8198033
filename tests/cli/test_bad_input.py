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
from onnx import helper, numpy_helper
from small_models import affine, external, save, text


def broken(change, **options):
    model = affine(**options)
    change(model)
    return model


def node(index, **fields):
    def change(model):
        for name, value in fields.items():
            setattr(model.graph.node[index], name, value)

    return change


def weight(**fields):
    def change(model):
        tensor = model.graph.initializer[0]
        for name, value in fields.items():
            if name == "dims":
                tensor.dims[:] = value
            else:
                setattr(tensor, name, value)

    return change


def set_weight(array):
    return lambda model: model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array.astype(np.float32), "w"))


def input_dim(axis, size):
    def change(model):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size

    return change


def input_again(model):
    model.graph.input.append(model.graph.input[0])


def opset(*pairs):
    def change(model):
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in pairs)

    return change


def drop_weight(model):
    del model.graph.initializer[0]


def weight_as_input(model):
    drop_weight(model)
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 4]))


def sparse(model):
    drop_weight(model)
    entry = model.graph.sparse_initializer.add()
    entry.values.CopyFrom(numpy_helper.from_array(np.ones(4, np.float32), "w"))
    entry.indices.CopyFrom(numpy_helper.from_array(np.arange(4) * 5))
    entry.dims.extend([4, 4])


def some_nan():
    array = np.eye(4)
    array[0, :3] = np.nan, np.inf, -np.inf
    return array


SELF_CALLING = """<ir_version: 8, opset_import: ["" : 17, "l" : 1]>
g (float[N,2] x) => (float[N,2] y) { y = l.f(x) }
<domain: "l", opset_import: ["" : 17, "l" : 1]>
f (a) => (b) { b = l.f(a) }"""

INT_IN = "g (int64[N,3] ids) => (float[N,3] y) { y = Cast<to = 1>(ids) }"

CASES = {
    "a cyclic graph": (
        lambda: broken(lambda m: m.graph.node[0].input.__setitem__(0, "y")),
        2,
        ["m.onnx has a cycle: 'add', 'mm' feed one another"],
    ),
    "a node that feeds itself": (
        lambda: broken(lambda m: m.graph.node[0].input.__setitem__(0, "h")),
        2,
        ["has a cycle: 'mm' feed"],
    ),
    "a weight with NaN and infinity": (
        lambda: broken(set_weight(some_nan())),
        2,
        ["m.onnx has weights that are NaN or infinite:", "'w' (4×4): 3 of 16"],
    ),
    "an unknown operator": (
        lambda: broken(node(0, op_type="Foo")),
        2,
        ["operators that ONNX does not define", "node 'mm': Foo (not an operator of opset 17)"],
    ),
    "an operator that is newer than the opset": (
        lambda: text("g (float[N,2] x) => (float[N,2] y) { y = Mish(x) }", opset=17),
        2,
        ["node 'Mish': Mish (not an operator of opset 17)"],
    ),
    "an unknown domain": (
        lambda: broken(node(0, domain="my.own")),
        2,
        ["node 'mm': my.own::MatMul (domain 'my.own' is not ONNX's)"],
    ),
    "a known domain that is not imported": (
        lambda: broken(node(0, domain="com.microsoft", op_type="FusedMatMul")),
        2,
        ["node 'mm': FusedMatMul (the model imports no opset of 'com.microsoft')"],
    ),
    "a function that is not there": (
        lambda: onnx.parser.parse_model(SELF_CALLING.split("<domain", maxsplit=1)[0]),
        2,
        ["l::f (domain 'l' is not ONNX's)"],
    ),
    "a function that calls itself": (
        lambda: onnx.parser.parse_model(SELF_CALLING),
        2,
        ["The functions of m.onnx cannot be inlined", "l:f -> l:f"],
    ),
    "a non-float input": (
        lambda: text(INT_IN),
        3,
        ["Cannot invert node 'ids' (input): it is int64[N,3]; only floating-point inputs can be recovered"],
    ),
    "a string input": (
        lambda: text("g (string[N,3] x) => (string[N,3] y) { y = Identity(x) }"),
        3,
        ["it is string[N,3]; only floating-point"],
    ),
    "no inputs": (
        lambda: text("g () => (float[1] y) { y = Constant<value = float[1] {1.0}>() }"),
        2,
        ["The model has no inputs"],
    ),
    "no outputs": (
        lambda: broken(lambda m: m.graph.ClearField("output")),
        2,
        ["m.onnx has no outputs: there is nothing to invert from"],
    ),
    "an output that is the input": (
        lambda: text("g (float[N,3] x) => (float[N,3] x) { }"),
        2,
        ["m.onnx returns its input 'x' unchanged: there is nothing to invert"],
    ),
    "an output that depends on no input": (
        lambda: text("g (float[N,3] x) => (float[1] y) { y = Constant<value = float[1] {1.0}>() }"),
        2,
        ["No output depends on 'x'. Outputs: y float32[1]."],
    ),
    "shapes that disagree": (
        lambda: broken(input_dim(1, 7)),
        2,
        ["The shapes of m.onnx disagree: node 'mm' (MatMul): Incompatible dimensions for matrix multiplication"],
    ),
    "a weight that is missing": (
        lambda: broken(drop_weight),
        2,
        ["m.onnx uses tensors that nothing produces: 'w' (used by node 'mm')"],
    ),
    "an output that nothing makes": (
        lambda: broken(lambda m: setattr(m.graph.output[0], "name", "z")),
        2,
        ["nothing produces: 'z' (used by the output list)"],
    ),
    "a tensor that is made twice": (
        lambda: broken(lambda m: m.graph.node.append(m.graph.node[0])),
        2,
        ["m.onnx makes the tensor 'h' twice"],
    ),
    "an input that is listed twice": (lambda: broken(input_again), 2, ["m.onnx makes the tensor 'x' twice"]),
    "a weight with too few bytes": (
        lambda: broken(weight(dims=[5, 4])),
        2,
        ["Weight 'w' of m.onnx has the shape [5, 4], which takes 80 bytes; the file has 64"],
    ),
    "a weight of negative size": (
        lambda: broken(weight(dims=[-4, 4])),
        2,
        ["has the shape [-4, 4]: a size is negative"],
    ),
    "a weight of no type": (
        lambda: broken(weight(data_type=0)),
        2,
        ["Weight 'w' of m.onnx has no type that ONNX knows (data_type 0)"],
    ),
    "a weight of an unknown type": (
        lambda: broken(weight(data_type=99)),
        2,
        ["has no type that ONNX knows (data_type 99)"],
    ),
    "a constant with too few numbers": (
        lambda: helper.make_model(
            helper.make_graph(
                [
                    helper.make_node(
                        "Constant", [], ["c"], value=onnx.TensorProto(data_type=1, dims=[3], float_data=[1.0])
                    ),
                    helper.make_node("Add", ["x", "c"], ["y"]),
                ],
                "g",
                [helper.make_tensor_value_info("x", 1, ["N", 3])],
                [helper.make_tensor_value_info("y", 1, ["N", 3])],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
        ),
        2,
        ["A constant of m.onnx cannot be read"],
    ),
    "a sparse weight": (lambda: broken(sparse), 2, ["m.onnx has sparse weights, which are not read: 'w'"]),
    "an input without numbers": (
        lambda: broken(input_dim(0, 0)),
        2,
        ["The input 'x' of m.onnx has the shape [0,4]: it holds no numbers"],
    ),
    "an input of negative size": (lambda: broken(input_dim(1, -4)), 2, ["[N,-4]: a size is negative"]),
    "an input beyond any memory": (
        lambda: broken(input_dim(1, 2**62)),
        2,
        ["The input 'x' of m.onnx has the shape [N,4611686018427387904]: no memory holds one sample"],
    ),
    "an input without a type": (
        lambda: broken(lambda m: m.graph.input[0].ClearField("type")),
        2,
        ["node 'mm' (MatMul)", "expected to have type"],
    ),
    "no graph": (lambda: broken(lambda m: m.ClearField("graph")), 2, ["is not an ONNX model: it has no graph"]),
    "no opset": (lambda: broken(opset()), 2, ["is not an ONNX model: it has no opset"]),
    "an opset that is too old": (
        lambda: broken(opset(("", 6))),
        2,
        ["m.onnx has opset 6; 7 and newer are read. Convert it with onnx.version_converter"],
    ),
    "an opset of the future": (lambda: broken(opset(("", 999))), 2, ["m.onnx has opset 999; the installed onnx"]),
    "two opsets of one domain": (
        lambda: broken(opset(("", 17), ("ai.onnx", 18))),
        2,
        ["m.onnx imports domain 'ai.onnx' twice, as opset 17 and 18"],
    ),
    "an IR version of the future": (
        lambda: broken(lambda m: setattr(m, "ir_version", 99)),
        2,
        ["error: onnxruntime cannot load m.onnx: Unsupported model IR version: 99"],
    ),
    "a weight that is an input": (
        lambda: broken(weight_as_input),
        2,
        ["The model has 2 floating-point inputs; say which to recover with --recover NAME", "x float32[N,4]; w"],
    ),
}


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
