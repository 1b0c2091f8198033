"""What `invert` takes from a model to a verified inverse, and what the file takes to be loaded.

    python benchmarks/building.py [--repeat N] [--random SEED ...] [--markdown FILE]

Timed is `onnx_invert.invert` as a user calls it, from a file to a file, in turn in one process; CPU seconds are the
process's own, all threads together, the median of the runs. They are split where the progress is told: planning;
starts, of a solver alone, which is tried on samples, and again with starts where it leaves some; verification, which
writing follows. Nodes are those of the file with its loops. Random networks are those of tests/newton/solvable.py.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import onnx
import onnxruntime

import onnx_invert

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "newton"))

from solvable import network
from tables import arguments, publish, table

ROOT = Path(__file__).resolve().parents[1]
MODELS: dict[str, dict[str, Any]] = {
    "models/bijective.onnx": {},
    "models/mnist_mlp.onnx": {},
    "models/mnist_mlp.onnx, bounds": {"bounds": (0, 1)},
    "models/mnist_relu.onnx": {},
    "models/mnist_lenet.onnx": {},
    "models/mnist_residual.onnx": {},
    "models/widen_shrink.onnx": {},
    "models/surrogates/wine.onnx": {},
    "tests/data/flows/freia_glow.dynamo.onnx": {},
    "tests/data/flows/zuko_nsf.dynamo.onnx": {},
}
SEEDS = (0, 120)
"""A network that the first loop solves, and one that needs the second."""


@dataclass
class Clock:
    """CPU seconds by what is being done."""

    spent: dict[str, float] = field(default_factory=dict)
    _what: str = "planning"
    _since: float = field(default_factory=time.process_time)

    def tell(self, what: str, _done: int, _total: int) -> None:
        """The progress of an inversion: what begins, if it is one of the stages that are told apart."""
        if what in ("starts", "verification", "end"):
            now = time.process_time()
            self.spent[self._what] = self.spent.get(self._what, 0.0) + now - self._since
            self._what, self._since = what, now


def once(model: Path, options: dict[str, Any], target: Path) -> tuple[dict[str, float], str]:
    """CPU seconds of one inversion, and what came of it."""
    clock = Clock()
    found = onnx_invert.invert(model, target, progress=clock.tell, force=True, **options)
    clock.tell("end", 1, 1)
    trip = found.round_trip
    assert trip is not None
    return clock.spent, f"{trip.samples - trip.unsolved} of {trip.samples}" if trip.solver else ""


def load_seconds(path: Path) -> float:
    """CPU seconds that onnxruntime takes to load a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    start = time.process_time()
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return time.process_time() - start


def nodes(graph: onnx.GraphProto) -> int:
    """How many there are, those of loops too."""
    inner = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return len(graph.node) + sum(nodes(body) for body in inner)


def main() -> None:
    """Measure and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--random", type=int, nargs="*", default=list(SEEDS), metavar="SEED")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = {name: (ROOT / name.partition(",")[0], chosen) for name, chosen in MODELS.items()}
        for seed in options.random:
            drawn, path = network(seed), Path(folder) / f"{seed}.onnx"
            onnx.save(drawn.model, path)
            cases[f"random {drawn.name}"] = (path, {})
        target = Path(folder) / "inverse.onnx"
        once(*cases["models/widen_shrink.onnx"], target)  # imports and caches
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
        loads: dict[str, list[float]] = {name: [] for name in cases}
        said = {}
        for _ in range(options.repeat):
            for name, (model, chosen) in cases.items():
                spent, solved = once(model, chosen, target)
                runs[name].append(spent)
                loads[name].append(load_seconds(target))
                said[name] = [str(nodes(onnx.load(target).graph)), f"{target.stat().st_size / 1000:.0f}", solved]
    rows = []
    for name, found in runs.items():
        parts = [median(run.get(what, 0.0) for run in found) for what in ("planning", "starts", "verification")]
        total = median(sum(run.values()) for run in found)
        figures = [f"{part:.2f}" if part else "" for part in (total, *parts, median(loads[name]))]
        rows.append([f"`{name}`" if name in MODELS else name, *figures, *said[name]])
    header = ["model", "CPU s", "planning", "starts", "verification", "load", "nodes", "kB", "solved"]
    publish(table(header, rows), options.markdown)


if __name__ == "__main__":
    main()
