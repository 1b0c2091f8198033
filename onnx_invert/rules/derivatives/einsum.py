"""Derivative of Einsum with one or two operands, by Transpose, Reshape, ReduceSum and MatMul.

A product of tensors is linear in each, and its adjoint is such a product too: of y's cotangent and the other operand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.differential import At, Differential, Point, static
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import Dim, NodeView, Shape
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

SEED = "seed"
"""The label of the first axis of tangents."""

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Labelled:
    """A tensor and the name of each of its axes."""

    value: ir.Value
    labels: Labels

    def summed(self, e: Emitter, kept: Sequence[str]) -> Labelled:
        """Without the axes that are not among `kept`."""
        axes = [axis for axis, label in enumerate(self.labels) if label not in kept]
        if not axes:
            return self
        labels = tuple(label for label in self.labels if label in kept)
        return Labelled(e.op("ReduceSum", self.value, e.ints(axes), keepdims=0), labels)

    def ordered(self, e: Emitter, labels: Labels) -> Labelled:
        """The same axes in another order."""
        if labels == self.labels:
            return self
        return Labelled(e.op("Transpose", self.value, perm=[self.labels.index(label) for label in labels]), labels)


def contracted(e: Emitter, a: Labelled, b: Labelled | None, out: Labels, sizes: dict[str, Dim]) -> ir.Value:
    """Σ a · b over what `out` lacks; axes of `out` that neither has are repetitions of a fixed size."""
    common = () if b is None else b.labels
    reached = tuple(label for label in out if label in a.labels or label in common)
    a = a.summed(e, (*out, *common))
    if b is not None:
        b = b.summed(e, (*out, *a.labels))
        a = _product(e, a, b, reached, sizes)
    value = a.ordered(e, reached).value
    missing = [axis for axis, label in enumerate(out) if label not in reached]
    if not missing:
        return value
    value = e.op("Unsqueeze", value, e.ints(missing))
    return e.op("Expand", value, e.ints([int(sizes[out[axis]]) if axis in missing else 1 for axis in range(len(out))]))


def _product(e: Emitter, a: Labelled, b: Labelled, out: Labels, sizes: dict[str, Dim]) -> Labelled:
    """As one MatMul (batch, rows, inner) · (batch, inner, columns)."""
    batch = tuple(label for label in a.labels if label in b.labels and label in out)
    inner = tuple(label for label in a.labels if label in b.labels and label not in out)
    rows = tuple(label for label in a.labels if label not in b.labels)
    columns = tuple(label for label in b.labels if label not in a.labels)

    def size(labels: Labels) -> int:
        dims = [sizes[label] for label in labels]
        return math.prod(int(dim) for dim in dims) if all(isinstance(dim, int) for dim in dims) else -1

    def grouped(tensor: Labelled, *groups: Labels) -> ir.Value:
        tensor = tensor.ordered(e, (*batch, *(label for group in groups for label in group)))
        if all(len(group) == 1 for group in groups):
            return tensor.value
        return e.op("Reshape", tensor.value, e.ints([0] * len(batch) + [size(group) for group in groups]))

    y = e.op("MatMul", grouped(a, rows, inner), grouped(b, inner, columns))
    if len(rows) != 1 or len(columns) != 1:
        y = e.op("Reshape", y, e.ints([0] * len(batch) + [size((label,)) for label in (*rows, *columns)]))
    return Labelled(y, (*batch, *rows, *columns))


def _terms(equation: str, ranks: Sequence[int]) -> list[Labels] | NoInverse:
    """The labels of the operands and of y; an ellipsis stands for as many axes as are left."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    spare = max(
        (rank - len(t.replace("...", "")) for t, rank in zip(terms, ranks, strict=True) if "..." in t), default=0
    )
    if not arrow:
        once = sorted(label for label in set(left) - set(".,") if left.count(label) == 1)
        right = ("..." if "..." in left else "") + "".join(once)

    def spelt(term: str, rank: int) -> Labels:
        before, dots, after = term.partition("...")
        count = rank - len(before) - len(after) if dots else 0
        return (*before, *(f"…{axis}" for axis in range(spare - count, spare)), *after)

    found = [spelt(term, rank) for term, rank in zip(terms, ranks, strict=True)]
    found.append(spelt(right, len(right.replace("...", "")) + spare))
    for labels in found:
        if len(set(labels)) != len(labels):
            return NoInverse("its equation has a label twice in one operand, a diagonal", "use other operators for it")
    return found


def _sizes(terms: Sequence[Labels], shapes: Sequence[Shape]) -> dict[str, Dim] | NoInverse:
    """The size of each label; two symbols are taken for one size."""
    sizes: dict[str, Dim] = {}
    for labels, shape in zip(terms, shapes, strict=True):
        for label, dim in zip(labels, shape, strict=True):
            known = sizes.setdefault(label, dim)
            if isinstance(known, str) and isinstance(dim, int):
                sizes[label] = dim
            elif isinstance(known, int) and isinstance(dim, int) and known != dim:
                return NoInverse(f"it repeats an axis of size {min(known, dim)}", "use Expand")
    symbols = [label for label, dim in sizes.items() if isinstance(dim, str)]
    if len(symbols) > 1:
        names = " and ".join(repr(sizes[label]) for label in symbols)
        return NoInverse(
            f"the sizes {names} are known only at run time", f"give {sizes[symbols[-1]]!r} a fixed size with --shape"
        )
    return sizes


@rules.derivative("Einsum")
def einsum(node: NodeView) -> At | NoInverse:
    """∂(Σ a · b) = Σ ∂a · b + Σ a · ∂b.

    Refuses:   three operands and more; a label twice in one operand; two sizes known only at run time
    Source:    ONNX Einsum-12
    """
    operands = [value for value in node.node.inputs if value is not None]
    if len(operands) > 2:
        return NoInverse(f"it has {len(operands)} operands", "multiply two at a time")
    shapes = static(node, *operands)
    if isinstance(shapes, NoInverse):
        return shapes
    terms = _terms(node.node.attributes["equation"].as_string(), [len(shape) for shape in shapes])
    if isinstance(terms, NoInverse):
        return terms
    sizes = _sizes(terms[:-1], shapes)
    if isinstance(sizes, NoInverse):
        return sizes
    x, y = (SEED, *terms[node.unknown]), (SEED, *terms[-1])
    others = set() if len(operands) == 1 else set(terms[1 - node.unknown])
    lost = [label for label in x if label != SEED and label not in y and label not in others]
    if any(isinstance(sizes[label], str) for label in lost):
        return NoInverse("it sums over an axis whose size is known only at run time", "use ReduceSum")

    def at(p: Point) -> Differential:
        known = {**sizes, SEED: p.seeds}
        other = None if len(operands) == 1 else Labelled(p.input(1 - node.unknown), terms[1 - node.unknown])
        return Differential(
            lambda e, t: contracted(e, Labelled(t, x), other, y, known),
            lambda e, c: contracted(e, Labelled(c, y), other, x, known),
        )

    return at
