"""The boxes of a picture: which nodes share one, so that a network of any size stays readable.

A box holds one node, or nodes that meet the same fate. Boxes are merged without making a cycle: along every edge
between different fates the depth of a node grows by one, and only neighbours of one fate and one depth are merged.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from itertools import accumulate, pairwise

import onnx_ir as ir

from onnx_invert.describe import kind
from onnx_invert.report.drawing.moves import Kind, Move

MOST = 40
"""More boxes than this are merged further."""

_LONGEST_PERIOD = 64
_PIECES = (24, 12, 6)
"""So many pieces of a block are tried."""

_SECTIONS = 20


@dataclass(frozen=True)
class Box:
    """`nodes` in running order, and the numbers of the moves that they take part in.

    `kind` is None where they differ in what becomes of them. `again` counts how many times the boxes before it come
    again in this one box; 0 for an ordinary box. `frame` is the number of the move that solves it together with its
    neighbours, where these are boxes of their own.
    """

    nodes: tuple[ir.Node, ...]
    moves: dict[int, Move] = field(hash=False)
    kind: Kind | None
    again: int = 0
    frame: int | None = None


def arrange(order: Iterable[ir.Node], found: Sequence[Move], most: int = MOST) -> list[Box]:
    """The boxes, each after those that it takes tensors from: as fine as `most` of them allow.

    `order` are all nodes of the graph, in running order.
    """
    mesh = _Mesh(order, found)
    fine = mesh.ordered([(node,) for node in mesh.nodes])
    blocks = [move for move in found if move.kind is Kind.SOLVED]
    for pieces in _PIECES if blocks else _PIECES[:1]:
        framed = mesh.ordered([group for move in blocks for group in mesh.pieces(move, pieces)] + mesh.outside(blocks))
        if len(framed) <= most and sum(map(len, framed)) == len(mesh.nodes):
            frames = {
                n: number for number, move in enumerate(found, 1) if move.kind is Kind.SOLVED for n in move.nodes
            }
            return [replace(mesh.box(group), frame=frames.get(group[0])) for group in framed]
    solved = mesh.joined(fine, blocks)
    runs = mesh.merged(solved, lambda kind: kind is Kind.RUN)
    fates = mesh.merged(solved, lambda kind: kind is not Kind.SOLVED)
    for groups in (solved, runs, fates):
        if len(groups) <= most:
            return [mesh.box(group) for group in groups]
        if len(spans := mesh.folded(groups)) <= most:
            return [mesh.box([n for group in groups[a:b] for n in group], again) for a, b, again in spans]
    size = -(-len(fates) // _SECTIONS)
    sections = [fates[start : start + size] for start in range(0, len(fates), size)]
    return [mesh.box([node for group in section for node in group]) for section in sections]


Group = Sequence[ir.Node]


class _Mesh:
    """The nodes that moves are about, with their neighbours."""

    def __init__(self, order: Iterable[ir.Node], found: Sequence[Move]) -> None:
        taking: dict[ir.Node, dict[int, Move]] = {}
        for number, move in enumerate(found, 1):
            for node in move.nodes:
                taking.setdefault(node, {})[number] = move
        self.taking = taking
        self.nodes = [node for node in order if node in taking]
        self.place = {node: place for place, node in enumerate(self.nodes)}
        self.makers = {
            node: [m for value in node.inputs if value is not None and (m := value.producer()) in taking]
            for node in self.nodes
        }
        strength = {kind: place for place, kind in enumerate(Kind)}
        self.fate = {
            node: max((move.kind for move in taking[node].values()), key=strength.__getitem__) for node in self.nodes
        }

    def box(self, group: Group, again: int = 0) -> Box:
        nodes = tuple(sorted(group, key=self.place.__getitem__))
        taking = {number: move for node in nodes for number, move in self.taking[node].items()}
        fates = {self.fate[node] for node in nodes}
        if fates == {Kind.UNDONE, Kind.PLACED}:
            fates = {Kind.UNDONE}
        return Box(nodes, dict(sorted(taking.items())), fates.pop() if len(fates) == 1 else None, again)

    def before(self, groups: Sequence[Group]) -> list[list[int]]:
        """For every group those that it takes tensors from."""
        home = {node: index for index, group in enumerate(groups) for node in group}
        found = []
        for index, group in enumerate(groups):
            found.append(sorted({home[maker] for node in group for maker in self.makers[node]} - {index}))
        return found

    def ordered(self, groups: Sequence[Group]) -> list[Group]:
        """The groups, each after those that it takes from; as many as have no cycle among them."""
        before = self.before(groups)
        after: list[list[int]] = [[] for _ in groups]
        for index, sources in enumerate(before):
            for source in sources:
                after[source].append(index)
        first = [min(self.place[node] for node in group) for group in groups]
        waiting = [len(sources) for sources in before]
        ready = [(first[index], index) for index, count in enumerate(waiting) if not count]
        heapify(ready)
        found = []
        while ready:
            _, index = heappop(ready)
            found.append(groups[index])
            for follower in after[index]:
                waiting[follower] -= 1
                if not waiting[follower]:
                    heappush(ready, (first[follower], follower))
        return found

    def joined(self, groups: Sequence[Group], blocks: Sequence[Move]) -> list[Group]:
        """The nodes of every block in one group, unless that makes a cycle."""
        block_of = {node: index for index, move in enumerate(blocks) for node in move.nodes}
        collected: dict[Hashable, list[ir.Node]] = {}
        for group in groups:
            collected.setdefault(block_of.get(group[0], group[0]), []).extend(group)
        result = self.ordered(list(collected.values()))
        return result if len(result) == len(collected) else list(groups)

    def outside(self, blocks: Iterable[Move]) -> list[Group]:
        """The nodes of no block, each by itself."""
        inside = {node for move in blocks for node in move.nodes}
        return [(node,) for node in self.nodes if node not in inside]

    def pieces(self, block: Move, most: int) -> list[Group]:
        """The nodes of a block; if they are many, in a few pieces, cut where a single one of its tensors passes."""
        nodes = sorted(block.nodes, key=self.place.__getitem__)
        if len(nodes) <= most:
            return [(node,) for node in nodes]
        position = {node: index for index, node in enumerate(nodes)}
        passing = [0] * (len(nodes) + 1)
        for index, node in enumerate(nodes):
            for value in node.outputs:
                last = max((position[user] for user, _ in value.uses() if user in position), default=index)
                if last > index:
                    passing[index + 1] += 1
                    passing[last + 1] -= 1
        cuts = [0, *(i for i, count in enumerate(accumulate(passing)) if count == 1 and 0 < i < len(nodes))]
        step = -(-len(cuts) // most)
        ends = [*cuts[::step], len(nodes)]
        return [nodes[start:stop] for start, stop in pairwise(ends)]

    def merged(self, groups: Sequence[Group], together: Callable[[Kind], bool]) -> list[Group]:
        """Neighbours of one fate merged, for the fates that are to be: what runs, and what is undone or put back."""
        before = self.before(groups)
        labels: list[Hashable] = []
        for index, group in enumerate(groups):
            kind = self.fate[group[0]]
            labels.append(kind is Kind.RUN if together(kind) else index + 2)
        depth: list[int] = []
        for index, sources in enumerate(before):
            depth.append(max((depth[s] + (labels[s] != labels[index]) for s in sources), default=0))
        parent = list(range(len(groups)))

        def root(index: int) -> int:
            while parent[index] != index:
                parent[index] = parent[parent[index]]
                index = parent[index]
            return index

        for index, sources in enumerate(before):
            for source in sources:
                if labels[source] == labels[index] and depth[source] == depth[index]:
                    parent[root(index)] = root(source)
        collected: dict[int, list[ir.Node]] = {}
        for index, group in enumerate(groups):
            collected.setdefault(root(index), []).extend(group)
        return self.ordered(list(collected.values()))

    def folded(self, groups: Sequence[Group]) -> list[tuple[int, int, int]]:
        """Spans of groups (first, last + 1, times), one for each box: a structure that comes at least four times is
        drawn at its first and its last time, and what lies between is one span, with how many times it comes there."""
        before = self.before(groups)
        signs = [
            self._sign(group, index, sources)
            for index, (group, sources) in enumerate(zip(groups, before, strict=True))
        ]
        hidden: list[tuple[int, int, int]] = []
        waiting = [(0, len(groups))]
        while waiting:
            start, stop = waiting.pop()
            best = max(_repeats(signs, start, stop), default=None)
            if best is None:
                continue
            begin, period, times = -best[1], -best[2], best[3]
            hidden.append((begin + period, begin + period * (times - 1), times - 2))
            waiting += [(start, begin), (begin + period * times, stop)]
        spans, index = [], 0
        for begin, end, again in sorted(hidden):
            spans += [(i, i + 1, 0) for i in range(index, begin)]
            spans.append((begin, end, again))
            index = end
        return spans + [(i, i + 1, 0) for i in range(index, len(groups))]

    def _sign(self, group: Group, index: int, sources: Sequence[int]) -> Hashable:
        """What has to agree for groups to count as the same again: fates, operators, sizes, neighbours."""
        kinds = tuple((self.fate[node], node.op_type) for node in group)
        return kinds, kind(group[-1].outputs[0]), tuple(index - source for source in sources)


def _repeats(signs: Sequence[Hashable], start: int, stop: int) -> Iterable[tuple[int, int, int, int]]:
    """Runs that come at least four times: (boxes saved, −first, −period, times), so that the largest is the best."""
    for period in range(1, min(_LONGEST_PERIOD, (stop - start) // 4) + 1):
        length = 0
        for index in range(start, stop - period + 1):
            if index < stop - period and signs[index] == signs[index + period]:
                length += 1
                continue
            times = length // period + 1
            if times >= 4 and period * (times - 2) > 2:
                yield period * (times - 2) - 1, -(index - length), -period, times
            length = 0
