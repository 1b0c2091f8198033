"""The derivative of a model against central differences of the model itself, in both modes and two runtimes."""

from dataclasses import dataclass
from math import erf

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import onnx_invert
from onnx_invert.testing.portable import AVOIDED

# Pad by zeros and positive widths runs everywhere; so do the rest of what derivatives are made of.
FORBIDDEN = (AVOIDED | {"TopK", "GatherElements", "ReduceMean", "ReduceProd"}) - {"Pad"}
RNG = np.random.default_rng(20250301)


class Erf(OpRun):
    """In float64; the reference's own rounds to float32."""

    op_domain = ""

    def _run(self, x):
        return (np.vectorize(erf, otypes=[x.dtype])(x),)


class HardSigmoid(OpRun):
    """The reference's own takes beta = 0 for a missing one."""

    op_domain = ""

    def _run(self, x, alpha=None, beta=None):
        return (np.clip(x * alpha + beta, 0, 1).astype(x.dtype),)


class Gelu(OpRun):
    """The reference's own goes through its Erf."""

    op_domain = ""

    def _run(self, x, approximate="none"):
        if approximate == "tanh":
            return ((0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))).astype(x.dtype),)
        return ((0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))).astype(x.dtype),)


OURS = [Erf, HardSigmoid, Gelu]


@dataclass(frozen=True)
class X:
    """An unknown operand: its value, and whether its first axis counts samples."""

    value: np.ndarray
    batched: bool = True


def draw(*shape):
    return np.asarray(RNG.standard_normal(shape))


def positive(*shape):
    return np.asarray(0.5 + np.abs(RNG.standard_normal(shape)))


def ints(*values):
    return np.array(values, dtype=np.int64)


def one_node(op, *operands, opset=17, domain="", outputs=1, of=(0,), dtype=np.float64, **attributes):
    """A model of one node, and the values of its unknown operands by name."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    names, inputs, weights, values = [], [], [], {}
    for index, operand in enumerate(operands):
        names.append("" if operand is None else f"x{index}")
        if isinstance(operand, X):
            shape = [*(["N"] if operand.batched else []), *operand.value.shape[operand.batched :]]
            inputs.append(helper.make_tensor_value_info(names[-1], kind, shape))
            values[names[-1]] = operand.value.astype(dtype)
        elif operand is not None:
            array = np.asarray(operand)
            floating = np.issubdtype(array.dtype, np.floating)
            weights.append(numpy_helper.from_array(array.astype(dtype) if floating else array, names[-1]))
    ys = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(op, names, ys, name="it", domain=domain, **attributes)
    graph = helper.make_graph(
        [node], "one", inputs, [helper.make_tensor_value_info(ys[i], kind, None) for i in of], weights
    )
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 3)] if domain else [])]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir_version(opset)), values


def ir_version(opset):
    return max(8, helper.find_min_ir_version_for([helper.make_opsetid("", opset)]))


def run(model, values):
    """All outputs, by onnx's reference evaluator."""
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model, new_ops=OURS).run(None, values)


def differences(model, values, step=1e-5, batched=True):
    """(samples, m, n) by central differences; all samples at once, which do not know of each other."""

    def rows(arrays):
        return np.concatenate([np.reshape(a, (a.shape[0] if batched else 1, -1)) for a in arrays], axis=1)

    evaluator = ReferenceEvaluator(_widened(model), new_ops=OURS)
    values = {name: value.astype(np.float64) for name, value in values.items()}
    columns = []
    for name, value in values.items():
        for place in np.ndindex(value.shape[1:] if batched else value.shape):
            at = (slice(None), *place) if batched else place
            ends = []
            for sign in (1, -1):
                moved = value.copy()
                moved[at] += sign * step
                with np.errstate(all="ignore"):
                    ends.append(rows(evaluator.run(None, {**values, name: moved})))
            columns.append((ends[0] - ends[1]) / (2 * step))
    return np.stack(columns, axis=2)


def _widened(model):
    """The model with float64 weights: the evaluator then computes in float64, also what ONNX has in float32 only."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for tensor in wide.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    return wide


def jacobians(model, values):
    """The Jacobian by forward and by reverse accumulation; checks what they are made of."""
    found = []
    for mode in ("forward", "reverse"):
        derivative = onnx_invert.jacobian(model, wrt=list(values), mode=mode)
        onnx.checker.check_model(derivative, full_check=True)
        made = {node.op_type for node in derivative.graph.node if not node.name.startswith("forward/")}
        assert not made & FORBIDDEN, f"{made & FORBIDDEN} do not run everywhere"
        (result,) = run(derivative, values)
        found.append(result)
        again = in_onnxruntime(derivative, values)
        if again is not None:
            scale, close = np.max(np.abs(result), initial=1.0), 1e-5 if again.dtype == np.float32 else 1e-12
            np.testing.assert_allclose(again, result, rtol=close, atol=close * scale, err_msg=f"onnxruntime, {mode}")
    return found


def in_onnxruntime(model, values):
    """The first output by onnxruntime; None where it has no kernel for the type."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return None
    (result,) = session.run(["jacobian"], values)
    return result


def hold(model, values, *, rtol=1e-6, step=1e-5):
    """The Jacobian of `model` at `values` is the one that differences give, in both modes; returns it."""
    batched = any(dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim)
    narrow = next(iter(values.values())).dtype == np.float32
    rtol = max(rtol, 1e-5) if narrow else rtol
    forward, reverse = jacobians(model, values)
    expected = differences(model, values, step, batched)
    scale = np.max(np.abs(expected), initial=1.0)
    assert np.isfinite(forward).all()
    np.testing.assert_allclose(forward, expected, rtol=rtol, atol=rtol * scale)
    same = 1e-5 if narrow else 1e-12
    np.testing.assert_allclose(reverse, forward, rtol=same, atol=same * scale)
    return forward


def check(op, *operands, rtol=1e-6, step=1e-5, **arguments):
    """`hold` for a model of one node."""
    return hold(*one_node(op, *operands, **arguments), rtol=rtol, step=step)
