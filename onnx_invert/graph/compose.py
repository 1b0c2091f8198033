"""Two models as one: what a decoder makes takes the place of an input."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_invert.errors import UsageError
from onnx_invert.graph.inference import infer_shapes
from onnx_invert.graph.read import Source


@dataclass(frozen=True)
class Joined:
    """What a decoder adds to a model: its input `w`, and the tensor `x` that it makes of it."""

    w: ir.Value
    x: ir.Value


def join(source: Source, decoder: Source, x: ir.Value) -> Joined:
    """Put `decoder` before the input `x` of a model, in place; both are normalised and of the same opset.

    Every use of `x` becomes one of what the decoder makes; `x` is no input any more, and the decoder's input is one.

    Raises:
        UsageError: a decoder of several inputs or outputs, or whose output does not have x's shape and type.
    """
    graph, inner = source.model.graph, decoder.model.graph
    w, made = _ends(decoder, x)
    taken = _names(graph)
    for value in [*inner.inputs, *inner.initializers.values(), *(out for node in inner for out in node.outputs)]:
        if value.name and (value is not w or value.name in taken):
            _rename(value, taken)
        taken.add(value.name or "")
    nodes = list(inner)
    weights = list(inner.initializers.values())
    inner.outputs.clear()
    inner.inputs.clear()
    inner.remove(nodes)
    inner.initializers.clear()
    for node in nodes:
        node.name = f"decoder/{node.name}"
    first = next(iter(graph))
    graph.insert_before(first, nodes)
    for value in weights:
        graph.register_initializer(value)
    for user, index in tuple(x.uses()):
        user.replace_input_with(index, made)
    graph.inputs[list(graph.inputs).index(x)] = w
    if w.shape is not None and x.shape is not None and not isinstance(x.shape[0], int):
        w.shape = ir.Shape([x.shape[0], *list(w.shape)[1:]])
    for domain, version in inner.opset_imports.items():
        if graph.opset_imports.setdefault(domain, version) != version:
            raise UsageError(
                f"--prior {decoder.name}: it needs version {version} of the operators {domain!r}, {source.name} "
                f"version {graph.opset_imports[domain]}."
            )
    infer_shapes(source.model, f"{decoder.name} before {source.name}")
    return Joined(w, made)


def _ends(decoder: Source, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    graph = decoder.model.graph
    what = f"--prior {decoder.name}"
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        names = [", ".join(repr(value.name) for value in values) for values in (graph.inputs, graph.outputs)]
        raise UsageError(
            f"{what}: a decoder has one input and one output; this has the inputs {names[0] or 'none'} and the "
            f"outputs {names[1]}."
        )
    w, made = graph.inputs[0], graph.outputs[0]
    if made.producer() is None:
        raise UsageError(f"{what}: it makes nothing of its input.")
    if made.dtype != x.dtype or w.dtype != x.dtype:
        kinds = [str(value.dtype.name).lower() if value.dtype is not None else "unknown" for value in (w, made, x)]
        raise UsageError(f"{what}: it takes {kinds[0]} and returns {kinds[1]}, where {x.name!r} is {kinds[2]}.")
    mine, theirs = _dims(made), _dims(x)
    if mine is None or theirs is None or len(mine) != len(theirs) or not all(map(_fits, mine, theirs)):
        raise UsageError(f"{what}: it returns {_text(mine)}, and the input {x.name!r} takes {_text(theirs)}.")
    latent = _dims(w)
    if not latent or isinstance(latent[0], int) != isinstance(theirs[0], int):
        raise UsageError(
            f"{what}: its input is {_text(latent)}, where {x.name!r} is {_text(theirs)}: both take a batch of any "
            "size along their first axis, or neither does."
        )
    return w, made


def _dims(value: ir.Value) -> list[int | str | None] | None:
    return None if value.shape is None else [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def _fits(mine: int | str | None, theirs: int | str | None) -> bool:
    return mine == theirs if isinstance(mine, int) and isinstance(theirs, int) else True


def _text(dims: list[int | str | None] | None) -> str:
    return "of unknown rank" if dims is None else f"({', '.join('?' if dim is None else str(dim) for dim in dims)})"


def _names(graph: ir.Graph) -> set[str]:
    made = (output.name for node in graph for output in node.outputs)
    return {name for name in (*(value.name for value in graph.inputs), *graph.initializers, *made) if name}


def _rename(value: ir.Value, taken: set[str]) -> None:
    name = f"decoder/{value.name}"
    while name in taken:
        name += "_"
    value.name = name
