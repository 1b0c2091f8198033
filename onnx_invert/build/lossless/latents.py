"""How z lies in the files: one flat tensor `latent` (N, Z), or one tensor for every node that loses something."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from onnx_invert.bodies import bodies
from onnx_invert.plan.lossless.completed import Lossless
from onnx_invert.plan.lossless.steps import Slot
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


def sizes(value: ir.Value) -> Shape:
    """The shape of a tensor that has one."""
    assert value.shape is not None
    return tuple(d if isinstance(d, int) else d.value or "N" for d in value.shape)


def names_in(graph: ir.Graph) -> list[str]:
    """Every name in the graph and in the bodies of its nodes."""
    found: list[str] = []
    waiting = [graph]
    while waiting:
        inner = waiting.pop()
        found += [value.name or "" for value in (*inner.inputs, *inner.initializers.values())]
        for node in inner:
            found.append(node.name or "")
            found += [value.name or "" for value in node.outputs]
            waiting.extend(bodies(node))
    return found
