"""Files written whole or not at all: a temporary folder beside the target, a flush, one rename.

What was at the target before stays as it is until the rename, whatever fails and whenever Ctrl-C comes.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from onnx_invert.errors import FileError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What interrupts a run: Ctrl-C, a supervisor, a terminal that is closed."""


def check_target(target: Path, source: Path | None, others: Iterable[Path] = (), what: str = "output") -> None:
    """Refuse a target that is an input, a directory, a device or a pipe, or in no folder that can be written.

    `source` is the model, `others` are further files that the call reads or writes. A symbolic link stands
    for the file that it leads to.

    Raises:
        FileError: says which.
    """
    said = f"The {what} {str(target)!r}"
    try:
        real = real_path(target)
        exists = real.exists()
        if source is not None and _same(real, source):
            raise FileError(f"{said} is the input: the model is never overwritten.")
        # Above 2 GB the weights go beside the model.
        places = real, Path(f"{real}.data")
        if any(place == real_path(other) or _same(place, other) for other in others for place in places):
            raise FileError(f"{said} would overwrite another file of this call.")
        if real.is_dir():
            raise FileError(f"{said} is a directory; give a file name.")
        if exists and not real.is_file():
            raise FileError(f"{said} is a device or a pipe, no regular file: it cannot be replaced.")
        if not real.parent.is_dir():
            raise FileError(f"The folder {str(real.parent)!r} of the {what} does not exist.")
        if not os.access(real.parent, os.W_OK) or (exists and not os.access(real, os.W_OK)):
            raise FileError(f"{said} cannot be written: no permission.")
    except OSError as error:
        raise FileError(f"{said} cannot be written: {error.strerror}.") from error


def _same(target: Path, other: Path) -> bool:
    try:
        return target.samefile(other)
    except OSError:  # one of them does not exist
        return False


def real_path(target: Path) -> Path:
    """The file that is replaced: the one that a symbolic link leads to, not the link."""
    return Path(os.path.realpath(target)) if target.is_symlink() else target


@contextmanager
def replacing(target: Path, what: str = "output") -> Iterator[BinaryIO]:
    """A new file that takes the place of `target` on leaving, unless by an error.

    Raises:
        FileError: `target` cannot be written.
    """
    real = real_path(target)
    try:
        with folder_beside(real) as folder:
            path = folder / "new"
            with path.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            path.replace(real)
    except OSError as error:
        raise FileError(f"The {what} {str(target)!r} cannot be written: {error.strerror}.") from error


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A hidden folder on the same disk as `target`; gone on leaving, at the latest when Python ends."""
    folder = target.parent / f".onnx-invert-{secrets.token_hex(6)}"
    sweep = partial(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(sweep)
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        with uninterrupted():
            sweep()
            atexit.unregister(sweep)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C and its like until the end: for the few calls that must not be left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: action for number, action in before.items() if callable(action)}
    for number in before:
        signal.signal(number, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
        if pressed:
            signal.raise_signal(pressed[0])
