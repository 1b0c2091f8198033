"""`onnx-invert run`: one inference, arrays in and out, and a sheet of images."""

import os
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from small_models import affine, save, text

from onnx_invert.cli.inference import sheet
from onnx_invert.errors import UsageError

CALL = ["run", "f.onnx", "-i", "x.npy", "-o", "y.npy"]
X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
TWO = """g (float[N,2] a, int64[N,2] b) => (float[N,2] sum, float[N,2] file)
{ c = Cast<to = 1>(b) sum = Add(a, c) file = Neg(a) }"""


@pytest.fixture(autouse=True)
def array():
    np.save("x.npy", X)


def test_it_runs(call):
    done = call(*CALL)
    assert done.code == 0
    assert (done.out, done.err) == ("", "y.npy: y float32[5, 4]\n")
    w, b = (onnx.numpy_helper.to_array(tensor) for tensor in affine().graph.initializer)
    np.testing.assert_allclose(np.load("y.npy"), X @ w + b, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8])
def test_types_that_can_be_cast(dtype, call):
    np.save("x.npy", np.ones((5, 4), dtype))
    assert call(*CALL).code == 0
    assert np.load("y.npy").dtype == np.float32


def test_several_inputs_and_outputs(call, files):
    save(text(TWO), Path("f.onnx"))
    np.savez("x.npz", a=np.ones((1, 2), np.float32), b=np.ones((1, 2), np.int64))
    done = call("run", "f.onnx", "-i", "x.npz", "-o", "y.npz")
    assert done.code == 0, done.err
    with np.load("y.npz") as found:
        assert {name: found[name].tolist() for name in found} == {"sum": [[2, 2]], "file": [[-1, -1]]}
    done = call("run", "f.onnx", "-i", "x.npz", "-o", "y.npy")
    assert done.code == 2
    assert "f.onnx has 2 outputs (sum, file): write them to an .npz file." in done.err
    assert "y.npy" not in files()


def test_one_output_to_an_npz(call):
    assert call(*CALL[:-1], "y.npz").code == 0
    first = Path("y.npz").read_bytes()
    assert call(*CALL[:-1], "y.npz").code == 0
    assert Path("y.npz").read_bytes() == first


BAD = {
    "another width": (np.ones((5, 3), np.float32), "The array for 'x' has shape (5, 3); f.onnx takes (N, 4)."),
    "another rank": (np.ones(4, np.float32), "The array for 'x' has shape (4); f.onnx takes (N, 4)."),
    "a number": (np.float32(1), "The array for 'x' has shape (); f.onnx takes (N, 4)."),
    "complex numbers": (X.astype(complex), "The array for 'x' is complex128; f.onnx takes float32."),
    "strings": (np.array([["a"] * 4]), "The array for 'x' is <U1; f.onnx takes float32."),
    "objects": (np.array([[None] * 4]), "'x.npy' cannot be read: it holds Python objects, which are not loaded."),
}


@pytest.mark.parametrize("name", BAD)
def test_an_array_that_does_not_fit(name, call, files):
    array, message = BAD[name]
    np.save("x.npy", array)
    before = files()
    done = call(*CALL)
    assert done.code == 2
    assert message in done.err
    assert files() == before


def test_nothing_is_unpickled(call, files):
    class Evil:
        def __reduce__(self):
            return os.mkdir, ("unpickled",)

    for data in (np.array([Evil()], dtype=object), Evil()):
        with Path("x.npy").open("wb") as file:
            if isinstance(data, np.ndarray):
                np.save(file, data)
            else:
                pickle.dump(data, file)
        done = call(*CALL)
        assert done.code == 2
        assert "x.npy' cannot be read" in done.err
    assert "unpickled" not in files()


def test_floats_for_an_integer_input(call):
    save(text("g (int64[N,4] x) => (int64[N,4] y) { y = Neg(x) }"), Path("f.onnx"))
    done = call(*CALL)
    assert done.code == 2
    assert "The array for 'x' is float32; f.onnx takes int64." in done.err


def test_missing_and_unknown_names(call):
    save(text(TWO), Path("f.onnx"))
    np.savez("x.npz", a=X, c=X)
    done = call("run", "f.onnx", "-i", "x.npz", "-o", "y.npz")
    assert done.code == 2
    assert "x.npz has no array for 'b'. It has: 'a', 'c'." in done.err


def test_outputs_that_are_no_arrays(call, files):
    save(text("g (float[N,4] x) => (seq(float[N,4]) s) { s = SequenceConstruct(x, x) }"), Path("f.onnx"))
    before = files()
    done = call(*CALL)
    assert done.code == 2
    assert "The output 's' of f.onnx is no array of numbers: it cannot be written." in done.err
    assert files() == before


def test_a_model_that_fails_while_it_runs(call, files):
    save(
        text("g (float[N,4] x) => (float[2,10] y) { s = Constant<value_ints = [2, 10]>() y = Reshape(x, s) }"),
        Path("f.onnx"),
    )
    assert call(*CALL).code == 0
    np.save("x.npy", X[:3])
    Path("y.npy").unlink()
    done = call(*CALL)
    assert done.code == 2
    assert done.err.startswith("error: onnxruntime fails on f.onnx: ")
    assert "y.npy" not in files()


TARGETS = {
    "y.txt": "should end in .npy or .npz",
    "x.npy": "would overwrite another file of this call",
    "f.onnx": "is the input",
    "gone/y.npy": "The folder 'gone' of the output does not exist",
    ".": "is a directory",
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_cannot_be_written(target, call, files):
    before = files()
    done = call(*CALL[:-1], target)
    assert done.code == 2
    assert TARGETS[target] in done.err
    assert files() == before


def test_a_full_disk(call, monkeypatch, files):
    def fail(*rest):
        raise OSError(28, "No space left on device")

    Path("y.npy").write_text("before")
    before = files()
    monkeypatch.setattr(os, "fsync", fail)
    done = call(*CALL)
    assert done.code == 2
    assert "The output 'y.npy' cannot be written: No space left on device." in done.err
    assert files() == before
    assert Path("y.npy").read_text() == "before"


def test_images(call):
    np.save("x.npy", np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32))
    done = call(*CALL, "--image", "y.png")
    assert done.code == 0, done.err
    assert done.err.splitlines()[1] == "y.png: 12 images"
    with Image.open("y.png") as picture:
        assert picture.format == "PNG"
        assert picture.mode == "L"
        # 2×2 pixels each, ten in a row, a line between them, enlarged
        assert (picture.width, picture.height) == (29 * 28, 5 * 28)


IMAGES = {
    "y.jpg": "The image 'y.jpg' should end in .png",
    "y.npy": "would overwrite another file of this call",
    "gone/y.png": "The folder 'gone' of the image does not exist",
}


@pytest.mark.parametrize("target", IMAGES)
def test_an_image_that_cannot_be_written(target, call, files):
    before = files()
    done = call(*CALL, "--image", target)
    assert done.code == 2
    assert IMAGES[target] in done.err
    assert files() == before


def test_an_output_that_is_no_image(call, files):
    save(text("g (float[N,4] x) => (float[N,8] y) { y = Concat<axis = 1>(x, x) }"), Path("f.onnx"))
    before = files()
    done = call(*CALL, "--image", "y.png")
    assert done.code == 2
    assert "--image: an output of shape (5, 8) is no batch of images." in done.err
    assert files() == before


def test_without_pillow(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    done = call(*CALL, "--image", "y.png")
    assert done.code == 2
    assert "--image needs Pillow: pip install 'onnx-invert[image]'" in done.err


@pytest.mark.parametrize("shape", [(3, 16), (3, 4, 4), (3, 4, 4, 1), (3, 1, 4, 4), (3, 4, 4, 3), (3, 3, 4, 4)])
def test_layouts_of_images(shape):
    picture = sheet(np.random.default_rng(0).uniform(size=shape))
    assert picture.mode == ("RGB" if 3 in shape[1:] else "L")
    assert picture.size == (14 * 14, 4 * 14)


def test_shades():
    zoom = 56 // 2
    inside = np.array(sheet(np.array([[0, 0.5, 1, 0.25]])))[::zoom, ::zoom]
    assert inside.tolist() == [[0, 128], [255, 64]]
    scaled = np.array(sheet(np.array([[-1.0, 0, 3, 1]])))[::zoom, ::zoom]
    assert scaled.tolist() == [[0, 64], [255, 128]]
    assert np.array(sheet(np.full((1, 4), 7.0)))[0, 0] == 128


@pytest.mark.parametrize("array", [np.ones((0, 4)), np.full((1, 4), np.nan), np.ones(4), np.ones((1, 2, 3, 4, 5))])
def test_what_is_no_image(array):
    with pytest.raises(UsageError, match="--image"):
        sheet(array)


def test_the_archive_is_a_zip_without_a_date(call):
    call(*CALL[:-1], "y.npz")
    with zipfile.ZipFile("y.npz") as archive:
        assert [(entry.filename, entry.date_time[0]) for entry in archive.infolist()] == [("y.npy", 1980)]
