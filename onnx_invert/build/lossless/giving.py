"""The steps from known outputs and latents to the recovered inputs, as nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnx_invert.build.lossless.latents import Latent, latent_type, sizes
from onnx_invert.build.lossless.links import give, joined, unrolled
from onnx_invert.build.tape import copy
from onnx_invert.errors import ModelError
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.lossless.completed import Lossless
from onnx_invert.plan.lossless.steps import Join, Keep, Run, Slot, Step, Undo
from onnx_invert.rules.node import FLOATS


class Giving:
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
                    found = unrolled(e, self._typed(slots[step, 0], dtype), sizes(value))
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
        cast = self._e.cast(z, dtype)
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
        """As many rows as y has samples, if there is but one.

        Raises:
            ModelError: y does not tell how many samples there are.
        """
        e = self._e
        if self._plan.batch is None:
            names = ", ".join(repr(value.name) for value in self._plan.problem.known)
            raise ModelError(f"How many samples there are is not to be told from {names}: z cannot be left out.")
        y, place = self._plan.batch
        with e.scope(e.scope_name, ir.DataType.INT64):
            batch = e.op("Slice", e.op("Shape", self._ports[y]), e.ints([place.axis]), e.ints([place.axis + 1]))
            if (rows := place.outer * place.inner) > 1:
                batch = e.op("Div", batch, e.ints([rows]))
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
