"""The completed network: how x comes back, what z holds, and what that costs in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnx_invert.plan.batch_rules import Place
from onnx_invert.plan.lossless.steps import Effort, Join, Keep, Link, Slot, Step, Undo
from onnx_invert.plan.problem import Problem
from onnx_invert.rules.completion import Completed, Operator, Selection
from onnx_invert.rules.facts import Convert, Matrix, Repeat, requirement


@dataclass(frozen=True)
class Lossless:
    """The completed network: `steps` in the order in which the inverse takes them, `slots` in forward order.

    `fixed` says whether the network takes one sample at a time, without an axis of samples; `batch` is a known
    output that tells how many samples there are, and where they lie in it. `y_size` is None where the sizes of an
    output are known only at run time.
    """

    problem: Problem
    effort: Effort
    steps: tuple[Step, ...]
    slots: tuple[Slot, ...]
    x_size: int
    y_size: int | None
    fixed: bool
    batch: tuple[ir.Value, Place] | None = None

    @property
    def size(self) -> int:
        """The numbers of z, a sample."""
        return sum(slot.numbers for slot in self.slots)

    @property
    def surplus(self) -> int | None:
        """|y| + |z| − |x|, None where |y| is not known."""
        return None if self.y_size is None else self.y_size + self.size - self.x_size

    @property
    def kept(self) -> int:
        """Numbers of z that are tensors kept as they are."""
        return sum(slot.numbers for slot in self.slots if isinstance(slot.step, Keep))

    @property
    def condition(self) -> float:
        """The product of the conditions of all matrices that are undone."""
        return math.prod(
            link.coordinates.condition
            for step in self.steps
            if isinstance(step, Undo)
            for link in step.links
            if link.coordinates is not None
        )

    @property
    def requirements(self) -> list[str]:
        """Conditions under which x comes back: on factors that are given, on the range of narrower types."""
        undone = [step for step in self.steps if isinstance(step, Undo)]
        told = [(step.node, requirement(link.part)) for step in undone for link in step.links]
        return list(dict.fromkeys(f"{node.name}: {text}" for node, text in told if text))

    @property
    def plain_at_zero(self) -> bool:
        """True if z = 0 gives what a closed-form inverse gives: layers that lose first, those that widen after.

        And if y tells how many samples there are, so that z has as many rows.

        The other way round, the vector of least norm that undoing a loss takes is none that the layer before
        can make; and a tensor that is kept, or a branch that was chosen, is not 0.
        """
        if not self.fixed and self.batch is None:
            return False
        widened = False
        for step in reversed(self.steps):
            if not isinstance(step, Undo) or step.others:
                return False
            for link in step.links:
                if widened and link.numbers:
                    return False
                if link.remainder and not isinstance(link.part, Convert):
                    return False
                if isinstance(link.part, Completed | Selection | Operator):
                    return False
                if link.coordinates is not None and link.coordinates.dropped:
                    return False
                widened = widened or _widens(link)
        return len(self.problem.recovered) == len(self.problem.known) == 1


def _widens(link: Link) -> bool:
    if isinstance(link.part, Repeat):
        return True
    if link.coordinates is None or not isinstance(link.part, Matrix):
        return False
    return link.coordinates.rank < link.part.lengths[1]


def slots_of(steps: Sequence[Step], problem: Problem) -> tuple[Slot, ...]:
    """The latents of `steps`, in forward order."""
    order = {node: index for index, node in enumerate(problem.graph)}
    slots = sorted(_slots(steps), key=lambda slot: -1 if (node := _place(slot.step)) is None else order.get(node, -1))
    return _renamed(slots)


def _place(step: Step) -> ir.Node | None:
    """The node that a latent belongs to."""
    if isinstance(step, Undo):
        return step.node
    if isinstance(step, Join):
        return step.parts[0][0].producer()
    return step.value.producer()


def _slots(steps: Sequence[Step]) -> Iterator[Slot]:
    for step in steps:
        if isinstance(step, Keep):
            maker = step.value.producer()
            op = "input" if maker is None else maker.op_type
            yield Slot(step.value.name or "", op, "kept as it is", step.numbers, step)
        elif isinstance(step, Join) and step.missing.size:
            yield Slot(step.value.name or "", "join", "dropped elements", int(step.missing.size), step)
        elif isinstance(step, Undo):
            for index, link in enumerate(step.links):
                if link.numbers:
                    yield Slot(step.node.name or "", step.node.op_type, link.latent, link.numbers, step, index)


def _renamed(slots: Sequence[Slot]) -> tuple[Slot, ...]:
    """Names of their own: the node's, or numbered where a node has several."""
    seen: dict[str, int] = {}
    named = []
    for slot in slots:
        seen[slot.name] = number = seen.get(slot.name, 0) + 1
        named.append(replace(slot, name=slot.name if number == 1 else f"{slot.name}_{number}"))
    return tuple(named)
