"""Flows as their libraries export them, inverted: x, the log-determinant, and what is refused."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from central_differences import log_det
from flow_cases import FlowCase, flow_cases

import onnx_invert
from onnx_invert.cli import main

CASES = [case for case in flow_cases() if case.path.exists()]


def _ports(case: FlowCase) -> tuple[str, list[str], dict[str, np.ndarray]]:
    """The model's names of x and of the latents, and its inputs."""
    model = case.model()
    inputs = [port.name for port in model.graph.input]
    outputs = [port.name for port in model.graph.output]
    x = inputs[case.inputs.index("x")]
    latents = [outputs[place] for place, name in enumerate(case.outputs) if name in case.latents]
    feeds = {port: case.arrays[name] for port, name in zip(inputs, case.inputs, strict=True)}
    return x, latents, feeds


def _worst(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest relative error of a sample."""
    found, wanted = (array.reshape(len(wanted), -1).astype(np.float64) for array in (found, wanted))
    return float(np.max(np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_flow_comes_back(case: FlowCase) -> None:
    x, latents, feeds = _ports(case)
    count = case.batch or len(case.arrays["x"])
    data = {name: array[:count] for name, array in feeds.items()}
    with_log_det = "log_abs_det" in case.arrays
    unproven = "unproven" in case.kind  # that one block has one solution: nothing but f(x) = y is promised
    method = "auto" if unproven else "closed-form"
    made = onnx_invert.invert(case.model(), recover=[x], known=latents, method=method, log_det=with_log_det, data=data)
    assert made.guarantee is onnx_invert.Guarantee.RIGHT if unproven else made.guarantee.promises_x
    outputs = [port.name for port in case.model().graph.output]
    forward = dict(zip(outputs, case.run(slice(count)).values(), strict=True))
    session = ort.InferenceSession(made.model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = dict(
        zip(
            [port.name for port in session.get_outputs()],
            session.run(None, {port.name: (forward | data)[port.name] for port in session.get_inputs()}),
            strict=True,
        )
    )
    spline = any(word in case.kind for word in ("spline", "monotonic", "polynomial"))
    error = _worst(found[x], case.arrays["x"][:count])
    assert error < (1e-3 if spline else 1e-4)
    if case.inverse_error:
        assert error < 10 * case.inverse_error + 1e-6
    if with_log_det:
        wanted = -case.arrays["log_abs_det"][:count]
        assert np.max(np.abs(found["log_det"] - wanted) / np.maximum(1, np.abs(wanted))) < 1e-4
    # onnxruntime has no Elu in float64, which finite differences take.
    doubled = all(node.op_type != "Elu" for node in case.model().graph.node)
    if with_log_det and spline and doubled and case.batch is None and len(case.inputs) == 1:
        tried = -log_det(case.model(), case.arrays["x"])
        assert np.max(np.abs(found["log_det"] - tried) / np.maximum(1, np.abs(tried))) < 1e-4


@pytest.mark.parametrize("name", ["nflows_quadratic_coupling", "nflows_rq_coupling_lu"])
def test_a_spline_of_an_older_opset(name: str) -> None:
    """At opset 13 ONNX's inference follows fewer shapes; which elements a mask selects is understood all the same."""
    case = next(case for case in CASES if case.name == name)
    model = case.model()
    model.opset_import[0].version = 13
    for node in model.graph.node:
        for attribute in [a for a in node.attribute if (node.op_type, a.name) == ("Reshape", "allowzero")]:
            node.attribute.remove(attribute)
    onnx.checker.check_model(model)
    plan = onnx_invert.explain(model, recover=["x"], known=[model.graph.output[0].name], method="closed-form")
    assert plan.guarantee is onnx_invert.Guarantee.BIJECTION


def _exit_code(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_line_tells_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report that its schema allows, the outputs that were left out, and a check that passes."""
    flow = next(case for case in CASES if case.name == "zuko_nsf_coupling_moons")
    inverse, report, data = tmp_path / "inverse.onnx", tmp_path / "report.json", tmp_path / "x.npy"
    np.save(data, flow.arrays["x"])
    assert _exit_code([str(flow.path), "-o", str(inverse), "--report", str(report), "--data", str(data)]) == 0
    said = capsys.readouterr().out
    assert "left out" in said
    assert "some of which iterate" in said
    schema = json.loads(files("onnx_invert.report").joinpath("schema.json").read_text())
    jsonschema.validate(json.loads(report.read_text()), schema)
    assert json.loads(report.read_text())["method"] == "equations"
    assert _exit_code(["check", str(flow.path), str(inverse), "--data", str(data)]) == 0
