"""Nodes of a block as a function of arrays, in float64, run at planning time: to see what they do, not to prove it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.plan.carry import by_sample
from onnx_invert.plan.evaluation import Part
from onnx_invert.plan.system import System

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """`nodes` between `x` and `y` that do not mix samples, which lie along the first axis of all that is asked for.

    What they take from outside is what it is in one run of the model.
    """

    system: System
    x: ir.Value
    y: ir.Value
    nodes: Sequence[ir.Node]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """That of x, at the sizes of the plan."""
        return self.system.concrete.shapes[self.x.name or ""]

    @cached_property
    def outside(self) -> set[ir.Value]:
        """What is neither x nor made by the nodes, nor constant."""
        made = {output for node in self.nodes for output in node.outputs} | {self.x}
        others = {v for node in self.nodes for v in node.inputs if v is not None and v not in made}
        return {value for value in others if value.const_value is None}

    @cached_property
    def many(self) -> bool:
        """Whether any number of samples runs at once."""
        x = self.x
        free = x.shape is not None and len(x.shape) > 0 and not isinstance(x.shape[0], int)
        return free and not self.outside and by_sample(self.system, x, self.y, self.nodes)

    def draws(self, rows: int) -> list[Array]:
        """Batches of x from near to far, `rows` altogether at least."""
        rng = np.random.default_rng(0)
        count = rows if self.many else self.shape[0]
        found = []
        for _ in range(-(-rows // count)):
            size = 10.0 ** rng.uniform(-2.0, 2.0, (count, *[1] * (len(self.shape) - 1)))
            found.append(size * rng.standard_normal((count, *self.shape[1:])))
        return found

    def run(
        self,
        feeds: Mapping[ir.Value, Array],
        wanted: Sequence[ir.Value],
        nodes: Sequence[ir.Node] | None = None,
        made: Collection[ir.Value] = (),
    ) -> list[Array] | None:
        """`wanted` from `feeds`, by `nodes` alone where they are given; None if that cannot be had.

        `made` are those of `feeds` that nodes make: operands take them instead. Where no other number of samples
        runs than that of the plan, what is more runs in turn, and must fill whole batches.
        """
        rows = len(next(iter(feeds.values())))
        size = rows if self.many else self.shape[0]
        if rows % size:
            return None
        chosen = list(self.nodes if nodes is None else nodes)
        key = tuple(feeds), tuple(wanted), tuple(chosen)
        if key not in self._parts:
            self._parts[key] = self._part({v: a[:size] for v, a in feeds.items()}, wanted, chosen, made)
        part = self._parts[key]
        found: list[list[Array]] = []
        for start in range(0, rows, size):
            chunk = {_name(value, made): array[start : start + size] for value, array in feeds.items()}
            run = part(chunk)
            if run is None:
                return None
            found.append([np.asarray(run[value.name or ""], np.float64) for value in wanted])
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    @cached_property
    def _parts(self) -> dict[object, Part]:
        return {}

    @cached_property
    def _drawn(self) -> dict[str, NDArray[np.generic]]:
        found = self.system.concrete.sample(self.system.opset)
        return {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in found.items()}

    def _part(
        self,
        feeds: Mapping[ir.Value, Array],
        wanted: Sequence[ir.Value],
        nodes: Sequence[ir.Node],
        made: Collection[ir.Value],
    ) -> Part:
        named: dict[str, NDArray[np.generic]] = {_name(value, made): array for value, array in feeds.items()}
        renamed = {
            (node.name or "", place): _name(value, made)
            for node in nodes
            for place, value in enumerate(node.inputs)
            if value is not None and value in made
        }
        if not self.many:
            nodes = [self.system.concrete.nodes.get(node.name or "", node) for node in nodes]
            named |= {v.name or "": self._drawn[v.name or ""] for v in self.outside if v.name in self._drawn}
        return Part(nodes, named, [v.name or "" for v in wanted], self.system.opset, renamed=renamed, wide=True)


def _name(value: ir.Value, made: Collection[ir.Value]) -> str:
    return f"{value.name}/held" if value in made else value.name or ""
