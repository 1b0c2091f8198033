"""The sign of a block's determinant at many x, by central differences in float64: where it changes, or the determinant
is 0, some y have several x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.mixing import Mixing
from onnx_invert.plan.trial import Array, Trial

DRAWS = 512
"""Points at which the sign of a determinant is tried at most."""

WORK = 1 << 16
"""Rows that are run for it: fewer points where each takes many."""

FLAT = 1e-8
"""A singular value below this share of the largest counts as 0: central differences tell no less."""


def sign_of(trial: Trial, own: Sequence[int]) -> int | str:
    """The sign of det ∂y/∂x, the same wherever it was tried, by central differences; or what was found instead."""
    x, y = trial.x, trial.y
    others = [axis for axis in range(len(trial.shape)) if axis not in own]
    sizes = [trial.shape[axis] for axis in own]
    n = int(np.prod(sizes))
    signs: set[float] = set()
    for at in trial.draws(max(4, min(DRAWS, WORK // (2 * n)))):
        step = 1e-6 * (1 + np.abs(at).max(axis=tuple(own), keepdims=True))
        columns = []
        for unit in np.eye(n):
            shape = [trial.shape[axis] if axis in own else 1 for axis in range(len(trial.shape))]
            ends = [trial.run({x: at + side * step * unit.reshape(shape)}, [y]) for side in (1, -1)]
            if ends[0] is None or ends[1] is None:
                return "it could not be tried whether it has one solution"
            slope = (ends[0][0] - ends[1][0]) / (2 * step)
            columns.append(np.transpose(slope, (*others, *own)).reshape(-1, n))
        found = np.stack(columns, axis=-1)
        if not np.isfinite(found).all():
            return "its Jacobian is singular, or not defined, at some inputs"
        values = np.linalg.svd(found, compute_uv=False)
        if np.any(values[:, -1] <= FLAT * values[:, 0]):  # 0 of 0, too
            return "its Jacobian is singular, or not defined, at some inputs"
        signs.update(np.linalg.slogdet(found)[0].tolist())
    return int(signs.pop()) if len(signs) == 1 else "the determinant of its Jacobian changes its sign"


@dataclass(frozen=True)
class Torn:
    """A coupled block as a function of s."""

    trial: Trial
    mixing: Mixing
    tail: Sequence[ir.Node]
    head: Sequence[ir.Node]

    def sign(self) -> int | str:
        """The sign of det F_x · det φ′, the same wherever it was tried; or what was found instead."""
        signs: list[Array] = []
        for at in self.trial.draws(max(16, min(DRAWS, WORK // (4 * self.mixing.size)))):
            found = self._at(at)
            if found is None:
                return "it could not be tried whether it has one solution"
            jacobian, slopes = found
            finite = np.isfinite(jacobian).all() and np.isfinite(slopes).all()
            if not finite or np.any(slopes == 0):
                return "its Jacobian is singular, or not defined, at some inputs"
            values = np.linalg.svd(jacobian, compute_uv=False)
            if np.any(values[:, -1] < FLAT * np.maximum(1, values[:, 0])):
                return "its Jacobian is singular, or not defined, at some inputs"
            signs.append(np.linalg.slogdet(jacobian)[0] * np.prod(np.sign(slopes.reshape(len(at), -1)), axis=1))
        table = np.concatenate(signs)
        if np.any(table != table[0]):
            return "the determinant of its Jacobian changes its sign"
        return int(table[0])

    def _at(self, x: Array) -> tuple[Array, Array] | None:
        """φ′ (rows, m, m) at x, by central differences, and F_x; None where they could not be had."""
        trial, s = self.trial, self.mixing.s
        made = trial.run({trial.x: x}, s, self.head)
        y = None if made is None else self._y(x, made)
        if made is None or y is None:
            return None
        rows = [part.reshape(len(x), -1) for part in made]
        flat = np.concatenate(rows, axis=1)
        step = 1e-6 * (1 + np.abs(flat))
        columns = []
        slopes = np.ones_like(x)
        for j in range(self.mixing.size):
            ends = []
            for side in (1, -1):
                moved = flat.copy()
                moved[:, j] += side * step[:, j]
                cut = np.split(moved, np.cumsum([row.shape[1] for row in rows])[:-1], axis=1)
                held = [piece.reshape(part.shape) for piece, part in zip(cut, made, strict=True)]
                zero, one = (self._y(np.full_like(x, at), held) for at in (0.0, 1.0))
                if zero is None or one is None:
                    return None
                slopes = one - zero
                with np.errstate(all="ignore"):
                    there = trial.run({trial.x: (y - zero) / slopes}, s, self.head)
                if there is None:
                    return None
                ends.append(np.concatenate([part.reshape(len(x), -1) for part in there], axis=1))
            columns.append((ends[0] - ends[1]) / (2 * step[:, j : j + 1]))
        return np.eye(self.mixing.size) - np.stack(columns, axis=-1), slopes

    def _y(self, x: Array, held: Sequence[Array]) -> Array | None:
        s = self.mixing.s
        found = self.trial.run({self.trial.x: x, **dict(zip(s, held, strict=True))}, [self.trial.y], self.tail, s)
        return None if found is None else found[0]
