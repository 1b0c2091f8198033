"""What surrounds a call: terminals, pipes, character sets, closed streams, environments, imports."""

import io
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from small_models import save, text

from onnx_invert.cli import main, render
from onnx_invert.errors import ModelError

HEAVY = ("numpy", "scipy", "onnx", "onnx_ir", "onnxruntime", "rich.console", "tensorflow", "keras", "PIL")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["invert", "--help"], ["--nonsense"]])
def test_nothing_heavy_is_imported_for_help(arguments):
    code = f"""
import sys
from onnx_invert.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_ordinary_use_leaves_nothing_on_stderr(process, models):
    done = process(models / "autoencoder.onnx", "-o", "g.onnx")
    assert (done.code, done.err) == (0, "")
    done = process("check", models / "autoencoder.onnx", "g.onnx")
    assert (done.code, done.err) == (0, "")


def test_the_installed_script(folder):
    script = Path(sys.executable).with_name("onnx-invert")
    done = subprocess.run([script, "f.onnx", "-o", "g.onnx", "-q"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("PASSED")


def test_errors_of_a_process(process):
    for arguments, code in ((["gone.onnx", "-o", "g.onnx"], 2), (["--nonsense"], 2), (["ops", "Nonsense"], 2)):
        done = process(*arguments)
        assert done.code == code
        assert done.out == ""
        assert "Traceback" not in done.err


def test_what_onnxruntime_says_is_not_repeated_on_stderr(process):
    body = """g (float[N,4] x) => (float[M,4] y) {
        s = Constant<value_ints = [-1, 7, 4]>() t = Constant<value_ints = [-1, 4]>()
        r = Reshape(x, s) y = Reshape(r, t) }"""
    save(text(body), Path("f.onnx"))
    done = process("check", "f.onnx", "f.onnx")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert done.err.startswith("error: ")


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_an_output_without_unicode(env, process):
    done = process("f.onnx", "-o", "g.onnx", env=env)
    assert (done.code, done.err) == (0, "")
    assert "x -> f -> g -> x" in done.out
    assert done.out.splitlines()[-1].endswith("-> g.onnx")


def test_errors_without_unicode(process):
    save(text("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"), Path("é.onnx"))
    done = process("é.onnx", "-o", "→.onnx", "--method", "closed-form", env={"PYTHONIOENCODING": "ascii"})
    assert done.code == 3
    assert "Traceback" not in done.err


def test_a_bare_environment(folder):
    command = [sys.executable, "-m", "onnx_invert", "f.onnx", "-o", "g.onnx", "-q"]
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_has_gone(folder):
    command = [sys.executable, "-m", "onnx_invert", "f.onnx", "-o", "g.onnx"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.close()
    err = run.stderr.read()
    run.stderr.close()
    assert run.wait(60) == 141  # as a shell reports SIGPIPE; 1 would say that the verification failed
    assert err == b""


def test_a_disk_that_is_full_behind_stdout(folder):
    command = [sys.executable, "-m", "onnx_invert", "f.onnx", "-o", "g.onnx"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr == b"error: No space left on device.\n"


@pytest.mark.parametrize("closing", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_streams_that_are_closed(closing, folder):
    command = f"{sys.executable} -m onnx_invert f.onnx -o g.onnx {closing}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("g.onnx").exists()


def terminal(*arguments, folder):
    """The exit code of a process in a terminal, and all that it printed."""
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, *map(str, arguments)]
    run = subprocess.Popen(command, stdout=slave, stderr=slave, env=env, cwd=folder)
    os.close(slave)
    out = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:  # how Linux says that the other end was closed
            break
        if not data:
            break
        out += data
    os.close(master)
    return run.wait(60), out.decode()


def test_in_a_terminal(folder):
    code, out = terminal("-m", "onnx_invert", "f.onnx", "-o", "g.onnx", folder=folder)
    assert code == 0
    assert "PASSED  bijection" in out


WORK = """
import time
from onnx_invert.cli import render
with render.progress(False) as tell:
    tell("[bold]layer", 1, 3)
    time.sleep({seconds})
print("done")
"""


@pytest.mark.parametrize(("seconds", "shown"), [(0.3, False), (1.4, True)])
def test_a_bar_comes_after_a_second(seconds, shown, folder):
    code, out = terminal("-c", WORK.format(seconds=seconds), folder=folder)
    assert code == 0
    assert ("[bold]layer" in out) == shown
    assert out.rstrip().endswith("done")
    if not shown:
        assert out.strip() == "done"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("why", ["quiet", "no terminal", "dumb"])
def test_no_bar(why, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO() if why == "no terminal" else Terminal())
    monkeypatch.setenv("TERM", "dumb" if why == "dumb" else "xterm")
    threads = threading.active_count()
    with render.progress(why == "quiet") as tell:
        assert tell is None
        assert threading.active_count() == threads
    assert sys.stderr.getvalue() == ""


def test_the_bar_ends_with_the_work_whatever_happens(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    threads = threading.active_count()
    with pytest.raises(ModelError), render.progress(False) as tell:
        tell("layer", 1, 2)
        raise ModelError("broken")
    assert threading.active_count() == threads
    assert sys.stderr.getvalue() == ""


def test_a_bug_says_where_to_report_it(monkeypatch, capsys):
    from onnx_invert import api

    def broken(*rest, **named):
        raise KeyError("inner")

    monkeypatch.setattr(api, "invert", broken)
    with pytest.raises(SystemExit) as stop:
        main(["f.onnx", "-o", "g.onnx"])
    assert stop.value.code == 101
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "error: this is a bug in onnx-invert (KeyError), not in your model. Please report it" in err


def test_out_of_memory(monkeypatch, call):
    from onnx_invert import api

    def full(*rest, **named):
        raise MemoryError

    monkeypatch.setattr(api, "invert", full)
    done = call("f.onnx", "-o", "g.onnx")
    assert done.code == 2
    assert "error: out of memory." in done.err


def test_outside_the_main_thread():
    codes = []

    def work():
        with pytest.raises(SystemExit) as stop:
            main(["f.onnx", "-o", "g.onnx", "-q"])
        codes.append(stop.value.code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert codes == [0]
