"""Parts of a model run at planning time: to see what a block does, not to prove it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.bodies import has_bodies
from onnx_invert.plan.kernels import Kernel, kernel
from onnx_invert.protos import add_node
from onnx_invert.sized import Sized

Arrays = dict[str, NDArray[np.generic]]


def evaluate(graph: Sized, opset: int, spread: float = 1.0) -> Arrays:
    """All tensors of a graph whose sizes are numbers, the inputs drawn from N(0, spread²), or 1 where they are no
    floats."""
    rng = np.random.default_rng(0)
    feeds: dict[str, Any] = {}
    for value in graph.inputs:
        dtype = (value.dtype or ir.DataType.FLOAT).numpy()
        shape = graph.shapes.get(value.name or "", ())
        floating = np.issubdtype(dtype, np.floating)
        feeds[value.name or ""] = (spread * rng.standard_normal(shape) if floating else np.ones(shape)).astype(dtype)
    nodes = list(graph.running.values())
    wanted = [output.name or "" for node in nodes for output in node.outputs if output.name]
    made = run(nodes, feeds, wanted, opset)
    return {} if made is None else {**feeds, **made}


class Part:
    """Nodes that are run several times: by numpy where `kernel` has them, by onnx's reference evaluator elsewhere.

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
        self._wanted = list(wanted)
        self._feeds: dict[str, Any] = {"": None, **feeds}
        for node in nodes:
            for value in node.inputs:
                if value is not None and value.const_value is not None:
                    array = value.const_value.numpy()
                    widened = wide and array.dtype.kind == "f"
                    self._feeds[value.name or ""] = array.astype(np.float64) if widened else array
        self._steps: list[_Step] | None
        try:
            self._steps = _steps(nodes, self._feeds, self._wanted, opset, renamed or {})
        except Exception:  # an operator that the evaluator lacks
            self._steps = None

    def __call__(self, feeds: Mapping[str, Any]) -> Arrays | None:
        """What they make where `feeds` are other than at first; None if that fails."""
        if self._steps is None:
            return None
        arrays = {**self._feeds, **feeds}
        try:
            with np.errstate(all="ignore"):
                for run, taken, made in self._steps:
                    arrays.update(zip(made, run(*[arrays[name] for name in taken]), strict=True))
            return {name: np.asarray(arrays[name]) for name in self._wanted}
        except Exception:  # sizes that do not fit, indices outside: nothing is known then
            return None


_Step = tuple[Kernel, Sequence[str], Sequence[str]]
"""What is run, and the names of what it takes and makes."""

_UNUSED = "/unused"
"""What an output is called that is left out; "" is an operand that is."""


def _steps(
    nodes: Sequence[ir.Node],
    feeds: Mapping[str, Any],
    wanted: Sequence[str],
    opset: int,
    renamed: Mapping[tuple[str, int], str],
) -> list[_Step]:
    """Nodes with a kernel one by one, what lies between as stretches that the evaluator runs."""
    bodies = any(map(has_bodies, nodes))  # what they take from outside, the evaluator has to see
    kernels = [None if bodies else kernel(node) for node in nodes]
    steps: list[_Step] = []
    stretch: list[ir.Node] = []
    needed = _needed_later(nodes, kernels, wanted, renamed) if None in kernels else set()
    for node, run in zip(nodes, kernels, strict=True):
        if run is None:
            stretch.append(node)
            continue
        if stretch:
            steps.append(_evaluated(stretch, feeds, needed, opset, renamed))
            stretch = []
        steps.append((run, _operands(node, renamed), [value.name or _UNUSED for value in node.outputs]))
    if stretch:
        steps.append(_evaluated(stretch, feeds, needed, opset, renamed))
    return steps


def _operands(node: ir.Node, renamed: Mapping[tuple[str, int], str]) -> list[str]:
    names = ["" if value is None else value.name or "" for value in node.inputs]
    if renamed:
        names = [renamed.get((node.name or "", place), name) for place, name in enumerate(names)]
    return names


def _needed_later(
    nodes: Sequence[ir.Node],
    kernels: Sequence[Kernel | None],
    wanted: Sequence[str],
    renamed: Mapping[tuple[str, int], str],
) -> set[str]:
    """The tensors that somebody other than the stretch takes that makes them."""
    needed, made = set(wanted), dict[str, int]()
    number = 0
    for node, run in zip(nodes, kernels, strict=True):
        number += run is not None
        needed.update(name for name in _operands(node, renamed) if run is not None or made.get(name, -1) != number)
        if run is None:
            made.update((value.name or "", number) for value in node.outputs)
    return needed


def _evaluated(
    nodes: Sequence[ir.Node],
    feeds: Mapping[str, Any],
    needed: Container[str],
    opset: int,
    renamed: Mapping[tuple[str, int], str],
) -> _Step:
    """Nodes as one run of onnx's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    versions = {"": opset} | {node.domain: _version(node) for node in nodes if node.domain not in {"", "ai.onnx"}}
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in versions.items()]
    model = onnx.helper.make_model(onnx.GraphProto(name="part"), opset_imports=opsets)
    graph = model.graph  # filled where it stands: helpers would copy it twice
    for node in nodes:
        _write(graph, node)
    for proto in graph.node if renamed else ():
        for place in range(len(proto.input)):
            proto.input[place] = renamed.get((proto.name, place), proto.input[place])
    made = dict.fromkeys(name for proto in graph.node for name in proto.output if name)
    taken = dict.fromkeys(name for proto in graph.node for name in proto.input if name and name not in made)
    bodies = any(map(has_bodies, nodes))
    inputs = list(dict.fromkeys([*taken, *(name for name in feeds if name)]) if bodies else taken)
    for name in inputs:
        array = feeds.get(name)
        if array is None:
            continue
        tensor = graph.input.add(name=name).type.tensor_type
        tensor.elem_type = int(ir.DataType.from_numpy(array.dtype))
        tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in array.shape)
    outputs = [name for name in made if name in needed]
    for name in outputs:
        graph.output.add(name=name)
    evaluator = ReferenceEvaluator(model)

    def run(*arrays: Any) -> Sequence[Any]:
        return list(evaluator.run(None, dict(zip(inputs, arrays, strict=True))))

    return run, inputs, outputs


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
