"""Make the flows in tests/data/flows again: built, trained briefly, exported by torch's two exporters, with arrays.

    python tools/export_flows.py --out tests/data/flows [--only PATTERN …]

Needs torch and the flow libraries: install tools/flow_zoo/requirements.txt as it says there, in an environment of
its own; for Keras, the dependency group `train` in another. A library that is not installed is left out. What an
exporter cannot do is printed and noted in the index.

NAME.dynamo.onnx, NAME.legacy.onnx, NAME.keras.onnx
    The forward map, x and further inputs to z and log_abs_det.
NAME.npz
    `x` and the further inputs of 64 samples by name; `z` (or `z0`, `z1` …) and `log_abs_det` (64,) as the library
    gives them; `inverse`, the library's own inverse of z; `inverse_log_abs_det`, that inverse's log-det. float32.
index.json
    A list, a case each: which arrays are the model's inputs and outputs in their order, the files, and how far the
    library's own inverse and log-det are from x and from the Jacobian of autograd.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flow_zoo.flow import Flow

MODULES = {
    "flow_zoo.nflows_flows": "nflows",
    "flow_zoo.zuko_flows": "zuko",
    "flow_zoo.normflows_flows": "normflows",
    "flow_zoo.freia_flows": "FrEIA",
    "flow_zoo.voice_flows": "torch",
    "flow_zoo.block_flows": "torch",
    "flow_zoo.keras_flows": "keras",
}
"""Where flows are made, and the library that this takes."""
CHECKED_SAMPLES = 4


def main() -> None:
    """Parse the command line, write the files, and merge the index."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of names")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    index = options.out / "index.json"
    entries = {entry["name"]: entry for entry in json.loads(index.read_text())} if index.exists() else {}
    for name, write in writers(options.only):
        entries[name] = write(name, options.out)
        ordered = [entries[key] for key in sorted(entries)]
        index.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def writers(patterns: list[str]) -> Iterator[tuple[str, Callable[[str, Path], dict[str, Any]]]]:
    """The wanted flows of the installed libraries, each with what writes it and gives its entry of the index."""
    for name, library in MODULES.items():
        if importlib.util.find_spec(library) is None:
            print(f"{library} is not installed: its flows are left out")
            continue
        module = importlib.import_module(name)
        for flow, make in module.FLOWS.items():
            if any(fnmatch(flow, pattern) for pattern in patterns):
                yield flow, module.write if library == "keras" else partial(write_torch, make)


def write_torch(make: Callable[[str], Flow], name: str, folder: Path) -> dict[str, Any]:
    """Build, train and export one flow; its entry of the index."""
    from flow_zoo.exporting import ExportError, arrays, export

    flow = built(make, name)
    stored = arrays(flow)
    entry = describe(flow, stored)
    for exporter in flow.exporters:
        path = folder / f"{name}.{exporter}.onnx"
        try:
            made = export(flow, exporter, stored)
        except ExportError as error:
            path.unlink(missing_ok=True)
            entry["failures"][exporter] = str(error)
            continue
        path.write_bytes(made.model.SerializeToString())
        entry["files"][exporter] = {
            "file": path.name,
            "outputs": made.outputs,
            "batch": None if made.any_batch else len(flow.x),
            "nodes": len(made.model.graph.node),
            "opset": made.model.opset_import[0].version,
        }
        if made.reasons:
            entry["failures"][exporter] = made.reasons
    if entry["files"]:
        np.savez_compressed(folder / f"{name}.npz", **stored)
    sizes = [
        f"{exporter} {(folder / made['file']).stat().st_size // 1024} kB" for exporter, made in entry["files"].items()
    ]
    print(
        f"{name}: inverse {entry['inverse_error']}, log-det {entry['log_det_error']}; {', '.join(sizes)}", flush=True
    )
    for exporter, reason in entry["failures"].items():
        print(f"  {exporter} cannot: {reason}", flush=True)
    return entry


def built(make: Callable[[str], Flow], name: str) -> Flow:
    """One flow with its weights, the same ones every time."""
    import torch
    from flow_zoo.training import prepare

    seed = sum(map(ord, name))
    torch.manual_seed(seed)
    np.random.seed(seed)
    flow = make(name)
    prepare(flow)
    return flow


def describe(flow: Flow, stored: dict[str, Any]) -> dict[str, Any]:
    """The case's entry of the index, but for its files."""
    from flow_zoo.exporting import jacobian_log_det, relative

    exact = np.array([jacobian_log_det(flow, i) for i in range(CHECKED_SAMPLES)])
    return {
        "name": flow.name,
        "library": flow.library,
        "kind": flow.kind,
        "inputs": ["x", *flow.others],
        "latents": [key for key in stored if key.startswith("z")],
        "log_det_by": "library" if flow.gives_log_det and flow.log_det_is_exact else "autograd",
        "inverse_error": float(f"{relative(stored['inverse'], stored['x']):.1e}") if "inverse" in stored else None,
        "log_det_error": float(f"{relative(stored['log_abs_det'][:CHECKED_SAMPLES], exact):.1e}"),
        "note": flow.note,
        "files": {},
        "failures": {},
    }


if __name__ == "__main__":
    main()
