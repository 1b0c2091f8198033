"""The command line called in this process, and as a process of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from small_models import affine, save

from onnx_invert.cli import main


@dataclass
class Call:
    """What a call returned and printed."""

    code: int
    out: str
    err: str

    @property
    def last(self):
        return self.out.splitlines()[-1]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test runs in an empty folder of its own, with one sound model `f.onnx` in it."""
    monkeypatch.chdir(tmp_path)
    save(affine(), Path("f.onnx"))
    return tmp_path


@pytest.fixture
def call(capsys):
    """Call the command line in this process. A traceback fails the test: no error here is a bug."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Call(stop.value.code, out, err)

    return run


@pytest.fixture
def process():
    """Run the command line as a process."""

    def run(*arguments, env=None, **options):
        command = [sys.executable, "-m", "onnx_invert", *map(str, arguments)]
        options = {"capture_output": True, "timeout": 120, **options}
        done = subprocess.run(command, env={**os.environ, **(env or {})}, check=False, **options)
        return Call(done.returncode, (done.stdout or b"").decode(), (done.stderr or b"").decode())

    return run


@pytest.fixture
def files(folder):
    """The names in the folder, hidden ones too."""
    return lambda: {path.name for path in folder.iterdir()}
