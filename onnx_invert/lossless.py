"""A network and its inverse as a lossless pair: built, tried on samples, and more careful where digits are missing.

    x → (y, z) = f⁺(x) → x̂ = g⁺(y, z)          max |x̂ − x| / max |x|, sample by sample

The pair with the fewest latents comes first. Where a sample does not come back to `DIGITS`, the next effort
(plan/lossless.py) keeps more, up to the inputs themselves, which always come back.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.build.lossless.forward import build_forward
from onnx_invert.build.lossless.inverse import build_inverse
from onnx_invert.build.lossless.latents import FLAT, latent_type, latents
from onnx_invert.build.versions import OPSET
from onnx_invert.errors import ModelError, UsageError
from onnx_invert.graph.read import Source, from_proto, read
from onnx_invert.graph.write import save, to_proto
from onnx_invert.numerics.mixture import fit
from onnx_invert.overhead import ROWS, Overhead, bytes_of, ratio
from onnx_invert.plan.lossless.completed import Lossless
from onnx_invert.plan.lossless.freedom import free
from onnx_invert.plan.lossless.search import make_lossless
from onnx_invert.plan.lossless.steps import EFFORTS
from onnx_invert.plan.problem import Problem
from onnx_invert.report import document
from onnx_invert.rules import RuleSet
from onnx_invert.runtime import Session
from onnx_invert.samples import DISTRIBUTIONS, Batch, Port, chunks, draw
from onnx_invert.trips import by_sample

DIGITS = {2: 2.0**-6, 4: 2.0**-14, 8: 2.0**-37}
"""Relative error that counts as lossless, by the bytes of a number: 6, 14 and 37 binary digits stay. float32 keeps 24,
so that a condition of a thousand is allowed for; a pixel has 8."""

LAYOUTS = ("flat", "per-node")

STATED = "onnx_invert.lossless"
PAIR = "onnx_invert.pair"
NAMES = "onnx_invert.latents"
FREE = "onnx_invert.free"
DATA = "onnx_invert.data"


@dataclass(frozen=True)
class Return:
    """How well x came back: max |x̂ − x| in its own units and relative to max |x|, one number a sample."""

    absolute: NDArray[np.float64]
    relative: NDArray[np.float64]
    tolerance: float

    @property
    def passed(self) -> bool:
        """True if every sample came back; NaN is none that did."""
        return bool(self.relative.size) and bool(np.all(self.relative <= self.tolerance))


@dataclass(frozen=True)
class LosslessPair:
    """Both files before they are written, the plan behind them, and what was measured (None if nothing was).

    `free` says of every slot whether its numbers may be moved at will (plan/lossless/freedom.py). `recorded` is what
    the inverse's metadata say of the data, as text: empty where there were none.
    """

    plan: Lossless
    forward: ir.Model
    inverse: ir.Model
    names: tuple[str, ...]
    measured: Return | None
    overhead: Overhead | None = None
    free: tuple[bool, ...] = ()
    recorded: str = ""

    @property
    def report(self) -> dict[str, Any]:
        """What the JSON report says of it."""
        plan, back, cost = self.plan, self.measured, self.overhead
        return {
            "latent": plan.size,
            "surplus": plan.surplus,
            "kept": plan.kept,
            "effort": str(plan.effort),
            "slots": [
                {"node": slot.name, "op": slot.op, "latent": slot.latent, "numbers": slot.numbers}
                for slot in plan.slots
            ],
            "max_error": None if back is None else document.number(float(back.absolute.max())),
            "relative_error": None if back is None else document.number(float(back.relative.max())),
            "tolerance": None if back is None else back.tolerance,
            "passed": None if back is None else back.passed,
            "time_ratio": None if cost is None or cost.time is None else document.number(cost.time),
            "extra_weights": None if cost is None else cost.weights,
            "latent_bytes": None if cost is None else cost.latents,
            "free": sum(slot.numbers for slot, moves in zip(plan.slots, self.free, strict=True) if moves),
            "recorded": len(self.recorded),
        }


def _again(source: Source) -> ir.Model:
    """The model as it was read, before it was brought into another form."""
    if source.path is not None:
        return read(source.path).model
    return from_proto(onnx.ModelProto.FromString(source.data)).model


def make_pair(
    problem: Problem,
    rules: RuleSet,
    *,
    network: Source,
    plain: Callable[[], ir.Model] | None,
    closed_form: bool,
    layout: str,
    ports: Sequence[Port],
    batches: Sequence[Batch] | None,
    count: int,
    rtol: float | None,
    verify: bool,
    opset: int | None,
    metadata: Mapping[str, str],
    data: Sequence[Batch] | None = None,
) -> LosslessPair:
    """Build the pair with the fewest latents that is lossless on the samples.

    `network` is read anew, and `plain` builds the inverse from y alone, for every effort. Without `plain` a z that is
    left out of the inverse is 0, whatever that gives. What `data` say of plausible inputs is recorded in the inverse;
    `batches` are the samples that are tried.

    Raises:
        UsageError: no such layout.
        ModelError: one of the files cannot be built or run.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"--latents {layout}: it is one of {', '.join(LAYOUTS)}.")
    pair: LosslessPair | None = None
    for effort in EFFORTS:
        plan = make_lossless(problem, rules, effort)
        taken = [value.name or "" for value in (*problem.graph.inputs, *problem.graph.outputs)]
        parts = latents(plan, per_node=layout == "per-node", taken=taken)
        identity = "\n".join([metadata["onnx_invert.model_sha256"], *(f"{p.name} {p.numbers}" for p in parts)])
        stated = {
            **metadata,
            PAIR: hashlib.sha256(identity.encode()).hexdigest(),
            NAMES: " ".join(str(part.numbers) for part in parts),
        }
        movable = free(plan)
        original = _again(network)
        before = bytes_of(original)
        forward = build_forward(plan, original, parts, {**_about(stated), STATED: "forward"})
        inverse = build_inverse(
            plan,
            _nothing() if plain is None else plain(),
            parts,
            zero_is_plain=plain is None or (closed_form and plan.plain_at_zero),
            opset=opset,
            metadata={**stated, STATED: "inverse", FREE: _ranges(plan, movable)},
        )
        cost = Overhead(None, 0, bytes_of(forward) - before, int(plan.size * latent_type(plan).itemsize))
        pair = LosslessPair(plan, forward, inverse, tuple(part.name for part in parts), None, cost, movable)
        if not verify:
            break
        with tempfile.TemporaryDirectory(prefix="onnx-invert-") as folder:
            paths = Path(folder) / "forward.onnx", Path(folder) / "inverse.onnx"
            save(forward, paths[0])
            save(inverse, paths[1])
            f, g = Session(paths[0], "the forward network"), Session(paths[1], "the lossless inverse")
            recovered = [value.name or "" for value in problem.recovered]
            known = [value.name or "" for value in problem.known]
            drawn = batches or _drawn(f, ports, known, count, recovered[0])
            found = measure(f, g, ports, recovered, known, pair.names, batches=drawn, rtol=rtol)
            if found.passed or effort is EFFORTS[-1]:
                batch, rows = _few(drawn[0], ports, recovered[0])
                plain_f = Session(network.path if network.path is not None else network.data, network.name)
                cost = replace(cost, time=ratio(plain_f, f, batch, known, pair.names), rows=rows)
        pair = replace(pair, measured=found, overhead=cost)
        if found.passed:
            break
    assert pair is not None
    recorded = "" if data is None else _recorded(problem, pair, ports, data)
    if recorded:
        pair.inverse.metadata_props[DATA] = recorded
    return replace(pair, recorded=recorded)


def _ranges(plan: Lossless, movable: Sequence[bool]) -> str:
    """The free numbers of z as ranges a:b, side by side."""
    found, start = [], 0
    for slot, moves in zip(plan.slots, movable, strict=True):
        if moves:
            found.append(f"{start}:{start + slot.numbers}")
        start += slot.numbers
    return " ".join(found)


def _recorded(problem: Problem, pair: LosslessPair, ports: Sequence[Port], batches: Sequence[Batch]) -> str:
    """What the data say of x, given y, as text for the metadata; nothing where they are too few or too wide."""
    f = Session(to_proto(pair.forward).SerializeToString(), "the forward network")
    recovered, known = ([value.name or "" for value in values] for values in (problem.recovered, problem.known))
    main = next(port for port in ports if port.name == recovered[0])
    x, y = [], []
    for batch in batches:
        found = f.run({port.name: batch[port.name] for port in ports}, known)
        rows = len(batch[main.name]) if main.has_batch else 1
        x.append(np.hstack([by_sample(batch[name], rows) for name in recovered]))
        y.append(np.hstack([by_sample(found[name], rows) for name in known]))
    wide = [np.concatenate(rows).astype(np.float64) for rows in (x, y)]
    finite = np.isfinite(wide[0]).all(axis=1) & np.isfinite(wide[1]).all(axis=1)
    mixture = fit(wide[0][finite], wide[1][finite])
    return "" if mixture is None else mixture.text()


def _nothing() -> ir.Model:
    return ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": OPSET}), ir_version=8)


def _few(batch: Batch, ports: Sequence[Port], main: str) -> tuple[Batch, int]:
    """At most so many rows of a batch as are timed, and how many."""
    port = next(port for port in ports if port.name == main)
    if not port.has_batch:
        return batch, 1
    total = len(batch[main])
    return next(chunks(batch, ports, main, min(total, ROWS), ROWS)), min(total, ROWS)


def _about(metadata: Mapping[str, str]) -> dict[str, str]:
    """What of the inverse's metadata is true of the forward network."""
    return {key: value for key, value in metadata.items() if key in {"onnx_invert.version", PAIR, NAMES}} | {
        "onnx_invert.model_sha256": metadata["onnx_invert.model_sha256"]
    }


def measure(
    f: Session,
    g: Session,
    ports: Sequence[Port],
    recovered: Sequence[str],
    known: Sequence[str],
    names: Sequence[str],
    *,
    batches: Sequence[Batch] | None = None,
    count: int = 256,
    rtol: float | None = None,
) -> Return:
    """g⁺(f⁺(x)) against x on samples, drawn where there are none. Those on which f is not finite are left out.

    Raises:
        ModelError: a file cannot be run, or the network is finite on no sample.
    """
    main = next(port for port in ports if port.name == recovered[0])
    drawn: Sequence[Batch] = batches or _drawn(f, ports, known, count, main.name)
    tolerance = rtol if rtol is not None else DIGITS[main.dtype.itemsize]
    absolute: list[NDArray[Any]] = []
    relative: list[NDArray[Any]] = []
    for batch in drawn:
        outputs = f.run({port.name: batch[port.name] for port in ports}, [*known, *names])
        feeds = {**outputs, **{name: batch[name] for name in batch if name in g.names}}
        found = g.run({name: array for name, array in feeds.items() if name in g.names or name in g.optional})
        rows = len(batch[main.name]) if main.has_batch else 1
        seen = [by_sample(array, rows) for array in (*(batch[n] for n in recovered), *(outputs[n] for n in known))]
        finite = np.logical_and.reduce([np.isfinite(array).all(axis=1) for array in seen])
        worst, share = np.zeros(finite.sum()), np.zeros(finite.sum())
        if not finite.any():
            continue
        for name in recovered:
            true = by_sample(batch[name], rows)[finite].astype(np.float64)
            error = np.max(np.abs(by_sample(found[name], rows)[finite] - true), axis=1, initial=0.0)
            size = np.max(np.abs(true), axis=1, initial=0.0)
            # A sample of zeros is held to the others' size.
            floor = float(np.median(size)) or 1.0
            worst = np.maximum(worst, error)
            share = np.maximum(share, error / np.maximum(size, 1e-3 * floor))
        absolute.append(worst)
        relative.append(np.where(np.isfinite(share), share, np.inf))
    if not absolute:
        raise ModelError("The model returns NaN or infinity on all samples: give realistic inputs with --data.")
    return Return(np.concatenate(absolute), np.concatenate(relative), tolerance)


def _drawn(f: Session, ports: Sequence[Port], known: Sequence[str], count: int, main: str) -> list[Batch]:
    """Samples from the first distribution on which the network is finite."""
    for index in range(len(DISTRIBUTIONS)):
        batches = list(draw(ports, min(count, 32) if not _batched(ports, main) else count, index, main))
        if all(np.isfinite(array).all() for batch in batches for array in f.run(batch, known).values()):
            return batches
    raise ModelError("The model returns NaN or infinity on drawn samples: give realistic inputs with --data.")


def _batched(ports: Sequence[Port], main: str) -> bool:
    return next(port for port in ports if port.name == main).has_batch


def is_pair(forward: Mapping[str, str], inverse: Mapping[str, str]) -> bool:
    """True if the metadata of two files says that they were made for each other."""
    ends = forward.get(STATED), inverse.get(STATED)
    return ends == ("forward", "inverse") and forward.get(PAIR) == inverse.get(PAIR)


def latent_names(f: Session, g: Session) -> list[str]:
    """The latents of a pair: outputs of the one that are inputs with a default of the other."""
    return [name for name in f.outputs if name in g.optional and name.startswith(FLAT)]
