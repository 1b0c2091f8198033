"""`onnx-invert fibre`: files in, files out, and every exit code."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from small_models import affine, save

import onnx_invert

WEIGHT = np.random.default_rng(1).standard_normal((9, 3)).astype(np.float32)
X = np.random.default_rng(2).standard_normal((300, 9)).astype(np.float32)
CALL = ("fibre", "g.onnx", "-i", "y.npy", "-o", "x.npy")


def run(model, x):
    return onnxruntime.InferenceSession(str(model)).run(["y"], {"x": x})[0]


@pytest.fixture(autouse=True)
def pair(folder):
    """A network 9 → 3, its lossless pair made with data, and one y."""
    save(affine(weight=WEIGHT), Path("f.onnx"))
    np.save("data.npy", X)
    onnx_invert.invert("f.onnx", "g.onnx", lossless="forward.onnx", data=X)
    np.save("y.npy", run("f.onnx", X[:1]))


@pytest.mark.parametrize("model", ["forward.onnx", "f.onnx"])
def test_different_inputs_with_one_output(model, call):
    done = call(*CALL, "--model", model, "-n", 5, "--apart", 0.1)
    assert done.code == 0, done.err
    assert done.last.startswith("PASSED  5 points, max |f(x) − y| ")
    assert "what INVERSE recorded of its data: " in done.out
    assert "6 of 6 latents may take any value" in done.out
    x = np.load("x.npy")
    assert x.shape == (5, 9)
    np.testing.assert_allclose(run("f.onnx", x), np.repeat(np.load("y.npy"), 5, axis=0), atol=1e-5)
    assert min(np.abs(a - b).mean() for i, a in enumerate(x) for b in x[:i]) > 0.1
    before = Path("x.npy").read_bytes()
    call(*CALL, "--model", model, "-n", 5, "--apart", 0.1)
    assert Path("x.npy").read_bytes() == before
    call(*CALL, "--model", model, "-n", 5, "--apart", 0.1, "--seed", 1)
    assert Path("x.npy").read_bytes() != before


def test_a_network_that_makes_several_rows_of_one_sample(call):
    """MLPRegressor of two outputs ends, as exported, in a Reshape to (-1, 1)."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        rows (float[N, 9] x) => (float[N, 1] y) <int64[2] shape = {-1, 1}> {
            h = MatMul (x, v)
            t = Tanh (h)
            u = MatMul (t, w)
            y = Reshape (u, shape)
        }""")
    rng = np.random.default_rng(3)
    for name, sizes in (("v", (9, 12)), ("w", (12, 2))):
        weight = 0.3 * rng.standard_normal(sizes).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), name))
    save(model, Path("rows.onnx"))
    onnx_invert.invert("rows.onnx", "back.onnx", lossless="rows_z.onnx", data=X)
    y = run("rows.onnx", X[:1])
    assert y.shape == (2, 1)
    np.save("y2.npy", y)
    done = call("fibre", "back.onnx", "--model", "rows_z.onnx", "-i", "y2.npy", "-o", "x.npy", "-n", 4)
    assert done.code == 0, done.err
    np.testing.assert_allclose(run("rows.onnx", np.load("x.npy")), np.tile(y, (4, 1)), atol=1e-4)
    np.save("y3.npy", np.vstack([y, y]))
    refused = call("fibre", "back.onnx", "--model", "rows_z.onnx", "-i", "y3.npy", "-o", "x.npy", "-n", 4)
    assert refused.code == 2 and "a fibre is that of one y" in refused.err


def test_latents_and_a_picture(call):
    done = call(*CALL[:-1], "x.npz", "--model", "forward.onnx", "-n", 3, "--image", "x.png", "--data", "data.npy")
    assert done.code == 0, done.err
    assert "started from the data" in done.out
    with np.load("x.npz") as found:
        assert sorted(found) == ["latent", "x"]
        np.savez("yz.npz", y=np.repeat(np.load("y.npy"), 3, axis=0), latent=found["latent"])
    assert Image.open("x.png").size[0] > 3
    # The latents lead to the same inputs again.
    session = onnxruntime.InferenceSession("g.onnx")
    with np.load("yz.npz") as given, np.load("x.npz") as found:
        np.testing.assert_allclose(session.run(None, dict(given))[0], found["x"], atol=1e-5)


def test_without_data_latents_are_drawn(call):
    onnx_invert.invert("f.onnx", "g.onnx", lossless="forward.onnx")
    done = call(*CALL, "--model", "forward.onnx")
    assert done.code == 0, done.err
    assert "started from latents drawn from N(0, spread²)" in done.out


def test_what_recorded_data_change_in_the_file(call):
    """Nothing that run and check could notice, and its size is said."""
    done = call("f.onnx", "-o", "g.onnx", "--lossless", "forward.onnx", "--data", "data.npy", "--report", "r.json")
    assert "of x given y, for points of a fibre: " in done.out
    assert '"recorded": ' in Path("r.json").read_text()
    assert call("check", "f.onnx", "g.onnx").code == 0
    assert call("check", "forward.onnx", "g.onnx").code == 0
    assert call("run", "g.onnx", "-i", "y.npy", "-o", "one.npy").code == 0


def test_too_few_points_exit_with_1_and_write_nothing(call, files):
    done = call(*CALL, "--model", "f.onnx", "--apart", 1000)
    assert done.code == 1
    assert done.last == "FAILED  1 of 8 points, nothing written"
    assert "1 of 8 points with this y were found." in done.err
    assert "too near to another" in done.err
    assert "x.npy" not in files()


def test_a_y_that_is_out_of_the_datas_reach(call, files):
    np.save("y.npy", np.full((1, 3), 1e4, np.float32))
    done = call(*CALL, "--model", "f.onnx")
    assert done.code == 1
    assert "--unbounded" in done.err
    assert "x.npy" not in files()
    assert call(*CALL, "--model", "f.onnx", "--unbounded").code == 0


def test_another_network_is_refused(call):
    save(affine(weight=WEIGHT + 1), Path("other.onnx"))
    done = call(*CALL, "--model", "other.onnx")
    assert done.code == 2
    assert "g.onnx was made from another network than other.onnx" in done.err


def test_an_inverse_that_is_not_lossless(call):
    onnx_invert.invert("f.onnx", "g.onnx")
    done = call(*CALL, "--model", "f.onnx")
    assert done.code == 2
    assert "g.onnx is no lossless inverse: make one with --lossless FORWARD.onnx." in done.err


def test_records_that_were_spoilt(call):
    model = onnx.load("g.onnx")
    next(entry for entry in model.metadata_props if entry.key == "onnx_invert.data").value = "{}"
    onnx.save(model, "g.onnx")
    done = call(*CALL, "--model", "f.onnx")
    assert done.code == 2
    assert "What g.onnx recorded of its data cannot be read" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Missing option '--model'"),
        (("--model", "no.onnx"), "There is no file 'no.onnx'"),
        (("--model", "f.onnx", "--spread", "0"), "above 0"),
        (("--model", "f.onnx", "--tolerance", "nan"), "no finite number"),
        (("--model", "f.onnx", "--image", "x.jpg"), ".png"),
        (("--model", "f.onnx", "-o", "x.csv"), ".npy or .npz"),
        (("--model", "f.onnx", "-o", "y.npy"), "overwrite"),
        (("--model", "f.onnx", "-i", "data.npy"), "300 samples"),
    ],
)
def test_calls_that_make_no_sense(options, message, call):
    done = call(*CALL, *options)
    assert done.code == 2
    assert message in done.err
