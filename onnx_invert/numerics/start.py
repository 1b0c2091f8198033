"""Where the unknowns of a system may lie given its known numbers: what a sample that is not solved starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_invert.numerics.prior import Prior

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Start:
    """A regression of the unknowns with the covariance of what it leaves, and pairs of `known` (M, m) and `unknown`
    (M, n) numbers, of which those of the nearest known ones are starts, too. Without a regression they are all."""

    plausible: Prior | None
    known: Array
    unknown: Array
