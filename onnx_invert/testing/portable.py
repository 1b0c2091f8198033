"""What an emitted graph may contain so that every ONNX runtime loads it and agrees on it."""

from __future__ import annotations

from collections.abc import Collection

import onnx

AVOIDED = frozenset(
    {
        *("Acosh", "Asinh", "Atanh", "Cosh", "Sinh", "Softplus", "Tan", "Erf", "Elu", "Selu", "Celu"),
        *("Clip", "Pad", "SpaceToDepth", "DepthToSpace", "Trilu", "CumSum", "ScatterElements", "ScatterND"),
        *("GatherND", "OneHot", "Einsum", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "Det", "IsNaN", "Scan"),
        *("Constant", "ConstantOfShape", "If", "Loop", "Gemm", "GreaterOrEqual", "LessOrEqual"),
    }
)
"""Operators that some runtime lacks, gets wrong, or has no float64 kernel for."""

OPSET = 17
"""The newest opset that every runtime still in use loads."""


def check_portable(model: onnx.ModelProto, *, double: bool = False, allowed: Collection[str] = ()) -> None:
    """Raise AssertionError where `model` uses what not every runtime has.

    `double` allows float64: only where the forward model has it. `allowed` operators are let through.
    """
    assert [(entry.domain, entry.version <= OPSET) for entry in model.opset_import] == [("", True)], (
        f"opset {[(entry.domain, entry.version) for entry in model.opset_import]}, expected the default domain up to "
        f"{OPSET}"
    )
    assert not model.functions, "it has local functions"
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names), f"node names are not unique: {sorted(names)}"
    assert all(names), "a node has no name"
    graph = model.graph
    fixed = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for value in graph.output:
        assert value.name not in fixed, f"the output {value.name!r} is an input or a constant"
        assert value.type.tensor_type.HasField("shape"), f"the output {value.name!r} has no shape"
    for node in graph.node:
        assert node.domain == "", f"{node.name}: domain {node.domain!r}"
        assert node.op_type in allowed or node.op_type not in AVOIDED, (
            f"{node.name}: {node.op_type} does not run everywhere"
        )
        for attribute in node.attribute:
            to_double = node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.DOUBLE
            assert double or not to_double, f"{node.name}: casts to float64"
    used = {name for node in graph.node for name in node.input}
    for tensor in graph.initializer:
        assert double or tensor.data_type != onnx.TensorProto.DOUBLE, f"{tensor.name}: a float64 constant"
        assert tensor.name in used, f"{tensor.name}: an unused constant"
