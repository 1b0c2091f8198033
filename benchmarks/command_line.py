"""Times of the command line as fresh processes, with the import times of other tools beside them.

    python benchmarks/command_line.py [--repeat N] [--markdown FILE]

Measured in one run, in turn, so that a slow moment of the machine hits all of them: `onnx-invert --help`, the
whole inversion of models/mnist_mlp.onnx with verification, and `import` of the packages in which others
invert networks. A package that is not installed is left out of the table, and named below it.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tables import arguments, publish, table

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {"onnx-invert --help": 0.25, "onnx-invert mnist_mlp.onnx, verified": 2.5}
# What each needs before it can invert anything; packages that load their parts later are named by part.
PEERS = ("sklearn", "tensorflow", "torch", "jax", "nflows.flows", "zuko", "FrEIA", "normflows")


def commands(folder: Path) -> dict[str, list[str]]:
    """What is timed: a name and the process."""
    ours = [sys.executable, "-m", "onnx_invert"]
    found = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "onnx-invert --help": [*ours, "--help"],
        "onnx-invert mnist_mlp.onnx, verified": [
            *ours,
            str(ROOT / "models" / "mnist_mlp.onnx"),
            "-o",
            str(folder / "inverse.onnx"),
        ],
    }
    installed = [peer for peer in PEERS if installed_here(peer)]
    return found | {f"import {peer}": [sys.executable, "-W", "ignore", "-c", f"import {peer}"] for peer in installed}


def installed_here(package: str) -> bool:
    """True if the package (of a dotted name the first part) can be imported."""
    return importlib.util.find_spec(package.partition(".")[0]) is not None


def seconds(command: list[str]) -> float:
    """Wall time of one process; an error ends the benchmark."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        timed = commands(Path(folder))
        times: dict[str, list[float]] = {name: [] for name in timed}
        for command in timed.values():
            seconds(command)  # once to warm the file cache
        for _ in range(options.repeat):
            for name, command in timed.items():
                times[name].append(seconds(command))
    base = statistics.median(times["onnx-invert mnist_mlp.onnx, verified"])
    rows = []
    for name, found in times.items():
        middle = statistics.median(found)
        target = f"{TARGETS[name]:g} s" if name in TARGETS else ""
        rows.append([f"`{name}`", *(f"{s:.2f}" for s in (middle, min(found), max(found), middle / base)), target])
    lines = table(["process", "median s", "min s", "max s", "to our inversion", "at most"], rows)
    missing = [peer for peer in PEERS if not installed_here(peer)]
    if missing:
        lines.append(f"\nNot installed here: {', '.join(missing)}.")
    publish(lines, options.markdown)


if __name__ == "__main__":
    main()
