"""The command line: parse, call, render, exit code. No logic, and nothing heavy imported until it is used."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import signal
import sys
import time
import warnings
from _thread import get_ident, start_new_thread
from collections.abc import Iterator
from importlib.machinery import ExtensionFileLoader
from types import FrameType

COMMANDS = ("invert", "check", "explain", "run", "fibre", "ops")

EXIT_USAGE, EXIT_BUG, EXIT_SIGNAL = 2, 101, 128

_ASCII = {"→": "->", "×": "x", "·": "*", "−": "-", "≤": "<=", "∞": "inf", "…": "...", "⁺": "+", "₁": "1", "₂": "2"}

_WAIT = 0.01
"""Seconds after which a signal that waits is looked at again."""


class Interrupted(KeyboardInterrupt):
    """A signal. A plain KeyboardInterrupt, raised in some places, makes Python end by SIGINT whatever is returned."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. `onnx-invert MODEL …` is short for `onnx-invert invert MODEL …`."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    # Newer builds of onnxruntime report to their makers, and leave a file in the temporary folder.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if arguments is None and not sys.warnoptions:
        warnings.simplefilter("ignore")  # they are for developers: what a user should know is said
    if argv and argv[0] not in (*COMMANDS, "--help", "-h", "--version"):
        if meant := _misspelt(argv[0]):
            _say(f"error: {argv[0]!r} is neither a command nor a file. Did you mean {meant!r}?")
            sys.exit(2)
        argv.insert(0, "invert")
    sys.exit(_guarded(argv or ["--help"]))


def _misspelt(word: str) -> str | None:
    """The command that was probably meant, if `word` is no file and nearly one."""
    if not word.isalpha() or os.path.exists(word):  # noqa: PTH110  pathlib would be imported for this alone
        return None
    import difflib

    return next(iter(difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.7)), None)


def _guarded(argv: list[str]) -> int:
    """The exit code of a call; every error becomes a message on stderr."""
    _prepare_streams()
    received: list[int] = []
    try:
        with _interruptible(received):
            code = _call(argv)
            sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_SIGNAL + getattr(signal, "SIGPIPE", 13)
    except KeyboardInterrupt:
        code = EXIT_SIGNAL + signal.SIGINT
    except Exception as error:
        # An interrupted import may raise anything.
        code = EXIT_SIGNAL + signal.SIGINT if received else _failed(error)
    if code == EXIT_SIGNAL + signal.SIGINT:
        _say("Interrupted: every file is whole, or as it was before.")
        return EXIT_SIGNAL + (received or [signal.SIGINT])[0]
    return code


def _call(argv: list[str]) -> int:
    """Load the commands and run one."""
    from onnx_invert.cli.commands import app

    stdout = sys.stdout
    try:
        app(argv, prog_name="onnx-invert", standalone_mode=True)
    except SystemExit as stop:
        if sys.stdout is not stdout:  # what Typer does when the reader of a pipe has gone
            sys.stdout = stdout
            raise BrokenPipeError from stop
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else EXIT_USAGE
    return 0


def _failed(error: Exception) -> int:
    from onnx_invert.errors import OnnxInvertError

    if isinstance(error, OnnxInvertError):
        _say(f"error: {error}")
        return error.exit_code
    if isinstance(error, MemoryError):
        _say("error: out of memory. Verify on fewer samples (--samples), or use a machine with more.")
        return EXIT_USAGE
    if isinstance(error, OSError):
        where = f": {error.filename!r}" if error.filename is not None else ""
        _say(f"error: {error.strerror or error}{where}.")
        _silence_stdout()
        return EXIT_USAGE
    import traceback

    traceback.print_exc()
    _say(
        f"error: this is a bug in onnx-invert ({type(error).__name__}), not in your model. Please report it with the "
        "lines above and, if you can, the model (CONTRIBUTING.md, Reporting a bug)."
    )
    return EXIT_BUG


@contextlib.contextmanager
def _interruptible(received: list[int]) -> Iterator[None]:
    """Make Ctrl-C, a supervisor's signal and a closed terminal raise KeyboardInterrupt, and note which it was.

    While a compiled module sets itself up the signal waits: what is raised there would end the process in C++.
    """
    inside, here = True, get_ident()

    def again(number: int) -> None:
        time.sleep(_WAIT)
        if not inside:
            return
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(here, number)  # it wakes the thread, whatever that waits for
        else:
            signal.raise_signal(number)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _loads_compiled(frame):
            start_new_thread(again, (number,))
            return
        received.append(number)
        raise Interrupted

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
            with contextlib.suppress(ValueError):  # not the main thread
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        inside = False
        for number, action in before.items():
            signal.signal(number, action)


def _loads_compiled(frame: FrameType | None) -> bool:
    """Whether Python runs in the set-up of a compiled module."""
    while frame is not None:
        if frame.f_code.co_name in {"create_module", "exec_module"} and isinstance(
            frame.f_locals.get("self"), ExtensionFileLoader
        ):
            return True
        frame = frame.f_back
    return False


def _prepare_streams() -> None:
    """Let output never fail for a character: what the terminal cannot show is written in ASCII."""
    codecs.register_error("onnx-invert", _in_ascii)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell, >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123  open to the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="onnx-invert")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ASCII.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def _silence_stdout() -> None:
    """Nobody reads any more, or nothing fits; Python would complain once more at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)
