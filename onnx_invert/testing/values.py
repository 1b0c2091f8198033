"""Numbers to try a rule on: inside a box, and beyond its ends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_invert.rules.interval import Interval

Array = NDArray[np.float64]


def inside(box: Interval, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Numbers in `box`, most of them of ordinary size, whose ends broadcast against `shape`."""
    rng = np.random.default_rng([seed, 5, *shape])
    low, high = np.broadcast_to(box.low, shape), np.broadcast_to(box.high, shape)
    normal = 1.5 * rng.standard_normal(shape)
    uniform = rng.uniform(0.01, 0.99, shape)
    with np.errstate(invalid="ignore"):
        between = low + (high - low) * uniform
    found = np.where(
        np.isfinite(low), low + np.abs(normal), np.where(np.isfinite(high), high - np.abs(normal), normal)
    )
    return np.asarray(np.where(np.isfinite(low) & np.isfinite(high), between, found))


def beyond(low: float | None, high: float | None, dtype: np.dtype[np.floating]) -> Array:
    """Numbers below `low` and above `high`: the next one, ordinary ones, the largest, infinity."""
    top = float(np.finfo(dtype).max)
    found: list[float] = []
    for end, sign in ((low, -1.0), (high, 1.0)):
        if end is None:
            continue
        step = float(np.nextafter(np.asarray(end, dtype), np.asarray(sign * np.inf, dtype)))
        found += [step, end + sign * 1e-3, end + sign, 10 * end + 10 * sign, sign * top, sign * np.inf]
    values = np.asarray(found, dtype=np.float64)
    values = np.where(np.isfinite(values), np.clip(values, -top, top), values)
    outside = np.zeros(values.shape, dtype=bool)
    if low is not None:
        outside |= values.astype(dtype) < low
    if high is not None:
        outside |= values.astype(dtype) > high
    return values[outside]
