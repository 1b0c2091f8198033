"""Parts of a model run at planning time, by onnx's reference evaluator: to see what a block does, not to prove it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.protos import add_node

Arrays = dict[str, NDArray[np.generic]]


def evaluate(graph: ir.Graph, opset: int, spread: float = 1.0) -> Arrays:
    """All tensors of a graph whose sizes are numbers, the inputs drawn from N(0, spread²), or 1 where they are no
    floats."""
    rng = np.random.default_rng(0)
    feeds: dict[str, Any] = {}
    for value in graph.inputs:
        dtype = (value.dtype or ir.DataType.FLOAT).numpy()
        shape = tuple(value.shape.numpy()) if value.shape is not None and value.shape.is_static() else ()
        floating = np.issubdtype(dtype, np.floating)
        feeds[value.name or ""] = (spread * rng.standard_normal(shape) if floating else np.ones(shape)).astype(dtype)
    nodes = list(graph)
    wanted = [output.name or "" for node in nodes for output in node.outputs if output.name]
    made = run(nodes, feeds, wanted, opset)
    return {} if made is None else {**feeds, **made}


class Part:
    """Nodes that are run several times.

    `renamed` are operands, by the name of the node and their place, that take another tensor than the model's.
    With `wide` constants are taken in float64, as `feeds` then are.
    """

    def __init__(
        self,
        nodes: Sequence[ir.Node],
        feeds: Mapping[str, Any],
        wanted: Sequence[str],
        opset: int,
        *,
        renamed: Mapping[tuple[str, int], str] | None = None,
        wide: bool = False,
    ) -> None:
        from onnx.reference import ReferenceEvaluator

        self._wanted = list(wanted)
        self._feeds = dict(feeds)
        for node in nodes:
            for value in node.inputs:
                if value is not None and value.const_value is not None:
                    array = value.const_value.numpy()
                    widened = wide and array.dtype.kind == "f"
                    self._feeds[value.name or ""] = array.astype(np.float64) if widened else array
        versions = {"": opset} | {node.domain: _version(node) for node in nodes if node.domain not in {"", "ai.onnx"}}
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in versions.items()]
        model = onnx.helper.make_model(onnx.GraphProto(name="part"), opset_imports=opsets)
        graph = model.graph  # filled where it stands: helpers would copy it twice
        for node in nodes:
            _write(graph, node)
        for proto in graph.node if renamed else ():
            for place in range(len(proto.input)):
                proto.input[place] = (renamed or {}).get((proto.name, place), proto.input[place])
        for name, array in self._feeds.items():
            tensor = graph.input.add(name=name).type.tensor_type
            tensor.elem_type = int(ir.DataType.from_numpy(array.dtype))
            tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in array.shape)
        for name in wanted:
            graph.output.add(name=name)
        self._evaluator: ReferenceEvaluator | None
        try:
            self._evaluator = ReferenceEvaluator(model)
        except Exception:  # an operator that it lacks
            self._evaluator = None

    def __call__(self, feeds: Mapping[str, Any]) -> Arrays | None:
        """What they make where `feeds` are other than at first; None if the evaluator fails on them."""
        if self._evaluator is None:
            return None
        try:
            with np.errstate(all="ignore"):
                arrays = self._evaluator.run(None, {**self._feeds, **feeds})
        except Exception:  # sizes that do not fit, indices outside: nothing is known then
            return None
        return {name: np.asarray(array) for name, array in zip(self._wanted, arrays, strict=True)}


def _version(node: ir.Node) -> int:
    return node.version or (node.graph.opset_imports.get(node.domain, 1) if node.graph is not None else 1)


def _write(graph: onnx.GraphProto, node: ir.Node) -> None:
    """A node as the evaluator takes it: its GatherElements cannot count an axis from the end."""
    proto = add_node(graph, node)
    data = node.inputs[0] if node.op_type == "GatherElements" else None
    for attribute in proto.attribute if data is not None and data.shape is not None else ():
        if attribute.name == "axis" and attribute.i < 0 and data is not None and data.shape is not None:
            attribute.i += len(data.shape)


def run(
    nodes: Sequence[ir.Node],
    feeds: Mapping[str, Any],
    wanted: Sequence[str],
    opset: int,
    *,
    renamed: Mapping[tuple[str, int], str] | None = None,
    wide: bool = False,
) -> Arrays | None:
    """What `nodes` make of `feeds`, once; None if the evaluator fails on them."""
    return Part(nodes, feeds, wanted, opset, renamed=renamed, wide=wide)({})
