"""What was measured of the ways of finding an x, kept in a file between runs, and the tables made of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tables import table

OURS, PRIOR = "ours", "ours, prior"
TARGETS = {
    "torch L-BFGS": 10,
    "torch Adam": 100,
    "Keras Adam": 100,
    "torch Adam 0.001": 100,
    "Keras Adam 0.001": 100,
}
"""On 256 samples of mnist_mlp: how many times as fast the inverse is to be at least."""


@dataclass(frozen=True)
class Figures:
    """What was measured of one way on one problem: the median time, and the x's of the last run."""

    seconds: float
    solved: int
    residual: float
    error: float
    samples: int
    setting: str = ""

    @property
    def whole(self) -> bool:
        """True if every sample was solved."""
        return self.solved == self.samples

    def time(self) -> str:
        """Seconds, and how many samples were solved where not all were."""
        return written(self.seconds) if self.whole else f"{self.solved} of {self.samples} in {written(self.seconds)}"


@dataclass(frozen=True)
class Found:
    """By network and batch, what each way came to; and by way the peak memory in MiB. `network` is whose that is."""

    times: dict[tuple[str, int], dict[str, Figures]]
    peaks: dict[str, str]
    network: str = ""

    @staticmethod
    def read(file: Path | None) -> Found:
        """What earlier runs have kept; nothing where there is no file."""
        if file is None or not file.exists():
            return Found({}, {})
        kept = json.loads(file.read_text(encoding="utf-8"))
        times = {
            (name, int(batch)): {way: Figures(**figures) for way, figures in ways.items()}
            for name, batches in kept["times"].items()
            for batch, ways in batches.items()
        }
        return Found(times, kept["peaks"], kept["network"])

    def write(self, file: Path | None) -> None:
        """Keep it for the next run."""
        if file is None:
            return
        times: dict[str, dict[str, object]] = {}
        for (name, batch), ways in self.times.items():
            times.setdefault(name, {})[str(batch)] = {way: asdict(figures) for way, figures in ways.items()}
        text = json.dumps({"times": times, "peaks": self.peaks, "network": self.network}, indent=1)
        file.write_text(text + "\n", encoding="utf-8")

    def tables(self, order: Sequence[str]) -> list[str]:
        """Times; errors and residuals of the largest batch; settings; memory. `order` is that of the columns."""
        present = [name for name in order if any(name in ways for ways in self.times.values())]
        largest = max(batch for _, batch in self.times)
        rows = [
            [name, str(batch), *_cells(ways, present, lambda f: f.time())]
            for (name, batch), ways in self.times.items()
        ]
        errors = [
            [name, *_cells(ways, present, lambda f: f"{f.error:.3g} ({f.residual:.0e})")]
            for (name, batch), ways in self.times.items()
            if batch == largest
        ]
        settings = [
            f"{name} {batch}: " + ", ".join(f"{way} {f.setting}" for way, f in ways.items() if f.setting)
            for (name, batch), ways in self.times.items()
            if any(f.setting for f in ways.values())
        ]
        lines = [
            *table(["network", "batch", *present], rows),
            "",
            f"Mean squared error per pixel to the true digit, and (median relative residual), {largest} samples:",
            "",
            *table(["network", *present], errors),
        ]
        if settings:
            lines += ["", "Best settings: " + "; ".join(settings) + "."]
        if self.peaks:
            heads = list(self.peaks)
            lines += ["", f"Peak memory in MiB, {self.network}, {largest} samples:", ""]
            lines += table(heads, [[self.peaks[name] for name in heads]])
        return lines

    def targets(self) -> list[str]:
        """What the solver is to reach, and whether it does."""
        lines = []
        large, small = (self.times.get(("mnist_mlp", batch), {}) for batch in (256, 1))
        for name, least in TARGETS.items():
            if name in large and OURS in large:
                ratio = large[name].seconds / large[OURS].seconds
                met = "met" if large[OURS].whole and ratio >= least else "not met"
                more = "" if large[name].whole else "more than "
                aim = f"256 samples of mnist_mlp at least {least} times as fast as {name}"
                lines.append(f"- {aim}: {met}, {more}{ratio:.0f} times")
        if OURS in small:
            met = "met" if small[OURS].whole and small[OURS].seconds < 0.005 else "not met"
            lines.append(f"- one sample below 5 ms: {met}, {written(small[OURS].seconds)}")
        return lines


def _cells(ways: Mapping[str, Figures], names: Sequence[str], cell: Callable[[Figures], str]) -> list[str]:
    return [cell(ways[name]) if name in ways else "–" for name in names]


def written(seconds: float) -> str:
    """A time in the unit that suits it."""
    return f"{1000 * seconds:.2g} ms" if seconds < 0.0995 else f"{seconds:.3g} s"
