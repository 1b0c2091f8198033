"""What an inverse costs in forward passes, over the flows of tests/data/flows, with the flow library's own beside it.

    python benchmarks/flows.py [--only PATTERN …] [--batch 1 1024] [--repeat 9] [--markdown FILE]

Of each flow: f, from x to z alone, and its inverse g, both in onnxruntime; where torch and the flow's library are
installed, the library's inverse of the same flow in torch. All on one thread, on the same samples (the 64 stored
ones, over and over), in turn (f, g, library, f, g, library, …); each figure is the median of the rounds' own ratios,
so that a slow moment of the machine hits all alike. A round repeats each call until it takes 10 ms. The ratios to
reach are those of a batch of 1024. "g / f" counts forward passes, "library / g" is above 1 where g is the faster one.

The library's flow is built as tools/export_flows.py builds it, with the weights that the file has; the last columns
tell how far each inverse is from x, the larger of 1 and |x| being the unit. For that column, in an environment of its
own (tools/flow_zoo/requirements.txt says how the libraries are installed):

    python3 -m venv flows-env && flows-env/bin/pip install . torch==2.13.0 tqdm
    flows-env/bin/pip install --no-deps nflows==0.14 zuko==1.6.0 normflows==1.7.3 FrEIA==0.2
    flows-env/bin/python benchmarks/flows.py
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx.utils import Extractor
from tables import arguments, publish, table

import onnx_invert

ROOT = Path(__file__).resolve().parents[1]
FLOWS = ROOT / "tests" / "data" / "flows"
sys.path.insert(0, str(ROOT / "tools"))

ROUND = 0.01
JUDGED = 1024

Arrays = dict[str, NDArray[Any]]
Call = Callable[[], Any]

HEADER = ("flow", "kind", "D", "batch", "f ms", "g / f", "at most", "library / g", "x error", "library's")


@dataclass
class Case:
    """A flow: f and g as sessions, x and what is given by name, and how the library inverts z if it is here."""

    name: str
    kind: str
    x: NDArray[Any]
    given: Arrays
    forward: ort.InferenceSession
    inverse: ort.InferenceSession
    library: Callable[[list[NDArray[Any]], Arrays], tuple[Call, Callable[[Any], NDArray[Any]]]] | None

    @property
    def dimensions(self) -> int:
        """How many numbers a sample of x has."""
        return int(np.prod(self.x.shape[1:]))

    @property
    def target(self) -> float | None:
        """Forward passes that an inverse may take: by D for an autoregressive flow, else by the kind of coupling."""
        if self.kind.startswith("autoregressive"):
            return self.dimensions + 2
        if self.kind.startswith("coupling"):
            return 12 if "spline" in self.kind else 1.2
        return None


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """onnxruntime on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def cases(patterns: list[str], refused: dict[str, str]) -> Iterator[Case]:
    """The flows whose batch is free, each from the newer exporter that wrote it; why others are not inverted."""
    for entry in json.loads((FLOWS / "index.json").read_text("utf-8")):
        name = entry["name"]
        free = [made for made in entry["files"].values() if made["batch"] is None]
        if not free or not any(fnmatch(name, pattern) for pattern in patterns):
            continue
        model = onnx.load(FLOWS / free[0]["file"])
        outputs = [port.name for port in model.graph.output]
        known = [port for port, array in zip(outputs, free[0]["outputs"], strict=True) if array.startswith("z")]
        given = [port.name for port in model.graph.input if port.name != "x"]
        print(f"inverting {name}", file=sys.stderr, flush=True)
        try:
            made = onnx_invert.invert(model, recover=["x"], known=known, method="closed-form", verify=False)
        except onnx_invert.OnnxInvertError as error:
            refused[name] = str(error).splitlines()[0]
            continue
        stored = np.load(FLOWS / f"{name}.npz")
        forward = session(Extractor(model).extract_model(["x", *given], known))
        arrays = {port: stored[port] for port in given}
        yield Case(name, entry["kind"], stored["x"], arrays, forward, session(made.model), library_of(entry))


def library_of(entry: dict[str, Any]) -> Any:
    """What takes z and the further inputs to the library's own inverse, as a call and a reading of its result."""
    if not is_installed("torch") or entry["library"] == "keras" or not is_installed(entry["library"]):
        return None
    import export_flows
    import torch

    modules = [name for name, library in export_flows.MODULES.items() if library == entry["library"]]
    flows = {flow: make for name in modules for flow, make in importlib.import_module(name).FLOWS.items()}
    if entry["name"] not in flows:
        return None
    flow = export_flows.built(flows[entry["name"]], entry["name"])
    if flow.inverse is None:
        return None
    torch.set_num_threads(1)

    def prepared(z: list[NDArray[Any]], given: Arrays) -> tuple[Call, Callable[[Any], NDArray[Any]]]:
        latents = tuple(map(torch.from_numpy, z))
        others = tuple(torch.from_numpy(given[name]) for name in flow.others)

        def call() -> Any:
            with torch.inference_mode():
                return flow.inverse(latents, others)

        return call, lambda result: result[0].numpy()

    return prepared


def is_installed(package: str) -> bool:
    """True if the package can be imported."""
    return importlib.util.find_spec(package) is not None


def timed(call: Call, times: int) -> float:
    """CPU seconds of one call, of so many in a row: on one thread its time, whatever else the machine does."""
    start = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - start) / times


def measure(case: Case, batch: int, repeat: int) -> tuple[str, ...]:
    """One row of the table."""
    copies = -(-batch // len(case.x))
    x, *others = (np.tile(a, (copies, *[1] * (a.ndim - 1)))[:batch] for a in (case.x, *case.given.values()))
    given = dict(zip(case.given, others, strict=True))
    z = case.forward.run(None, {"x": x, **given})
    names = [port.name for port in case.forward.get_outputs()]
    fed = dict(zip(names, z, strict=True)) | given
    inverse_fed = {port.name: fed[port.name] for port in case.inverse.get_inputs()}
    calls: list[Call] = [
        lambda: case.forward.run(None, {"x": x, **given}),
        lambda: case.inverse.run(["x"], inverse_fed),
    ]
    errors = [distance(calls[1]()[0], x)]
    if case.library is not None:
        call, read = case.library(z, given)
        calls.append(call)
        errors.append(distance(read(call()), x))
    times = [max(1, round(ROUND / timed(call, 1))) for call in calls]
    rounds = [[timed(call, count) for call, count in zip(calls, times, strict=True)] for _ in range(repeat)]
    forwards, cost = median(row[0] for row in rounds), median(row[1] / row[0] for row in rounds)
    target = case.target if batch == JUDGED else None
    return (
        case.name,
        case.kind,
        str(case.dimensions),
        str(batch),
        f"{1000 * forwards:.3f}",
        f"{cost:.2f}",
        "" if target is None else f"{target:g}{'' if cost <= target else ', missed'}",
        f"{median(row[2] / row[1] for row in rounds):.1f}" if case.library is not None else "",
        *(f"{error:.0e}" for error in errors),
        *([""] if case.library is None else []),
    )


def distance(found: NDArray[Any], x: NDArray[Any]) -> float:
    """The largest difference, over the larger of 1 and the largest magnitude."""
    return float(np.abs(found - x).max() / max(1.0, np.abs(x).max()))


def main() -> None:
    """Measure and print the table."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--only", nargs="*", default=["*"], help="patterns of names, as in tests/data/flows/index.json"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, JUDGED])
    parser.add_argument("--repeat", type=int, default=9, help="rounds (9)")
    options = parser.parse_args()
    refused: dict[str, str] = {}
    rows = [measure(case, batch, options.repeat) for case in cases(options.only, refused) for batch in options.batch]
    lines = table(HEADER, rows)
    absent = [package for package in ("torch", "nflows", "zuko", "normflows", "FrEIA") if not is_installed(package)]
    if absent:
        lines.append(f"\nNot installed here, and left out of the last columns: {', '.join(absent)}.")
    if refused:
        lines.append(f"\nNot inverted: {', '.join(refused)}.")
    publish(lines, options.markdown)


if __name__ == "__main__":
    main()
