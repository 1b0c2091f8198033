"""Models that are bad, each in one way: what makes it, the exit code, and parts of the message."""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from small_models import affine, text


def broken(change, **options):
    model = affine(**options)
    change(model)
    return model


def node(index, **fields):
    def change(model):
        for name, value in fields.items():
            setattr(model.graph.node[index], name, value)

    return change


def weight(**fields):
    def change(model):
        tensor = model.graph.initializer[0]
        for name, value in fields.items():
            if name == "dims":
                tensor.dims[:] = value
            else:
                setattr(tensor, name, value)

    return change


def set_weight(array):
    return lambda model: model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array.astype(np.float32), "w"))


def input_dim(axis, size):
    def change(model):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size

    return change


def input_again(model):
    model.graph.input.append(model.graph.input[0])


def opset(*pairs):
    def change(model):
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in pairs)

    return change


def drop_weight(model):
    del model.graph.initializer[0]


def weight_as_input(model):
    drop_weight(model)
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 4]))


def sparse(model):
    drop_weight(model)
    entry = model.graph.sparse_initializer.add()
    entry.values.CopyFrom(numpy_helper.from_array(np.ones(4, np.float32), "w"))
    entry.indices.CopyFrom(numpy_helper.from_array(np.arange(4) * 5))
    entry.dims.extend([4, 4])


def some_nan():
    array = np.eye(4)
    array[0, :3] = np.nan, np.inf, -np.inf
    return array


SELF_CALLING = """<ir_version: 8, opset_import: ["" : 17, "l" : 1]>
g (float[N,2] x) => (float[N,2] y) { y = l.f(x) }
<domain: "l", opset_import: ["" : 17, "l" : 1]>
f (a) => (b) { b = l.f(a) }"""

INT_IN = "g (int64[N,3] ids) => (float[N,3] y) { y = Cast<to = 1>(ids) }"

CASES = {
    "a cyclic graph": (
        lambda: broken(lambda m: m.graph.node[0].input.__setitem__(0, "y")),
        2,
        ["m.onnx has a cycle: 'add', 'mm' feed one another"],
    ),
    "a node that feeds itself": (
        lambda: broken(lambda m: m.graph.node[0].input.__setitem__(0, "h")),
        2,
        ["has a cycle: 'mm' feed"],
    ),
    "a weight with NaN and infinity": (
        lambda: broken(set_weight(some_nan())),
        2,
        ["m.onnx has weights that are NaN or infinite:", "'w' (4×4): 3 of 16"],
    ),
    "an unknown operator": (
        lambda: broken(node(0, op_type="Foo")),
        2,
        ["operators that ONNX does not define", "node 'mm': Foo (not an operator of opset 17)"],
    ),
    "an operator that is newer than the opset": (
        lambda: text("g (float[N,2] x) => (float[N,2] y) { y = Mish(x) }", opset=17),
        2,
        ["node 'Mish': Mish (not an operator of opset 17)"],
    ),
    "an unknown domain": (
        lambda: broken(node(0, domain="my.own")),
        2,
        ["node 'mm': my.own::MatMul (domain 'my.own' is not ONNX's)"],
    ),
    "a known domain that is not imported": (
        lambda: broken(node(0, domain="com.microsoft", op_type="FusedMatMul")),
        2,
        ["node 'mm': FusedMatMul (the model imports no opset of 'com.microsoft')"],
    ),
    "a function that is not there": (
        lambda: onnx.parser.parse_model(SELF_CALLING.split("<domain", maxsplit=1)[0]),
        2,
        ["l::f (domain 'l' is not ONNX's)"],
    ),
    "a function that calls itself": (
        lambda: onnx.parser.parse_model(SELF_CALLING),
        2,
        ["The functions of m.onnx cannot be inlined", "l:f -> l:f"],
    ),
    "a non-float input": (
        lambda: text(INT_IN),
        3,
        ["Cannot invert node 'ids' (input): it is int64[N,3]; only floating-point inputs can be recovered"],
    ),
    "a string input": (
        lambda: text("g (string[N,3] x) => (string[N,3] y) { y = Identity(x) }"),
        3,
        ["it is string[N,3]; only floating-point"],
    ),
    "no inputs": (
        lambda: text("g () => (float[1] y) { y = Constant<value = float[1] {1.0}>() }"),
        2,
        ["The model has no inputs"],
    ),
    "no outputs": (
        lambda: broken(lambda m: m.graph.ClearField("output")),
        2,
        ["m.onnx has no outputs: there is nothing to invert from"],
    ),
    "an output that is the input": (
        lambda: text("g (float[N,3] x) => (float[N,3] x) { }"),
        2,
        ["m.onnx returns its input 'x' unchanged: there is nothing to invert"],
    ),
    "an output that depends on no input": (
        lambda: text("g (float[N,3] x) => (float[1] y) { y = Constant<value = float[1] {1.0}>() }"),
        2,
        ["No output depends on 'x'. Outputs: y float32[1]."],
    ),
    "shapes that disagree": (
        lambda: broken(input_dim(1, 7)),
        2,
        ["The shapes of m.onnx disagree: node 'mm' (MatMul): Incompatible dimensions for matrix multiplication"],
    ),
    "a weight that is missing": (
        lambda: broken(drop_weight),
        2,
        ["m.onnx uses tensors that nothing produces: 'w' (used by node 'mm')"],
    ),
    "an output that nothing makes": (
        lambda: broken(lambda m: setattr(m.graph.output[0], "name", "z")),
        2,
        ["nothing produces: 'z' (used by the output list)"],
    ),
    "a tensor that is made twice": (
        lambda: broken(lambda m: m.graph.node.append(m.graph.node[0])),
        2,
        ["m.onnx makes the tensor 'h' twice"],
    ),
    "an input that is listed twice": (lambda: broken(input_again), 2, ["m.onnx makes the tensor 'x' twice"]),
    "a weight with too few bytes": (
        lambda: broken(weight(dims=[5, 4])),
        2,
        ["Weight 'w' of m.onnx has the shape [5, 4], which takes 80 bytes; the file has 64"],
    ),
    "a weight of negative size": (
        lambda: broken(weight(dims=[-4, 4])),
        2,
        ["has the shape [-4, 4]: a size is negative"],
    ),
    "a weight of no type": (
        lambda: broken(weight(data_type=0)),
        2,
        ["Weight 'w' of m.onnx has no type that ONNX knows (data_type 0)"],
    ),
    "a weight of an unknown type": (
        lambda: broken(weight(data_type=99)),
        2,
        ["has no type that ONNX knows (data_type 99)"],
    ),
    "a constant with too few numbers": (
        lambda: helper.make_model(
            helper.make_graph(
                [
                    helper.make_node(
                        "Constant", [], ["c"], value=onnx.TensorProto(data_type=1, dims=[3], float_data=[1.0])
                    ),
                    helper.make_node("Add", ["x", "c"], ["y"]),
                ],
                "g",
                [helper.make_tensor_value_info("x", 1, ["N", 3])],
                [helper.make_tensor_value_info("y", 1, ["N", 3])],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
        ),
        2,
        ["A constant of m.onnx cannot be read"],
    ),
    "a sparse weight": (lambda: broken(sparse), 2, ["m.onnx has sparse weights, which are not read: 'w'"]),
    "an input without numbers": (
        lambda: broken(input_dim(0, 0)),
        2,
        ["The input 'x' of m.onnx has the shape [0,4]: it holds no numbers"],
    ),
    "an input of negative size": (lambda: broken(input_dim(1, -4)), 2, ["[N,-4]: a size is negative"]),
    "an input beyond any memory": (
        lambda: broken(input_dim(1, 2**62)),
        2,
        ["The input 'x' of m.onnx has the shape [N,4611686018427387904]: no memory holds one sample"],
    ),
    "an input without a type": (
        lambda: broken(lambda m: m.graph.input[0].ClearField("type")),
        2,
        ["node 'mm' (MatMul)", "expected to have type"],
    ),
    "no graph": (lambda: broken(lambda m: m.ClearField("graph")), 2, ["is not an ONNX model: it has no graph"]),
    "no opset": (lambda: broken(opset()), 2, ["is not an ONNX model: it has no opset"]),
    "an opset that is too old": (
        lambda: broken(opset(("", 6))),
        2,
        ["m.onnx has opset 6; 7 and newer are read. Convert it with onnx.version_converter"],
    ),
    "an opset of the future": (lambda: broken(opset(("", 999))), 2, ["m.onnx has opset 999; the installed onnx"]),
    "two opsets of one domain": (
        lambda: broken(opset(("", 17), ("ai.onnx", 18))),
        2,
        ["m.onnx imports domain 'ai.onnx' twice, as opset 17 and 18"],
    ),
    "an IR version of the future": (
        lambda: broken(lambda m: setattr(m, "ir_version", 99)),
        2,
        ["error: onnxruntime cannot load m.onnx: Unsupported model IR version: 99"],
    ),
    "a weight that is an input": (
        lambda: broken(weight_as_input),
        2,
        ["The model has 2 floating-point inputs; say which to recover with --recover NAME", "x float32[N,4]; w"],
    ),
}
