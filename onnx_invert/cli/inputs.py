"""Options that are numbers or files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert.errors import UsageError


def bound(text: str) -> float | NDArray[Any]:
    """One end of --bounds: a number, or the array of an .npy file.

    Raises:
        UsageError: neither.
        FileError: a file that cannot be read.
    """
    try:
        return float(text)
    except ValueError:
        pass
    if not text.endswith(".npy"):
        raise UsageError(f"--bounds {text}: it is neither a number nor an .npy file.")
    from onnx_invert.arrays import load

    return np.asarray(load(Path(text))[""])
