"""Which latents may take any value without changing y.

Let x ↦ (u, z) be the first links of the network, seen from x, every one of them onto: each pair (v, z) of numbers is
that of some tensor. Then f(x) depends on x by u alone, and g⁺ with another z gives an x with the same u, hence with
the same y. The first link that is not onto (ReLU, a matrix that widens) ends this: what lies behind it, seen from x,
has to stay within an image, and only f itself tells whether it did. docs/lossless.md has the sets.
"""

from __future__ import annotations

import numpy as np

from onnx_invert.plan.lossless.completed import Lossless
from onnx_invert.plan.lossless.steps import Link, Step, Undo
from onnx_invert.rules.completion import Completed, Operator, Selection
from onnx_invert.rules.facts import Convert, Diagonal, Elementwise, Matrix, Paired, Rearrangement


def free(plan: Lossless) -> tuple[bool, ...]:
    """For every slot of the plan: whether its numbers may be moved at will from any x, and y stays."""
    found: set[tuple[Step, int]] = set()
    recovered = plan.problem.recovered
    makers = {step.value: step for step in plan.steps}
    value = recovered[0] if len(recovered) == 1 else None
    while value is not None:
        step = makers.get(value)
        if not isinstance(step, Undo) or not _alone(step):
            break
        onto = True
        for index, link in enumerate(step.links):
            if link.numbers and _any_latent(link):
                found.add((step, index))
            onto = onto and _onto(link)
            if not onto:
                break
        value = step.output if onto else None
    return tuple((slot.step, slot.link) in found for slot in plan.slots)


def _alone(step: Undo) -> bool:
    """True if the tensor goes into this one node, which makes one tensor that matters, from nothing else unknown."""
    others = [output for output in step.node.outputs if output is not step.output]
    return (
        not step.others
        and len(tuple(step.value.uses())) == 1
        and not step.value.is_graph_output()
        and not any(output.uses() or output.is_graph_output() for output in others)
    )


def _any_latent(link: Link) -> bool:
    """True if every z goes with every v that the link makes."""
    match link.part:
        case Matrix() | Operator():
            # Directions that are dropped for being faint are latent too, and move v.
            return link.coordinates is not None and link.coordinates.dropped == 0
        case Diagonal() | Selection():
            return True
        case Completed():
            return link.part.free
        case _:
            return False


def _onto(link: Link) -> bool:
    """True if every v is made from some u."""
    part = link.part
    match part:
        case Matrix() | Operator():
            outputs = part.numbers[1] if isinstance(part, Operator) else part.lengths[1]
            return link.coordinates is not None and link.coordinates.rank == outputs
        case Diagonal():
            return bool(np.all(part.scale))
        case Elementwise():
            one = len(part.branches) == 1 and not link.numbers
            return one and part.principal.image.is_reals and part.domain.is_reals
        case Selection():
            return bool(np.all(part.index >= 0)) and np.unique(part.index).size == part.index.size
        case Completed():
            return part.onto
        case Paired():
            return not part.requires
        case Convert():
            return part.source == part.target
        case Rearrangement():
            return True
        case _:
            return False
