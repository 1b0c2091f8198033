"""A prepared flow to ONNX by both exporters of torch, and to the arrays that its inverse is held to."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import torch

from .flow import LatentsOnly

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .flow import Flow

OPSETS = {"dynamo": 20, "legacy": 17}
# float32 against float32 in another order of operations.
SAME = 1e-4


class ExportError(Exception):
    """An exporter or a runtime cannot do a flow; the message is the first line of the reason."""


class Exported(NamedTuple):
    """A model, the arrays that its outputs equal, whether its batch is free, and what did not work before."""

    model: onnx.ModelProto
    outputs: list[str]
    any_batch: bool
    reasons: str


def output_names(flow: Flow, log_det: bool) -> list[str]:
    """The arrays of a case that its model's outputs equal, in their order."""
    names = ["z"] if flow.latents == 1 else [f"z{i}" for i in range(flow.latents)]
    return [*names, "log_abs_det"] if log_det else names


def export(flow: Flow, exporter: str, expected: dict[str, NDArray]) -> Exported:
    """The flow as a checked model: with its log-det and any batch if that can be had, else with what can.

    On all the samples, and on one and on five of them if the batch is free, onnxruntime must give what torch gives.
    """
    reasons: dict[str, str] = {}
    for log_det in (True, False) if flow.gives_log_det else (False,):
        module = flow.module if log_det or not flow.gives_log_det else LatentsOnly(flow.module)
        names = output_names(flow, log_det)
        for any_batch in (True, False):
            try:
                model = convert(module, flow, exporter, names, any_batch)
                check(model, flow, names, expected, any_batch)
            except Exception as error:
                what = f"{'with' if log_det else 'without'} log-det, {'any' if any_batch else 'fixed'} batch"
                reasons.setdefault(first_line(error), what)
                continue
            return Exported(model, names, any_batch, sentence(reasons))
    raise ExportError(sentence(reasons))


def sentence(reasons: dict[str, str]) -> str:
    """Each reason once, with the first attempt that met it."""
    return "; ".join(f"{what}: {reason}" for reason, what in reasons.items())


def first_line(error: Exception) -> str:
    """The line of an exporter's message that says what happened, without paths and colours."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0][:160] if lines else ''}"


def convert(module: torch.nn.Module, flow: Flow, exporter: str, names: list[str], any_batch: bool) -> onnx.ModelProto:
    """One exporter's model, without what it notes of the machine that it ran on."""
    inputs = {"x": flow.x, **flow.others}
    free = {name: {0: "b", **flow.dynamic.get(name, {})} if any_batch else {} for name in inputs}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            axes = {axis for named in free.values() for axis in named.values()}
            dims = {axis: torch.export.Dim(axis, min=1, max=4096) for axis in axes}
            shapes = tuple({i: dims[axis] for i, axis in named.items()} for named in free.values())
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                verbose=False,
                opset_version=OPSETS[exporter],
                input_names=list(inputs),
                dynamic_shapes=shapes if not takes_any(module) else (shapes,),
            )
            model = program.model_proto
        else:
            torch.onnx.export(
                module,
                tuple(inputs.values()),
                buffer,
                dynamo=False,
                opset_version=OPSETS[exporter],
                input_names=list(inputs),
                output_names=names,
                dynamic_axes=free,
            )
            model = onnx.load_from_string(buffer.getvalue())
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:], model.metadata_props[:]
    return model


def takes_any(module: torch.nn.Module) -> bool:
    """Whether forward takes *inputs, for which torch wants the shapes in one tuple."""
    return isinstance(module, LatentsOnly)


def check(model: onnx.ModelProto, flow: Flow, names: list[str], expected: dict[str, NDArray], any_batch: bool) -> None:
    """ExportError if the model does not run, or not in another batch, or computes something else than torch."""
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {"x": flow.x, **flow.others}
    wanted = {port.name for port in session.get_inputs()}
    if wanted != set(inputs):
        raise ExportError(f"its inputs are {sorted(wanted)}")
    if len(session.get_outputs()) != len(names):
        raise ExportError(f"it has {len(session.get_outputs())} outputs")
    for count in (len(flow.x), 1, 5) if any_batch else (len(flow.x),):
        found = session.run(None, {name: value[:count].numpy() for name, value in inputs.items()})
        for name, array in zip(names, found, strict=True):
            target = expected[name][:count]
            if array.shape != target.shape:
                raise ExportError(f"for a batch of {count}, {name} has the shape {array.shape}, not {target.shape}")
            error = relative(array, target)
            if not error <= SAME:
                raise ExportError(f"for a batch of {count}, {name} is {error:.1e} away from what torch gives")


def relative(found: NDArray, expected: NDArray) -> float:
    """Largest difference, over the largest magnitude expected (at least one)."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def arrays(flow: Flow) -> dict[str, NDArray]:
    """Inputs, latents, log_abs_det (64,), and the library's own `inverse` and `inverse_log_abs_det` if it has them."""
    inputs = (flow.x, *flow.others.values())
    with torch.no_grad():
        out = flow.module(*inputs)
    out = out if isinstance(out, tuple | list) else (out,)
    latents = tuple(out[: flow.latents])
    stored = {"x": flow.x, **flow.others, **dict(zip(output_names(flow, False), latents, strict=True))}
    if flow.gives_log_det and flow.log_det_is_exact:
        stored["log_abs_det"] = out[-1]
    if flow.inverse is not None:
        back, log_det = flow.inverse(latents, inputs[1:])
        stored["inverse"] = back
        if log_det is not None and flow.log_det_is_exact:
            stored["inverse_log_abs_det"] = log_det
    result = {name: value.detach().numpy() for name, value in stored.items()}
    if "log_abs_det" not in result:
        result["log_abs_det"] = np.array([jacobian_log_det(flow, i) for i in range(len(flow.x))], dtype=np.float32)
    for name, value in result.items():
        if value.dtype != np.float32 or not np.isfinite(value).all():
            raise SystemExit(f"{flow.name}: {name} is {value.dtype}, or not finite")
    return result


def jacobian_log_det(flow: Flow, sample: int) -> float:
    """log|det ∂z/∂x| at one sample, from autograd's Jacobian; what a mask cuts off from x and z is left out."""
    others = tuple(value[sample : sample + 1] for value in flow.others.values())

    def latents(x: torch.Tensor) -> torch.Tensor:
        out = flow.module(x[None], *others)
        out = out if isinstance(out, tuple | list) else (out,)
        return torch.cat([latent.flatten() for latent in out[: flow.latents]])

    x = flow.x[sample]
    jacobian = torch.autograd.functional.jacobian(latents, x).reshape(-1, x.numel()).double()
    rows, columns = jacobian.abs().sum(1) > 0, jacobian.abs().sum(0) > 0
    return float(torch.linalg.slogdet(jacobian[rows][:, columns])[1])
