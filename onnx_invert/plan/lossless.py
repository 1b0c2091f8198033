"""Which latents complete a network to a bijection x ↔ (y, z), and how x comes back from them.

Every tensor that depends on x can be had in one of four ways, each with a price in numbers a sample:

    undo    from the output of a node that uses it, and the latent of that node's completion
    join    from several selections of its elements (slices, splits, gathers), and what none of them holds
    run     forwards, from the operands of the node that makes it, once those are known
    keep    from a latent that is the tensor itself

The cheapest way to every tensor is found as a shortest path is (Knuth's generalisation of Dijkstra's algorithm to
equations with several unknowns); what is only kept weighs before what is completed, and both before the number of
steps. So a tensor that several nodes use costs one latent at most, and what then lies behind it costs none.
Source: D. Knuth, A generalization of Dijkstra's algorithm, Information Processing Letters 6, 1977.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
import onnx_ir as ir

from onnx_invert.errors import ModelError
from onnx_invert.numerics.coordinates import Coordinates, coordinates
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.problem import Problem
from onnx_invert.rules import RuleSet
from onnx_invert.rules.completion import Completed, Completion, Operator, Selection
from onnx_invert.rules.facts import (
    Convert,
    Diagonal,
    Elementwise,
    Fact,
    Matrix,
    NoInverse,
    Paired,
    Rearrangement,
    Repeat,
)
from onnx_invert.rules.node import FLOATS, NodeView, Shape

Part = Fact | Completed | Selection | Operator
Price = tuple[int, int, int]
"""Numbers kept, numbers of completions, steps."""


@dataclass(frozen=True)
class Effort:
    """How careful completions are: the fewest latents first, more where the digits would not come back.

    Directions of a matrix fainter than 1 / `cap` of its strongest are latent too. With `remainder`, functions that
    saturate keep what rounding takes. With `keep` the recovered inputs themselves are the latent.
    """

    cap: float | None = None
    remainder: bool = False
    keep: bool = False

    def __str__(self) -> str:
        if self.keep:
            return "the inputs themselves are kept"
        if self.cap is None:
            return "as few as possible"
        return f"matrices undone up to condition {self.cap:g}, remainders of functions that saturate"


EFFORTS = (Effort(), Effort(100.0, remainder=True), Effort(10.0, remainder=True), Effort(keep=True))


@dataclass(frozen=True, eq=False)
class Link:
    """One map u → v of a node's completion: shapes of both where known, and what its latent is.

    `numbers` are those of z, a sample; 0 where nothing is lost.
    """

    part: Part
    before: Shape | None
    after: Shape | None
    latent: str = ""
    numbers: int = 0
    remainder: bool = False
    coordinates: Coordinates | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Undo:
    """`value` from `output` of a node that uses it, and its other operands where they are needed."""

    value: ir.Value
    node: ir.Node
    output: ir.Value
    links: tuple[Link, ...]
    others: tuple[ir.Value, ...]

    @property
    def needs(self) -> tuple[ir.Value, ...]:
        """The tensors that have to be known."""
        return (self.output, *self.others)


@dataclass(frozen=True, eq=False)
class Join:
    """`value` from several selections of its elements; `numbers` of them are in none."""

    value: ir.Value
    parts: tuple[tuple[ir.Value, Selection], ...]
    missing: np.ndarray

    @property
    def needs(self) -> tuple[ir.Value, ...]:
        """The tensors that have to be known."""
        return tuple(output for output, _ in self.parts)


@dataclass(frozen=True, eq=False)
class Run:
    """`value` by running its own node forwards."""

    value: ir.Value
    node: ir.Node
    needs: tuple[ir.Value, ...]


@dataclass(frozen=True, eq=False)
class Keep:
    """`value` from a latent that is a copy of it."""

    value: ir.Value
    numbers: int
    needs: tuple[ir.Value, ...] = ()


Step = Undo | Join | Run | Keep


@dataclass(frozen=True)
class Slot:
    """A latent: the step (and the link of an `Undo`) that it belongs to, its name, and its numbers a sample."""

    name: str
    op: str
    latent: str
    numbers: int
    step: Step
    link: int = 0


@dataclass(frozen=True)
class Lossless:
    """The completed network: `steps` in the order in which the inverse takes them, `slots` in forward order.

    `fixed` says whether the network takes one sample at a time, without an axis of samples.
    """

    problem: Problem
    effort: Effort
    steps: tuple[Step, ...]
    slots: tuple[Slot, ...]
    x_size: int
    y_size: int
    fixed: bool

    @property
    def size(self) -> int:
        """The numbers of z, a sample."""
        return sum(slot.numbers for slot in self.slots)

    @property
    def surplus(self) -> int:
        """|y| + |z| − |x|."""
        return self.y_size + self.size - self.x_size

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
    def plain_at_zero(self) -> bool:
        """True if z = 0 gives what a closed-form inverse gives: layers that lose first, those that widen after.

        The other way round, the vector of least norm that undoing a loss takes is none that the layer before
        can make; and a tensor that is kept, or a branch that was chosen, is not 0.
        """
        widened = False
        recovered: set[ir.Value] = set()
        for step in reversed(self.steps):
            if not isinstance(step, Undo) or step.others:
                return False
            recovered.add(step.value)
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


def make_lossless(problem: Problem, rules: RuleSet, effort: Effort = EFFORTS[0]) -> Lossless:
    """Choose the latents.

    Raises:
        ModelError: an input whose size is known only at run time.
    """
    samples = _Samples(problem)
    prices = _Prices(problem, rules, effort, samples)
    steps = prices.cheapest()
    for value in problem.recovered:
        if value not in steps:
            raise ModelError(
                f"The sizes of {value.name!r} are known only at run time: fix them "
                "(onnxruntime.tools.make_dynamic_shape_fixed does)."
            )
    order = {node: index for index, node in enumerate(problem.graph)}
    chosen = tuple(_resolve(step, effort) for step in _used(problem, steps))
    slots = sorted(_slots(chosen), key=lambda slot: -1 if (node := _place(slot.step)) is None else order.get(node, -1))
    x_size = sum(samples.numbers(_shape(value)) or 0 for value in problem.recovered)
    y_size = sum(_numbers(samples, value) for value in problem.known)
    return Lossless(problem, effort, chosen, _renamed(slots), x_size, y_size, samples.fixed)


def _numbers(samples: _Samples, value: ir.Value) -> int:
    """The numbers of an output, a sample; an unnamed first axis is taken for that of samples."""
    shape = _shape(value) or ()
    sizes = [size for size in shape if isinstance(size, int)]
    return samples.numbers(shape) or (0 if len(sizes) < len(shape) - 1 else math.prod(sizes))


def _place(step: Step) -> ir.Node | None:
    """The node that a latent belongs to."""
    if isinstance(step, Undo):
        return step.node
    if isinstance(step, Join):
        return step.parts[0][0].producer()
    return step.value.producer()


def _used(problem: Problem, steps: dict[ir.Value, Step]) -> list[Step]:
    """The steps that the recovered inputs need, in running order."""
    found: dict[ir.Value, Step] = {}
    stack = [(value, False) for value in reversed(problem.recovered)]
    while stack:
        value, done = stack.pop()
        if value in found or value not in steps:
            continue
        if done:
            found[value] = steps[value]
        else:
            stack.append((value, True))
            stack.extend((need, False) for need in steps[value].needs)
    return list(found.values())


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


def _shape(value: ir.Value) -> Shape | None:
    if value.shape is None:
        return None
    return tuple(
        dim if isinstance(dim, int) else (dim.value or f"?{value.name}.{axis}") for axis, dim in enumerate(value.shape)
    )


class _Samples:
    """Which first axes count samples. Other symbols than the input's come from a Reshape that keeps each sample."""

    def __init__(self, problem: Problem) -> None:
        shape = _shape(problem.recovered[0])
        self.fixed = not (shape and isinstance(shape[0], str))
        self._symbols = set() if shape is None or self.fixed else {shape[0]}
        for node in problem.graph:
            for output in node.outputs:
                self._follow(node, output)

    def _follow(self, node: ir.Node, output: ir.Value) -> None:
        shape = _shape(output)
        source = node.inputs[0] if node.inputs else None
        if self.fixed or not shape or not isinstance(shape[0], str) or shape[0] in self._symbols or source is None:
            return
        if node.op_type in {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}:
            before, sizes = self.numbers(_shape(source)), shape[1:]
            known = before is not None and all(isinstance(size, int) for size in sizes)
            if known and math.prod(int(size) for size in sizes) == before:
                self._symbols.add(shape[0])

    def numbers(self, shape: Shape | None) -> int | None:
        """The numbers in one sample, None where the tensor has no sample of its own size."""
        if shape is None:
            return None
        if not self.fixed:
            if not shape or shape[0] not in self._symbols:
                return None
            shape = shape[1:]
        return None if any(isinstance(size, str) for size in shape) else math.prod(int(size) for size in shape)


class _Prices:
    """The ways to every tensor and what they cost."""

    def __init__(self, problem: Problem, rules: RuleSet, effort: Effort, samples: _Samples) -> None:
        self._problem, self._rules, self._effort, self._samples = problem, rules, effort, samples
        self._nodes = [node for node in upstream(problem.known) if self._depends(node)]
        self._reachable: dict[ir.Node, bool] = {}
        self._uses: dict[ir.Value, int] = {}
        for node in self._nodes:
            for value in {value for value in node.inputs if value is not None}:
                self._uses[value] = self._uses.get(value, 0) + 1

    def _depends(self, node: ir.Node) -> bool:
        return any(value in self._problem.dependent for value in node.inputs if value is not None)

    def cheapest(self) -> dict[ir.Value, Step]:
        """For every tensor that can be had the cheapest way; none for the known outputs."""
        settled: dict[ir.Value, Price] = {}
        steps: dict[ir.Value, Step] = {}
        waiting: dict[ir.Value, list[Step]] = {}
        tie = count()
        heap: list[tuple[Price, int, ir.Value, Step | None]] = []
        heap += [((0, 0, 0), next(tie), value, None) for value in self._problem.known]
        for step in self._ways():
            if not step.needs:
                heapq.heappush(heap, (self._price(step, settled), next(tie), step.value, step))
            for need in dict.fromkeys(step.needs):
                waiting.setdefault(need, []).append(step)
        while heap:
            price, _, value, way = heapq.heappop(heap)
            if value in settled:
                continue
            settled[value] = price
            if way is not None:
                steps[value] = way
            for step in waiting.get(value, ()):
                if step.value not in settled and all(need in settled for need in step.needs):
                    heapq.heappush(heap, (self._price(step, settled), next(tie), step.value, step))
        return steps

    def _price(self, step: Step, settled: dict[ir.Value, Price]) -> Price:
        kept = step.numbers if isinstance(step, Keep) else 0
        latent = 0
        if isinstance(step, Undo):
            latent = sum(link.numbers for link in step.links)
            if self._uses.get(step.value, 0) > 1:
                # What one node loses of a tensor that others use as well is not lost by the network.
                kept, latent = kept + latent, 0
        elif isinstance(step, Join):
            latent = int(step.missing.size)
        parts = [settled[need] for need in dict.fromkeys(step.needs)]
        return (
            kept + sum(p[0] for p in parts),
            latent + sum(p[1] for p in parts),
            1 + sum(p[2] for p in parts),
        )

    def _ways(self) -> Iterator[Step]:
        for value in self._problem.recovered:
            yield from self._keep(value)
        if self._effort.keep:
            return
        selections: dict[ir.Value, list[tuple[ir.Value, Selection]]] = {}
        for node in self._nodes:
            if node not in self._problem.capturing:
                for step in self._undo(node):
                    yield step
                    if len(step.links) == 1 and isinstance(part := step.links[0].part, Selection) and not step.others:
                        selections.setdefault(step.value, []).append((step.output, part))
                yield from self._run(node)
            for output in node.outputs:
                yield from self._keep(output)
        for value, parts in selections.items():
            if len(parts) > 1:
                yield _joined(value, parts)

    def _keep(self, value: ir.Value) -> Iterator[Keep]:
        numbers = self._samples.numbers(_shape(value))
        if numbers is not None and value.dtype in FLOATS and value.name:
            yield Keep(value, numbers)

    def _run(self, node: ir.Node) -> Iterator[Run]:
        unknown = [value for value in node.inputs if value is not None and value in self._problem.dependent]
        if self._available(node):
            needs = tuple(dict.fromkeys(unknown))
            yield from (Run(output, node, needs) for output in node.outputs)

    def _available(self, node: ir.Node) -> bool:
        """True if the operands that do not depend on x can be had without it: not even by its shape."""
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            return False
        others = [value for value in node.inputs if value is not None and value not in self._problem.dependent]
        return all(self._is_available(value) for value in others)

    def _is_available(self, value: ir.Value) -> bool:
        maker = value.producer()
        if maker is None:
            return True
        if maker not in self._reachable:
            self._reachable[maker] = not self._depends(maker) and self._available(maker)
        return self._reachable[maker]

    def _undo(self, node: ir.Node) -> Iterator[Undo]:
        for place, value in enumerate(node.inputs):
            if value is None or value not in self._problem.dependent:
                continue
            for index, output in enumerate(node.outputs):
                if not output.name or (index and node.op_type != "Split"):
                    continue
                chain = self._rules.complete(NodeView(node, place, self._problem.opset, index))
                if isinstance(chain, NoInverse):
                    continue
                links = self._links(chain, _shape(value), _shape(output), value.dtype in FLOATS)
                if links is None:
                    continue
                others = [
                    other
                    for link in links
                    if isinstance(link.part, Paired) and (other := node.inputs[link.part.other]) is not None
                ]
                if all(other in self._problem.dependent or self._is_available(other) for other in others):
                    unknown = tuple(other for other in others if other in self._problem.dependent)
                    yield Undo(value, node, output, links, unknown)

    def _links(
        self, chain: Completion, before: Shape | None, after: Shape | None, floats: bool
    ) -> tuple[Link, ...] | None:
        """The chain with its shapes and an estimate of its latents; None where one of them cannot be had."""
        shapes = _shapes(chain, before, after)
        links = []
        for part, u, v in zip(chain, shapes, shapes[1:], strict=False):
            link = self._link(part, u, v)
            if link is None or (link.numbers and not floats):
                return None
            links.append(link)
        return tuple(links)

    def _link(self, part: Part, before: Shape | None, after: Shape | None) -> Link | None:
        numbers = self._samples.numbers(before)
        plain = Link(part, before, after)

        def losing(latent: str, lost: int | None, *, remainder: bool = False) -> Link | None:
            return None if lost is None else Link(part, before, after, latent, lost, remainder)

        match part:
            case Matrix():
                k, m = part.lengths
                if before is None:  # its rank may turn out lower, and then z needs a shape
                    return None
                if part.weight.ndim > 2:
                    return plain if k <= m else None
                lost = max(0, k - m)
                return losing("null space", None if numbers is None else numbers // k * lost) if lost else plain
            case Operator():
                return losing("null space", max(0, part.numbers[0] - part.numbers[1]))
            case Diagonal():
                if np.all(part.scale):
                    return plain
                if numbers is None or before is None:
                    return None
                return losing("elements times 0", int(zeros(part, before, fixed=self._samples.fixed).size))
            case Elementwise():
                exact = len(part.branches) == 1 and part.principal.domain.covers(part.domain)
                if exact and not (self._effort.remainder and np.isinf(part.steepness)):
                    return plain
                return losing("remainder", numbers, remainder=True)
            case Convert():
                if part.source.itemsize <= part.target.itemsize:
                    return plain
                return losing("what rounding takes", numbers, remainder=True)
            case Completed():
                if part.take is None:
                    return plain
                return losing(part.latent, self._samples.numbers(part.shape) if part.shape else numbers)
            case Selection():
                return losing("dropped elements", int(missing([part]).size))
            case Paired():
                return None if self._effort.remainder and part.requires else plain
            case Repeat() | Rearrangement():
                return plain


def _shapes(chain: Completion, before: Shape | None, after: Shape | None) -> list[Shape | None]:
    """The shapes before, between and after the parts of a chain, as far as they follow from one another."""
    shapes: list[Shape | None] = [before]
    for part in chain:
        shapes.append(_onwards(part, shapes[-1]))
    shapes[-1] = after
    for index in range(len(chain) - 1, 0, -1):
        if shapes[index] is None:
            shapes[index] = _backwards(chain[index], shapes[index + 1])
    return shapes


def _onwards(part: Part, shape: Shape | None) -> Shape | None:
    match part:
        case Rearrangement():
            return part.shape
        case Selection() | Operator():
            return part.made
        case Completed():
            return part.made or shape
        case Matrix():
            return _resized(part, shape, part.lengths[1])
        case Repeat():
            return None
        case _:
            return shape


def _backwards(part: Part, shape: Shape | None) -> Shape | None:
    match part:
        case Diagonal() | Elementwise() | Paired() | Convert():
            return shape
        case Matrix():
            return _resized(part, shape, part.lengths[0])
        case _:
            return None


def _resized(part: Matrix, shape: Shape | None, size: int) -> Shape | None:
    if shape is None:
        return None
    return (*shape[:-1], size) if part.side == "right" else (*shape[:-2], size, shape[-1])


def zeros(part: Diagonal, shape: Shape, *, fixed: bool) -> np.ndarray:
    """Places in a flattened sample that are multiplied by 0."""
    sizes = [int(size) for size in (shape if fixed else shape[1:])]
    scale = part.scale
    if not fixed and scale.ndim == len(shape):
        scale = scale.reshape(scale.shape[1:])
    return np.flatnonzero(np.broadcast_to(scale, sizes) == 0)


def missing(parts: Sequence[Selection]) -> np.ndarray:
    """Places in a flattened sample of x that no selection takes."""
    shape = parts[0].shape
    sizes = shape[1:] if shape and isinstance(shape[0], str) else shape
    whole = np.arange(math.prod(int(size) for size in sizes))
    return np.setdiff1d(whole, np.concatenate([part.index for part in parts]))


def _joined(value: ir.Value, parts: Sequence[tuple[ir.Value, Selection]]) -> Join:
    return Join(value, tuple(parts), missing([part for _, part in parts]))


def _resolve(step: Step, effort: Effort) -> Step:
    """With the factors of its matrices, and the numbers of latents that their ranks ask for."""
    if not isinstance(step, Undo):
        return step
    return replace(step, links=tuple(_factored(link, step, effort) for link in step.links))


def _factored(link: Link, step: Undo, effort: Effort) -> Link:
    part = link.part
    if not isinstance(part, Matrix | Operator):
        return link
    if isinstance(part, Matrix) and part.weight.ndim > 2:
        return link
    build: Callable[[], np.ndarray] = part.matrix if isinstance(part, Operator) else lambda: _right(part)
    try:
        found = coordinates(build(), effort.cap)
    except ValueError as error:
        raise ModelError(f"The matrix of node {step.node.name!r} cannot be undone: {error}.") from error
    k = part.numbers[0] if isinstance(part, Operator) else part.lengths[0]
    lost = k - found.rank
    vectors = 1
    if isinstance(part, Matrix) and lost:
        shape = link.before
        if shape is None:
            raise ModelError(f"The shape of what node {step.node.name!r} multiplies is not known.")
        sizes = [size for size in shape if isinstance(size, int)]
        vectors = math.prod(sizes) // k
    return replace(link, latent="null space" if lost else "", numbers=vectors * lost, coordinates=found)


def _right(part: Matrix) -> np.ndarray:
    """The matrix as one that multiplies from the right."""
    return part.weight if part.side == "right" else part.weight.T
