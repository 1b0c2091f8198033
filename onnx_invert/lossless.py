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

from onnx_invert.build.lossless.forward import build_forward
from onnx_invert.build.lossless.inverse import LeftOut, build_inverse
from onnx_invert.build.lossless.latents import latent_type, latents
from onnx_invert.errors import UsageError
from onnx_invert.graph.read import Source, from_proto, read
from onnx_invert.graph.write import save, to_proto
from onnx_invert.numerics.mixture import fit
from onnx_invert.overhead import ROWS, Overhead, bytes_of, ratio
from onnx_invert.pairs import DATA, FREE, GIVEN, LATENTS, NAMES, PAIR, STATED, Return, drawn_for, measure
from onnx_invert.plan.lossless.completed import Lossless
from onnx_invert.plan.lossless.freedom import free
from onnx_invert.plan.lossless.search import make_lossless
from onnx_invert.plan.lossless.steps import EFFORTS
from onnx_invert.plan.problem import Problem
from onnx_invert.report import document
from onnx_invert.rules import RuleSet
from onnx_invert.runtime import Session
from onnx_invert.samples import Batch, Port, chunks
from onnx_invert.trips import by_sample

LAYOUTS = ("flat", "per-node")


@dataclass(frozen=True)
class LosslessPair:
    """Both files before they are written, the plan behind them, and what was measured (None if nothing was).

    `free` says of every slot whether its numbers may be moved at will (plan/lossless/freedom.py). `recorded` is what
    the inverse's metadata say of the data, as text: empty where there were none. `given` says why z must be given to
    the inverse; empty where it may be left out, which makes it the plain inverse.
    """

    plan: Lossless
    forward: ir.Model
    inverse: ir.Model
    names: tuple[str, ...]
    measured: Return | None
    overhead: Overhead | None = None
    free: tuple[bool, ...] = ()
    recorded: str = ""
    given: str = ""

    @property
    def known(self) -> list[str]:
        """The outputs of the network that the inverse takes: those that x needs."""
        taken = {port.name for port in self.inverse.graph.inputs}
        return [value.name or "" for value in self.plan.problem.known if value.name in taken]

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
            "may_be_left_out": not self.given,
            "reason": self.given or None,
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
    why: str = "",
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

    `network` is read anew, and `plain` builds the inverse from y alone, for every effort. Without `plain` z must be
    given to the inverse, and `why` says for what reason. What `data` say of plausible inputs is recorded in the
    inverse; `batches` are the samples that are tried.

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
        movable = free(plan)
        parts = latents(plan, per_node=layout == "per-node", taken=taken)
        identity = "\n".join([metadata["onnx_invert.model_sha256"], *(f"{p.name} {p.numbers}" for p in parts)])
        stated = {
            **metadata,
            PAIR: hashlib.sha256(identity.encode()).hexdigest(),
            NAMES: " ".join(str(part.numbers) for part in parts),
        }
        if plain is None and plan.requirements:
            stated["onnx_invert.requirements"] = "\n".join(plan.requirements)
        told = {LATENTS: "\n".join(part.name for part in parts), FREE: _ranges(plan, movable)}
        reason = why if parts else ""
        original = _again(network)
        before = bytes_of(original)
        forward = build_forward(plan, original, parts, {**_about(stated), STATED: "forward"})
        inverse = build_inverse(
            plan,
            None if plain is None else plain(),
            parts,
            left_out=_left_out(plan, plain is not None, closed_form),
            opset=opset,
            metadata={**stated, **told, **({GIVEN: reason} if reason else {}), STATED: "inverse"},
        )
        cost = Overhead(None, 0, bytes_of(forward) - before, int(plan.size * latent_type(plan).itemsize))
        names = tuple(part.name for part in parts)
        pair = LosslessPair(plan, forward, inverse, names, None, cost, movable, given=reason)
        if not verify:
            break
        with tempfile.TemporaryDirectory(prefix="onnx-invert-") as folder:
            paths = Path(folder) / "forward.onnx", Path(folder) / "inverse.onnx"
            save(forward, paths[0])
            save(inverse, paths[1])
            f, g = Session(paths[0], "the forward network"), Session(paths[1], "the lossless inverse")
            recovered = [value.name or "" for value in problem.recovered]
            known = [value.name or "" for value in problem.known]
            drawn = batches or drawn_for(f, ports, known, count, recovered[0])
            found = measure(f, g, ports, recovered, known, pair.names, batches=drawn, rtol=rtol)
            if found.passed or effort is EFFORTS[-1]:
                batch, rows = _few(drawn[0], ports, recovered[0])
                plain_f = Session(network.path if network.path is not None else network.data, network.name)
                cost = replace(cost, time=ratio(plain_f, f, batch, known, pair.names), rows=rows)
        if plan.y_size is None:
            plan = replace(plan, y_size=found.y_size)
        pair = replace(pair, plan=plan, measured=found, overhead=cost)
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
    recovered, known = [value.name or "" for value in problem.recovered], pair.known
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


def _left_out(plan: Lossless, has_plain: bool, closed_form: bool) -> LeftOut:
    if not has_plain:
        return LeftOut.NEVER
    return LeftOut.ZERO if closed_form and plan.plain_at_zero else LeftOut.PLAIN


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
