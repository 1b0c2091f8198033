"""A path from a recovered input to an output, as the elementary maps that it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.bodies import has_bodies
from onnx_invert.errors import Blocker, ModelError
from onnx_invert.numerics.factorization import factorize
from onnx_invert.plan.equations import Solve
from onnx_invert.plan.problem import Problem
from onnx_invert.rules import RuleSet
from onnx_invert.rules.facts import Branch, Diagonal, Elementwise, Fact, Matrix, NoInverse, Paired
from onnx_invert.rules.node import NodeView

DRAWN = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


@dataclass
class Stage:
    """One fact on the path, with what the analysis finds out about it.

    `rank`, `lengths` (K, M) and `pinv` are for matrices; `lost` counts the dimensions that the stage
    takes away, per vector for a matrix and per sample otherwise. `one_to_one` holds on the values that
    reach the stage, `onto` of the stage alone.
    """

    fact: Fact
    nodes: tuple[ir.Node, ...]
    operand: int = 0
    branch: Branch | None = None
    lengths: tuple[int, int] | None = None
    rank: int | None = None
    condition: float = 1.0
    threshold: float = 0.0
    lost: int = 0
    one_to_one: bool = True
    onto: bool = True
    pinv: NDArray[np.generic] | None = field(default=None, repr=False)

    def release(self) -> None:
        """Let go of the weights; shapes and everything measured stay."""
        self.pinv = None
        if isinstance(self.fact, Matrix):
            weight = self.fact.weight
            self.fact = replace(self.fact, weight=np.broadcast_to(np.zeros((), weight.dtype), weight.shape))

    @property
    def name(self) -> str:
        """The node's name, or the first and last of those that were joined."""
        names = [node.name or "" for node in self.nodes]
        return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"

    @property
    def op_type(self) -> str:
        """The operator, or those that were joined."""
        return "+".join(dict.fromkeys(node.op_type for node in self.nodes))

    @property
    def x(self) -> ir.Value:
        """The tensor that the first node takes."""
        value = self.nodes[0].inputs[self.operand]
        assert value is not None
        return value

    @property
    def y(self) -> ir.Value:
        """The tensor that the last node makes."""
        return self.nodes[-1].outputs[0]


@dataclass
class Path:
    """The way from one recovered input `x` to one known output `y`, in forward order."""

    x: ir.Value
    y: ir.Value
    solves: tuple[Solve, ...]
    stages: list[Stage] = field(default_factory=list)


def trace(problem: Problem, solves: Iterable[Solve]) -> list[Path]:
    """The solves as paths, each from a known output back to a recovered input."""
    by_output = {output: solve for solve in solves for output in solve.node.outputs}
    paths = []
    for y in problem.known:
        value, steps = y, list[Solve]()
        while value in by_output and value not in problem.recovered:
            solve = by_output[value]
            steps.append(solve)
            operand = solve.node.inputs[solve.operand]
            assert operand is not None
            value = operand
        if value in problem.recovered:
            paths.append(Path(value, y, tuple(reversed(steps))))
    return paths


def state_facts(problem: Problem, rules: RuleSet, path: Path) -> list[Blocker]:
    """Ask every node's rule for its facts; the path's stages, or every reason why there is none."""
    blockers = []
    unfit: dict[ir.Value, str] = {}
    sound: set[ir.Node] = set()
    for solve in path.solves:
        chain = rules.apply(NodeView(solve.node, solve.operand, problem.opset))
        if isinstance(chain, NoInverse):
            blockers.append(_refusal(problem, solve.node, chain))
            continue
        for fact in chain:
            if isinstance(fact, Paired):
                other = solve.node.inputs[fact.other]
                assert other is not None
                if reason := unfit.setdefault(other, not_available(problem, other, sound)):
                    blockers.append(Blocker(solve.node.name or "", solve.node.op_type, reason))
            path.stages.append(Stage(fact, (solve.node,), solve.operand))
    return blockers


def refusals(problem: Problem, rules: RuleSet, nodes: Iterable[ir.Node]) -> list[Blocker]:
    """The reasons of all `nodes` that no rule can undo, whichever operand is the unknown one."""
    blockers = []
    for node in nodes:
        places = [i for i, v in enumerate(node.inputs) if v is not None and v in problem.dependent]
        if len(places) == 1:
            chain = rules.apply(NodeView(node, places[0], problem.opset))
            if isinstance(chain, NoInverse):
                blockers.append(_refusal(problem, node, chain))
    return blockers


def _refusal(problem: Problem, node: ir.Node, refusal: NoInverse) -> Blocker:
    inputs = [v.name for v in node.inputs if v is not None and v in problem.given]
    lines = (
        (f"{' and '.join(map(repr, inputs))} is an input of the model; make it a weight to invert by it",)
        if inputs and "not constant" in refusal.reason
        else ()
    )
    return Blocker(node.name or "", node.op_type, refusal.reason, refusal.remedy, lines)


def not_available(problem: Problem, other: ir.Value, sound: set[ir.Node], *, sized: bool = False) -> str:
    """Why an operand cannot be had when the inverse runs, or nothing. `sound` are the nodes found to be fit.

    `sized` says that the shapes of unknown tensors can be had.
    """
    makers = [node] if (node := other.producer()) is not None else []
    seen: set[ir.Node] = set()
    while makers:
        maker = makers.pop()
        if maker in sound or maker in seen:
            continue
        seen.add(maker)
        if is_drawn(maker):
            return f"its operand {other.name!r} is drawn anew at every run, by {maker.name!r} ({maker.op_type})"
        if has_bodies(maker):
            return f"its operand {other.name!r} comes out of the body of {maker.name!r} ({maker.op_type})"
        for value in maker.inputs:
            if value is not None and value in problem.dependent:
                if sized:
                    continue
                return f"its operand {other.name!r} is made from the shape of the unknown tensor {value.name!r}"
            if value is not None and (node := value.producer()) is not None:
                makers.append(node)
    sound |= seen
    return ""


def is_drawn(node: ir.Node) -> bool:
    """True if the node's output is random: a generator, or an operation in training mode."""
    if node.op_type in DRAWN:
        return True
    if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
        training = node.inputs[2].const_value
        return training is None or bool(np.any(training.numpy()))
    return False


def join_widened(stages: Sequence[Stage]) -> list[Stage]:
    """Multiply out linear layers that widen and then narrow, where the product is no larger.

    x @ W₁ @ W₂ with W₁ (K, L), W₂ (L, M), L above K and not below M, keeps all that K·M numbers can keep; layer
    by layer, W₂⁺ would leave the image of W₁. Diagonal scales and shifts between them join in.
    """
    joined: list[Stage] = []
    for stage in stages:
        joined.append(stage)
        while _is_plain(stage) and (pair := _last_pair(joined)) is not None:
            span, product = pair
            joined[span] = product
    return joined


def _last_pair(stages: list[Stage]) -> tuple[slice, list[Stage]] | None:
    """The last two matrices of a run, if the first widens: where they are, and what replaces them."""
    end = _matrix_before(stages, len(stages))
    start = None if end is None else _matrix_before(stages, end)
    if end is None or start is None:
        return None
    first, last = stages[start], stages[end]
    assert isinstance(first.fact, Matrix)
    assert isinstance(last.fact, Matrix)
    (k, wide), (_, m) = first.fact.lengths, last.fact.lengths
    if not (wide > k and wide >= m and k * m <= k * wide + wide * m):
        return None
    weight = first.fact.factor * first.fact.weight.astype(np.float64)
    shift = np.zeros(wide)
    for stage in stages[start + 1 : end]:
        assert isinstance(stage.fact, Diagonal)
        scale = np.broadcast_to(stage.fact.scale.reshape(-1), (wide,))
        weight = weight * scale
        shift = shift * scale + np.broadcast_to(stage.fact.shift.reshape(-1), (wide,))
    second = last.fact.factor * last.fact.weight.astype(np.float64)
    nodes = tuple(dict.fromkeys(node for stage in stages[start : end + 1] for node in stage.nodes))
    exact = weight @ second
    with np.errstate(over="ignore"):
        product = exact.astype(last.fact.weight.dtype)
    if not np.isfinite(product).all() or np.any((product == 0) & (exact != 0)):
        return None  # the model's type cannot hold the product
    return slice(start, end + 1), [
        replace(last, fact=Matrix(product), nodes=nodes, operand=first.operand),
        replace(last, fact=Diagonal(shift=shift @ second), nodes=nodes, operand=first.operand),
    ]


def _matrix_before(stages: list[Stage], end: int) -> int | None:
    """The index of the plain matrix before `end`, with nothing but row-wise scales and shifts between."""
    index = end - 1
    while index >= 0 and _is_row_diagonal(stages[index]):
        index -= 1
    return index if index >= 0 and _is_plain(stages[index]) else None


def _is_plain(stage: Stage) -> bool:
    fact = stage.fact
    return isinstance(fact, Matrix) and fact.side == "right" and fact.weight.ndim == 2


def _is_row_diagonal(stage: Stage) -> bool:
    return isinstance(stage.fact, Diagonal) and all(
        part.ndim == 0 or part.size == part.shape[-1] for part in (stage.fact.scale, stage.fact.shift)
    )


def measure(stage: Stage) -> None:
    """Rank, condition and the inverse matrix of a stage, from its numbers alone."""
    fact = stage.fact
    if isinstance(fact, Matrix):
        _measure_matrix(stage, fact)
    elif isinstance(fact, Diagonal):
        size = np.abs(fact.scale)
        kept = size[size > 0]
        stage.lost = int(size.size - kept.size)
        stage.condition = float(kept.max() / kept.min()) if kept.size else np.inf
    elif isinstance(fact, Elementwise):
        stage.condition = fact.steepness


def _measure_matrix(stage: Stage, fact: Matrix) -> None:
    k, m = fact.lengths
    weight = fact.weight
    dtype = weight.dtype
    inverses = np.empty((*weight.shape[:-2], weight.shape[-1], weight.shape[-2]), dtype)
    ranks, conditions, thresholds = [], [], []
    for index in np.ndindex(weight.shape[:-2]):
        try:
            factored = factorize(weight[index])
            inverse = factored.pinv(dtype)
        except (ValueError, OverflowError) as error:
            raise ModelError(f"The matrix of node {stage.name!r} cannot be inverted: {error}.") from error
        ranks.append(factored.rank)
        conditions.append(factored.condition)
        thresholds.append(factored.threshold)
        if not index:
            inverses = inverse
        else:
            inverses[index] = inverse
    if fact.factor != 1:
        inverses = (inverses.astype(np.float64) / fact.factor).astype(dtype)
    stage.lengths, stage.rank, stage.pinv = (k, m), min(ranks), inverses
    stage.condition, stage.threshold, stage.lost = max(conditions), max(thresholds), k - min(ranks)
