"""The two files of a lossless pair: the network with its latents as outputs, the inverse with them as inputs.

    f⁺   the model as it was read, node for node, and the nodes that compute z after them
    g⁺   x from y and z; where z is left out, the plain inverse

z is one flat tensor `latent` (N, Z), or one tensor for every node that loses something. It is an initializer that is
also an input: its value is what counts where no other is given. Where z = 0 gives the plain inverse it is a row of
zeros. Elsewhere it has no rows, and an If takes the plain inverse's nodes instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnx_invert.build.completions import give, joined, left_over, onwards, rows, take, unrolled
from onnx_invert.build.inverse import assemble, port_of
from onnx_invert.build.tape import copy
from onnx_invert.build.versions import OLDEST_OPSET, OPSET, domains_of, ir_version_for, opset_for
from onnx_invert.errors import ModelError
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.lossless import Join, Keep, Lossless, Run, Slot, Step, Undo
from onnx_invert.rules.node import FLOATS, Shape

FLAT = "latent"


@dataclass(frozen=True)
class Latent:
    """One tensor of z as the files name it: (samples, numbers), and the slots that lie in it side by side."""

    name: str
    slots: tuple[Slot, ...]

    @property
    def numbers(self) -> int:
        """The numbers a sample."""
        return sum(slot.numbers for slot in self.slots)


def latents(plan: Lossless, *, per_node: bool, taken: Iterable[str]) -> tuple[Latent, ...]:
    """How z is laid out: one tensor, or one for every slot; names that are not `taken`."""
    used = set(taken)

    def free(name: str) -> str:
        while name in used:
            name += "_"
        used.add(name)
        return name

    if not plan.slots:
        return ()
    if not per_node:
        return (Latent(free(FLAT), plan.slots),)
    return tuple(Latent(free(f"{FLAT}/{slot.name}"), (slot,)) for slot in plan.slots)


def latent_type(plan: Lossless) -> ir.DataType:
    """The type of z: the widest of the tensors that are kept or completed."""
    types = [slot.step.value.dtype for slot in plan.slots] or [plan.problem.recovered[0].dtype]
    return max((t for t in types if t in FLOATS), key=lambda t: t.itemsize, default=ir.DataType.FLOAT)


def build_forward(plan: Lossless, model: ir.Model, layout: Sequence[Latent], metadata: Mapping[str, str]) -> ir.Model:
    """Append to `model`, the network as it was read, the nodes that compute z. `model` is changed.

    Raises:
        ModelError: its opset is older than what is appended, and its operators changed since.
    """
    if model.functions:
        passes.InlinePass()(model)
    graph = model.graph
    _modernise(model)
    by_name = {value.name: value for node in graph for value in node.outputs}
    by_name |= {value.name: value for value in (*graph.inputs, *graph.initializers.values())}
    e = Emitter(ir.DataType.FLOAT, reserved=_names(graph))
    taking = _Taking(e, by_name, fixed=plan.fixed)
    kind = latent_type(plan)
    outputs = []
    for latent in layout:
        parts = [taking.slot(slot, kind) for slot in latent.slots]
        with e.scope("latent", kind):
            whole = parts[0] if len(parts) == 1 else e.op("Concat", *parts, axis=1)
            whole = e.op("Identity", whole) if whole.name in by_name or whole in outputs else whole
        whole.name, whole.type = latent.name, ir.TensorType(kind)
        whole.shape = ir.Shape([1 if plan.fixed else _symbol(plan), latent.numbers])
        outputs.append(whole)
    graph.extend(e.nodes)
    for value in e.initializers:
        if value.uses():
            graph.register_initializer(value)
    graph.outputs.extend(outputs)
    model.metadata_props.update(metadata)
    return model


def _symbol(plan: Lossless) -> str:
    shape = plan.problem.recovered[0].shape
    first = None if shape is None else shape[0]
    return first.value or "N" if isinstance(first, ir.SymbolicDim) else "N"


def _modernise(model: ir.Model) -> None:
    """An opset from which on the appended operators have one signature; the model's own keep their meaning."""
    opset = model.opset_imports.get("", 17)
    if opset < OLDEST_OPSET:
        try:
            opset = opset_for(list(model.graph), opset)
        except ModelError as error:
            raise ModelError(
                f"The model is of opset {opset}, and its operators changed before {OLDEST_OPSET}: convert it first "
                "(onnx.version_converter.convert_version)."
            ) from error
        model.opset_imports[""] = opset
    model.ir_version = max(model.ir_version, ir_version_for(min(opset, OPSET)))


def _names(graph: ir.Graph) -> list[str]:
    """Every name in the graph and in the bodies of its nodes."""
    found: list[str] = []
    waiting = [graph]
    while waiting:
        inner = waiting.pop()
        found += [value.name or "" for value in (*inner.inputs, *inner.initializers.values())]
        for node in inner:
            found.append(node.name or "")
            found += [value.name or "" for value in node.outputs]
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    waiting.append(attribute.as_graph())
                elif attribute.type == ir.AttributeType.GRAPHS:
                    waiting.extend(attribute.as_graphs())
    return found


class _Taking:
    """Emits the latents of slots after the nodes of the model."""

    def __init__(self, e: Emitter, by_name: Mapping[str | None, ir.Value], *, fixed: bool) -> None:
        self._e, self._by_name, self._fixed = e, by_name, fixed

    def slot(self, slot: Slot, kind: ir.DataType) -> ir.Value:
        """z of one slot as rows, in the type that all latents have."""
        e, step = self._e, slot.step
        dtype = step.value.dtype or ir.DataType.FLOAT
        with e.scope(f"latent/{slot.name}", dtype):
            x = self._find(step.value)
            if isinstance(step, Keep):
                z = rows(e, x, _shape_of(step.value), step.numbers, fixed=self._fixed)
            elif isinstance(step, Join):
                z = left_over(e, step, x, fixed=self._fixed)
            else:
                assert isinstance(step, Undo)
                z = self._of_link(step, slot.link, x)
            if dtype != kind:
                z = e.op("Cast", z, to=int(kind))
                z.dtype = kind
        return z

    def _of_link(self, step: Undo, index: int, x: ir.Value) -> ir.Value:
        """Forwards from x up to the link, and back from y to it where nothing is lost on the way."""
        e, links = self._e, step.links
        u = x
        for link in links[:index]:
            u = onwards(e, link, u)
        if any(link.numbers for link in links[index + 1 :]):
            v = onwards(e, links[index], u)
        else:
            v = self._find(step.output)
            for link in reversed(links[index + 1 :]):
                v = give(e, link, v, None, [], fixed=self._fixed)
        return take(e, links[index], u, v, fixed=self._fixed)

    def _find(self, value: ir.Value) -> ir.Value:
        found = self._by_name.get(value.name)
        if found is None:
            raise ModelError(f"The tensor {value.name!r} is not in the model as it was read.")
        return found


def _shape_of(value: ir.Value) -> Shape:
    assert value.shape is not None
    return tuple(d if isinstance(d, int) else d.value or "N" for d in value.shape)


def build_inverse(
    plan: Lossless,
    plain: ir.Model,
    layout: Sequence[Latent],
    *,
    zero_is_plain: bool,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ir.Model:
    """x from y and z. `plain` is the inverse from y alone, which is taken where z is left out; it is used up.

    With `zero_is_plain` it is not needed: z = 0 gives the same.

    Raises:
        UsageError, ModelError: no `opset` at which nodes that run forwards mean what they did.
    """
    problem = plan.problem
    names = [v.name or "" for v in (*problem.known, *problem.recovered, *problem.given)]
    names += [latent.name for latent in layout]
    merged = bool(layout) and not zero_is_plain
    version = plain.opset_imports.get("", OPSET)
    e = Emitter(problem.known[0].dtype or ir.DataType.FLOAT, reserved=names + (_names(plain.graph) if merged else []))
    ports = {value: port_of(value) for value in (*problem.known, *problem.given)}
    plain_ports = {value.name: value for value in plain.graph.inputs}
    if merged:
        ports = {value: plain_ports.get(value.name, port) for value, port in ports.items()}
    inputs = [_port(plan, latent, zero_is_plain=zero_is_plain) for latent in layout]
    giving = _Giving(e, plan, ports, layout, inputs, expand=zero_is_plain and not plan.fixed)
    found = giving.recovered()
    forwards = giving.copied
    if forwards:
        version = opset_for(forwards, problem.opset, opset or (version if merged else None))
    domains = domains_of(forwards, problem.graph.opset_imports)
    used = [port for port in ports.values() if port.uses() or port.name in plain_ports]
    if merged:
        return _either(e, plan, plain, found, [*used, *inputs], {"": version, **domains}, metadata)
    outputs = [_named(e, value, made, ports.values()) for value, made in zip(problem.recovered, found, strict=True)]
    model = assemble(e, [*used, *inputs], outputs, {"": version, **domains}, metadata)
    for port in inputs:
        model.graph.register_initializer(port)
    return model


def _named(e: Emitter, value: ir.Value, made: ir.Value, ports: Iterable[ir.Value]) -> ir.Value:
    if made in set(ports) or made.producer() is None:
        made = e.op("Identity", made)
    port = port_of(value)
    made.name, made.shape, made.type = port.name, port.shape, port.type
    return made


def _port(plan: Lossless, latent: Latent, *, zero_is_plain: bool) -> ir.Value:
    """The input of a latent, and what it is where it is left out."""
    kind = latent_type(plan)
    array = np.zeros((1 if zero_is_plain else 0, latent.numbers), kind.numpy())
    value = ir.Value(
        name=latent.name, shape=ir.Shape([f"{latent.name}_rows", latent.numbers]), type=ir.TensorType(kind)
    )
    value.const_value = ir.Tensor(array, name=latent.name)
    return value


def _either(
    e: Emitter,
    plan: Lossless,
    plain: ir.Model,
    completed: Sequence[ir.Value],
    inputs: Sequence[ir.Value],
    opsets: Mapping[str, int],
    metadata: Mapping[str, str] | None,
) -> ir.Model:
    """If z has rows, what was emitted; else the nodes of the plain inverse."""
    problem, graph = plan.problem, plain.graph
    latent = next(value for value in inputs if value.const_value is not None)
    outputs = {value.name: value for value in graph.outputs}
    nodes, weights = list(graph), list(graph.initializers.values())
    extra = [value for name, value in outputs.items() if name not in {v.name for v in problem.recovered}]
    shown = [outputs[value.name] for value in problem.recovered] + extra
    ports = [(value.name, value.shape, value.type) for value in shown]
    inputs = [*inputs, *(value for value in graph.inputs if value not in inputs)]
    graph.outputs.clear()
    graph.inputs.clear()
    graph.initializers.clear()
    graph.remove(nodes)
    for value in shown:
        value.name = e.unique(f"plain/{value.name}")
    with e.scope("residual"):
        # Nothing is solved for where z is given: there is no residual.
        found = [*completed, *(_no_residual(e, completed[0], value) for value in extra)]
        found = [e.op("Identity", value) if value.producer() is None else value for value in found]
    for made, before in zip(found, shown, strict=True):
        made.shape, made.type = before.shape, before.type
    main = Emitter(e.dtype)
    main._taken, main._shared, main.initializers = e._taken, e._shared, e.initializers
    with main.scope("latent"):
        empty = main.op("Equal", main.op("Size", latent), main.count(0))
    node = ir.node(
        "If",
        [empty],
        attributes={
            "then_branch": ir.Graph([], shown, nodes=nodes, name="plain"),
            "else_branch": ir.Graph([], found, nodes=e.nodes, name="completed"),
        },
        num_outputs=len(shown),
        name=e.unique("inverse/If"),
    )
    for output, (name, shape, kind) in zip(node.outputs, ports, strict=True):
        output.name, output.shape, output.type = name, shape, kind
    main.add_node(node)
    model = assemble(main, inputs, list(node.outputs), {**plain.opset_imports, **opsets}, metadata)
    for value in weights:
        model.graph.register_initializer(value)
    for value in inputs:
        if value.const_value is not None:
            model.graph.register_initializer(value)
    return model


def _no_residual(e: Emitter, x: ir.Value, like: ir.Value) -> ir.Value:
    """Zeros, one a sample."""
    rank = 1 if like.shape is None else len(like.shape)
    zero = e.constant(np.zeros([1] * rank), "zero")
    with e.scope(e.scope_name, ir.DataType.INT64):
        size = e.op("Slice", e.op("Shape", x), e.ints([0]), e.ints([1]))
        if rank > 1:
            size = e.op("Concat", size, e.ints([1] * (rank - 1)), axis=0)
    return e.op("Expand", zero, size)


class _Giving:
    """Emits the steps from known outputs and latents to the recovered inputs."""

    def __init__(
        self,
        e: Emitter,
        plan: Lossless,
        ports: Mapping[ir.Value, ir.Value],
        layout: Sequence[Latent],
        inputs: Sequence[ir.Value],
        *,
        expand: bool,
    ) -> None:
        self._e, self._plan, self._ports = e, plan, ports
        self._values: dict[ir.Value, ir.Value] = dict(ports)
        self._layout = list(zip(layout, inputs, strict=True))
        self._expand = expand
        self._rows: dict[str, ir.Value] = {}
        self._ran: dict[ir.Node, None] = {}
        self.copied: list[ir.Node] = []

    def recovered(self) -> list[ir.Value]:
        """The recovered inputs."""
        fixed = self._plan.fixed
        slots: dict[tuple[Step, int], ir.Value] = {(slot.step, slot.link): z for slot, z in self._cut()}
        for step in self._plan.steps:
            e, value = self._e, step.value
            dtype = value.dtype if value.dtype in FLOATS else None
            if isinstance(step, Run):
                self._run(step)
                continue
            name = (step.node.name if isinstance(step, Undo) else value.name) or ""
            with e.scope(name, dtype or (step.needs[0].dtype if step.needs else None) or ir.DataType.FLOAT):
                if isinstance(step, Keep):
                    found = unrolled(e, self._typed(slots[step, 0], dtype), _shape_of(value))
                elif isinstance(step, Join):
                    parts = [self._values[need] for need in step.needs]
                    z = slots.get((step, 0))
                    found = joined(e, step, parts, None if z is None else self._typed(z, dtype), fixed=fixed)
                else:
                    found = self._undo(step, slots, dtype)
            self._values[value] = found
        return [self._values[value] for value in self._plan.problem.recovered]

    def _undo(self, step: Undo, slots: Mapping[tuple[Step, int], ir.Value], dtype: ir.DataType | None) -> ir.Value:
        v = self._values[step.output]
        for index in reversed(range(len(step.links))):
            link = step.links[index]
            z = slots.get((step, index))
            others = [self._place(other) for other in self._others(step, index)]
            z = None if z is None else self._typed(z, dtype)
            v = give(self._e, link, v, z, others, fixed=self._plan.fixed)
        return v

    def _others(self, step: Undo, index: int) -> list[ir.Value]:
        place = getattr(step.links[index].part, "other", None)
        other = None if place is None else step.node.inputs[place]
        return [] if other is None else [other]

    def _typed(self, z: ir.Value, dtype: ir.DataType | None) -> ir.Value:
        if dtype is None or dtype == latent_type(self._plan):
            return z
        cast = self._e.op("Cast", z, to=int(dtype))
        cast.dtype = dtype
        return cast

    def _cut(self) -> list[tuple[Slot, ir.Value]]:
        """The rows of every slot."""
        e, found = self._e, []
        with e.scope("latent", latent_type(self._plan)):
            for latent, port in self._layout:
                whole = self._spread(port, latent) if self._expand else port
                start = 0
                for slot in latent.slots:
                    stop = start + slot.numbers
                    one = len(latent.slots) == 1
                    z = whole if one else e.op("Slice", whole, e.ints([start]), e.ints([stop]), e.ints([1]))
                    found.append((slot, z))
                    start = stop
        return found

    def _spread(self, port: ir.Value, latent: Latent) -> ir.Value:
        """As many rows as y has, if there is but one."""
        e = self._e
        y = self._ports[self._plan.problem.known[0]]
        with e.scope(e.scope_name, ir.DataType.INT64):
            batch = e.op("Slice", e.op("Shape", y), e.ints([0]), e.ints([1]))
            size = e.op("Concat", batch, e.ints([latent.numbers]), axis=0)
        return e.op("Expand", port, size)

    def _place(self, value: ir.Value) -> ir.Value:
        """A tensor that is known, or that no recovered input makes."""
        if value in self._values:
            return self._values[value]
        tensor = value.const_value
        if tensor is not None:
            self._values[value] = self._e.weight(tensor, f"given/{value.name}")
            return self._values[value]
        nodes = [node for node in upstream([value], self._values) if node not in self._ran]
        self._copy(nodes, "given")
        return self._values[value]

    def _run(self, step: Run) -> None:
        for value in step.node.inputs:
            if value is not None and value not in self._values:
                self._place(value)
        if step.node not in self._ran:
            self._copy([step.node], "forward")

    def _copy(self, nodes: Sequence[ir.Node], prefix: str) -> None:
        self._ran.update(dict.fromkeys(nodes))
        self.copied += nodes
        copy(self._e, nodes, self._values, prefix)
