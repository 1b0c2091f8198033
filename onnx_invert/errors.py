"""The exception tree. Every error a user can cause has a class here, a plain message and an exit code.

A message says what happened, where, the facts, and what to do. The command line prints it without a
traceback and exits with `exit_code`; the Python API raises it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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


MOST_NAMED = 4
"""So many nodes are named, of those that are in the way for one reason."""


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
        return self.told([self.node])

    def told(self, nodes: Sequence[str]) -> str:
        """What it says, of all `nodes` that are in the way for the same reason."""
        named = ", ".join(map(repr, nodes[:MOST_NAMED]))
        if len(nodes) > MOST_NAMED:
            named += f" and {len(nodes) - MOST_NAMED} more"
        text = [f"node{'s' if len(nodes) > 1 else ''} {named} ({self.op}): {self.reason}"]
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
            alike: dict[Blocker, list[str]] = {}
            for blocker in self.blockers:
                alike.setdefault(replace(blocker, node=""), []).append(blocker.node)
            count = len({blocker.node for blocker in self.blockers})
            head = f"Cannot invert {model}: {count} node{'s are' if count > 1 else ' is'} in the way."
            text = "\n".join([head, *(blocker.told(nodes) for blocker, nodes in alike.items())])
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
