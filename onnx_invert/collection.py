"""Python's garbage collector while graphs are made: a pass of it goes through all nodes, and finds next to nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

YOUNG = 1_000_000
"""So many objects are made, beyond those let go of, before the collector looks: as many as 25,000 nodes have."""

_lock = Lock()
_before: list[tuple[int, int, int]] = []
"""The thresholds that count afterwards, once for every block that runs: threads share one collector."""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Let the collector run seldom, and as often as before afterwards, whatever happens in between.

    It stays on: copies of graphs hold one another, and weights with them. A collector that is off stays off. Blocks
    may overlap, one in each thread: the last that ends puts back what there was before the first.
    """
    with _lock:
        before = _before[0] if _before else gc.get_threshold()
        _before.append(before)
        gc.set_threshold(max(before[0], YOUNG) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        with _lock:
            _before.pop()
            if not _before:
                gc.set_threshold(*before)
