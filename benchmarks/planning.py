"""Planning time by the number of nodes: random couplings, by slices, indices and masks, nested and permuted.

    python benchmarks/planning.py [--nodes 100 200 500 1000 2000 5000] [--repeat 3] [--markdown FILE]

Timed is `onnx_invert.explain` as a user calls it, from the model in memory to the plan; seconds are medians of runs in
turn (100, 200, …, 100, 200, …) in one process. CPU seconds are the process's own, which other processes on the machine
hardly change. The models are those of tests/flows/random_flows.py, in float64.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median

import onnx

import onnx_invert

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "flows"))

from random_flows import RandomFlow
from tables import arguments, publish, table

COUPLINGS = ("coupling", "indexed", "masked", "permutation")
TARGETS = {5000: 2.0}


def seconds(model: onnx.ModelProto) -> tuple[float, float]:
    """Wall and CPU time of one plan."""
    wall, cpu = time.perf_counter(), time.process_time()
    onnx_invert.explain(model, method="closed-form")
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Measure and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 200, 500, 1000, 2000, 5000])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    models = {count: RandomFlow(count, count, COUPLINGS).model() for count in options.nodes}
    seconds(models[min(models)])  # imports and caches
    runs: dict[int, list[tuple[float, float]]] = {count: [] for count in models}
    for _ in range(options.repeat):
        for count, model in models.items():
            runs[count].append(seconds(model))
    rows = []
    for count, found in runs.items():
        wall, cpu = (median(times) for times in zip(*found, strict=True))
        nodes = len(models[count].graph.node)
        target = f"{TARGETS[count]:g} s" if count in TARGETS else ""
        rows.append([str(nodes), f"{wall:.2f}", f"{cpu:.2f}", f"{1000 * cpu / nodes:.2f}", target])
    lines = table(["nodes", "s", "CPU s", "CPU ms a node", "at most"], rows)
    publish(lines, options.markdown)


if __name__ == "__main__":
    main()
