"""`onnx-invert MODEL -o INVERSE`: every option, what is printed, and what is written."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from small_models import affine, external, save, text

import onnx_invert

CALL = ["f.onnx", "-o", "g.onnx"]


def run(path, **feeds):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def metadata(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_it_inverts(call, files):
    done = call(*CALL)
    assert done.code == 0
    assert done.err == ""
    assert files() == {"f.onnx", "g.onnx"}
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    (y,) = run("f.onnx", x=x)
    np.testing.assert_allclose(run("g.onnx", y=y)[0], x, rtol=1e-5, atol=1e-5)
    onnx.checker.check_model(onnx.load("g.onnx"), full_check=True)


def test_what_is_printed(call):
    lines = call(*CALL).out.splitlines()
    assert lines[0].split() == ["node", "op", "forward", "shapes", "undone", "as", "rank", "cond.", "lost", "note"]
    assert lines[1].split()[:2] == ["add", "Add"]
    assert lines[2].split()[:2] == ["mm", "MatMul"]
    assert "recovers   x from y" in lines
    assert "guarantee  bijection: g(f(x)) = x and f(g(y)) = y, for every y" in lines
    assert any(line.startswith("method     closed form, condition ") for line in lines)
    assert "256 samples, drawn from N(0, 1)" in lines
    assert sum("holds" in line for line in lines) == 3


def test_the_last_line(call):
    last = call(*CALL).last
    assert last.startswith("PASSED  bijection  x error ")
    assert "  y error " in last
    assert last.endswith("  → g.onnx")
    needed = float(last.split("--rtol ")[1].split()[0])
    assert call(*CALL, "--rtol", needed).code == 0


@pytest.mark.parametrize("quiet", ["--quiet", "-q"])
def test_quiet_prints_the_last_line_only(quiet, call):
    done = call(*CALL, quiet)
    assert done.out.count("\n") == 1
    assert done.last.startswith("PASSED")


def test_invert_may_be_said(call):
    assert call("invert", *CALL).code == 0
    assert call("-o", "h.onnx", "f.onnx").code == 0
    assert Path("g.onnx").read_bytes() == Path("h.onnx").read_bytes()


def test_an_output_or_a_dry_run_is_needed(call):
    done = call("f.onnx")
    assert done.code == 2
    assert done.err == "error: Where should the inverse go? Give -o INVERSE, or --dry-run to write nothing.\n"


@pytest.mark.parametrize("more", [[], ["-o", "g.onnx"]])
def test_a_dry_run_writes_nothing(more, call, files):
    done = call("f.onnx", "--dry-run", *more)
    assert done.code == 0
    assert done.last.endswith("  nothing written")
    assert files() == {"f.onnx"}


def test_a_dry_run_may_write_a_report(call, files):
    assert call("f.onnx", "--dry-run", "--report", "r.json").code == 0
    assert files() == {"f.onnx", "r.json"}


def test_no_verify(call):
    done = call(*CALL, "--no-verify")
    assert done.code == 0
    assert done.last == "NOT VERIFIED  bijection planned  → g.onnx"
    assert metadata("g.onnx")["onnx_invert.guarantee"] == "bijection"


def test_a_failed_verification_writes_nothing(call, files):
    done = call(*CALL, "--rtol", "1e-12")
    assert done.code == 1
    assert done.last.startswith("FAILED  approximate  x error ")
    assert done.last.endswith("  nothing written")
    assert "error: The inverse does not keep g(f(x)) = x and f(g(y)) = y on all 256 samples." in done.err
    assert "--force to write it as approximate" in done.err
    assert files() == {"f.onnx"}


def test_a_failed_verification_leaves_a_good_file(call):
    call(*CALL)
    before = Path("g.onnx").read_bytes()
    assert call(*CALL, "--rtol", "1e-12").code == 1
    assert Path("g.onnx").read_bytes() == before


def test_force_writes_what_failed_as_approximate(call, files):
    done = call(*CALL, "--rtol", "1e-12", "--force")
    assert done.code == 1
    assert done.last.startswith("FAILED  approximate")
    assert done.last.endswith("  → g.onnx")
    assert files() == {"f.onnx", "g.onnx"}
    assert metadata("g.onnx")["onnx_invert.guarantee"] == "approximate"
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(run("g.onnx", y=run("f.onnx", x=x)[0])[0], x, rtol=1e-5)


def test_force_changes_nothing_where_it_passes(call):
    call(*CALL)
    before = Path("g.onnx").read_bytes()
    assert call(*CALL, "--force").code == 0
    assert Path("g.onnx").read_bytes() == before


def test_the_metadata_names_the_model(call):
    import hashlib

    from onnx_invert import __version__

    call(*CALL)
    assert metadata("g.onnx") == {
        "onnx_invert.version": __version__,
        "onnx_invert.model_sha256": hashlib.sha256(Path("f.onnx").read_bytes()).hexdigest(),
        "onnx_invert.guarantee": "bijection",
        "onnx_invert.evidence": "proven",
        "onnx_invert.method": "closed-form",
    }


@pytest.mark.parametrize("opset", [13, 17, 20, 23])
def test_the_opset_of_the_inverse(opset, call):
    assert call(*CALL, "--opset", opset).code == 0
    assert onnx.load("g.onnx").opset_import[0].version == opset


def test_the_opset_is_17_by_default(call):
    call(*CALL)
    model = onnx.load("g.onnx")
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)


@pytest.mark.parametrize("opset", [1, 12, 24, -1])
def test_an_opset_that_is_not_written(opset, call, files):
    done = call(*CALL, "--opset", opset)
    assert done.code == 2
    assert f"--opset {opset}: inverses are written in opset 13 to 23." in done.err
    assert files() == {"f.onnx"}


TWO = "g (float[N,3] a, float[N,3] b) => (float[N,3] sum, float[N,3] e) { sum = Add(a, b) e = Exp(b) }"


def test_several_inputs_need_a_choice(call):
    save(text(TWO), Path("f.onnx"))
    done = call(*CALL)
    assert done.code == 2
    assert "The model has 2 floating-point inputs; say which to recover with --recover NAME" in done.err
    assert "Inputs: a float32[N,3]; b float32[N,3]." in done.err


def test_recover_one_given_the_other(call):
    save(text(TWO), Path("f.onnx"))
    done = call(*CALL, "--recover", "a")
    assert done.code == 0
    assert "recovers   a from sum" in done.out
    assert "given      b" in done.out
    assert "left out   e (not needed)" in done.out
    assert {value.name for value in onnx.load("g.onnx").graph.input} == {"sum", "b"}


def test_labels_are_left_out(call):
    body = "{ y = Tanh(x) label = ArgMax<axis = 1, keepdims = 0>(y) }"
    save(text(f"g (float[N,3] x) => (int64[N] label, float[N,3] y) {body}"), Path("f.onnx"))
    line = "left out   label (int64: it makes no equations, and nothing is promised of it)"
    assert line in call("explain", "f.onnx").out
    done = call(*CALL, "--report", "r.json")
    assert (done.code, line in done.out) == (0, True)
    assert list(json.loads(Path("r.json").read_text())["left_out"]) == ["label"]


def test_recover_both(call):
    body = "g (float[N,3] a, float[N,2] b) => (float[N,3] y, float[N,2] z) { y = Exp(a) z = Neg(b) }"
    save(text(body), Path("f.onnx"))
    done = call(*CALL, "--recover", "a", "--recover", "b", "--report", "r.json")
    assert done.code == 0, done.err
    assert json.loads(Path("r.json").read_text())["recovered"] == ["a", "b"]


def test_from_one_output(call):
    save(text("g (float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Exp(x) z = Neg(x) }"), Path("f.onnx"))
    for name in ("y", "z"):
        assert call(*CALL, "--from", name).code == 0
        assert [value.name for value in onnx.load("g.onnx").graph.input] == [name]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--recover", "z"], "--recover z: there is no such input. Inputs: x float32[N,4]."),
        (["--from", "z"], "--from z: there is no such output. Outputs: y float32[N,4]."),
    ],
)
def test_a_name_that_is_not_there(option, message, call, files):
    done = call(*CALL, *option)
    assert done.code == 2
    assert message in done.err
    assert files() == {"f.onnx"}


def test_samples(call):
    assert "7 samples, drawn" in call(*CALL, "--samples", "7").out
    assert "1 samples, drawn" in call(*CALL, "--samples", "1").out


USAGE = {
    "--samples 0": "Invalid value for '--samples'",
    "--samples many": "Invalid value for '--samples'",
    "--rtol -1": "Invalid value for '--rtol'",
    "--rtol nan": "Invalid value for '--rtol'",
    "--rtol inf": "Invalid value for '--rtol': inf is no finite number.",
    "--opset x": "Invalid value for '--opset'",
    "--nonsense": "No such option: --nonsense",
    "extra.onnx": "unexpected extra argument",
    "--data": "requires an argument",
}


@pytest.mark.parametrize("words", USAGE)
def test_a_wrong_option(words, call, files):
    done = call(*CALL, *words.split())
    assert done.code == 2
    assert USAGE[words] in done.err
    assert files() == {"f.onnx"}


def test_the_batch_may_be_fixed_or_anonymous(call):
    for batch in (1, 6, None):
        save(affine(batch=batch), Path("f.onnx"))
        assert call(*CALL).code == 0
        dim = onnx.load("g.onnx").graph.input[0].type.tensor_type.shape.dim[0]
        assert dim.dim_value == (batch or 0)
        assert bool(dim.dim_param) == (batch is None)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_type_is_kept(dtype, call):
    save(affine(dtype=dtype), Path("f.onnx"))
    assert call(*CALL).code == 0
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = onnx.load("g.onnx").graph
    assert [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)] == [kind, kind]


@pytest.mark.parametrize("shape", ["N", "3", "N,2", "1,2", "N,2,3", "N,2,3,2", "N,2,3,2,2", "?,2"])
def test_an_input_of_any_rank(shape, call):
    save(text(f"g (float[{shape}] x) => (float[{shape}] y) {{ y = Neg(x) }}"), Path("f.onnx"))
    assert call(*CALL).code == 0


def test_a_scalar(call):
    save(text("g (float x) => (float y) { y = Exp(x) }"), Path("f.onnx"))
    assert call(*CALL).code == 0
    (x,) = run("g.onnx", y=np.array(np.e, np.float32))
    assert x.shape == ()
    assert abs(x - 1) < 1e-6


def test_a_model_with_external_data(call, folder, files):
    external(folder)
    assert call("model.onnx", "-o", "g.onnx").code == 0
    assert call("f.onnx", "-o", "h.onnx").code == 0
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(run("g.onnx", y=x)[0], run("h.onnx", y=x)[0])
    assert files() == {"f.onnx", "model.onnx", "weights.bin", "g.onnx", "h.onnx"}


def test_a_small_weight_of_a_network_that_runs_forwards_may_lie_in_another_file(call, folder):
    """What the inverse takes over of the model is held by its own file, in the command line and in Python."""
    body = """g (float[N,2] x) => (float[N,2] y) <float[1,1] w = {0.5}> {
        a, b = Split<axis = 1>(x) h = MatMul(a, w) s = Exp(h) c = Mul(b, s) y = Concat<axis = 1>(a, c)
    }"""
    model = text(body)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    save(model, Path("f.onnx"))
    assert call("model.onnx", "-o", "g.onnx", "--log-det").code == 0
    assert call("f.onnx", "-o", "h.onnx", "--log-det").code == 0
    y = np.array([[1, 2], [-3, 4]], np.float32)
    np.testing.assert_array_equal(run("g.onnx", y=y)[0], run("h.onnx", y=y)[0])
    made = onnx_invert.invert(folder / "model.onnx", verify=False).model
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"y": y})[0], run("h.onnx", y=y)[0])


def test_names_that_look_like_markup(call):
    model = affine()
    model.graph.node[0].name = "[bold red]mm[/bold red]"
    model.graph.node[1].name = "[/x]:smile:\x1b[31m"
    save(model, Path("f.onnx"))
    out = call(*CALL).out
    assert "[bold red]mm[/bold red]" in out
    assert "[/x]:smile:\\x1b[31m" in out
    assert "\x1b" not in out


def test_nodes_of_the_same_name_are_told_apart(call):
    model = affine()
    for node in model.graph.node:
        node.name = ""
    save(model, Path("f.onnx"))
    out = call(*CALL).out
    assert "MatMul_0" in out
    assert "Add_1" in out


def test_a_layout_of_latents_without_latents(call, files):
    """Nothing is ignored in silence."""
    done = call(*CALL, "--latents", "per-node")
    assert done.code == 2
    assert "there are none without --lossless" in done.err
    assert files() == {"f.onnx"}
