"""Steps that do the same to other elements, taken together where nothing in between needs the earlier one.

Knowledge spreads as soon as there is some, so that a tensor whose halves are found one after the other is carried on
in halves. What the later step has to wait for, the earlier one can wait for as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from onnx_invert.plan.moves import Flat, Form, InPlace, Pick
from onnx_invert.plan.steps import Forward, Place, Step, Undo

Key = tuple[type, ir.Node, int]
Position = tuple[int, int, int]
"""A step's own place, or the place of the step that it stands right before (0, not 1), and its own place there."""


def taken_together(steps: Sequence[Step]) -> list[Step]:
    """The same steps, those of one node and operand as few as can be; each stands where the last of them stood.

    One walk from the end: a step joins the later one if the first reader of what it writes comes behind that one.
    Steps that only move elements stand right before their first reader, out of the others' way.
    """
    end = (len(steps), 1, len(steps))
    kept: dict[int, Step] = {}
    order: dict[int, Position] = {}
    later: dict[Key, int] = {}
    first_reader: dict[ir.Value, Position] = {}
    for index in range(len(steps) - 1, -1, -1):
        step = steps[index]
        needed = min([first_reader[value] for value in _written(step) if value in first_reader], default=end)
        key = _key(step)
        if key is not None:
            at = later.get(key)
            if at is not None and needed > order[at] and (joined := _joined(step, kept[at])) is not None:
                kept[at] = joined
                continue
            later[key] = index
        kept[index] = step
        order[index] = (needed[0], 0, index) if isinstance(step, Place) else (index, 1, index)
        own = order[index]
        for value in _read(step):
            if own < first_reader.get(value, end):
                first_reader[value] = own
    return [kept[index] for index in sorted(kept, key=order.__getitem__)]


def _key(step: Step) -> Key | None:
    match step:
        case Forward():
            return (Forward, step.node, -1)
        case Place() | Undo():
            return (type(step), step.node, step.operand)
        case _:
            return None


def _written(step: Step) -> list[ir.Value]:
    match step:
        case Forward():
            return list(step.node.outputs)
        case Place() | Undo():
            value = step.node.inputs[step.operand]
            return [] if value is None else [value]
        case block:
            return [block.x]


def _read(step: Step) -> list[ir.Value]:
    """What a step may read; of a block, whatever its nodes touch."""
    match step:
        case Forward():
            return [value for value in step.node.inputs if value is not None]
        case Place():
            return list(step.node.outputs)
        case Undo():
            others = [value for place, value in enumerate(step.node.inputs) if place != step.operand]
            return [*step.node.outputs, *(value for value in others if value is not None)]
        case block:
            touched = [value for node in block.nodes for value in (*node.inputs, *node.outputs)]
            return [block.x, block.y, *(value for value in touched if value is not None)]


def _joined(early: Step, late: Step | None) -> Step | None:
    """Both in one; None if they are not to be joined."""
    match early, late:
        case Forward(), Forward():
            # What was known then is known now: the later one tells of all elements.
            return late
        case Undo(), Undo():
            return replace(late, mask=early.mask | late.mask)
        case Place(), Place():
            forms = (*early.forms, *late.forms)
            if any(isinstance(form, Flat) for form in forms):
                return None
            mask = early.mask | late.mask
            return replace(late, forms=_distinct(forms), mask=mask, stages=late.stages or early.stages)
        case _:
            return None


def _distinct(forms: Sequence[Form]) -> tuple[Form, ...]:
    """Every form that tells of some elements, and one of those that tell of all."""
    parts = [form for form in forms if isinstance(form, Pick | InPlace)]
    wholes = [form for form in forms if not isinstance(form, Pick | InPlace)]
    return (*wholes[:1], *parts)
