"""Ctrl-C, SIGTERM and a closed terminal at any moment: nothing is left but what was there, or all of the output."""

import os
import signal
import subprocess
import sys
import time
import types
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

import pytest
from small_models import affine, save

from onnx_invert.cli import _interruptible, inference
from onnx_invert.graph import atomic, write

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
MOMENTS = 15


def start(model, folder):
    command = [sys.executable, "-m", "onnx_invert", str(model), "-o", "out/g.onnx", "--report", "out/r.json"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(folder / "tmp")}
    )


@pytest.fixture(scope="module")
def reference(models, tmp_path_factory):
    """The complete output, and how long it takes."""
    target = tmp_path_factory.mktemp("reference") / "g.onnx"
    command = [sys.executable, "-m", "onnx_invert", str(models / "mnist_mlp.onnx"), "-o", str(target)]
    seconds = []
    for _ in range(2):  # the first run may have to read everything from the disk
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.monotonic() - began)
    return target.read_bytes(), min(seconds)


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_at_any_moment(moment, reference, models, folder):
    whole, seconds = reference
    (folder / "out").mkdir()
    (folder / "tmp").mkdir()
    if moment % 2:
        Path("out/g.onnx").write_text("before")
    run = start(models / "mnist_mlp.onnx", folder)
    time.sleep((0.5 + moment) / MOMENTS * seconds)
    number = SIGNALS[moment % 3]
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    # Before the first line of ours runs, Python itself ends by the signal.
    assert run.returncode in (0, 128 + number, -number), err
    if run.returncode == 128 + number:
        assert err == b"Interrupted: every file is whole, or as it was before.\n"
    assert list((folder / "tmp").iterdir()) == []
    left = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    assert left.get("g.onnx") in ((b"before" if moment % 2 else None), whole)
    assert left.keys() <= {"g.onnx", "r.json"}
    if run.returncode == 0:
        assert left.keys() == {"g.onnx", "r.json"}


PLACES = {
    "while it is written": (write, "_stream"),
    "before the rename": (write.Staged, "commit"),
    "while the folder is made": (atomic.secrets, "token_hex"),
    "while the report is written": (atomic.os, "fsync"),
}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("place", PLACES)
def test_inside_a_step(place, number, call, files, monkeypatch):
    owner, name = PLACES[place]
    real = getattr(owner, name)

    def interrupted(*rest, **named):
        monkeypatch.setattr(owner, name, real)
        signal.raise_signal(number)
        return real(*rest, **named)

    Path("g.onnx").write_text("before")
    monkeypatch.setattr(owner, name, interrupted)
    done = call("f.onnx", "-o", "g.onnx")
    assert done.code == 128 + number
    assert done.err == "Interrupted: every file is whole, or as it was before.\n"
    assert Path("g.onnx").read_text() == "before"
    assert files() == {"f.onnx", "g.onnx"}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_rename_is_not_interrupted(number, call, files, monkeypatch):
    real = Path.replace

    def interrupted(self, target):
        signal.raise_signal(number)
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", interrupted)
        assert call("f.onnx", "-o", "g.onnx").code == 128 + number
    assert files() == {"f.onnx", "g.onnx"}
    assert call("check", "f.onnx", "g.onnx").code == 0


def test_pressed_twice(call, files, monkeypatch):
    """Once to stop, and once more while the temporary files are taken away."""
    real = atomic.shutil.rmtree

    def again(*rest, **named):
        signal.raise_signal(signal.SIGINT)
        return real(*rest, **named)

    def first(*rest):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(atomic.shutil, "rmtree", again)
    monkeypatch.setattr(write, "_stream", first)
    assert call("f.onnx", "-o", "g.onnx").code == 130
    assert files() == {"f.onnx"}


def test_in_a_run(call, files, monkeypatch):
    import numpy as np

    np.save("y.npy", np.ones((1, 4), np.float32))
    monkeypatch.setattr(inference.np, "save", lambda *rest, **named: signal.raise_signal(signal.SIGINT))
    assert call("run", "f.onnx", "-i", "y.npy", "-o", "x.npy").code == 130
    assert files() == {"f.onnx", "y.npy"}


def test_an_import_that_turns_it_into_another_error(call, monkeypatch):
    from onnx_invert import api

    def confused(*rest, **named):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr(api, "invert", confused)
    assert call("f.onnx", "-o", "g.onnx").code == 130


def test_signals_that_are_ignored_stay_so(call, monkeypatch):
    """`nohup` ignores a closed terminal, and so does what it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    real = write.Staged.commit
    monkeypatch.setattr(write.Staged, "commit", lambda self: (signal.raise_signal(signal.SIGHUP), real(self)))
    try:
        assert call("f.onnx", "-o", "g.onnx").code == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Compiled(ExtensionFileLoader):
    """Sets a module up, with a signal on the way."""

    def exec_module(self, module):
        signal.raise_signal(signal.SIGINT)
        module.complete = True


def test_a_compiled_module_is_set_up_before_a_signal_counts():
    """An exception inside of it would end the process: C++ lets none through there."""
    module, received = types.ModuleType("compiled"), []
    with pytest.raises(KeyboardInterrupt), _interruptible(received):
        Compiled("compiled", "compiled.so").exec_module(module)
        assert module.complete
        assert received == []
        time.sleep(10)
    assert received == [signal.SIGINT]


def test_handlers_are_put_back(call):
    before = [signal.getsignal(number) for number in SIGNALS]
    call("f.onnx", "-o", "g.onnx")
    call("gone.onnx", "-o", "g.onnx")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_the_main_thread():
    import threading

    save(affine(), Path("m.onnx"))
    from onnx_invert import invert

    found = []
    thread = threading.Thread(target=lambda: found.append(invert("m.onnx", "g.onnx")))
    thread.start()
    thread.join(60)
    assert found[0].path == Path("g.onnx")
    assert Path("g.onnx").exists()
