"""Whether a model takes the samples of a batch one by one, tried where its graph alone does not tell.

A small batch runs once as it is and once with each sample changed. An element that two different samples move is made
from both: the first node that makes one mixes samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.build.inverse import assemble, port_of
from onnx_invert.build.tape import copy, place
from onnx_invert.build.versions import domains_of, ir_version_for
from onnx_invert.errors import Blocker, ModelError
from onnx_invert.graph.emit import Emitter
from onnx_invert.graph.write import to_proto
from onnx_invert.numerics.tolerance import eps
from onnx_invert.plan.batch import Batch, misplaced, mixed
from onnx_invert.plan.equations import upstream
from onnx_invert.plan.problem import Problem
from onnx_invert.rules.node import FLOATS
from onnx_invert.runtime import Session
from onnx_invert.samples import DISTRIBUTIONS, Port, draw, ports_of

Array = NDArray[Any]

SAMPLES = (4, 6, 2)
"""How many are tried at once: the first number that the model takes."""

NOISE = 2.0**10
"""In units of eps, beside the largest number of a tensor: what moves by more was not moved by rounding."""


def mixing(problem: Problem, batch: Batch, unknowns: Sequence[ir.Value], wanted: Sequence[ir.Value]) -> list[Blocker]:
    """What keeps the undecided tensors of `batch` from being taken sample by sample; nothing where they can be.

    A model that runs on none of the batches that are tried is left for whoever runs it next to complain about.
    """
    if not batch.undecided:
        return []
    nodes = upstream(wanted, set(unknowns))
    watched = [
        v for node in nodes for v in node.outputs if v in batch.places and (v.dtype in FLOATS or v.dtype is None)
    ]
    session = Session(to_proto(_probe(problem, unknowns, wanted, watched)).SerializeToString(), "the model")
    ports = [*ports_of(unknowns), *(port for port in ports_of(problem.given) if port.name in session.names)]
    name = str(ports[0].shape[0])
    rows: list[Blocker] = []
    for count in SAMPLES:
        for distribution in range(len(DISTRIBUTIONS)):
            try:
                found = _owners(session, ports, [port.name for port in ports[: len(unknowns)]], count, distribution)
            except ModelError:
                break
            owners = dict(zip(watched, found, strict=True))
            # Of what is not finite nothing is learned but how many rows it has.
            rows = rows or _rows(batch, owners, wanted, count, name)
            if all(owners[value].finite for value in wanted if value in owners):
                return _judge(batch, owners, wanted, count, name)
    return rows


def _probe(
    problem: Problem, unknowns: Sequence[ir.Value], wanted: Sequence[ir.Value], watched: Sequence[ir.Value]
) -> ir.Model:
    """The model from the unknowns on, with every tensor that is watched as an output."""
    e = Emitter(wanted[0].dtype or ir.DataType.FLOAT, [value.name or "" for value in problem.inputs])
    nodes = upstream(wanted, set(unknowns))
    used = {value for node in nodes for value in node.inputs}
    ports = {value: port_of(value) for value in (*unknowns, *(v for v in problem.given if v in used))}
    values = dict(ports)
    copy(e, nodes, values)
    outputs = []
    for value in watched:
        output = e.op("Identity", place(e, value, values))
        output.shape, output.type = None, value.type
        outputs.append(output)
    opsets = {"": problem.opset, **domains_of(nodes, problem.graph.opset_imports)}
    model = assemble(e, list(ports.values()), outputs, opsets, name="probe")
    model.ir_version = ir_version_for(problem.opset)
    return model


@dataclass(frozen=True)
class _Owners:
    """Of one tensor which samples move each element, `moved` (samples, *shape), and whether all of it is `finite`."""

    moved: NDArray[np.bool_]
    finite: bool


def _owners(
    session: Session, ports: Sequence[Port], moved: Sequence[str], count: int, distribution: int
) -> list[_Owners]:
    (one,) = draw(ports, count, distribution, moved[0])
    (other,) = draw(ports, count, distribution, moved[0], seed=1)
    base = list(session.run(one).values())
    rows = []
    for sample in range(count):
        changed = dict(one)
        for name in moved:
            changed[name] = one[name].copy()
            changed[name][sample] = other[name][sample]
        rows.append([_moves(a, b) for a, b in zip(session.run(changed).values(), base, strict=True)])
    return [
        _Owners(np.stack(parts), bool(np.isfinite(array).all())) for *parts, array in zip(*rows, base, strict=True)
    ]


def _moves(a: Array, b: Array) -> NDArray[np.bool_]:
    if a.shape != b.shape:  # sizes that follow from values
        return np.ones(b.shape, dtype=bool)
    scale = float(np.max(np.abs(b), initial=0.0, where=np.isfinite(b))) or 1.0
    with np.errstate(all="ignore"):
        close = np.abs(a.astype(np.float64) - b) <= NOISE * eps(b.dtype) * scale
    return np.asarray(~(close | (a == b) | (np.isnan(a) & np.isnan(b))))


def _rows(
    batch: Batch, owners: Mapping[ir.Value, _Owners], wanted: Sequence[ir.Value], count: int, name: str
) -> list[Blocker]:
    """The wanted tensors with another number of rows than they are taken to have."""
    blockers = []
    for value in wanted:
        if value in owners:
            shape = owners[value].moved.shape[1:]
            rows = shape[0] if shape else 0
            if rows != count * batch.rows(value):
                blockers.append(misplaced(value, f"it has {rows} rows for {count} samples", name))
    return blockers


def _judge(
    batch: Batch, owners: Mapping[ir.Value, _Owners], wanted: Sequence[ir.Value], count: int, name: str
) -> list[Blocker]:
    for value, found in owners.items():
        node = value.producer()
        if node is not None and np.any(found.moved.sum(axis=0) > 1):
            return [mixed(node, f"a change of one of {count} samples changes what it makes of another", name)]
    if blockers := _rows(batch, owners, wanted, count, name):
        return blockers
    for value in wanted:
        if value in owners:
            moved = owners[value].moved
            # A sample's rows lie next to each other: (the one that changed, the one they belong to, their numbers).
            by_sample = np.any(moved.reshape(count, count, -1), axis=2)
            if np.any(by_sample & ~np.eye(count, dtype=bool)):
                blockers.append(misplaced(value, "a sample moves the rows of others", name))
    return blockers
