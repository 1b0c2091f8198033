"""Sampling a fibre, and moving along it by latents.

    propose x̃  →  project on f(x) = y  →  run f on the x that is returned  →  keep what passes

Whatever is returned has passed; where too little does, an error says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert.arrays import load
from onnx_invert.comparison import made_for
from onnx_invert.errors import FibreError, FileError, UsageError
from onnx_invert.fibres.networks import CHUNK, Networks, Rows
from onnx_invert.fibres.points import Arrived, Points
from onnx_invert.fibres.proposals import Blind, Neighbours, Proposals, Recorded, Source, data_rows
from onnx_invert.numerics.manifold import Array, identity, project
from onnx_invert.pairs import is_pair

Path_ = str | os.PathLike[str]
Data = Path_ | NDArray[Any] | Mapping[str, NDArray[Any]]

TOLERANCE, ROUNDINGS = 1e-5, 16
"""max |f(x) − y| that counts as the same y, beside the largest |y| of the same output: the first, or so many units of
rounding where f computes in float16, of which f itself takes several."""

PROPOSALS, LEAST_PROPOSALS = 32, 128
"""For every sample that is asked for, and in all: as many are made at most, or the larger of both; twice as many where
the points have to be far apart."""

WIDER = 2.0
"""Factor on the spread of proposals, round by round, where those before were not as far apart as asked."""

CANDIDATES = 8
"""Proposals for every point, of which those farthest apart are taken."""


class Fibre:
    """All x with f(x) = y for one y, of a lossless pair.

    Attributes:
        size: numbers of z.
        free: bool (Z,), the latents that may take any value from any x, without changing y.
        recorded: True if the inverse holds what its data say of plausible x.
        tolerance: max |f(x) − y| that passes, beside the largest |y| of the same output.
        note: why proposals cannot be corrected, or nothing.
    """

    def __init__(self, rows: Rows, *, tolerance: float | None = None) -> None:
        if tolerance is None:
            tolerance = max(TOLERANCE, ROUNDINGS * float(np.finfo(rows.net.dtype).eps))
        if not 0 < tolerance < np.inf:
            raise UsageError(f"The tolerance {tolerance:g} has to be a number above 0.")
        self._rows, self.tolerance = rows, tolerance
        self.size, self.free, self.note = rows.net.size, rows.net.free, rows.net.note
        self.recorded = rows.net.mixture is not None

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        data: Data | None = None,
        bounded: bool = True,
        spread: float = 1.0,
        apart: float = 0.0,
        candidates: int = CANDIDATES,
        source: Source | None = None,
    ) -> Points:
        """n different points of the fibre, far from each other.

        Proposals are inputs of `data` whose y is near; without, draws of what the inverse recorded of its data; and
        without that, latents z ~ N(0, 1), which know nothing of plausible x. Of those that come to the fibre the n
        are taken whose least mean |x − x′| is largest, as far as a search finds (numerics/dispersion.py).

        Args:
            n: how many.
            seed: of the proposals; the same seed gives the same points.
            data: inputs of the model, as for `invert`.
            bounded: keep every number of x within its range over the data.
            spread: factor on the deviation of proposals from their mean, and on how far off the y of data may lie.
            apart: the least mean |x − x′| between two points. Where proposals do not give it, others follow with
                2, 4, … times the spread; the points' `wider` says how far that went.
            candidates: proposals for every point. With 1 what comes to the fibre is taken as it comes: independent
                draws where the proposals are.
            source: proposals of another kind, instead of what `seed`, `data`, `bounded` and `spread` say.

        Raises:
            FileError, UsageError: an argument makes no sense.
            FibreError: fewer than n came to the fibre; `points` holds those that did.
        """
        if n < 1 or candidates < 1 or not 0 <= apart < np.inf:
            raise UsageError(
                f"n and candidates have to be at least 1 and apart a number from 0 on, not {n}, {candidates} and "
                f"{apart:g}."
            )
        if self.size == 0:
            raise UsageError("The network loses nothing: the fibre of y is the one x that the inverse returns.")
        source = source or self.source(data, bounded=bounded, spread=spread, seed=seed)
        found, limit = Arrived(), max(LEAST_PROPOSALS, PROPOSALS * n, candidates * n) * (2 if apart else 1)
        # For many points as many candidates for each would take long: the fibre is covered without.
        wanted = min(candidates * n, max(LEAST_PROPOSALS, 2 * n)) if candidates > 1 else n
        chosen, wider, turn = np.zeros(0, np.intp), 1.0, wanted
        while (count := min(max(turn - found.proposed, 2 * (n - len(chosen))), limit - found.proposed)) > 0:
            proposals = source.draw(min(count, self._at_once), wider)
            if not len(proposals.x):
                break
            self._try(proposals, found, as_asked=False, wider=wider)
            if found.proposed >= turn:
                chosen = found.chosen(n, apart, candidates > 1)
                if len(chosen) == n:
                    break
                if apart and found.passed >= n:
                    wider, turn = WIDER * wider, found.proposed + wanted
        return self._settled(found, found.chosen(n, apart, candidates > 1), n, source.remedy)

    def move(self, z: NDArray[Any], *, relative_to: NDArray[Any] | None = None) -> Points:
        """The points of the fibre at latent coordinates z, (Z) or (N, Z).

        z is absolute, or with `relative_to`, latents too, a step away from these. Where z is not that of a point
        with this y (`free` says which latents never lead away), x is the nearest that has it: the points' own `z`
        say where that is.

        Raises:
            UsageError: z does not fit.
            FibreError: one of the points cannot be brought to the fibre; `points` holds those before it.
        """
        wanted = np.atleast_2d(np.asarray(z, np.float64))
        if relative_to is not None:
            wanted = wanted + np.atleast_2d(np.asarray(relative_to, np.float64))
        if wanted.ndim != 2 or wanted.shape[1] != self.size or not np.isfinite(wanted).all():
            raise UsageError(f"z has shape {np.shape(z)}; it takes (N, {self.size}), finite numbers.")
        found = Arrived()
        self._try(Proposals(self._rows.back(wanted), identity(self._rows.n)), found, as_asked=True)
        everything = np.arange(len(found.x))
        return self._settled(found, everything, len(wanted), "smaller steps, away from latents of points on the fibre")

    def source(self, data: Data | None = None, *, bounded: bool = True, spread: float = 1.0, seed: int = 0) -> Source:
        """Where `sample` takes its proposals from."""
        if not 0 < spread < np.inf:
            raise UsageError(f"The spread {spread:g} has to be a number above 0.")
        rows, rng = self._rows, np.random.default_rng(seed)
        if data is not None:
            arrays: Mapping[str, NDArray[Any]]
            if isinstance(data, Mapping):
                arrays, name = data, "The data"
            elif isinstance(data, np.ndarray):
                arrays, name = {"": data}, "The data"
            else:
                arrays, name = load(Path(data)), Path(data).name
            return Neighbours(rows, data_rows(rows, arrays, name), bounded=bounded, spread=spread, rng=rng)
        if rows.net.mixture is not None:
            return Recorded(rows.net.mixture, rows.y, bounded=bounded, spread=spread, rng=rng)
        return Blind(rows, spread=spread, rng=rng)

    @property
    def _at_once(self) -> int:
        """Proposals whose derivatives are held at the same time."""
        return max(1, CHUNK // max(1, self._rows.n * len(self._rows.y)))

    def _try(self, proposals: Proposals, found: Arrived, *, as_asked: bool, wider: float = 1.0) -> None:
        """Carry proposals to the fibre and keep those that arrive: all in their order, or those that are new."""
        x, steps = self._rows.rounded(proposals.x), np.zeros(len(proposals.x), np.int64)
        # A z that was asked for is left alone where it serves; what is sampled is brought as close as rounding allows.
        off = np.flatnonzero(~(self._errors(x)[1] <= self.tolerance)) if as_asked else np.arange(len(x))
        if off.size:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite does not pass
                x[off], steps[off] = self._carried(proposals, off)
        error, relative = self._errors(x)
        good = relative <= self.tolerance
        if proposals.box is not None:
            low, high = (self._rows.rounded(end[None])[0] for end in proposals.box)
            good &= np.all((x >= low) & (x <= high), axis=1)
        found.proposed += len(x)
        found.passed += int(good.sum())
        missed = relative[~good & np.isfinite(relative)]
        found.missed = min(found.missed, float(missed.min(initial=np.inf)))
        moved = np.mean(np.abs(x - proposals.x), axis=1)
        for row in np.flatnonzero(good):
            if as_asked or found.is_new(x[row]):
                measured = float(error[row]), float(relative[row]), int(steps[row]), float(moved[row])
                found.add(x[row], *measured, wider)

    def _errors(self, x: Array) -> tuple[Array, Array]:
        """max |f(x) − y| of every row, and beside the largest |y|."""
        left = np.abs(self._rows.f(x) - self._rows.y)
        return np.max(left, axis=1, initial=0.0), np.max(left / self._rows.units, axis=1, initial=0.0)

    def _carried(self, proposals: Proposals, some: NDArray[np.intp]) -> tuple[Array, NDArray[np.int64]]:
        """Some of the proposals projected on the fibre, as far as they go, and the steps that it took."""
        rows, x = self._rows, proposals.x[some]
        if rows.net.derivative is not None:
            done = project(
                rows.f,
                rows.slope,
                x,
                rows.y,
                proposals.metric.of(some),
                units=rows.units,
                floor=4 * float(np.finfo(rows.net.dtype).eps),
                box=proposals.box,
                rounded=rows.rounded,
            )
            return done.x, done.steps
        if rows.net.has_latents:
            # Without a derivative one way is left: the inverse, at the latents that the proposal has.
            return rows.rounded(rows.back(rows.latents(x).astype(np.float64))), np.ones(len(x), np.int64)
        return rows.rounded(x), np.zeros(len(x), np.int64)

    def _settled(self, found: Arrived, chosen: NDArray[np.intp], n: int, remedy: str) -> Points:
        rows = self._rows
        x = np.array([found.x[row] for row in chosen]).reshape(-1, rows.n)
        points = Points(
            rows.shaped(x),
            rows.latents(x) if rows.net.has_latents and len(x) else None,
            np.array([found.error[row] for row in chosen]),
            np.array([found.relative[row] for row in chosen]),
            np.array([found.steps[row] for row in chosen], np.int64),
            found.proposed,
            found.passed,
            max((found.wider[row] for row in chosen), default=1.0),
        )
        if len(points) >= n:
            return points
        far = len(found.x) - len(found.near)
        same = len(found.near) - len(points)
        lines = [
            f"{len(points)} of {n} points with this y were found. Of {found.proposed} proposals {found.passed} came "
            f"to it within {self.tolerance:g}; {same} of them were too near to another, {far} had to be moved much "
            "farther than most."
        ]
        if np.isfinite(found.missed):
            lines.append(f"  the nearest of the others came within {found.missed:.2g}, relative to the largest |y|")
        if self.note:
            lines.append(f"  proposals were not corrected: {self.note}")
        if found.passed > 1 and len(points) == 1:
            lines.append("  the fibre may be a single x")
        lines.append(f"  try  {remedy}")
        raise FibreError("\n".join(lines), points)


def fibre(inverse: Path_, model: Path_, y: NDArray[Any] | Mapping[str, NDArray[Any]], **options: Any) -> Fibre:
    """The fibre of y from files.

    Args:
        inverse: a lossless inverse, as `--lossless` writes it.
        model: its network, to verify with: the file with latents that was written beside the inverse (points then
            have latents), or the model itself.
        y: one sample of what the inverse takes: outputs of the model and, by name, the inputs that are not recovered.
            Outputs that the inverse does not take may differ from point to point.
        options: `tolerance`, relative to the largest |y|: 1e-5, or 16 units of rounding of a narrower type.

    Raises:
        FileError, ModelError, UsageError: something is wrong with what was given.
    """
    return Fibre(open_networks(Path(inverse), Path(model)).at(y), **options)


def open_networks(inverse: Path, model: Path) -> Networks:
    """Both files of a pair, of which the one belongs to the other.

    Raises:
        FileError, ModelError, UsageError: a file is missing, does not load, or belongs to something else.
    """
    for path in (inverse, model):
        if not path.is_file():
            raise FileError(f"There is no file {str(path)!r}.")
    networks = Networks(model, inverse, model, (model.name, inverse.name))
    stated = networks.g.metadata
    if not is_pair(networks.f.metadata, stated) and not made_for(stated, model):
        raise UsageError(
            f"{inverse.name} was made from another network than {model.name}, or another version of it: give the "
            "model that was inverted, or the file that --lossless wrote with it."
        )
    return networks
