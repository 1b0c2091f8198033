"""Options that are numbers, sizes or files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert.errors import UsageError

BOUNDS = (".npy", ".npz")
"""How the name of a file of bounds ends."""


def bound(text: str) -> float | NDArray[Any] | dict[str, NDArray[Any]]:
    """One end of --bounds: a number, the array of an .npy file, or those of an .npz by the inputs' names.

    Raises:
        UsageError: neither.
        FileError: a file that cannot be read.
    """
    try:
        return float(text)
    except ValueError:
        pass
    if not text.endswith(BOUNDS):
        raise UsageError(f"--bounds {text}: it is neither a number nor an .npy or .npz file.")
    from onnx_invert.arrays import load

    arrays = load(Path(text))
    return np.asarray(arrays[""]) if "" in arrays else arrays


def shapes(texts: Sequence[str] | None) -> dict[str, tuple[int | str, ...]]:
    """--shape, as often as it was given: sizes by input's name.

    Raises:
        UsageError: one is not of the form INPUT:SIZES, or two are of one input.
    """
    found: dict[str, tuple[int | str, ...]] = {}
    for text in texts or ():
        name, _, sizes = text.rpartition(":")
        parts = [part.strip() for part in sizes.split(",")]
        if not all(parts):
            raise UsageError(f"--shape {text}: the form is INPUT:N,3,224,224, with a number for each size to fix.")
        if name in found:
            raise UsageError(f"--shape {text}: it is the second for this input.")
        found[name] = tuple(int(part) if part.removeprefix("-").isdecimal() else part for part in parts)
    return found
