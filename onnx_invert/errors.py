"""The exception tree. Every error a user can cause has a class here, a plain message and an exit code.

A message says what happened, where, the facts, and what to do. The command line prints it without a
traceback and exits with `exit_code`; the Python API raises it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from onnx_invert.fibres.points import Points
    from onnx_invert.inversion import Inversion


class OnnxInvertError(Exception):
    """Base of everything that onnx-invert raises on purpose."""

    exit_code: ClassVar[int] = 2


class UsageError(OnnxInvertError):
    """The call itself is wrong: an option, a name, an array that does not fit."""


class FileError(OnnxInvertError):
    """A file cannot be read or written."""


class ModelError(OnnxInvertError):
    """The file was read, but what it holds is no usable ONNX model."""


@dataclass(frozen=True)
class Blocker:
    """One node that keeps the path from being inverted.

    `node` and `op` name it, `reason` says why with the facts, `remedy` what would help, `lines` are
    further facts, one a line (both layers of a widening and a narrowing, say).
    """

    node: str
    op: str
    reason: str
    remedy: str = ""
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = [f"node {self.node!r} ({self.op}): {self.reason}"]
        text += [f"  {line}" for line in self.lines]
        if self.remedy:
            text.append(f"  try  {self.remedy}")
        return "\n".join(text)


class NotInvertibleError(OnnxInvertError):
    """The model is sound but has no inverse that can be promised; `blockers` lists every node at fault."""

    exit_code: ClassVar[int] = 3

    def __init__(self, blockers: Sequence[Blocker], model: str = "the model") -> None:
        self.blockers = tuple(dict.fromkeys(blockers))
        if len(self.blockers) == 1:
            text = f"Cannot invert {self.blockers[0]}"
        else:
            head = f"Cannot invert {model}: {len(self.blockers)} nodes are in the way."
            text = "\n".join([head, *(str(blocker) for blocker in self.blockers)])
        super().__init__(text)


class FibreError(OnnxInvertError):
    """Fewer points with the output y were found than asked for. `points` holds those that are verified."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, points: Points) -> None:
        self.points = points
        super().__init__(message)


class VerificationError(OnnxInvertError):
    """The inverse was built, and its round trips did not keep the promise. Nothing was written.

    `inversion` holds the model, the plan and the report with what was measured.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, inversion: Inversion) -> None:
        self.inversion = inversion
        super().__init__(message)
