"""A lossless pair of a model in memory, at one effort, and both of its files run."""

import numpy as np
import onnx
import onnxruntime as ort

from onnx_invert.plan.lossless.steps import EFFORTS
from onnx_invert.testing.completions import pair_of


def pair(model, effort=EFFORTS[0], *, per_node=False):
    """(plan, forward, inverse), both valid."""
    plan, forward, inverse = pair_of(model, effort, per_node=per_node)
    for proto in (forward, inverse):
        onnx.checker.check_model(proto, full_check=True)
    return plan, forward, inverse


def session(model, *, optimised=True):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model if isinstance(model, str) else model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def back(forward, inverse, x):
    """x again, through both files."""
    f, g = session(forward), session(inverse)
    (port,) = f.get_inputs()
    found = dict(zip([o.name for o in f.get_outputs()], f.run(None, {port.name: x}), strict=True))
    takes = [i.name for i in (*g.get_inputs(), *g.get_overridable_initializers())]
    return g.run(None, {name: found[name] for name in takes})[0]


def widened(model):
    """The model in float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for tensor in wide.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    del wide.graph.value_info[:]
    wide.opset_import[0].version = max(wide.opset_import[0].version, 17)  # LeakyRelu in float64, in onnxruntime
    return wide
