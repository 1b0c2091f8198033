"""Emits the steps of a plan: what is known of every tensor of the model, in pieces, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnx_invert.build.clamp import Probe
from onnx_invert.build.inverse import Walk
from onnx_invert.build.noise import Noise
from onnx_invert.build.system import forms, narrow, thin
from onnx_invert.build.system.coupled import solve_coupled, solve_whole
from onnx_invert.build.system.log_det import LogDet
from onnx_invert.build.system.moving import only, picked, placed
from onnx_invert.build.system.pieces import Mask, Piece, Pieces, masked
from onnx_invert.build.system.root import find_roots
from onnx_invert.build.system.shapes import shape_of, sized
from onnx_invert.build.system.sweeps import sweep
from onnx_invert.build.system.tear import scale, tear
from onnx_invert.build.tape import again
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.concrete import Concrete
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.moves import InPlace, Pick, Turned
from onnx_invert.plan.stages import Path, Stage
from onnx_invert.plan.steps import Affine, Coupled, Edge, Forward, Place, Root, Scale, Solve, Step, Sweep, Tear, Undo
from onnx_invert.rules.node import FLOATS


@dataclass
class Realisation:
    """The values of the model's tensors in a graph under construction.

    `ports` are the inputs of the inverse by the model's tensors, `sizes` an input and an axis for every symbolic
    size. Inside the body of a Loop `outer` is the graph around it, and `replaced` what operands take instead.
    """

    e: Emitter
    concrete: Concrete
    dependent: frozenset[ir.Value]
    ports: Mapping[ir.Value, ir.Value]
    sizes: Mapping[str, tuple[ir.Value, int]]
    noise: Noise | None = None
    probes: list[Probe] = field(default_factory=list)
    unroll: int | None = None
    log_det: LogDet | None = None
    outer: Realisation | None = None
    replaced: Mapping[Edge, ir.Value] = field(default_factory=dict)
    pieces: dict[ir.Value, Pieces] = field(default_factory=dict)
    copied: list[ir.Node] = field(default_factory=list)
    _plain: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def run(self, steps: Sequence[Step]) -> None:
        """Emit all steps, in their order; those that undo one node after the other are folded."""
        waiting: list[Undo] = []
        for step in steps:
            if isinstance(step, Undo) and step.mask.all() and self.log_det is None:
                if waiting and waiting[-1].node.inputs[waiting[-1].operand] is not step.node.outputs[0]:
                    self._undo(waiting)
                    waiting = []
                waiting.append(step)
                continue
            self._undo(waiting)
            waiting = []
            self._one(step)
        self._undo(waiting)

    def _one(self, step: Step) -> None:
        match step:
            case Forward():
                self._forward(step)
            case Place():
                self.move(step)
                if self.log_det is not None:
                    self.log_det.placed(step)
            case Undo():
                self._undo([step])
            case Affine():
                value = self._back(step.x, step.y, step.stages, step.mask)
                self.put(step.x, Piece(value))
            case Root():
                self.put(step.x, masked(find_roots(self, step), step.mask))
            case Scale():
                self.put(step.x, masked(scale(self, step), step.mask))
            case Tear():
                x, s = tear(self, step)
                self.put(step.x, Piece(x))
                if self.log_det is not None:
                    self.log_det.of_tear(self, step, s)
            case Coupled():
                x, torn, parts = solve_coupled(self, step)
                self.put(step.x, Piece(x))
                if self.log_det is not None:
                    self.log_det.of_coupled(self, step, torn, parts)
            case Solve():
                self.put(step.x, Piece(solve_whole(self, step)))
            case Sweep():
                self.put(step.x, masked(sweep(self, step), step.mask))
        if self.log_det is not None and isinstance(step, Root | Scale | Sweep | Solve):
            self.log_det.of_block(self, step)

    def inside(self, e: Emitter, name: str, replaced: Mapping[Edge, ir.Value]) -> Realisation:
        """A realisation for the body of a Loop: it reads what is known outside, and keeps what it makes."""
        return Realisation(
            e,
            self.concrete,
            self.dependent,
            self.ports,
            self.sizes,
            None if self.noise is None else self.noise.within(e, name),
            unroll=self.unroll,
            outer=self,
            replaced={**self.replaced, **replaced},
        )

    def start(self, value: ir.Value, made: ir.Value) -> None:
        """A known output, as the inverse takes it."""
        self.pieces[value] = Pieces(self.shape(value), [Piece(made)])

    def put(self, value: ir.Value, piece: Piece) -> None:
        """More is known of a tensor."""
        self.pieces.setdefault(value, Pieces(self.shape(value), [])).add(piece)

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """The sizes of a tensor when the plan was made."""
        return self.concrete.shapes.get(value.name or "", ())

    def read(self, value: ir.Value) -> ir.Value:
        """A tensor of the model; of one that is known in part, what is not known is anything."""
        if value in self.pieces:
            with self.typed(value):
                return self.pieces[value].whole(self.e, self.mask_of)
        if self.outer is not None:
            return self.outer.read(value)
        if value in self.dependent:
            with self.typed(value):
                # Nothing is known of it: an operand of a node of which some outputs are known all the same.
                return self.e.op("Expand", self.e.scalar(0.0), sized(self, value))
        return self._known(value)

    def is_made_here(self, value: ir.Value) -> bool:
        """Whether a tensor comes from this very graph or body, and not from one around it."""
        if value in self.pieces:
            return True
        return self.outer is not None and self.outer.e is self.e and self.outer.is_made_here(value)

    def operand(self, node: ir.Node, place: int) -> ir.Value | None:
        """What a node takes at a place, here."""
        if (node, place) in self.replaced:
            return self.replaced[node, place]
        value = node.inputs[place]
        return None if value is None else self.read(value)

    def copy(self, node: ir.Node) -> list[ir.Value]:
        """Emit a node of the model as it is; its outputs."""
        inputs = [self.operand(node, place) for place in range(len(node.inputs))]
        self.root.copied.append(node)
        return list(again(self.e, node, inputs))

    def settle(self, nodes: Sequence[ir.Node], x: ir.Value) -> None:
        """Read what `nodes` take from outside of them, but for `x`: here, once, and not in the loop to come."""
        made = {output for node in nodes for output in node.outputs}
        for node in nodes:
            for place, value in enumerate(node.inputs):
                inside = value is None or value is x or value in made or (node, place) in self.replaced
                if not inside and value is not None:
                    self.read(value)

    def evaluate(self, node: ir.Node, outside: Emitter | None = None) -> list[ir.Value]:
        """Run a node of the model; its outputs, with the noise of their rounding where that is measured.

        What it makes of operands that are not made here alone is made `outside`, if there is such an emitter.
        """
        sizes = [None if value is None else forms.dims(value) for value in node.inputs]
        made = thin.product(self, node) or forms.rewritten(self, node, sizes, outside) or self.copy(node)
        if self.noise is None:
            return made
        return [
            self._shaken(value, output) if output in self.dependent and output.dtype in FLOATS else value
            for value, output in zip(made, node.outputs, strict=True)
        ]

    def _shaken(self, value: ir.Value, output: ir.Value) -> ir.Value:
        assert self.noise is not None
        with self.noise.typed(output):
            return self.noise.shake(value, output)

    @property
    def root(self) -> Realisation:
        """The graph around all."""
        return self if self.outer is None else self.outer.root

    def value(self, forward: ir.Value) -> ir.Value:
        """The other operand of a node that is undone."""
        return self.read(forward)

    def _known(self, value: ir.Value) -> ir.Value:
        """A tensor that needs no recovered input: a weight, a given input, or what is made of those."""
        if value in self._plain:
            return self._plain[value]
        if value.const_value is not None:
            self._plain[value] = self.e.weight(value.const_value, f"given/{value.name}")
        elif value in self.ports:
            self._plain[value] = self.ports[value]
        else:
            for node in upstream([value], _Settled(self)):
                if node.op_type == "Shape" and node.inputs[0] in self.dependent:
                    self._plain[node.outputs[0]] = shape_of(self, node)
                    continue
                self._plain.update(zip(node.outputs, self.copy(node), strict=True))
        return self._plain[value]

    def _forward(self, step: Forward) -> None:
        node = step.node
        if step.forms is not None:
            for place, forms in step.forms.items():
                for form in forms:
                    assert isinstance(form, Turned | Pick | InPlace)
                    output = node.outputs[0 if isinstance(form, Turned) else form.output]
                    for piece in picked(self, node, place, form):
                        self.put(output, piece)
            return
        known = narrow.run(self, step)
        if known is not None:
            self.put(node.outputs[0], known)
            return
        for output, made, mask in zip(node.outputs, self.evaluate(node), step.masks, strict=True):
            self.put(output, masked(made, mask))

    def move(self, step: Place) -> None:
        """Put the elements of a node's outputs back where they were."""
        node = step.node
        x = node.inputs[step.operand]
        assert x is not None
        with self.typed(x), self.e.scope(node.name or ""):
            for form in step.forms:
                for piece in placed(self, step, form, x):
                    left = only(self, piece, step.mask, x)
                    if left is not None:
                        self.put(x, left)

    def _undo(self, steps: list[Undo]) -> None:
        if not steps:
            return
        stages: list[Stage] = [stage for step in reversed(steps) for stage in step.stages]
        first, last = steps[0], steps[-1]
        x = last.node.inputs[last.operand]
        assert x is not None
        y = first.node.outputs[0]
        if self.log_det is not None:
            self.log_det.undone(first)
        piece = narrow.undone(self, first) if len(steps) == 1 else None
        if piece is not None:
            self.put(x, piece)
            return
        self.put(x, masked(self._back(x, y, stages, last.mask), last.mask))
        if self.log_det is not None:
            self.log_det.lost(self)

    def _back(self, x: ir.Value, y: ir.Value, stages: Sequence[Stage], mask: Mask) -> ir.Value:
        """Undo stages that lead from `x` to `y`."""
        value = self.read(y)
        if self.log_det is None:
            return self._walk().back(Path(x, y, (), list(stages)), value)
        for stage in reversed(stages):
            before = value
            value = self._walk().back(Path(x, y, (), [stage]), before)
            with self.typed(x), self.e.scope(f"log_det/{stage.name}"):
                self.log_det.of_stage(self, stage, value, before, x if len(mask.shape) else y, mask)
        return value

    def _walk(self) -> Walk:
        return Walk(self.e, self, self.root.probes, self.noise)

    def mask_of(self, mask: Mask) -> ir.Value:
        """A mask as a constant, of size 1 along the axes on which it is the same."""
        small = mask
        for axis in range(mask.ndim):
            line = small.take([0], axis)
            if np.array_equal(np.broadcast_to(line, small.shape), small):
                small = line
        return self.e.truths(small)

    def typed(self, value: ir.Value) -> AbstractContextManager[None]:
        """Numbers are of the type of a tensor."""
        return self.e.scope(self.e.scope_name, value.dtype or self.e.dtype)


class _Settled:
    """What `upstream` need not go beyond."""

    def __init__(self, realisation: Realisation) -> None:
        self._r = realisation

    def __contains__(self, value: object) -> bool:
        r = self._r
        return (
            value in r._plain
            or value in r.dependent
            or value in r.ports
            or getattr(value, "const_value", None) is not None
        )
