"""The solver against descent on the input and against inverses that solve nothing, on the digit networks.

    python benchmarks/solver.py [--networks NAME …] [--batches 1 256] [--limit S] [--others S] [--threads N]
                                [--keep FILE] [--markdown FILE]

For each network and batch: this inverse in onnxruntime, without and with a prior; Adam and L-BFGS on the input in
torch and in Keras, from the mean of the training digits; the layer-by-layer inverse; a decoder trained from y to x
(tests/data/newton). Three processes, one for onnxruntime and one for each framework, with the same number of
threads, run all of it in turn; what solves nothing within the limit is run once. Before each run they rest, because
the threads of whoever was last may spin on for a while: a solution of one sample takes less time than that. The limit
is the longer one on mnist_mlp, by which the targets are judged. Adam is there twice: at its framework's own rate,
0.001, and with rate and halving time chosen on the very problem that is timed, as are L-BFGS's history, and whether it
takes the samples together or one by one: each setting is tried for a quarter of the limit, and the best shown.

Seconds are until every sample of the batch has a relative residual of 1e-6, without building, tracing and a first
run. All x are judged by onnxruntime's f, at 1.5e-6, since frameworks round differently. The last table has the peak
memory of a fresh process each, beyond what the imports, the model and one evaluation of f take.

Neither torch nor TensorFlow is among the project's dependencies, nor in its lock file: to see their columns, install
the project into an environment of its own with them (pip install . mlxtend torch tensorflow). What is not installed
is left out and named. All of it takes a quarter of an hour; with --keep it can be done in parts, and the tables are
of all parts so far.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402
from digits import load_digits  # noqa: E402
from solvers.figures import OURS, PRIOR, Figures, Found  # noqa: E402
from solvers.in_onnx import inverse, layer_by_layer, session, single  # noqa: E402
from solvers.problem import Array, Outcome, Problem, Solver, one_by_one  # noqa: E402
from tables import arguments, publish  # noqa: E402

TOLERANCE, JUDGED = 1e-6, 1.5e-6
RATES, HALVES, USUAL = (0.3, 0.1, 0.03, 0.01), (0, 300), 0.001
REST = 0.3
HISTORIES = (10, 50)
NETWORKS = {
    path.stem: path
    for folder, names in {
        "models": ("mnist_mlp", "mnist_relu", "seed_mlp", "mnist_lenet", "mnist_residual"),
        "tests/data/newton": ("mnist_tanh", "mnist_wide"),
    }.items()
    for path in (ROOT / folder / f"{name}.onnx" for name in names)
}
DECODERS = {f"mnist_{name}": ROOT / "tests/data/newton" / f"decoder_{name}.onnx" for name in ("mlp", "lenet")}
JUDGED_BY = "mnist_mlp"
TORCH = {"torch Adam": "adam", f"torch Adam {USUAL}": "usual", "torch L-BFGS": "lbfgs"}
KERAS = {"Keras Adam": "adam", f"Keras Adam {USUAL}": "usual", "Keras L-BFGS": "lbfgs"}
ALL = (OURS, PRIOR, *TORCH, *KERAS, "layer by layer", "decoder")


class Bench:
    """The ways of some frameworks, and those in onnxruntime, on all problems."""

    def __init__(self, threads: int, limits: Mapping[str, float], frameworks: Sequence[str]) -> None:
        self._digits = load_digits()
        self._threads, self._limits = threads, limits
        self._frameworks = {name: module for name in frameworks if (module := _framework(name, threads))}
        self._ready: tuple[Problem, dict[str, Solver]] | None = None
        # The test digits lie sorted by class; this way a batch holds all of them in turn.
        self._x = self._digits.x_test.reshape(10, -1, 784).swapaxes(0, 1).reshape(-1, 784)

    def problem(self, network: str, batch: int) -> Problem:
        """The logits of test digits, to be solved from the mean digit."""
        opened = session(NETWORKS[network], self._threads)
        start = np.tile(self._digits.x_train.mean(axis=0), (batch, 1))
        return Problem(NETWORKS[network], start, _infer(opened, self._x[:batch]), TOLERANCE)

    def prepare(self, network: str, batch: int, names: Sequence[str]) -> dict[str, str]:
        """Tune the ways of these names, in place of those of the problem before; the settings of those that exist."""
        problem = self.problem(network, batch)
        self._same(problem, network)
        ways = {name: way for name in names if (way := self.way(name, network, problem))}
        self._ready = problem, {name: solve for name, (solve, _) in ways.items()}
        return {name: setting for name, (_, setting) in ways.items()}

    def solve(self, name: str, limit: float) -> Outcome:
        """One run of a way that is prepared."""
        assert self._ready is not None
        problem, ways = self._ready
        return ways[name](problem, limit)

    def judge(self, network: str, batch: int, outcomes: Sequence[Outcome], setting: str) -> Figures:
        """The median time and the last x of several runs."""
        seconds = median(outcome.seconds for outcome in outcomes)
        return self._judge(self.problem(network, batch), outcomes[-1].x, seconds, setting)

    def way(self, name: str, network: str, problem: Problem) -> tuple[Solver, str] | None:
        """The way of that name with its setting; None where there is none."""
        path = NETWORKS[network]
        if name in {OURS, PRIOR}:
            prior = self._digits.x_train if name == PRIOR else None
            return inverse(path, self._digits.x_train[:256], self._threads, prior), ""
        if name == "layer by layer":
            layered = layer_by_layer(path, self._threads)
            return None if layered is None else (layered, "")
        if name == "decoder":
            return (single(DECODERS[network], self._threads), "") if network in DECODERS else None
        framework = "torch" if name in TORCH else "keras"
        if framework not in self._frameworks:
            return None
        settings = self._settings(framework, (TORCH | KERAS)[name], len(problem.y))
        if (TORCH | KERAS)[name] == "usual":
            ((setting, solve),) = settings
            return solve, setting
        return self._tuned(settings, problem, self._limits[network] / 4)

    def _settings(self, framework: str, method: str, batch: int) -> Iterator[tuple[str, Solver]]:
        if method == "usual":
            yield "", partial(self._frameworks[framework].adam, rate=USUAL, half=0)
            return
        solve: Callable[..., Outcome] = getattr(self._frameworks[framework], method)
        if method == "adam":
            for rate in RATES:
                for half in HALVES:
                    yield (
                        f"rate {rate}" + (f", halved every {half}" if half else ""),
                        partial(solve, rate=rate, half=half),
                    )
            return
        for history in HISTORIES:
            together = partial(solve, history=history)
            yield f"history {history}", together
            if batch > 1 and framework == "torch":  # in Keras every shape would be traced again
                yield f"history {history}, one by one", one_by_one(together)

    def _tuned(self, settings: Iterator[tuple[str, Solver]], problem: Problem, limit: float) -> tuple[Solver, str]:
        """The setting that solves most samples, the fastest of those that solve all; slower ones are cut off.

        Each has `limit` seconds at most; of those that solve as many the one with the least residual goes on.
        """
        best: tuple[tuple[int, float], Solver, str] | None = None
        for setting, solve in settings:
            outcome = solve(problem, limit)
            figures = self._judge(problem, outcome.x, outcome.seconds, setting)
            rank = (-figures.solved, outcome.seconds if figures.whole else figures.residual)
            if best is None or rank < best[0]:
                best = rank, solve, setting
                limit = outcome.seconds if figures.whole else limit
        assert best is not None
        return best[1], best[2]

    def _judge(self, problem: Problem, x: Array, seconds: float, setting: str) -> Figures:
        reached = _infer(session(problem.model, self._threads), x).astype(np.float64)
        residuals = np.linalg.norm(reached - problem.y, axis=1) / problem.norm
        error = float(np.mean(np.square(x.astype(np.float64) - self._x[: len(x)])))
        return Figures(seconds, int(np.sum(residuals <= JUDGED)), float(np.median(residuals)), error, len(x), setting)

    def _same(self, problem: Problem, network: str) -> None:
        """The frameworks' networks are the same function."""
        x = self._x[: len(problem.y)]
        for name, module in self._frameworks.items():
            apart = float(np.abs(module.forward(problem, x) - problem.y).max() / np.abs(problem.y).max())
            if apart > 1e-5:
                raise SystemExit(
                    f"{network} in {name} is off by {apart:.1e}: the comparison would be of two networks."
                )

    def memory(self, name: str, network: str, batch: int) -> float:
        """Peak MiB of solving once, beyond what the process held when f had run; for a fresh process."""
        problem = self.problem(network, batch)
        made = self.way(name, network, problem) if name not in TORCH | KERAS else None
        if made is None:
            framework = "torch" if name in TORCH else "keras"
            ((setting, solve), *_) = self._settings(framework, (TORCH | KERAS)[name], 1)
            made = solve, setting
            self._frameworks[framework].forward(problem, self._x[:batch])
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew from here
        made[0](problem, min(self._limits[network], 10.0))
        return (_resident("VmHWM") - before) / 1024


class Benches:
    """One bench in onnxruntime and one for each framework, each in a process of its own."""

    def __init__(self, threads: int, limits: Mapping[str, float], repeat: int) -> None:
        self._limits, self._repeat = limits, repeat
        self._here = Bench(threads, limits, [])
        begun = (threads, limits)
        self._others = {
            names: ProcessPoolExecutor(1, get_context("spawn"), _begin, (*begun, frameworks))
            for names, frameworks in (
                (tuple(name for name in ALL if name not in TORCH | KERAS), ()),
                (tuple(TORCH), ("torch",)),
                (tuple(KERAS), ("keras",)),
            )
        }

    def run(self, network: str, batch: int) -> dict[str, Figures]:
        """Tune, then time all in turn."""
        limit = self._limits[network]
        settings: dict[str, str] = {}
        workers: dict[str, ProcessPoolExecutor] = {}
        for names, worker in self._others.items():
            made = worker.submit(_prepare, network, batch, names).result()
            settings |= made
            workers |= dict.fromkeys(made, worker)
        found: dict[str, list[Outcome]] = {name: [] for name in ALL if name in workers}
        for turn in range(self._repeat):
            for name, outcomes in found.items():
                if turn == 0 or outcomes[0].seconds < min(2.0, limit):
                    time.sleep(REST)
                    outcomes.append(workers[name].submit(_solve, name, limit).result())
        figures = {}
        for name, outcomes in found.items():
            figures[name] = self._here.judge(network, batch, outcomes, settings[name])
            print(f"{network} {batch} {name} {settings[name]}: {figures[name]}", file=sys.stderr, flush=True)
        return figures


_begun: list[Bench] = []
"""In a process of `Benches`: its one bench."""


def _begin(threads: int, limits: Mapping[str, float], frameworks: Sequence[str]) -> None:
    _begun.append(Bench(threads, limits, frameworks))


def _prepare(network: str, batch: int, names: Sequence[str]) -> dict[str, str]:
    return _begun[0].prepare(network, batch, names)


def _solve(name: str, limit: float) -> Outcome:
    return _begun[0].solve(name, limit)


def _framework(name: str, threads: int) -> Any | None:
    """The module that solves in it, or None where it is not installed."""
    if importlib.util.find_spec({"keras": "tensorflow"}.get(name, name)) is None:
        return None
    module = importlib.import_module(f"solvers.in_{name}")
    module.threads(threads)
    return module


def _infer(opened: object, x: Array) -> Array:
    (y, *_) = opened.run(None, {opened.get_inputs()[0].name: x})  # type: ignore[attr-defined]
    return y


def _resident(entry: str) -> int:
    """KiB, of Linux's account of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry):
            return int(line.split()[1])
    raise SystemExit(f"no {entry} in /proc/self/status")


def peaks(options: argparse.Namespace, network: str, present: Iterable[str]) -> dict[str, str]:
    """Peak memory in MiB, each figure from a fresh process."""
    found = {}
    for name in present:
        command = [sys.executable, __file__, "--peak", name, "--networks", network]
        command += ["--batches", str(max(options.batches)), "--threads", str(options.threads)]
        found[name] = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return found


def main() -> None:
    """Measure what is not kept yet, and print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 256])
    parser.add_argument("--limit", type=float, default=20.0, help=f"seconds of one run on {JUDGED_BY} at most (20)")
    parser.add_argument("--others", type=float, default=4.0, help="the same on the other networks (4)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each (all processors)")
    parser.add_argument("--repeat", type=int, default=5, help="runs of what takes below two seconds (5)")
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="where figures are kept; what it has is not run again"
    )
    parser.add_argument("--peak", choices=ALL, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != str(options.threads):  # numpy and scipy read it when they are imported
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_NUM_THREADS": str(options.threads)})
    limits = {network: options.limit if network == JUDGED_BY else options.others for network in NETWORKS}
    if options.peak is not None:
        bench = Bench(options.threads, limits, ("torch", "keras"))
        print(f"{bench.memory(options.peak, options.networks[0], options.batches[0]):.0f}")
        return
    benches = Benches(options.threads, limits, options.repeat)
    found = Found.read(options.keep)
    for network in options.networks:
        for batch in options.batches:
            if (network, batch) not in found.times:
                found.times[network, batch] = benches.run(network, batch)
                found.write(options.keep)
    if not found.peaks:
        network = options.networks[0]
        with contextlib.suppress(PermissionError, FileNotFoundError):  # only where /proc is Linux's
            ways = found.times[network, max(options.batches)]
            found = replace(found, peaks=peaks(options, network, ways), network=network)
            found.write(options.keep)
    head = f"{options.threads} threads each; at most {options.limit:g} s a run on {JUDGED_BY}, {options.others:g} s on"
    lines = [
        f"{head} the others; load {os.getloadavg()[0]:.1f} at the end.",
        "",
        *found.tables(ALL),
        "",
        *found.targets(),
    ]
    missing = [
        name for name, file in {"torch": "torch", "Keras": "tensorflow"}.items() if not importlib.util.find_spec(file)
    ]
    if missing:
        lines += ["", f"Not installed here: {', '.join(missing)}."]
    publish(lines, options.markdown)


if __name__ == "__main__":
    main()
