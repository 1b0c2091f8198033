"""Labels of elements that meet: what follows from one unknown element, from none, from several (dependence.py)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert.rules.moving import Labels

SEVERAL = -1

MOST_WEIGHTS = 1 << 14
"""Weights up to which a kernel's channels are told apart where some are 0."""


def join(parts: Sequence[Labels]) -> Labels:
    """What follows from all of `parts` together, broadcast."""
    result = parts[0]
    for part in parts[1:]:
        result = np.where(result == 0, part, np.where((part == 0) | (part == result), result, SEVERAL))
    return np.asarray(result)


def joined(labels: Labels, axes: Sequence[int] | None = None) -> Labels:
    """The join along `axes` (all by default), which stay with size 1."""
    where = tuple(range(labels.ndim)) if axes is None else tuple(axes)
    if labels.size == 0:
        return np.zeros([1 if a in where else n for a, n in enumerate(labels.shape)], np.int64)
    top = labels.max(axis=where, keepdims=True)
    if not np.count_nonzero(top > 0):
        return np.asarray(labels.min(axis=where, keepdims=True))  # 0 and SEVERAL alone
    least = np.where(labels > 0, labels, np.iinfo(np.int64).max).min(axis=where, keepdims=True)
    several = (labels == SEVERAL).any(axis=where, keepdims=True) | ((top > 0) & (top != least))
    return np.where(several, SEVERAL, np.maximum(top, 0))


class Meeting:
    """The join of labels that meet in sums, with the weights 0 of some of them.

    Labels l_k > 0 of `count` operands with other weights are all the same where count · Σ l_k² = (Σ l_k)², which two
    products of matrices tell of all sums at once. A label is taken as two digits, so that no sum is rounded.
    """

    def __init__(self, top: int) -> None:
        """`top` is the greatest label."""
        self._base = 1 << (max(int(top), 1).bit_length() + 1) // 2
        self._sums: list[NDArray[np.float64]] | None = None

    def add(self, labels: Labels, nonzero: NDArray[np.bool_]) -> None:
        """Labels (…, K) of operands that meet in M sums, those where `nonzero` (K, M) is true."""
        digits = [np.maximum(labels, 0) // self._base, np.maximum(labels, 0) % self._base]
        parts = [labels > 0, labels == SEVERAL, *digits, *(digit * digit for digit in digits)]
        mask = nonzero.astype(np.float64)
        sums = [part.astype(np.float64) @ mask if part.any() else np.zeros(1) for part in parts]
        self._sums = sums if self._sums is None else [a + b for a, b in zip(self._sums, sums, strict=True)]

    def labels(self) -> Labels:
        """Of the sums, (…, M)."""
        assert self._sums is not None
        count, several, *rest = (part.astype(np.int64) for part in np.broadcast_arrays(*self._sums))
        totals, squares = rest[:2], rest[2:]
        apart = several > 0
        for total, square in zip(totals, squares, strict=True):
            apart |= count * square != total * total
        high, low = (total // np.maximum(count, 1) for total in totals)
        return np.where(apart, SEVERAL, high * self._base + low)


def through_matrix(labels: Labels, weight: NDArray[np.generic]) -> Labels:
    """Labels (…, K) through x @ weight, (K, M): joined where the weight is not 0."""
    shape = (*labels.shape[:-1], weight.shape[1])
    if np.count_nonzero(weight) == weight.size:
        return np.broadcast_to(joined(labels, [labels.ndim - 1]), shape)
    meeting = Meeting(labels.max(initial=0))
    meeting.add(labels, weight != 0)
    return np.broadcast_to(meeting.labels(), shape)


def convolved(
    x: Labels,
    weight: NDArray[np.generic],
    groups: int,
    pads: Sequence[tuple[int, int]],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Labels:
    """Labels (N, C, *sizes) through a convolution by weight (M, C / groups, *kernel): joined over the places and
    channels that a window reaches with a weight that is not 0.

    A window's places are met one after the other; one of which some channels' weights are 0 and others' not counts
    as a whole in kernels of more than `MOST_WEIGHTS`.
    """
    nonzero = weight != 0
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    kernel = weight.shape[2:]
    spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    counts = [(size - span) // stride + 1 for size, span, stride in zip(padded.shape[2:], spans, strides, strict=True)]
    parted = padded.reshape(padded.shape[0], groups, -1, *padded.shape[2:])
    whole = joined(parted, [2])
    masks = nonzero.reshape(groups, -1, *nonzero.shape[1:])
    # What all channels have alike is joined once for all of them.
    alike = np.zeros((x.shape[0], groups, 1, *counts), np.int64)
    meetings = [Meeting(x.max(initial=0)) for _ in range(groups)]
    met = False
    for tap in product(*map(range, kernel)):
        place: tuple[Any, ...] = (..., *tap)
        mask = masks[place]  # (groups, M / groups, C / groups)
        if not mask.any():
            continue
        slices = [
            slice(at * step, at * step + (count - 1) * stride + 1, stride)
            for at, step, stride, count in zip(tap, dilations, strides, counts, strict=True)
        ]
        window: tuple[Any, ...] = (..., *slices)
        if mask.all() or weight.size > MOST_WEIGHTS:
            alike = join([alike, whole[window]])
            continue
        met = True
        for group, meeting in enumerate(meetings):
            meeting.add(np.moveaxis(parted[:, group][window], 1, -1), mask[group].T)
    shape = (x.shape[0], groups, masks.shape[1], *counts)
    parts = [np.broadcast_to(alike, shape)]
    if met:
        made = [np.moveaxis(np.broadcast_to(m.labels(), (shape[0], *counts, shape[2])), -1, 1) for m in meetings]
        parts.append(np.stack(made, 1))
    return join(parts).reshape(x.shape[0], -1, *counts)
