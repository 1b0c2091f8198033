"""A model at one size of everything: its symbolic sizes given numbers, and what follows from them folded.

What an exporter computes from a shape (grids of indices, sizes of a Reshape, zeros to scatter into) is constant
there, so that one sees which element goes where. Two such copies, at different sizes, tell which sizes are equal
(shape inference gives the same size many names), and what is constant whatever the sizes are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnx_invert.bodies import has_bodies
from onnx_invert.errors import ModelError
from onnx_invert.graph.inference import infer_shapes
from onnx_invert.graph.normalise import fold, name_nodes, replace, shapes_to_constants
from onnx_invert.sized import Sized, shapes_at, sized
from onnx_invert.sizes import product


def numbered(graph: ir.Graph, second: bool = False) -> dict[str, int]:
    """A number for every symbolic size of the inputs: 2 (5) for the first, which counts samples; for the others
    multiples of 16, as what is squeezed or pooled needs, no two alike."""
    symbols = dict.fromkeys(
        str(dim.value) for value in graph.inputs for dim in value.shape or () if not isinstance(dim, int)
    )
    return {
        name: (5 if second else 2) if i == 0 else 16 * (3 * i - 1 if second else 2 * i - 1)
        for i, name in enumerate(symbols)
    }


def concretise(model: ir.Model, sizes: Mapping[str, int]) -> ir.Model:
    """A copy of a normalised `model` with the symbolic sizes of its inputs as `sizes` says; tensors are shared.

    Nodes and tensors keep their names, except those that are constant now.

    Raises:
        ModelError: the model does not run at these sizes, or the rank of an input is unknown.
    """
    _check_ranks(model)
    twin = _copy(model, sizes)
    told = _told(twin.graph)
    # Shapes follow from folded shapes, and branches from both: each round settles a step, and takes nodes away.
    while True:
        if not told:
            infer_shapes(twin, "the model")
        changed = shapes_to_constants(twin.graph)
        if changed:
            fold(twin)
        inlined = inline_decided(twin.graph)
        told = told and not inlined
        if not (inlined or changed):
            break
    return twin


def _check_ranks(model: ir.Model) -> None:
    for value in model.graph.inputs:
        if value.shape is None:
            raise ModelError(f"The rank of {value.name!r} is unknown: give the model's inputs a shape with --shape.")


def _copy(model: ir.Model, sizes: Mapping[str, int]) -> ir.Model:
    """A copy that shares tensors and attributes, with `sizes` put in for their names.

    onnx-ir's own, which copies all that may be noted of a node as well, where nodes have bodies.
    """
    graph = model.graph
    inner = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    if any(map(has_bodies, graph)):
        twin = model.clone()
        for value in (*twin.graph.inputs, *(value for node in twin.graph for value in node.outputs)):
            value.shape = _sized(value.shape, sizes)
        return twin
    sized = {dims: _sized(ir.Shape(dims), sizes) for dims in {v.shape.dims for v in inner if v.shape is not None}}
    twins = {value: _twin(value, None if value.shape is None else sized[value.shape.dims]) for value in inner}
    twins |= {value: _twin(value, value.shape) for value in graph.initializers.values()}
    nodes = []
    for node in graph:
        made = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else twins[value] for value in node.inputs],
            node.attributes.values(),
            outputs=[twins[value] for value in node.outputs],
            version=node.version,
            name=node.name,
        )
        if node.meta:
            made.meta.update(node.meta)
        nodes.append(made)
    weights = [twins[value] for value in graph.initializers.values()]
    ends = ([twins[value] for value in values] for values in (graph.inputs, graph.outputs))
    opsets = dict(graph.opset_imports)
    copied = ir.Graph(*ends, nodes=nodes, initializers=weights, opset_imports=opsets, name=graph.name)
    return ir.Model(copied, ir_version=model.ir_version)


def _twin(value: ir.Value, shape: ir.Shape | None) -> ir.Value:
    return ir.Value(name=value.name, shape=shape, type=value.type, const_value=value.const_value)


def _sized(shape: ir.Shape | None, sizes: Mapping[str, int]) -> ir.Shape | None:
    if shape is None:
        return None
    dims = [dim if isinstance(dim, int) else sizes.get(str(dim.value), dim) for dim in shape.dims]
    return ir.Shape(dims, frozen=True)


def _told(graph: ir.Graph) -> bool:
    """Whether all inner tensors have their sizes and types.

    Inference, which takes longer than all else for a model of thousands of nodes, has nothing to add then.
    """
    values = [value for node in graph for value in node.outputs]
    return not any(
        value.shape is None or not value.shape.is_static() or (value.name and value.type is None) for value in values
    )


def small(model: ir.Model, copies: int = 1) -> Sized:
    """The graph at the first sizes of `numbered`, with `copies` times as many samples; errors as for `concretise`."""
    sizes = numbered(model.graph)
    if sizes:
        sizes[next(iter(sizes))] *= copies
    _check_ranks(model)
    found = sized(model.graph, sizes)
    if found is not None:
        return found
    try:
        graph = concretise(model, sizes).graph
    except ModelError as error:
        taken = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        raise ModelError(f"It does not run with {taken}. {error}" if taken else str(error)) from error
    nodes = {node.name or "": node for node in graph}
    return Sized(graph.inputs, nodes, shapes_at(graph, {}, whole=False) or {}, nodes)


def settle(model: ir.Model, name: str) -> None:
    """Make constant what does not depend on the sizes of the inputs, and give each other size one name.

    A branch that constants or sizes alone decide is taken; a size of an inner tensor gets the name of the input's size
    that it always equals.
    """
    if inline_decided(model.graph):
        infer_shapes(model, name)
        fold(model)
    known = {str(d.value) for v in model.graph.inputs for d in v.shape or () if not isinstance(d, int)}
    if not _vague(model.graph, known) or any(value.shape is None for value in model.graph.inputs):
        return
    first, second = numbered(model.graph), numbered(model.graph, second=True)
    try:
        twins = [concretise(model, sizes) for sizes in (first, second)]
    except ModelError:
        return  # it does not run at sizes as small as these: everything stays as it is
    if _constants(model, *twins):
        fold(model)
        inline_decided(model.graph)
        infer_shapes(model, name)
        fold(model)
    _names(model.graph, [_shapes(twin.graph) for twin in twins], {(first[s], second[s]): s for s in first})


def inline_decided(graph: ir.Graph) -> bool:
    """Put the branch that is taken in the place of every If whose condition is constant."""
    decided = [
        node
        for node in graph
        if node.op_type == "If" and node.domain in {"", "ai.onnx"} and node.inputs[0] is not None
        and node.inputs[0].const_value is not None
    ]  # fmt: skip
    for node in decided:
        condition = node.inputs[0]
        assert condition is not None
        assert condition.const_value is not None
        branch = node.attributes["then_branch" if condition.const_value.numpy().reshape(()) else "else_branch"]
        body = branch.as_graph()
        inner = list(body)
        results = list(body.outputs)
        for value in list(body.initializers.values()):
            del body.initializers[value.name or ""]
            graph.register_initializer(value)
        body.outputs.clear()
        for step in inner:
            body.remove(step)
        graph.insert_before(node, inner)
        for mine, result in zip(node.outputs, results, strict=True):
            theirs = result
            if mine.is_graph_output():
                if theirs.producer() not in inner or theirs.is_graph_output():  # an input, a weight, or told twice
                    copy = ir.node("Identity", [theirs], name=f"{node.name}/{mine.name}")
                    theirs = copy.outputs[0]
                    theirs.type, theirs.shape = mine.type, mine.shape
                    graph.insert_before(node, copy)
                mine.name, theirs.name = f"{mine.name}/decided", mine.name
            ir.convenience.replace_all_uses_with(mine, theirs, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    if decided:
        name_nodes(graph)
    return bool(decided)


def _vague(graph: ir.Graph, known: set[str]) -> bool:
    return any(
        value.shape is None or any(not isinstance(d, int) and d.value not in known for d in value.shape)
        for node in graph
        for value in node.outputs
    )


def _constants(model: ir.Model, one: ir.Model, other: ir.Model) -> bool:
    """Replace what is the same constant in both copies."""
    found = False
    mine = {value.name: value for node in model.graph for value in node.outputs if not value.is_graph_output()}
    for name, twin in one.graph.initializers.items():
        value = mine.get(name)
        rival = other.graph.initializers.get(name)
        if value is None or rival is None or twin.const_value is None or rival.const_value is None:
            continue
        a, b = twin.const_value.numpy(), rival.const_value.numpy()
        if a.shape == b.shape and np.array_equal(a, b):
            replace(model.graph, value, a)
            found = True
    return found


def _names(graph: ir.Graph, shapes: list[dict[str, _Dims]], names: dict[tuple[int, int], str]) -> None:
    """Rename the symbolic sizes of inner tensors by what they are in the two copies.

    A size that depends on values, as how many elements a mask selects, stays as it is called, in the midst of others.
    """
    bases, others = dict(names), dict[tuple[int, int], str]()
    for node in graph:
        for value in node.outputs:
            a, b = (found.get(value.name or "") for found in shapes)
            if a is None or b is None or len(a) != len(b):
                continue
            if value.shape is not None and (len(value.shape) != len(a) or value.shape.is_static()):
                continue
            dims: list[int | str] = []
            for axis, (size, rival) in enumerate(zip(a, b, strict=True)):
                dim = None if value.shape is None else value.shape[axis]
                if size is None or rival is None:
                    called = dim if isinstance(dim, int) or dim is None else dim.value
                    dims.append(f"{value.name}.{axis}" if called is None else called)
                    continue
                pair = (size, rival)
                if isinstance(dim, int) or size == rival:
                    dims.append(size)
                elif pair in names:
                    dims.append(names[pair])
                else:
                    own = str(dim.value) if dim is not None else f"{value.name}.{axis}"
                    told = product(pair, bases) or product(pair, others, 1)
                    if told is None:
                        others[pair] = own
                    dims.append(names.setdefault(pair, own if told is None else str(told)))
            value.shape = ir.Shape(dims)


_Dims = tuple[int | None, ...]


def _shapes(graph: ir.Graph) -> dict[str, _Dims]:
    """The sizes of the tensors whose rank is known, None for a size that is not."""
    return {
        value.name or "": tuple(dim if isinstance(dim, int) else None for dim in value.shape)
        for value in (*graph.initializers.values(), *(output for node in graph for output in node.outputs))
        if value.shape is not None
    }
