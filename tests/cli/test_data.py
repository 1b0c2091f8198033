"""`--data`: arrays from .npy and .npz files, and everything that can be wrong with them."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from small_models import affine, save, text

from onnx_invert import samples
from onnx_invert.arrays import load
from onnx_invert.errors import UsageError
from onnx_invert.samples import Port, cut, draw

CALL = ["f.onnx", "-o", "g.onnx", "--data"]
X = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)


GOOD = {
    "float32": (X, 20),
    "float64": (X.astype(np.float64), 20),
    "float16": (X.astype(np.float16), 20),
    "int64": (np.arange(1, 41).reshape(10, 4), 10),
    "uint8": (np.arange(1, 41, dtype=np.uint8).reshape(10, 4), 10),
    "bool": (np.ones((3, 4), bool), 3),
    "one sample": (X[:1], 1),
    "big-endian": (X.astype(">f4"), 20),
    "Fortran order": (np.asfortranarray(X), 20),
}


@pytest.mark.parametrize("name", GOOD)
def test_arrays_that_fit(name, call):
    array, count = GOOD[name]
    np.save("x.npy", array)
    done = call(*CALL, "x.npy")
    assert done.code == 0, done.err
    assert f"{count} samples, given data" in done.out


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_samples_that_are_not_finite_are_left_out_and_counted(value, call):
    array = X.astype(np.float64)
    array[3, 1] = value
    np.save("x.npy", array)
    done = call(*CALL, "x.npy")
    assert done.code == 0
    assert done.err == ""
    assert "19 samples, given data; 1 left out: the model is not finite there" in done.out


def test_samples_take_the_first(call):
    np.save("x.npy", X)
    assert "7 samples, given data" in call(*CALL, "x.npy", "--samples", 7).out
    assert "20 samples, given data" in call(*CALL, "x.npy", "--samples", 99).out


class Evil:
    """Would leave a file behind if it were unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


def archive(**members):
    def write():
        with zipfile.ZipFile("x.npy", "w") as file:
            for name, data in members.items():
                file.writestr(name, data)

    return write


def saved(array):
    return lambda: np.save("x.npy", array)


def npy_header(shape):
    """An array file whose header promises more than the file holds."""

    def write():
        with Path("x.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})

    return write


BAD = {
    "no such file": (lambda: None, "There is no file 'x.npy'."),
    "a directory": (lambda: Path("x.npy").mkdir(), "There is no file 'x.npy'."),
    "empty": (lambda: Path("x.npy").touch(), "it is no .npy or .npz file, or was cut short"),
    "text": (lambda: Path("x.npy").write_text("1,2,3,4\n"), "it is no .npy or .npz file, or was cut short"),
    "cut short": (npy_header((9, 4)), "it is no .npy or .npz file, or was cut short"),
    "a header beyond any memory": (npy_header((10**15, 4)), "it is no .npy or .npz file, or was cut short"),
    "objects": (saved(np.array([[Evil()] * 4])), "it holds Python objects, which are not loaded"),
    "a pickle": (lambda: Path("x.npy").write_bytes(pickle.dumps(Evil())), "it is no .npy or .npz file"),
    "a zip of something else": (archive(**{"word/document.xml": "<x/>"}), "'word/document.xml' in it is no array"),
    "a zip of a pickle": (archive(**{"data.pkl": pickle.dumps(Evil())}), "'data.pkl' in it is no array"),
    "strings": (saved(np.array([["a"] * 4])), "The data for 'x' is <U1; the model takes float32."),
    "complex numbers": (saved(X.astype(complex)), "The data for 'x' is complex128; the model takes float32."),
    "records": (saved(np.zeros(4, [("a", "f4")])), "the model takes float32."),
    "no samples": (saved(X[:0]), "The data has no samples."),
    "a number": (saved(np.float32(1)), "The data for 'x' has shape (); the model takes (N, 4)."),
    "one row": (
        saved(X[0]),
        "the model takes (N, 4). It looks like one sample: give it a first axis, (1, 4).",
    ),
    "another width": (saved(X[:, :3]), "The data for 'x' has shape (20, 3); the model takes (N, 4)."),
    "a square": (saved(X.reshape(-1, 2, 2)), "Its samples have as many numbers: reshape it to (-1, 4)."),
    "another rank": (saved(X[None]), "The data for 'x' has shape (1, 20, 4); the model takes (N, 4)."),
    "only NaN": (saved(X * np.nan), "NaN or infinity on all 20 samples (given data)"),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_cannot_be_used(name, call, files):
    make, message = BAD[name]
    make()
    before = files()
    done = call(*CALL, "x.npy")
    assert done.code == 2
    assert message in done.err
    assert files() == before


def test_an_array_that_ends_like_a_zip(tmp_path):
    """Its last bytes are those of a zip's directory: what a file is, its beginning says."""
    path = tmp_path / "x.npy"
    array = np.frombuffer(X.tobytes() + b"PK\5\6" + bytes(18) + b"\0" * 2, np.uint8)
    np.save(path, array)
    assert zipfile.is_zipfile(path)
    np.testing.assert_array_equal(load(path, scratch=tmp_path)[""], array)
    np.testing.assert_array_equal(load(path)[""], array)


def test_objects_in_an_npz(call, files):
    np.savez("x.npz", x=np.array([[Evil()] * 4]))
    before = files()
    done = call(*CALL, "x.npz")
    assert done.code == 2
    assert "it holds Python objects, which are not loaded" in done.err
    assert files() == before


@pytest.mark.parametrize("name", ["x", "arr_0"])
def test_one_array_goes_to_one_input_whatever_its_name(name, call):
    np.savez("x.npz", **{name: X})
    assert call(*CALL, "x.npz").code == 0


def test_an_npz_with_other_names(call):
    np.savez("x.npz", a=X, b=X)
    done = call(*CALL, "x.npz")
    assert done.code == 2
    assert "x.npz has no array for 'x'. It has: 'a', 'b'." in done.err


def test_an_npz_without_arrays(call):
    np.savez("x.npz")
    assert "x.npz has no array for 'x'. It has: none." in call(*CALL, "x.npz").err


TWO = "g (float[N,3] a, float[{}] b) => (float[N,3] y) {{ y = Add(a, b) }}"


@pytest.fixture
def two(call):
    def run(shape, **arrays):
        save(text(TWO.format(shape)), Path("f.onnx"))
        np.savez("x.npz", **{name: np.ones(size, np.float32) for name, size in arrays.items()})
        return call(*CALL, "x.npz", "--recover", "a")

    return run


def test_several_inputs_by_name(two):
    assert two("N,3", a=(5, 3), b=(5, 3)).code == 0
    assert "x.npz has no array for 'b'. It has: 'a'." in two("N,3", a=(5, 3)).err
    assert "The data for 'b' has 4 samples, 'a' 5." in two("N,3", a=(5, 3), b=(4, 3)).err


def test_an_input_that_all_samples_share(two):
    done = two("3", a=(5, 3), b=(3,))
    assert done.code == 0, done.err
    assert "5 samples, given data" in done.out
    assert "The data for 'b' has shape (5, 3); the model takes (3)." in two("3", a=(5, 3), b=(5, 3)).err


@pytest.mark.parametrize(("shape", "count"), [((16, 4), 16), ((3, 8, 4), 3), ((8, 4), 8), ((12, 4), 8)])
def test_a_fixed_batch(shape, count, folder):
    ports = [Port("x", (8, 4), np.dtype(np.float32))]
    batches = list(cut({"x": np.ones(shape)}, ports, "x", None))
    assert all(batch["x"].shape == (8, 4) and batch["x"].dtype == np.float32 for batch in batches)
    assert len(batches) == (count if len(shape) == 3 else count // 8)


def test_too_few_for_a_fixed_batch(call):
    save(affine(batch=8), Path("f.onnx"))
    np.save("x.npy", X[:4])
    assert "gives 4 samples; the model takes 8 at a time" in call(*CALL, "x.npy").err
    np.save("x.npy", X)
    assert "gives 3 samples; the model takes 8 at a time" in call(*CALL, "x.npy", "--samples", 3).err


def test_inputs_of_one_sample_each():
    ports = [Port("x", (1, 4), np.dtype(np.float32)), Port("c", (2,), np.dtype(np.float32))]
    one, two = cut({"x": X[:2], "c": np.arange(4.0).reshape(2, 2)}, ports, "x", None)
    assert (one["x"].shape, one["c"].tolist(), two["c"].tolist()) == ((1, 4), [0, 1], [2, 3])
    one, two = cut({"x": X[:2], "c": np.arange(2.0)}, ports, "x", None)
    assert one["c"].tolist() == two["c"].tolist() == [0, 1]


def test_scalars():
    port = Port("x", (), np.dtype(np.float32))
    assert [float(batch["x"]) for batch in cut({"x": np.arange(3)}, [port], "x", None)] == [0, 1, 2]
    with pytest.raises(UsageError, match="takes \\(N\\)"):
        list(cut({"x": np.array(1.0)}, [port], "x", None))


def test_drawing_stays_within_memory(monkeypatch):
    monkeypatch.setattr(samples, "LARGEST_DRAW", 100)
    (batch,) = draw([Port("x", ("N", 30), np.dtype(np.float32))], 256, 0, "x")
    assert batch["x"].shape == (3, 30)
    (batch,) = draw([Port("x", ("N", 300), np.dtype(np.float32))], 256, 0, "x")
    assert batch["x"].shape == (1, 300)


def test_drawing_is_the_same_every_time():
    ports = [Port("x", ("N", 3), np.dtype(np.float32)), Port("ids", ("N", "L"), np.dtype(np.int64))]
    (one,), (two,) = (list(draw(ports, 4, 0, "x")) for _ in range(2))
    assert one["ids"].shape == (4, samples.FREE_SIZE)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
