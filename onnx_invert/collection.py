"""Python's garbage collector while graphs are made: a pass of it goes through all nodes, and finds next to nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 100_000
"""So many objects are made, beyond those let go of, before the collector looks: as many as a thousand nodes have."""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Let the collector run seldom, and as often as before afterwards, whatever happens in between.

    It stays on: copies of graphs hold one another, and weights with them. A collector that is off stays off.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], YOUNG) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
