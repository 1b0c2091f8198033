"""Where tables and lines are printed."""

from __future__ import annotations

import sys

from rich.console import Console

_WIDE = 160


class _Console(Console):
    """Leaves a pipe whose reader has gone to `main`; Rich would exit with 1, which says that a verification failed."""

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704  Rich calls this while it handles the BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide where there is none, that takes all text literally."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDE
    return _Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def shown(text: str) -> str:
    """The text with what would move the cursor, or colour the terminal, written as an escape."""
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text)
