"""A lossless pair of a model in memory, at one effort, and both of its files run."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from onnx_invert.build.lossless.forward import build_forward
from onnx_invert.build.lossless.inverse import build_inverse
from onnx_invert.build.lossless.latents import latents
from onnx_invert.graph.normalise import normalise
from onnx_invert.graph.read import from_proto
from onnx_invert.graph.write import to_proto
from onnx_invert.plan.lossless.search import make_lossless
from onnx_invert.plan.lossless.steps import EFFORTS
from onnx_invert.plan.problem import pose
from onnx_invert.rules import default_rules


def pair(model, effort=EFFORTS[0], *, per_node=False):
    """(plan, forward, inverse); the inverse has no plain branch: its latents are zeros where they are left out."""
    source = from_proto(model)
    normalise(source)
    problem = pose(source.model)
    plan = make_lossless(problem, default_rules(), effort)
    taken = [value.name for value in (*problem.graph.inputs, *problem.graph.outputs)]
    layout = latents(plan, per_node=per_node, taken=taken)
    forward = to_proto(build_forward(plan, from_proto(model).model, layout, {}))
    nothing = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 17}), ir_version=8)
    inverse = to_proto(build_inverse(plan, nothing, layout, zero_is_plain=True))
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
