"""Time and accuracy of `factorize(a).pinv(float32)` against `numpy.linalg.pinv(a)` on float32 weights.

python benchmarks/pinv.py [--repeat N] [--markdown FILE]

numpy works in float32. It cuts at its own rtol=None, max(K, M) · eps(float32) · sigma_max, where that keeps
the rank that `factorize` keeps, and at the threshold of `factorize` where it does not: the column "numpy cut".
Errors are max |x - x0| / max |x0| after rounding to float32, where x0 is the pseudo-inverse from a float64
singular value decomposition cut at the threshold of `factorize`. Seconds are medians of paired runs in one
process (numpy, ours, numpy, ours, …); the ratio is the median of the pairs' ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
from tables import arguments, publish, table

from onnx_invert.numerics.factorization import factorize

HEADER = (
    "weights",
    "shape",
    "rank",
    "condition",
    "numpy cut",
    "numpy s",
    "ours s",
    "ratio",
    "numpy error",
    "our error",
    "method",
)


def cases(rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Gaussian weights of four shapes, then what is harder: near and exact loss of rank."""
    for shape in ((784, 128), (2048, 1000), (1024, 4096), (2048, 2048)):
        yield "Gaussian", rng.standard_normal(shape)
    n = 2048
    yield "identity + Gaussian", np.eye(n) + rng.standard_normal((n, n)) * (0.5 / n**0.5)
    dead = rng.standard_normal((2048, 1000))
    dead[:, ::10] = 0
    yield "100 dead units", dead
    yield "product, rank 200", rng.standard_normal((2048, 200)) @ rng.standard_normal((200, 1000))
    u, _ = np.linalg.qr(rng.standard_normal((1000, 500)))
    v, _ = np.linalg.qr(rng.standard_normal((500, 500)))
    yield "slow decay to 1e-6", (u * np.geomspace(1, 1e-6, 500)) @ v


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(name: str, a: np.ndarray, repeat: int) -> tuple[str, ...]:
    """One row of the table."""
    served = factorize(a)
    agree = np.linalg.matrix_rank(a) == served.rank
    rtol = None if agree else np.float32(served.threshold / served.sigma_max)
    pairs = [
        (seconds(lambda: np.linalg.pinv(a, rtol=rtol)), seconds(lambda: factorize(a).pinv(np.float32)))
        for _ in range(repeat)
    ]
    u, s, vt = np.linalg.svd(a.astype(np.float64), full_matrices=False)
    kept = s > served.threshold
    exact = (vt[kept].T / s[kept]) @ u[:, kept].T
    errors = [np.abs(x - exact).max() / np.abs(exact).max() for x in (np.linalg.pinv(a, rtol=rtol), served.pinv("f4"))]
    return (
        name,
        f"{a.shape[0]}x{a.shape[1]}",
        str(served.rank),
        f"{served.condition:.3g}",
        "its own" if agree else "ours",
        f"{median(theirs for theirs, _ in pairs):.4f}",
        f"{median(ours for _, ours in pairs):.4f}",
        f"{median(theirs / ours for theirs, ours in pairs):.1f}",
        *(f"{error:.1e}" for error in errors),
        served.method,
    )


def main() -> None:
    """Measure and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="paired runs per matrix (5)")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = [measure(name, a.astype(np.float32), options.repeat) for name, a in cases(rng)]
    publish(table(HEADER, rows), options.markdown)


if __name__ == "__main__":
    main()
