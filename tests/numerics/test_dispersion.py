"""Points far from each other, held to the best that trying all subsets finds."""

from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from onnx_invert.numerics.dispersion import farthest, in_order, mean_distances, nearest


def least(distances, chosen):
    return min((distances[i, j] for i, j in combinations(chosen, 2)), default=np.inf)


@pytest.mark.parametrize("seed", range(6))
def test_nearly_the_best(seed):
    points = np.random.default_rng(seed).standard_normal((12, 3))
    distances = mean_distances(points)
    np.testing.assert_allclose(distances, cdist(points, points, "cityblock") / 3, atol=1e-12)
    chosen = farthest(distances, 4)
    assert len(set(chosen)) == 4
    best = max(least(distances, subset) for subset in combinations(range(12), 4))
    assert least(distances, chosen) >= 0.9 * best
    np.testing.assert_allclose(nearest(distances[np.ix_(chosen, chosen)]).min(), least(distances, chosen))


def test_two_of_a_line():
    assert sorted(farthest(mean_distances(np.array([[3.0], [0.0], [1.0], [7.0], [2.0]])), 2)) == [1, 3]


def test_fewer_than_wanted():
    none = np.zeros((0, 0))
    assert len(farthest(none, 3)) == len(in_order(none, 3, 0.0)) == 0
    assert farthest(np.zeros((1, 1)), 3).tolist() == [0]
    assert sorted(farthest(np.zeros((2, 2)), 3)) == [0, 1]


def test_in_order():
    distances = mean_distances(np.array([[0.0], [0.5], [1.0], [1.2], [3.0]]))
    assert in_order(distances, 5, 1.0).tolist() == [0, 2, 4]
    assert in_order(distances, 2, 0.0).tolist() == [0, 1]
