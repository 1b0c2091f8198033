"""f⁺: the model as it was read, node for node, and the nodes that compute z after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnx_invert.build.lossless.latents import Latent, latent_type, names_in, sizes
from onnx_invert.build.lossless.links import give, left_over, onwards, rows, take
from onnx_invert.build.tape import again
from onnx_invert.build.versions import OLDEST_OPSET, OPSET, ir_version_for, opset_for
from onnx_invert.errors import ModelError
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.lossless.completed import Lossless
from onnx_invert.plan.lossless.steps import Join, Keep, Slot, Undo


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
    e = Emitter(ir.DataType.FLOAT, reserved=names_in(graph))
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


class _Taking:
    """Emits the latents of slots after the nodes of the model."""

    def __init__(self, e: Emitter, by_name: dict[str | None, ir.Value], *, fixed: bool) -> None:
        self._e, self._by_name, self._fixed = e, by_name, fixed

    def slot(self, slot: Slot, kind: ir.DataType) -> ir.Value:
        """z of one slot as rows, in the type that all latents have."""
        e, step = self._e, slot.step
        dtype = step.value.dtype or ir.DataType.FLOAT
        with e.scope(f"latent/{slot.name}", dtype):
            x = self._find(step.value)
            if isinstance(step, Keep):
                z = rows(e, x, sizes(step.value), step.numbers, fixed=self._fixed)
            elif isinstance(step, Join):
                z = left_over(e, step, x, fixed=self._fixed)
            else:
                assert isinstance(step, Undo)
                z = self._of_link(step, slot.link, x)
            if dtype != kind:
                z = e.cast(z, kind)
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
                other = getattr(link.part, "other", None)
                others = [] if other is None else [self._find(step.node.inputs[other])]
                v = give(e, link, v, None, others, fixed=self._fixed)
        return take(e, links[index], u, v, fixed=self._fixed)

    def _find(self, value: ir.Value) -> ir.Value:
        """The tensor of the model; what stands for one of its nodes, in the form that was planned, is made here."""
        found = self._by_name.get(value.name)
        if found is not None:
            return found
        node = value.producer()
        if node is None:
            if value.const_value is None:
                raise ModelError(f"The tensor {value.name!r} is not in the model as it was read.")
            made: Sequence[ir.Value] = [self._e.weight(value.const_value, value.name or "weight")]
            names = [value.name]
        else:
            made = again(self._e, node, [None if v is None else self._find(v) for v in node.inputs], "latent")
            names = [output.name for output in node.outputs]
        self._by_name.update(zip(names, made, strict=True))
        return self._by_name[value.name]
