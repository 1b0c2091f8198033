"""Where the output goes: links, devices, full disks, the input itself. A good file survives every failure."""

import os
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_models import external

import onnx_invert
from onnx_invert.errors import FileError
from onnx_invert.graph import atomic, read, write


def sound(path):
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return True


@pytest.mark.parametrize(
    "name", ["with space.onnx", "ünï→×.onnx", "[bold]x.onnx", ":smile:.onnx", "a'b\"c.onnx", "line\nbreak.onnx", "x"]
)
def test_any_file_name(name, call):
    shutil.copy("f.onnx", name)
    done = call(name, "-o", f"inverse of {name}")
    assert done.code == 0
    assert done.out.endswith(f"→ inverse of {name}\n")
    assert sound(f"inverse of {name}")


def test_a_name_with_a_leading_dash(call):
    shutil.copy("f.onnx", "-dash.onnx")
    assert call("-o", "-g.onnx", "--", "-dash.onnx").code == 0
    assert sound("-g.onnx")


def test_a_name_that_is_no_unicode(call):
    name = os.fsdecode(b"bad\xff.onnx")
    shutil.copy("f.onnx", name)
    done = call(name, "-o", os.fsdecode(b"out\xff.onnx"), "--report", "r.json")
    assert done.code == 0, done.err
    assert done.last.endswith("→ out\\udcff.onnx")
    assert b"bad\\udcff.onnx" in Path("r.json").read_bytes()


@pytest.mark.parametrize("spelling", ["f.onnx", "./f.onnx", "sub/../f.onnx", "link.onnx", "hard.onnx"])
def test_the_input_is_never_overwritten(spelling, call, files):
    Path("sub").mkdir()
    Path("link.onnx").symlink_to("f.onnx")
    os.link("f.onnx", "hard.onnx")
    before, listed = Path("f.onnx").read_bytes(), files()
    done = call("f.onnx", "-o", spelling)
    assert done.code == 2
    assert f"The output {str(Path(spelling))!r} is the input: the model is never overwritten." in done.err
    assert Path("f.onnx").read_bytes() == before
    assert files() == listed


def test_external_data_is_not_overwritten(folder):
    source = read.read(external(folder))
    for target in ("weights.bin", "./weights.bin"):
        with pytest.raises(FileError, match="would overwrite another file of this call"):
            write.check_target(Path(target), source.path, source.files)
    with pytest.raises(FileError, match="would overwrite"):  # weights above 2 GB would go there
        write.check_target(Path("g.onnx"), source.path, [Path("g.onnx.data")])


def test_a_link_leads_to_the_file_that_is_written(call):
    Path("real.onnx").write_text("old")
    Path("link.onnx").symlink_to("real.onnx")
    Path("new.onnx").symlink_to("gone.onnx")
    for link, real in (("link.onnx", "real.onnx"), ("new.onnx", "gone.onnx")):
        assert call("f.onnx", "-o", link).code == 0
        assert Path(link).is_symlink()
        assert sound(real)


def test_the_input_may_be_a_link(call):
    Path("link.onnx").symlink_to("f.onnx")
    assert call("link.onnx", "-o", "g.onnx").code == 0


def test_a_link_to_itself(call):
    Path("loop").symlink_to("loop")
    assert call("loop", "-o", "g.onnx").code == 2
    assert call("f.onnx", "-o", "loop").code in (0, 2)
    assert sound("f.onnx")


def test_a_pipe_is_not_replaced(call):
    os.mkfifo("pipe")
    done = call("f.onnx", "-o", "pipe")
    assert done.code == 2
    assert "'pipe' is a device or a pipe, no regular file: it cannot be replaced." in done.err
    assert Path("pipe").is_fifo()


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full"])
def test_a_device_is_not_replaced(device):
    with pytest.raises(FileError, match="no regular file"):
        atomic.check_target(Path(device), None)


BAD_TARGETS = {
    "sub": "is a directory; give a file name",
    "": "is a directory; give a file name",
    "gone/g.onnx": "The folder 'gone' of the output does not exist",
    "f.onnx/g.onnx": "The folder 'f.onnx' of the output does not exist",
    "x" * 300: "File name too long",
}


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_a_target_that_cannot_be_written(target, call, files):
    Path("sub").mkdir()
    before = files()
    done = call("f.onnx", "-o", target)
    assert done.code == 2
    assert BAD_TARGETS[target] in done.err
    assert files() == before


def test_a_folder_without_permission(call, files, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # tests may run as root
    before = files()
    done = call("f.onnx", "-o", "g.onnx")
    assert done.code == 2
    assert "The output 'g.onnx' cannot be written: no permission." in done.err
    assert files() == before


def test_a_folder_that_refuses_late(call, files, monkeypatch):
    def refuse(self, *rest, **named):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    before = files()
    done = call("f.onnx", "-o", "g.onnx")
    assert done.code == 2
    assert "The output 'g.onnx' cannot be written: Permission denied." in done.err
    assert files() == before


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_is_full(step, call, files, monkeypatch):
    def fail(*rest):
        raise OSError(28, "No space left on device")

    shutil.copy("f.onnx", "g.onnx")
    before, listed = Path("g.onnx").read_bytes(), files()
    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    done = call("f.onnx", "-o", "g.onnx")
    assert done.code == 2
    assert "cannot be written: No space left on device." in done.err
    assert files() == listed
    assert Path("g.onnx").read_bytes() == before


def test_a_disk_that_fills_up_while_writing(process, models, files):
    Path("g.onnx").write_text("what was there before")
    before = files()
    done = process(
        models / "mnist_mlp.onnx",
        "-o",
        "g.onnx",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.code == 2
    assert "cannot be written: File too large." in done.err
    assert "Traceback" not in done.err
    assert files() == before
    assert Path("g.onnx").read_text() == "what was there before"


def test_a_report_that_cannot_be_written_in_the_end(call, monkeypatch):
    from onnx_invert.report import document

    def fail(report, path):
        raise FileError(f"The report {str(path)!r} cannot be written: No space left on device.")

    monkeypatch.setattr(document, "write", fail)
    done = call("f.onnx", "-o", "g.onnx", "--report", "r.json")
    assert done.code == 2
    assert (
        "The report 'r.json' cannot be written: No space left on device. The inverse itself is in 'g.onnx'."
        in done.err
    )
    assert sound("g.onnx")


REPORTS = {
    "r.txt": "should end in .json",
    "sub.json": "is a directory",
    "gone/r.json": "The folder 'gone' of the report does not exist",
    "pipe.json": "is a device or a pipe",
    "model.json": "is the input",
    "g.json": "would overwrite another file of this call",
}


@pytest.mark.parametrize("report", REPORTS)
def test_a_bad_report_is_refused_before_the_work(report, call, files):
    Path("sub.json").mkdir()
    os.mkfifo("pipe.json")
    shutil.copy("f.onnx", "model.json")
    before = files()
    done = call("model.json", "-o", "g.json", "--report", report)
    assert done.code == 2
    assert REPORTS[report] in done.err
    assert files() == before


def test_the_data_is_not_overwritten(call):
    np.save("x.npy", np.ones((3, 4), np.float32))
    before = Path("x.npy").read_bytes()
    assert call("f.onnx", "-o", "x.npy", "--data", "x.npy").code == 2
    assert Path("x.npy").read_bytes() == before


def test_two_runs_at_once_to_the_same_output(folder, files):
    import subprocess

    command = [sys.executable, "-m", "onnx_invert", "f.onnx", "-o", "g.onnx", "-q"]
    runs = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait(120) for run in runs] == [0, 0]
    assert sound("g.onnx")
    assert files() == {"f.onnx", "g.onnx"}


def test_the_same_model_gives_the_same_bytes(process, models, call):
    model = models / "autoencoder.onnx"
    assert call(model, "-o", "one.onnx").code == 0
    assert call(model, "-o", "two.onnx", "--no-verify").code == 0
    assert process(model, "-o", "three.onnx", env={"PYTHONHASHSEED": "7"}).code == 0
    onnx_invert.invert(str(model), "four.onnx")
    assert len({Path(name).read_bytes() for name in ("one.onnx", "two.onnx", "three.onnx", "four.onnx")}) == 1


def test_the_output_has_the_permissions_of_any_new_file(call):
    mask = os.umask(0o027)
    try:
        call("f.onnx", "-o", "g.onnx", "--report", "r.json")
    finally:
        os.umask(mask)
    assert Path("g.onnx").stat().st_mode & 0o777 == 0o640
    assert Path("r.json").stat().st_mode & 0o777 == 0o640
