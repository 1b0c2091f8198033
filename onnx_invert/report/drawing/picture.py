"""A plan as boxes with their texts, ports and arrows: all that is drawn, before anything has a place."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_invert.describe import kind
from onnx_invert.plan.choice import AnyPlan, stated
from onnx_invert.plan.newton import NewtonPlan
from onnx_invert.plan.problem import Problem
from onnx_invert.plan.system_plan import SystemPlan
from onnx_invert.report.drawing.boxes import Box, arrange
from onnx_invert.report.drawing.moves import Kind, Move, moves, subject

_WIDEST = 30


@dataclass(frozen=True)
class Side:
    """What one of the two drawings says of a place: lines, and what a pointer that rests on it is told.

    Names may hold anything; what XML cannot say is shown as �.
    """

    lines: tuple[str, ...]
    more: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", tuple(map(legal, self.lines)))
        object.__setattr__(self, "more", legal(self.more))


def legal(text: str) -> str:
    """The text without characters that XML 1.0 does not have."""
    return re.sub(r"[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text)


@dataclass(frozen=True)
class Place:
    """A box or a port, in both drawings. `look` names its colours; `steps` are the numbers of its moves, shortened."""

    forward: Side
    inverse: Side
    look: str
    steps: str = ""
    frame: int | None = None
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Arrow:
    """Tensors from one place to another: in the inverse they come back from it, go to it, both, or neither."""

    source: int
    target: int
    comes_back: bool
    goes: bool


@dataclass
class Picture:
    """Everything to be drawn. `frames` are texts around places that are solved together, by the number of the move."""

    title: str
    subtitle: str
    notes: list[str]
    places: list[Place] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    frames: dict[int, tuple[str, ...]] = field(default_factory=dict)


def picture(plan: AnyPlan, name: str) -> Picture:
    """The picture of a plan for the model `name`."""
    problem, found = subject(plan), moves(plan)
    boxes = arrange(problem.graph, found)
    kept = sum(len(box.nodes) for box in boxes)
    made = Picture(
        legal(_shortened(name, 80)), _promise(plan, len(found)), list(map(legal, _notes(problem, boxes, kept, plan)))
    )
    made.frames = {
        box.frame: _wrapped(f"step {box.frame}: {box.moves[box.frame].how}", 28) for box in boxes if box.frame
    }
    drawn = {node for box in boxes for node in box.nodes}
    made.places = [_box(box, _leaving(box, drawn, problem)) for box in boxes]
    ports: dict[ir.Value, int] = {}
    inner = [plan.decoder.x] if isinstance(plan, NewtonPlan) and plan.decoder is not None else []
    for value in dict.fromkeys((*problem.graph.inputs, *inner, *problem.graph.outputs)):
        ports[value] = len(made.places)
        made.places.append(_port(value, plan))
    made.arrows = _arrows(boxes, found, problem, ports)
    return made


def _promise(plan: AnyPlan, steps: int) -> str:
    if isinstance(plan, NewtonPlan):
        how = "Newton's method, measured and not proven"
    elif isinstance(plan, SystemPlan) and plan.iterates:
        how = "equations, some solved by iterations"
    else:
        how = "closed form"
    runs = " with those that run forwards" if isinstance(plan, SystemPlan) else ""
    return f"{stated(plan, plan.guarantee)}, {plan.guarantee.equation}: {how}, {_plural(steps, 'step')}{runs}"


def _notes(problem: Problem, boxes: Sequence[Box], kept: int, plan: AnyPlan) -> list[str]:
    notes = []
    if isinstance(plan, NewtonPlan) and plan.decoder is not None:
        made = plan.problem.recovered[0].name
        notes.append(f"The network comes behind the decoder {plan.decoder.name}, which makes {made}.")
    if len(boxes) < kept:
        again = ", and what comes again and again is drawn twice" if any(box.again for box in boxes) else ""
        notes.append(f"{kept} nodes in {_plural(len(boxes), 'box')}: neighbours share one{again}.")
    unused = [value.name or "" for value in problem.unused]
    drawn = {node for box in boxes for node in box.nodes}
    others = sum(node not in drawn for node in problem.graph)
    if unused:
        notes.append(f"The inverse does not take {', '.join(unused)}.")
    if others:
        what = [*(f"for {name}" for name in unused), "for sizes", "from weights alone"]
        notes.append(f"Not drawn: {_plural(others, 'node')} {', '.join(what[:-1])} or {what[-1]}.")
    if isinstance(plan, SystemPlan) and plan.redundant:
        names = ", ".join(node.name or node.op_type for node in plan.redundant[:3])
        notes.append(f"Equations that are left over, and not used: {names}{'…' * (len(plan.redundant) > 3)}.")
    return notes


def _leaving(box: Box, drawn: Container[ir.Node], problem: Problem) -> list[ir.Value]:
    """The tensors that other boxes or the outputs take from a box."""
    inside = set(box.nodes)
    return [
        value
        for node in box.nodes
        for value in node.outputs
        if value in problem.known or any(user in drawn and user not in inside for user, _ in value.uses())
    ]


def _box(box: Box, leaving: Sequence[ir.Value]) -> Place:
    numbers = tuple(box.moves)
    look = "mixed" if box.kind is None else box.kind.name.lower()
    if box.again:
        look = "again"
    forward, inverse = (_again if box.again else _one if len(box.nodes) == 1 else _several)(box, leaving)
    names = "\n".join(f"{node.name} ({node.op_type})" for node in box.nodes)
    told = "\n".join(f"step {n}: {m.kind.value} {_nodes(m)}: {m.how}" for n, m in box.moves.items())
    return Place(Side(forward, names), Side(inverse, told), look, _ranges(numbers), box.frame, numbers)


def _one(box: Box, leaving: Sequence[ir.Value]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    node = box.nodes[0]
    forward = (_op(node), _shortened(node.name or ""), _sizes(leaving))
    if box.frame is not None:
        return forward, (_op(node), _sizes(leaving))
    verbs = list(dict.fromkeys(move.kind.value for move in box.moves.values()))
    strongest = max(box.moves.values(), key=lambda move: list(Kind).index(move.kind))
    how = _clause(strongest.how) if strongest.kind is Kind.UNDONE else ""
    numbers = tuple(box.moves)
    if not how and len(numbers) > 1 and "…" in _ranges(numbers):
        how = f"in steps {_ranges(numbers, 22)}"
    targets = dict.fromkeys(
        n.inputs[p] for move in box.moves.values() for n, p in sorted(move.finds, key=lambda f: f[1])
    )
    found = [value for value in targets if value is not None] or leaving
    return forward, (f"{', '.join(verbs)} {_op(node)}", how, _sizes(found))


def _several(box: Box, leaving: Sequence[ir.Value]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    count, ops = f"{len(box.nodes)} nodes", _ops(box.nodes)
    forward = (count, *ops, _sizes(leaving))
    if box.frame is not None:
        return forward, (count, *ops)
    if box.kind is Kind.SOLVED:
        hows = dict.fromkeys(move.how for move in box.moves.values() if move.kind is Kind.SOLVED)
        return forward, (f"solve {count}", *(line for how in hows for line in _wrapped(how, _WIDEST)))
    if box.kind is not None:
        return forward, (f"{box.kind.value} {count}", *_wrapped(f"in steps {_ranges(tuple(box.moves), 50)}", _WIDEST))
    kinds = Counter(move.kind for move in box.moves.values())
    shares = ", ".join(f"{kinds[kind]} × {kind.value}" for kind in Kind if kinds[kind])
    return forward, (count, *_wrapped(shares, _WIDEST), f"steps {_ranges(tuple(box.moves), 24)}")


def _again(box: Box, leaving: Sequence[ir.Value]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    head = f"⋮  the same {box.again} times more"
    return (head, f"{len(box.nodes)} nodes"), (head, f"steps {_ranges(tuple(box.moves), 40)}")


def _port(value: ir.Value, plan: AnyPlan) -> Place:
    problem = subject(plan)
    lines = (_shortened(value.name or ""), _sizes([value]))
    decoder = plan.decoder if isinstance(plan, NewtonPlan) else None
    if decoder is not None and value is decoder.x:
        lines = (_shortened(plan.problem.recovered[0].name or ""), lines[1])
        return Place(Side((*lines, "between the two")), Side((*lines, "recovered")), "found")
    if value in problem.recovered:
        return Place(
            Side((*lines, "input")), Side((*lines, "recovered" if decoder is None else "solved for")), "found"
        )
    if value in problem.given:
        return Place(Side((*lines, "input")), Side((*lines, "given")), "known")
    if value in problem.known:
        return Place(Side((*lines, "output")), Side((*lines, "known first")), "known")
    return Place(Side((*lines, "output")), Side((*lines, "not used")), "unused")


def _arrows(boxes: Sequence[Box], found: Sequence[Move], problem: Problem, ports: dict[ir.Value, int]) -> list[Arrow]:
    home = {node: index for index, box in enumerate(boxes) for node in box.nodes}
    finds = {operand for move in found for operand in move.finds}
    reads = {operand for move in found for operand in move.reads}
    joined: dict[tuple[int, int], list[bool]] = {}

    def join(value: ir.Value, target: int, comes_back: bool, goes: bool) -> None:
        maker = value.producer()
        source = ports.get(value) if maker is None else home.get(maker)
        if source is None or source == target:
            return
        ways = joined.setdefault((source, target), [False, False])
        ways[0] |= comes_back
        ways[1] |= goes

    for index, box in enumerate(boxes):
        for node in box.nodes:
            for place, value in enumerate(node.inputs):
                if value is not None:
                    join(value, index, (node, place) in finds, (node, place) in reads)
    for value, port in ports.items():
        if value.producer() is not None:
            join(value, port, value in problem.known, value not in problem.known and not value.is_graph_output())
    return [Arrow(source, target, *ways) for (source, target), ways in joined.items()]


def _op(node: ir.Node) -> str:
    return node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}::{node.op_type}"


def _ops(nodes: Sequence[ir.Node]) -> tuple[str, ...]:
    """The operators, the most frequent first, on a line or two."""
    counts = Counter(_op(node) for node in nodes)
    parts = [op if count == 1 else f"{op}\u00a0×{count}" for op, count in counts.most_common()]
    lines = _wrapped(", ".join(parts), _WIDEST)
    return lines if len(lines) <= 2 else (lines[0], f"{lines[1].rstrip(',')} …")


def _nodes(move: Move) -> str:
    names = [node.name or node.op_type for node in move.nodes]
    return names[0] if len(names) == 1 else f"{len(names)} nodes, {names[0]} … {names[-1]}"


def _sizes(values: Sequence[ir.Value]) -> str:
    told = list(dict.fromkeys(kind(value) for value in values))
    text = ", ".join(told)
    return _shortened(text, 40) if len(text) <= _WIDEST or len(told) == 1 else f"{len(values)} tensors"


def _plural(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}{'es' if thing.endswith('x') else 's'}"


def _shortened(text: str, most: int = _WIDEST) -> str:
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    return f"{text[: most // 3]}…{text[-(most - most // 3 - 1) :]}"


def _clause(text: str, most: int = _WIDEST + 4) -> str:
    """The equation of a rule's summary, without its remarks where these are long."""
    while len(text) > most and ", " in text:
        text = text.rpartition(", ")[0].rstrip("…") + "…"
    return text if len(text) <= most else text[: most - 1].rsplit(" ", 1)[0] + " …"


def _wrapped(text: str, width: int) -> tuple[str, ...]:
    return tuple(textwrap.wrap(text, width, break_on_hyphens=False)) or ("",)


def _ranges(numbers: Sequence[int], most: int = 9) -> str:
    """3, 5–9; the first and the last alone where that is too long."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ", ".join(str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a}–{b}" for a, b in runs)
    return text if len(text) <= most else f"{numbers[0]} … {numbers[-1]}"
