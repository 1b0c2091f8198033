"""How far apart two results may be: the one place with the tolerances of the laws, and their reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert.numerics.tolerance import eps

Array = NDArray[Any]

SAFETY = 16.0
"""c of c · eps · κ: kernels err by up to 4 units in the last place, a composed function is a few of them,
and κ comes from a handful of random directions."""

DRAWS = 4
"""Random directions that κ is the largest of."""

NOISE = 32.0
"""The size of the perturbation in units of eps: above the kernels' own rounding, small enough to be linear."""

HALF_NOISE = 8.0
"""The same for float16, where 32 eps is 3%."""


@dataclass(frozen=True)
class Allowance:
    """|a − b| ≤ c · eps · (|a| + κ), κ how far `function` moves, per unit, when its argument does.

    With `by_row` the numbers of a sample count together, as they must where a matrix mixes them; else every
    element is held to its own. `offset` is added to |a|: what is taken off again in a sum.
    """

    eps: float
    by_row: bool
    half: bool = False

    def around(self, function: Callable[[Array], Array], argument: Array, result: Array, offset: float = 0.0) -> Array:
        """The tolerance for each element of `result` = function(argument)."""
        noise = (HALF_NOISE if self.half else NOISE) * self.eps
        rng = np.random.default_rng(11)
        moved = np.zeros(result.shape)
        for _ in range(DRAWS):
            u = rng.uniform(0.5, 1, argument.shape) * rng.choice([-1.0, 1.0], argument.shape)
            shaken = (argument.astype(np.float64) * (1 + noise * u)).astype(argument.dtype)
            with np.errstate(all="ignore"):
                moved = np.fmax(moved, np.abs(function(shaken).astype(np.float64) - result))
        size = np.abs(result.astype(np.float64)) + offset + moved / noise
        if self.by_row and size.ndim:
            rows = size.reshape(len(size), -1) if size.ndim > 1 else size.reshape(1, -1)
            norm = np.sqrt(np.sum(np.square(rows), axis=1, keepdims=True))
            size = np.broadcast_to(norm, rows.shape).reshape(size.shape)
        # Below the normal range a type holds fewer digits: its smallest normal number is what is left of eps there.
        tiny = float(np.finfo(result.dtype).tiny)
        return np.asarray(SAFETY * (self.eps * size + tiny))


def allowance(dtypes: list[np.dtype[Any]], *, by_row: bool) -> Allowance:
    """For a way that runs through `dtypes`: the coarsest rounds."""
    coarsest = max(eps(dtype) for dtype in dtypes)
    return Allowance(coarsest, by_row, coarsest > 1e-4)


def compare(got: Array, true: Array, tolerance: Array, law: str, case: object) -> None:
    """AssertionError with the law, the case and the figures, where an element is out of tolerance or NaN."""
    assert got.shape == true.shape, f"{law}\n  {case}\n  shape {got.shape}, expected {true.shape}"
    with np.errstate(invalid="ignore"):
        error = np.abs(got.astype(np.float64) - true)
        good = (error <= tolerance) | (got == true)
    if good.all():
        return
    worst = int(np.argmax(np.where(good, -1.0, np.nan_to_num(error / tolerance, nan=np.inf, posinf=np.inf))))
    place = np.unravel_index(worst, got.shape)
    raise AssertionError(
        f"{law}\n  {case}\n  {int((~good).sum())} of {good.size} values are out of tolerance; "
        f"at {list(map(int, place))}: got {got[place]!r}, expected {true[place]!r}, error {error[place]:.3g}, "
        f"tolerance {tolerance[place]:.3g}"
    )
