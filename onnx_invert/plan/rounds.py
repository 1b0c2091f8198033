"""Which elements of x each sweep through a triangular block finds, where they differ along one axis alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rounds:
    """Which lanes each sweep finds, along `axis`."""

    axis: int
    shape: tuple[int | str, ...]
    """x's."""
    lanes: NDArray[np.int64]
    """(rounds, most): the lanes of each round; one that is repeated stands for none."""
    places: NDArray[np.int64]
    """(rounds, D): where among them each lane is, 0 where it is not."""
    found: NDArray[np.bool_]
    """(rounds, D): which they are."""

    @staticmethod
    def of(order: NDArray[np.int64], shape: Sequence[int | str]) -> Rounds | None:
        """From the round of every element, −1 for one that no sweep finds; None if they differ along no one axis."""
        for axis, size in enumerate(shape):
            others = tuple(other for other in range(order.ndim) if other != axis)
            line = order.min(axis=others) if others else order
            if not isinstance(size, int) or order.max(axis=others, initial=-1).tolist() != line.tolist():
                continue
            rounds = int(line.max()) + 1
            found = line == np.arange(rounds)[:, None]
            most = int(found.sum(axis=1).max())
            if most == size:
                return None
            lanes = np.stack([np.resize(np.flatnonzero(row), most) for row in found])
            return Rounds(axis, tuple(shape), lanes, np.where(found, np.cumsum(found, axis=1) - 1, 0), found)
        return None
