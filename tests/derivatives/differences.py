"""The derivative of a float32 model against differences, both in onnxruntime.

It is the oracle where onnx's reference evaluator gets an operator wrong. Differences in float32 are exact to rounding
where the model is linear, or is within a step: so for convolutions, and for pooling of numbers that lie apart.
"""

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime
from finite_differences import OURS, one_node
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv_transpose import ConvTranspose as OneGroup

import onnx_invert
from onnx_invert.graph.emit import Emitter
from onnx_invert.rules import default_rules
from onnx_invert.rules.differential import Point
from onnx_invert.rules.node import NodeView


class ConvTranspose(OneGroup):
    """Group by group; the reference's own cuts the weight by the wrong axis."""

    op_domain = ""

    def _run(self, X, W, B=None, group=1, **attributes):
        parts = zip(
            np.split(X, group, axis=1),
            np.split(W, group, axis=0),
            [None] * group if B is None else np.split(B, group),
            strict=True,
        )
        made = [super(ConvTranspose, self)._run(x, w, B=b, group=1, **attributes)[0] for x, w, b in parts]
        return (np.concatenate(made, axis=1),)


class LRN(OpRun):
    """Over all channels; the reference's own takes as many as there are samples."""

    op_domain = ""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):
        y = np.empty_like(x)
        for c in range(x.shape[1]):
            near = x[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1]
            y[:, c] = x[:, c] / (bias + alpha / size * np.sum(near**2, axis=1)) ** beta
        return (y,)


class LpNormalization(OpRun):
    """Of absolute values; the reference's own adds them up with their signs."""

    op_domain = ""

    def _run(self, x, axis=None, p=None):
        return (x / np.sum(np.abs(x) ** p, axis=axis, keepdims=True) ** (1 / p),)


class GroupNormalization(OpRun):
    """In float64; the reference's own rounds to float32."""

    op_domain = ""

    def _run(self, x, scale, bias, num_groups=None, epsilon=None, stash_type=None):
        groups = x.reshape(len(x), num_groups, -1)
        d = groups - groups.mean(axis=2, keepdims=True)
        y = (d / np.sqrt((d**2).mean(axis=2, keepdims=True) + epsilon)).reshape(x.shape)
        channels = (-1, *[1] * (x.ndim - 2))
        return (y * scale.reshape(channels) + bias.reshape(channels),)


class GlobalMaxPool(OpRun):
    """Of any rank; the reference's own is right for images of two axes alone."""

    op_domain = ""

    def _run(self, x):
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class GlobalLpPool(OpRun):
    """The reference has none."""

    op_domain = ""

    def _run(self, x, p=None):
        return (np.sum(np.abs(x) ** p, axis=tuple(range(2, x.ndim)), keepdims=True) ** (1 / p),)


OURS += [ConvTranspose, LRN, LpNormalization, GroupNormalization, GlobalMaxPool, GlobalLpPool]


def session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def apart(*shape):
    """Different numbers, no two nearer than 1 / 8, in no order."""
    count = int(np.prod(shape))
    return (np.random.default_rng(7).permutation(count).reshape(shape) - count // 2) / 8


def in_onnxruntime(op, *operands, **arguments):
    """As `finite_differences.check`, in float32 and in onnxruntime alone."""
    return hold_in_onnxruntime(*one_node(op, *operands, dtype=np.float32, **arguments))


def hold_in_onnxruntime(model, values, step=1 / 32, rtol=1e-4):
    """Both modes against differences; the model is linear within a step."""
    ((name, x),) = values.items()
    function = session(model)

    def rows(x):
        return np.concatenate([y.reshape(len(x), -1) for y in function.run(None, {name: x})], axis=1)

    columns = []
    for place in np.ndindex(x.shape[1:]):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[(slice(None), *place)] += sign * step
            ends.append(rows(moved))
        columns.append((ends[0] - ends[1]) / (2 * step))
    expected = np.stack(columns, axis=2)
    scale = np.max(np.abs(expected), initial=1.0)
    for mode in ("forward", "reverse"):
        (found,) = session(onnx_invert.jacobian(model, mode=mode)).run(None, values)
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * scale, err_msg=mode)
    return found


def filled_in(text):
    """A model in ONNX's text form with its weights drawn, a scale for each output; those named v are positive."""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(11)
    made = {name for node in model.graph.node for name in node.output}
    for value in list(model.graph.value_info):
        if value.name not in made:
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            array = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
            array = np.abs(array) + 0.5 if value.name.startswith("v") else array
            array = array.astype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
            model.graph.value_info.remove(value)
    return model


def at_old_opset(op, opset, x, y, *constants, **attributes):
    """The Jacobians (y, x) by push and by pull of a node of an opset that no derivative can be written in."""
    values = [ir.Value(name=f"x{i}", shape=ir.Shape(a.shape), type=ir.TensorType(ir.DataType.from_numpy(a.dtype)))
              for i, a in enumerate((x, *constants))]  # fmt: skip
    for value, array in zip(values[1:], constants, strict=True):
        value.const_value = ir.Tensor(array, name=value.name)
    made = ir.Value(name="y", shape=ir.Shape(y.shape), type=ir.TensorType(ir.DataType.DOUBLE))
    node = ir.Node("", op, values, outputs=[made], attributes=ir.convenience.convert_attributes(attributes))
    at = default_rules().differentiate(NodeView(node, 0, opset))
    found = []
    for direction, seed in (
        ("push", np.eye(x.size).reshape(-1, *x.shape)),
        ("pull", np.eye(y.size).reshape(-1, *y.shape)),
    ):
        e = Emitter(ir.DataType.DOUBLE)
        point = [ir.Value(name=v.name, shape=v.shape, type=v.type) for v in (*values, made)]
        tangent = ir.Value(name="t", shape=ir.Shape(seed.shape), type=ir.TensorType(ir.DataType.DOUBLE))
        differential = at(Point(e, len(seed), point[:-1], point[-1:]))
        out = e.op("Identity", getattr(differential, direction)(e, tangent))
        graph = ir.Graph(
            [*point, tangent], [out], nodes=e.nodes, initializers=e.initializers, opset_imports={"": 17}, name="map"
        )
        feeds = dict(zip([v.name for v in (*point, tangent)], (x, *constants, y, seed), strict=True))
        (result,) = ReferenceEvaluator(ir.serde.serialize_model(ir.Model(graph, ir_version=8))).run(None, feeds)
        found.append(result.reshape(len(seed), -1))
    return found[0].T, found[1]
