"""Few of many points, as far from each other as they get.

    choose S, |S| = k, with a large  min d(i, j) over i ≠ j in S

The best S is NP-hard to find. Farthest-point traversal (each next point is the one farthest from those taken) comes
within a factor of two of it; then the closest two give way to others for as long as that helps.
Source: T. Gonzalez, Clustering to minimize the maximum intercluster distance, Theoretical Computer Science 38, 1985;
S. Ravi, D. Rosenkrantz & G. Tayi, Heuristic and special case algorithms for dispersion problems, Oper. Res. 42, 1994.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]

STARTS = 32
"""Points from which a traversal is tried."""


def mean_distances(points: Array) -> Array:
    """The mean |x − x′| of every two rows of (N, n): (N, N)."""
    return np.array([np.abs(points - row).mean(axis=1) for row in points]).reshape(len(points), len(points))


def nearest(distances: Array) -> Array:
    """From every point (N, N) the distance to the nearest other (N), infinite for a single one."""
    return np.asarray((distances + np.diag(np.full(len(distances), np.inf))).min(axis=1, initial=np.inf))


def farthest(distances: Array, count: int) -> Index:
    """Indices of `count` points, or all there are, that are far from each other by (N, N)."""
    count = min(count, len(distances))
    starts = np.unique(np.linspace(0, max(len(distances) - 1, 0), min(STARTS, len(distances))).astype(int))
    tried = [_swapped(distances, _traversal(distances, int(start), count)) for start in starts]
    return max(tried, key=lambda chosen: _least(distances, chosen), default=np.zeros(0, np.intp))


def in_order(distances: Array, count: int, apart: float) -> Index:
    """The first `count` points, or fewer, each at least `apart` from those before it."""
    chosen: list[int] = []
    for row, away in enumerate(distances):
        if len(chosen) < count and np.all(away[chosen] >= apart):
            chosen.append(row)
    return np.array(chosen, np.intp)


def _traversal(distances: Array, start: int, count: int) -> Index:
    chosen, away = [start], distances[start].copy()
    while len(chosen) < count:
        away[chosen] = -1.0
        chosen.append(int(np.argmax(away)))
        away = np.minimum(away, distances[chosen[-1]])
    return np.array(chosen, np.intp)


def _swapped(distances: Array, chosen: Index) -> Index:
    """One of the closest two replaced by the point farthest from all others, while the least distance grows."""
    while len(chosen) > 1:
        least = _least(distances, chosen)
        within = distances[np.ix_(chosen, chosen)] + np.diag(np.full(len(chosen), np.inf))
        for place in np.unravel_index(np.argmin(within), within.shape):
            others = np.delete(chosen, place)
            away = distances[others].min(axis=0)
            away[chosen] = -1.0
            best = int(np.argmax(away))
            changed = chosen.copy()
            changed[place] = best
            if away[best] > least and _least(distances, changed) > least:
                chosen = changed
                break
        else:
            break
    return chosen


def _least(distances: Array, chosen: Index) -> float:
    return float(nearest(distances[np.ix_(chosen, chosen)]).min(initial=np.inf))
