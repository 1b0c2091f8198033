"""Time of a network with its latents, in times of the network itself.

    python benchmarks/lossless.py [--model FILE] [--runs N] [--markdown FILE]

Both run in turn in one process, on one thread, and the thread's own CPU time is compared: what else the machine
does, hits both alike. Drawn samples, 1 to 1000 at once.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from tables import arguments, publish, table

from onnx_invert.testing.completions import pair_of

ROOT = Path(__file__).resolve().parents[1]
BATCHES = (1, 32, 256, 1000)
TARGET = 2.5


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """The model on one thread, optimised as usual."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Measure and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "mnist_mlp.onnx")
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    model = onnx.load(options.model)
    sessions = session(model), session(pair_of(model)[1])
    port = model.graph.input[0]
    shape = [dim.dim_value for dim in port.type.tensor_type.shape.dim][1:]
    rows = []
    for count in BATCHES:
        x = np.random.default_rng(0).uniform(size=(count, *shape)).astype(np.float32)
        taken: tuple[list[float], list[float]] = [], []
        for _ in range(options.runs):
            for each, times in zip(sessions, taken, strict=True):
                started = time.thread_time()
                each.run(None, {port.name: x})
                times.append(time.thread_time() - started)
        plain, completed = map(statistics.median, taken)
        cells = f"{plain * 1e6:.0f}", f"{completed * 1e6:.0f}", f"{completed / plain:.2f}"
        rows.append([str(count), *cells, str(TARGET)])
    header = ["samples at once", "network, µs", "with latents, µs", "ratio", "at most"]
    publish(table(header, rows), options.markdown)


if __name__ == "__main__":
    main()
