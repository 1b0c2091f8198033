"""The command line: parse, call, render, exit code. No logic, and nothing heavy imported until it is used."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType

COMMANDS = ("invert", "check", "explain", "run", "ops")

EXIT_FAILED, EXIT_BUG, EXIT_INTERRUPTED = 1, 101, 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. `onnx-invert MODEL …` is short for `onnx-invert invert MODEL …`."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if argv and argv[0] not in (*COMMANDS, "--help", "-h", "--version"):
        argv.insert(0, "invert")
    sys.exit(_guarded(argv or ["--help"]))


def _guarded(argv: list[str]) -> int:
    """The exit code of a call; every error becomes a message on stderr."""
    try:
        signal.signal(signal.SIGTERM, _terminate)
        from onnx_invert.cli.commands import app  # noqa: PLC0415  so that Ctrl-C is caught while it loads

        app(argv, prog_name="onnx-invert", standalone_mode=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except KeyboardInterrupt:
        _say("Interrupted: nothing was written.")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain once more at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except MemoryError:
        _say("error: out of memory. Verify on fewer samples (--samples), or use a machine with more.")
        return 2
    except Exception as error:
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    from onnx_invert.errors import OnnxInvertError  # noqa: PLC0415

    if isinstance(error, OnnxInvertError):
        _say(f"error: {error}")
        return error.exit_code
    import traceback  # noqa: PLC0415

    traceback.print_exc()
    _say(
        f"error: this is a bug in onnx-invert ({type(error).__name__}), not in your model. Please report it with the "
        "lines above and, if you can, the model (CONTRIBUTING.md, Reporting a bug). Nothing was written."
    )
    return EXIT_BUG


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)
