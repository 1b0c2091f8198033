"""Options that are numbers or files."""

from __future__ import annotations

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
