"""The question that a plan answers: which inputs to recover, from which outputs, given what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_invert.bodies import bodies
from onnx_invert.describe import describe, kind, listing
from onnx_invert.errors import Blocker, ModelError, NotInvertibleError, UsageError
from onnx_invert.rules.node import FLOATS


@dataclass(frozen=True)
class Problem:
    """Inputs to recover, inputs that stay inputs, outputs that are known, outputs that are left out.

    `inputs` are all of the model's, `dependent` are the tensors whose values follow from a recovered input's,
    `capturing` the nodes (If, Loop) whose body uses one of them.
    """

    graph: ir.Graph
    opset: int
    inputs: tuple[ir.Value, ...]
    recovered: tuple[ir.Value, ...]
    given: tuple[ir.Value, ...]
    known: tuple[ir.Value, ...]
    unused: tuple[ir.Value, ...]
    dependent: frozenset[ir.Value]
    capturing: frozenset[ir.Node]


def pose(model: ir.Model, recover: Sequence[str] = (), known: Sequence[str] = (), *, smooth: bool = False) -> Problem:
    """Settle which inputs are recovered from which outputs.

    With one floating-point input and no `recover` it is that one. Without `known`, every output that
    depends on a recovered input, and holds numbers, is taken as known; with `smooth` those alone that make
    equations, where there are any (`makes_equations`).

    Raises:
        UsageError: a name that is no input or output, or a choice that has to be made.
        NotInvertibleError: an input to recover that is not floating-point.
        ModelError: no inputs, or no output that depends on those to recover.
    """
    graph = model.graph
    inputs = {value.name or "": value for value in graph.inputs}
    outputs = {value.name or "": value for value in graph.outputs}
    recovered = _recovered(inputs, recover)
    dependent, capturing = _dependent(graph, recovered)
    for name in known:
        if name not in outputs:
            raise UsageError(f"--from {name}: there is no such output. {listing('Outputs', outputs.values())}")
        if outputs[name] in recovered:
            raise UsageError(f"--from {name}: this output is the input itself; there is nothing to undo.")
        if outputs[name] not in dependent:
            raise UsageError(f"--from {name}: this output does not depend on {_names(recovered)}.")
        if _is_empty(outputs[name]):
            raise UsageError(f"--from {name}: this output holds no numbers: {describe(outputs[name])}.")
    chosen = tuple(
        value
        for name, value in outputs.items()
        if (name in known if known else value in dependent) and value not in recovered and not _is_empty(value)
    )
    if smooth and not known and any(map(makes_equations, chosen)):
        chosen = tuple(value for value in chosen if makes_equations(value) or not _is_counted(value))
    if not chosen and any(value in dependent for value in outputs.values()):
        raise ModelError(f"The outputs hold no numbers. {listing('Outputs', outputs.values())}")
    if not chosen:
        raise ModelError(f"No output depends on {_names(recovered)}. {listing('Outputs', outputs.values())}")
    return Problem(
        graph=graph,
        opset=model.opset_imports.get("", 17),
        inputs=tuple(graph.inputs),
        recovered=recovered,
        given=tuple(value for value in graph.inputs if value not in recovered),
        known=chosen,
        unused=tuple(value for value in graph.outputs if value not in chosen),
        dependent=frozenset(dependent),
        capturing=frozenset(capturing),
    )


def makes_equations(value: ir.Value) -> bool:
    """True of a tensor of floating point: it moves with x. Whole numbers, truths and text only jump."""
    return isinstance(value.type, ir.TensorType) and value.dtype in FLOATS


def _is_counted(value: ir.Value) -> bool:
    """True of a tensor of whole numbers, truths or text: a label, a rank, a mask."""
    return isinstance(value.type, ir.TensorType) and not value.type.dtype.is_floating_point()


def left_out(problem: Problem) -> dict[str, str]:
    """The outputs that the inverse does not take, each with the reason."""
    return {
        value.name or "": f"{kind(value).split('[')[0]}: it makes no equations, and nothing is promised of it"
        if value in problem.dependent and _is_counted(value)
        else "not needed"
        for value in problem.unused
    }


def _is_empty(value: ir.Value) -> bool:
    return value.shape is not None and any(dim == 0 for dim in value.shape)


def followers(graph: ir.Graph, values: Sequence[ir.Value]) -> set[ir.Value]:
    """`values`, and every tensor whose values (not merely its shape) follow from one of them."""
    return _dependent(graph, values)[0]


def _recovered(inputs: dict[str, ir.Value], names: Sequence[str]) -> tuple[ir.Value, ...]:
    floats = [v for v in inputs.values() if isinstance(v.type, ir.TensorType) and v.dtype in FLOATS]
    for name in names:
        if name not in inputs:
            raise UsageError(f"--recover {name}: there is no such input. {listing('Inputs', inputs.values())}")
        if inputs[name] not in floats:
            raise NotInvertibleError([_not_float(inputs[name])])
    if names:
        return tuple(value for name, value in inputs.items() if name in names)
    if not inputs:
        raise ModelError("The model has no inputs: there is nothing to recover.")
    if not floats:
        raise NotInvertibleError([_not_float(value) for value in inputs.values()])
    if len(floats) > 1:
        raise UsageError(
            f"The model has {len(floats)} floating-point inputs; say which to recover with --recover NAME "
            f"(the others stay inputs of the inverse). {listing('Inputs', floats)}"
        )
    return (floats[0],)


def _not_float(value: ir.Value) -> Blocker:
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        what = "a sequence" if isinstance(value.type, ir.SequenceType) else "optional or sparse"
        return Blocker(value.name or "", "input", f"it is {what}; only tensors can be recovered")
    return Blocker(value.name or "", "input", f"it is {kind(value)}; only floating-point inputs can be recovered")


def _dependent(graph: ir.Graph, recovered: Sequence[ir.Value]) -> tuple[set[ir.Value], set[ir.Node]]:
    """Every tensor whose values (not merely its shape) follow from a recovered input's.

    And the nodes that take one of them into their body, whose outputs then follow from it too.
    """
    owners = _owners(graph)
    found = set(recovered)
    capturing: set[ir.Node] = set()
    waiting = list(recovered)
    while waiting:
        for user, _ in waiting.pop().uses():
            node = user
            while node.graph is not None and node.graph in owners:
                node = owners[node.graph]
                capturing.add(node)
            if node is user and node.op_type in {"Shape", "Size"} and node.domain in {"", "ai.onnx"}:
                continue
            for output in node.outputs:
                if output not in found:
                    found.add(output)
                    waiting.append(output)
    return found, capturing


def _owners(graph: ir.Graph) -> dict[ir.Graph | ir.Function, ir.Node]:
    """The node that each body belongs to."""
    owners: dict[ir.Graph | ir.Function, ir.Node] = {}
    waiting = [graph]
    while waiting:
        for node in waiting.pop():
            for body in bodies(node):
                owners[body] = node
                waiting.append(body)
    return owners


def _names(values: Sequence[ir.Value]) -> str:
    return ", ".join(repr(value.name) for value in values)
