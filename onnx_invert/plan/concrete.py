"""The model at sizes that are all known: its nodes, shapes, and tensors for drawn inputs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.errors import ModelError
from onnx_invert.plan.elements import Pool
from onnx_invert.plan.evaluation import evaluate
from onnx_invert.rules.enclosures.enclosure import Enclosure
from onnx_invert.sized import Sized

Read = TypeVar("Read")

_UNREAD = object()

COPIES = 64
"""So many samples are tried at once where a function is tried at many points."""


@dataclass
class Concrete:
    """The model's nodes as they are at sizes that are all known.

    `ranges` are bounds of tensors by name, as far as they were asked for, whatever the inputs are. `kinds` numbers the
    kinds of nodes, `pool` has the sets of elements that were met.
    `sized` is the graph that it was read off, `small` makes it at other sizes.
    """

    nodes: Mapping[str, ir.Node]
    shapes: Mapping[str, tuple[int, ...]]
    sized: Sized | None = None
    small: Callable[..., Sized] | None = None
    ranges: dict[str, Enclosure] = field(default_factory=dict)
    kinds: dict[Hashable, int] = field(default_factory=dict)
    pool: Pool = field(default_factory=Pool)
    _alike: dict[tuple[int, Hashable], Any] = field(default_factory=dict)
    _drawn: dict[float, dict[str, NDArray[np.generic]]] = field(default_factory=dict)

    def alike(self, kind: int | None, what: Hashable, read: Callable[[], Read]) -> Read:
        """What `read` tells, looked at once for all nodes of a `kind`; always, if a node has none."""
        if kind is None:
            return read()
        key = (kind, what)
        found = self._alike.get(key, _UNREAD)
        if found is _UNREAD:
            found = self._alike[key] = read()
        return found  # type: ignore[no-any-return]

    def sample(self, opset: int, spread: float = 1.0) -> dict[str, NDArray[np.generic]]:
        """Every tensor where the inputs are drawn from N(0, spread²) (1 for what is no float), computed once.

        Empty where onnx's reference evaluator does not run the model.
        """
        if spread not in self._drawn:
            graph = self.sized
            self._drawn[spread] = {} if graph is None else evaluate(graph, opset, spread)
        return self._drawn[spread]

    @cached_property
    def crowd(self) -> Concrete | None:
        """The same with `COPIES` times as many samples; None where the model does not run so."""
        try:
            return None if self.small is None else Concrete.of(self.small(copies=COPIES))
        except ModelError:
            return None

    @staticmethod
    def of(graph: Sized, small: Callable[..., Sized] | None = None) -> Concrete:
        """Read off a graph whose sizes are numbers; `small` makes others."""
        return Concrete(graph.nodes, graph.shapes, graph, small)

    def bare(self, node: ir.Node) -> ir.Node | None:
        """A node as it is at these sizes, but for the shapes of its tensors; None if it is constant."""
        return None if self.sized is None else self.sized.running.get(node.name or "")
