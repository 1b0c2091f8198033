"""Points of a fibre, and which of many that were found are taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert.errors import UsageError
from onnx_invert.numerics.dispersion import farthest, in_order, mean_distances, nearest
from onnx_invert.numerics.manifold import Array

FAR = 1.3
"""Points that had to be moved by more than this, beside the median, are not taken: little of the proposal is left."""

SAME = 1e-4
"""Two x that nowhere differ by more than this, beside the largest of them, are one."""


@dataclass(frozen=True)
class Points:
    """Points of a fibre, each verified by running f on it. Arrays have one entry, or row, for every point.

    `inputs` are the recovered inputs by name. `z` are their latents (N, Z), None where the network with latents was
    not given. `error` is max |f(x) − y|, `relative` the same beside the largest |y|; `steps` counts corrections, 0
    where the proposal had the right y at once. Of all points, `proposed` were tried and `passed` came to the fibre.
    `wider` is the factor on the spread of proposals that it took to have the points as far apart as asked.
    """

    inputs: dict[str, NDArray[Any]]
    z: NDArray[Any] | None
    error: Array
    relative: Array
    steps: NDArray[np.int64]
    proposed: int
    passed: int
    wider: float = 1.0

    def __len__(self) -> int:
        return len(self.error)

    @property
    def x(self) -> NDArray[Any]:
        """The recovered input, if there is one.

        Raises:
            UsageError: there are several.
        """
        if len(self.inputs) != 1:
            raise UsageError(f"There are several inputs ({', '.join(self.inputs)}): take them from `inputs`.")
        return next(iter(self.inputs.values()))

    @property
    def acceptance(self) -> float:
        """The share of the proposals that came to the fibre."""
        return self.passed / self.proposed if self.proposed else 0.0

    @property
    def distances(self) -> Array:
        """The mean |x − x′| of every two points, (N, N)."""
        whole = np.hstack([array.reshape(len(self), math.prod(array.shape[1:])) for array in self.inputs.values()])
        return mean_distances(whole.astype(np.float64))

    @property
    def apart(self) -> float:
        """The least mean |x − x′| between two of them; infinite for one."""
        return float(nearest(self.distances).min(initial=np.inf))


@dataclass
class Arrived:
    """What came to the fibre so far, in the order of the proposals: x, its errors, its steps, how far it was
    moved, and how widely drawn."""

    x: list[Array] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    relative: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    wider: list[float] = field(default_factory=list)
    proposed: int = 0
    passed: int = 0
    missed: float = np.inf
    """How near the nearest of those came that did not arrive, relative."""

    def add(self, x: Array, error: float, relative: float, steps: int, moved: float, wider: float) -> None:
        """One more."""
        self.x.append(x)
        self.error.append(error)
        self.relative.append(relative)
        self.steps.append(steps)
        self.moved.append(moved)
        self.wider.append(wider)

    def is_new(self, x: Array) -> bool:
        """True if x differs from every one."""
        return all(np.max(np.abs(x - other)) > SAME * np.max(np.abs(other), initial=0.0) for other in self.x)

    @property
    def near(self) -> NDArray[np.intp]:
        """Those that were not moved much farther than most that were drawn as widely."""
        moved, wider = np.array(self.moved), np.array(self.wider)
        limits = {width: FAR * np.median(moved[wider == width]) for width in set(self.wider)}
        return np.flatnonzero(moved <= np.array([limits[width] for width in self.wider]))

    def chosen(self, n: int, apart: float, dispersed: bool) -> NDArray[np.intp]:
        """n of the near ones, at least `apart` in the mean, or fewer: far from each other, or the first."""
        near = self.near
        distances = mean_distances(np.array([self.x[row] for row in near]))
        if dispersed:
            best = farthest(distances, n)
            if len(best) == n and nearest(distances[np.ix_(best, best)]).min() >= apart:
                return near[np.sort(best)]
        return near[in_order(distances, n, apart)]
