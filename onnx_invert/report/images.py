"""Arrays as images: which shapes are some, and in which shades they are drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def as_images(array: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """A batch as (N, H, W, channels): (N, H, W), (N, H, W, 1 or 3), (N, 1 or 3, H, W), or (N, n) with n a square.

    None for any other shape.
    """
    shape = array.shape
    side = int(np.sqrt(shape[1])) if array.ndim == 2 else 0
    if array.ndim == 2 and side * side == shape[1]:
        return array.reshape(-1, side, side, 1)
    if array.ndim == 3:
        return array[..., None]
    if array.ndim == 4 and shape[-1] in (1, 3):
        return array
    if array.ndim == 4 and shape[1] in (1, 3):
        return array.transpose(0, 2, 3, 1)
    return None


def shades(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Within [0, 1]: as it is, or from its own least value to its greatest."""
    low, high = picture.min(), picture.max()
    if low >= 0 and high <= 1:
        return picture
    return (picture - low) / (high - low) if high > low else np.full_like(picture, 0.5)
