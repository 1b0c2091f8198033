"""What a completed network costs beyond the network itself: time, measured in turn, and memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_invert.runtime import Session
from onnx_invert.samples import Batch

ROWS = 256
"""Samples that a run takes, at most."""

LEAST, LONGEST = 7, 0.5
"""Runs of each at the least, and the seconds that further ones take."""


@dataclass(frozen=True)
class Overhead:
    """Of f⁺ over f: `time` is the ratio of the fastest of interleaved runs on `rows` samples, None if not measured.

    `weights` are the bytes of the constants that f⁺ has beyond f, `latents` those of z, a sample.
    """

    time: float | None
    rows: int
    weights: int
    latents: int

    def __str__(self) -> str:
        size = f"{_bytes(self.weights)} of weights more, and {_bytes(self.latents)} a sample for z"
        if self.time is None:
            return size
        return f"f⁺ takes {self.time:.2f} times as long as f ({self.rows} samples at once, here and now), {size}"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.3g} MB" if count >= 1e5 else f"{count / 1e3:.3g} kB"


def bytes_of(model: ir.Model) -> int:
    """The bytes of a model's constants."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def ratio(f: Session, completed: Session, batch: Batch, outputs: Sequence[str], latents: Sequence[str]) -> float:
    """The fastest run of f⁺ by the fastest of f, one after the other in turn."""
    best = [float("inf"), float("inf")]
    started, rounds = time.perf_counter(), 0
    while rounds < LEAST or time.perf_counter() - started < LONGEST:
        for index, (session, names) in enumerate(((f, outputs), (completed, [*outputs, *latents]))):
            before = time.perf_counter()
            session.run(batch, names)
            best[index] = min(best[index], time.perf_counter() - before)
        rounds += 1
    return best[1] / best[0]
