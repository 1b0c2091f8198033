"""The flows in `data/flows`, as tools/export_flows.py wrote them: models, arrays, and what is known of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

DATA = Path(__file__).parents[1] / "data" / "flows"


@dataclass(frozen=True)
class FlowCase:
    """A flow as one exporter wrote it.

    `inputs` and `outputs` name, in the order of the model's ports, the arrays that belong to them: `x` and the other
    inputs; the latents `z` (or `z0`, `z1` …) and, if the model gives it, `log_abs_det`. `batch` is None where it is
    free. `inverse_error` is how far the library's own inverse is from x, None where the library has none.
    """

    name: str
    exporter: str
    library: str
    kind: str
    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    latents: tuple[str, ...]
    batch: int | None
    inverse_error: float | None
    log_det_by: str
    note: str

    def __str__(self) -> str:
        return f"{self.name}.{self.exporter}"

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Inputs, latents, `log_abs_det`, and if there are such, `inverse` and `inverse_log_abs_det`; 64 samples."""
        with np.load(DATA / f"{self.name}.npz", allow_pickle=False) as stored:
            return dict(stored)

    def model(self) -> onnx.ModelProto:
        """The forward model."""
        return onnx.load(self.path)

    def run(self, samples: slice = slice(None)) -> dict[str, np.ndarray]:
        """The model's outputs in onnxruntime, by the names of the arrays that they should equal."""
        session = ort.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
        ports = [port.name for port in session.get_inputs()]
        feeds = {port: self.arrays[name][samples] for port, name in zip(ports, self.inputs, strict=True)}
        return dict(zip(self.outputs, session.run(None, feeds), strict=True))


def flow_cases() -> list[FlowCase]:
    """Every flow in every exporter's form, ordered by name."""
    cases = []
    for entry in json.loads((DATA / "index.json").read_text(encoding="utf-8")):
        for exporter, made in entry["files"].items():
            case = FlowCase(
                name=entry["name"],
                exporter=exporter,
                library=entry["library"],
                kind=entry["kind"],
                path=DATA / made["file"],
                inputs=tuple(entry["inputs"]),
                outputs=tuple(made["outputs"]),
                latents=tuple(entry["latents"]),
                batch=made["batch"],
                inverse_error=entry["inverse_error"],
                log_det_by=entry["log_det_by"],
                note=entry["note"],
            )
            cases.append(case)
    return cases
