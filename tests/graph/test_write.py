"""Writing: valid, the same bytes every time, all or nothing, weights beside the file above a size."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from small_models import affine, save

import onnx_invert
from onnx_invert.errors import FileError, VerificationError
from onnx_invert.graph import atomic, write
from onnx_invert.graph.atomic import replacing
from onnx_invert.graph.read import from_proto, read

BIG = affine(weight=np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32) + 8 * np.eye(64))


def model():
    """A graph with weights on both sides of the size that is streamed."""
    return from_proto(BIG).model


def weight(path):
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    return tensors["w"]


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("largest", [write.LARGEST_FILE, 100])
def test_what_is_written_is_what_was_given(largest, tmp_path):
    path = tmp_path / "g.onnx"
    write.save(model(), path, largest=largest)
    onnx.checker.check_model(str(path), full_check=True)
    np.testing.assert_array_equal(weight(path), onnx.numpy_helper.to_array(BIG.graph.initializer[0]))
    x = np.ones((2, 64), np.float32)
    run = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run
    whole = onnxruntime.InferenceSession(BIG.SerializeToString(), providers=["CPUExecutionProvider"]).run
    np.testing.assert_array_equal(run(None, {"x": x})[0], whole(None, {"x": x})[0])
    assert names(tmp_path) == ({"g.onnx"} if largest > 100 else {"g.onnx", "g.onnx.data"})


@pytest.mark.parametrize("largest", [write.LARGEST_FILE, 100])
def test_the_same_bytes_every_time(largest, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write.save(model(), tmp_path / name / "g.onnx", largest=largest)
    for file in names(tmp_path / "one"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_model_is_not_changed_by_writing(tmp_path):
    graph = model()
    for largest in (write.LARGEST_FILE, 100):
        write.save(graph, tmp_path / "g.onnx", largest=largest)
        assert set(graph.graph.initializers) == {"w", "b"}
        assert isinstance(graph.graph.initializers["w"].const_value, ir.Tensor)


def test_external_data_is_moved_with_the_model(tmp_path):
    target = tmp_path / "g.onnx"
    with write.staged(model(), target, largest=100) as file:
        assert not target.exists()
        assert file.path.parent.parent == tmp_path
        file.commit()
    assert names(tmp_path) == {"g.onnx", "g.onnx.data"}
    assert weight(target).shape == (64, 64)


def test_a_model_above_the_size_is_inverted(tmp_path, monkeypatch):
    defaults = dict(write.staged.__wrapped__.__kwdefaults__), dict(write.save.__kwdefaults__)
    monkeypatch.setitem(write.staged.__wrapped__.__kwdefaults__, "largest", 100)
    monkeypatch.setitem(write.save.__kwdefaults__, "largest", 100)
    assert defaults[0]["largest"] == defaults[1]["largest"] == write.LARGEST_FILE
    path = save(BIG, tmp_path / "f.onnx")
    result = onnx_invert.invert(path, tmp_path / "g.onnx")
    assert result.round_trip.passed
    assert names(tmp_path) == {"f.onnx", "g.onnx", "g.onnx.data"}
    assert len(onnx.load(tmp_path / "g.onnx", load_external_data=False).graph.initializer[0].external_data) > 0
    with pytest.raises(VerificationError):
        onnx_invert.invert(path, tmp_path / "h.onnx", rtol=1e-12)
    assert names(tmp_path) == {"f.onnx", "g.onnx", "g.onnx.data"}
    forced = onnx_invert.invert(path, tmp_path / "h.onnx", rtol=1e-12, force=True)
    assert {entry.value for entry in forced.model.metadata_props} >= {"approximate"}
    assert onnx_invert.check(path, tmp_path / "h.onnx").passed
    assert onnx_invert.explain(tmp_path / "g.onnx").guarantee is onnx_invert.Guarantee.BIJECTION


def test_leaving_without_a_commit_leaves_nothing(tmp_path):
    with write.staged(model(), tmp_path / "g.onnx"):
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == set()


@pytest.mark.parametrize("earlier", [False, True])
def test_a_failed_commit_puts_everything_back(earlier, tmp_path, monkeypatch):
    target, data = tmp_path / "g.onnx", tmp_path / "g.onnx.data"
    if earlier:
        target.write_text("old")
        data.write_text("old data")
    real = Path.replace

    def fail_on_the_model(self, place):
        if place == target:
            raise PermissionError(13, "Permission denied")
        return real(self, place)

    monkeypatch.setattr(Path, "replace", fail_on_the_model)
    with (
        write.staged(model(), target, largest=100) as file,
        pytest.raises(FileError, match=r"g\.onnx' cannot be written: Permission denied\."),
    ):
        file.commit()
    assert names(tmp_path) == ({"g.onnx", "g.onnx.data"} if earlier else set())
    if earlier:
        assert (target.read_text(), data.read_text()) == ("old", "old data")


def test_a_link_gives_way_where_data_lies_beside_the_model(tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "g.onnx"
    link.symlink_to(tmp_path / "far" / "g.onnx")
    with write.staged(model(), link, largest=100) as file:
        file.commit()
    assert not link.is_symlink()
    assert weight(link).shape == (64, 64)


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    for largest in (write.LARGEST_FILE, 100):
        with (
            pytest.raises(FileError, match=r"'g\.onnx' cannot be written: No space left on device\."),
            write.staged(model(), tmp_path / "g.onnx", largest=largest),
        ):
            pytest.fail("it was written")
    assert names(tmp_path) == set()


def test_restate(tmp_path):
    graph = model()
    graph.metadata_props.update({"a": "1", "b": "2"})
    path = tmp_path / "g.onnx"
    write.save(graph, path)
    write.restate(path, {"a": "3", "other": "4"})
    loaded = onnx.load(path)
    assert {entry.key: entry.value for entry in loaded.metadata_props} == {"a": "3", "b": "2"}
    assert weight(path).shape == (64, 64)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31, 2**40])
def test_varint(number):
    from google.protobuf.internal.decoder import _DecodeVarint

    encoded = write._varint(number)
    assert _DecodeVarint(encoded, 0) == (number, len(encoded))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [(), (0, 3), (3000,), (50, 60)])
def test_any_weight(dtype, shape, tmp_path):
    graph = model()
    array = np.ones(shape, dtype)
    value = ir.Value(name="extra", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
    value.const_value = ir.Tensor(array, name="extra")
    graph.graph.register_initializer(value)
    write.save(graph, tmp_path / "g.onnx")
    found = read(tmp_path / "g.onnx").model.graph.initializers["extra"].const_value.numpy()
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_arrays_in_any_layout(tmp_path):
    graph = model()
    value = graph.graph.initializers["w"]
    array = value.const_value.numpy()
    value.const_value = ir.Tensor(np.asfortranarray(array), name="w")
    write.save(graph, tmp_path / "g.onnx")
    np.testing.assert_array_equal(weight(tmp_path / "g.onnx"), array)


def test_replacing(tmp_path):
    target = tmp_path / "r.json"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(target) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert (target.read_text(), names(tmp_path)) == ("old", {"r.json"})
    with replacing(target) as file:
        file.write(b"new")
        assert target.read_text() == "old"
    assert (target.read_text(), names(tmp_path)) == ("new", {"r.json"})


def test_the_temporary_folder_goes_at_the_latest_when_python_ends(tmp_path, monkeypatch):
    swept = []
    monkeypatch.setattr(atomic.atexit, "register", swept.append)
    monkeypatch.setattr(atomic.atexit, "unregister", lambda sweep: None)
    with atomic.folder_beside(tmp_path / "g.onnx") as folder:
        assert folder.is_dir()
        swept[0]()
        assert not folder.exists()
