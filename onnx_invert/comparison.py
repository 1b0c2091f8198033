"""Round trips of two files, whoever wrote them.

Not `check.py`: a module of that name would hide the function `onnx_invert.check`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from onnx_invert._version import __version__
from onnx_invert.arrays import load
from onnx_invert.errors import FileError, UsageError
from onnx_invert.graph.read import has_four_bits
from onnx_invert.numerics.tolerance import eps
from onnx_invert.pairs import GIVEN, is_pair, latent_names, measure
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.report import document
from onnx_invert.runtime import Renamed, Session, numpy_type
from onnx_invert.samples import Port, cut, match
from onnx_invert.trips import RoundTrip
from onnx_invert.verify import Pair, verify


@dataclass(frozen=True)
class Check:
    """What `check` measured. `claim` is the guarantee that the inverse's file states for this very model,
    None if it states none: then f(g(f(x))) = f(x) is what it is held to. `found` is what the samples show."""

    claim: Guarantee | None
    found: Guarantee
    round_trip: RoundTrip
    note: str
    report: dict[str, Any]

    @property
    def passed(self) -> bool:
        """True if the claim, or the weakest promise, holds on every sample."""
        return self.round_trip.passed


def check(
    model: str | Path,
    inverse: str | Path,
    *,
    data: str | Path | None = None,
    samples: int | None = None,
    rtol: float | None = None,
) -> Check:
    """Measure the round trips of an inverse against its model.

    Args:
        model: path of f.
        inverse: path of g. Its inputs and outputs are matched with f's by name, or by place where each
            has one.
        data: .npy or .npz with inputs of f; drawn by default.
        samples: how many samples to draw (256), or to use of the data (all).
        rtol: relative tolerance, instead of the one measured.

    Raises:
        FileError, ModelError, UsageError: a file is missing, does not load, or the two do not fit.
    """
    paths = Path(model), Path(inverse)
    for path in paths:
        if not path.is_file():
            raise FileError(f"There is no file {str(path)!r}.")
    f, g = (Session(path, path.name, packed=has_four_bits(path)) for path in paths)
    claim, note = _claim(g.metadata, paths[0])
    if is_pair(f.metadata, g.metadata):
        return _lossless(paths, f, g, data=data, samples=samples, rtol=rtol)
    if why := g.metadata.get(GIVEN):
        raise UsageError(
            f"{paths[1].name} takes latents that only the network of its pair returns: check it with that, the file "
            f"that --lossless wrote. They cannot be left out: {why}."
        )
    known, recovered = _matched(f, g)
    given = [value.name for value in f.inputs if value.name not in recovered]
    theirs = {name: value for value in g.output_ports for name, other in recovered.items() if other == value.name}
    inputs_of_f = _sized(ports(f), {**{value.name: value for value in g.inputs if value.name in given}, **theirs})
    outputs = {value.name: value for value in f.output_ports}
    inputs = {**known, **{name: name for name in given if name in g.names}}
    if missing := g.names - set(inputs.values()):
        raise UsageError(
            f"{paths[1].name} takes {', '.join(map(repr, sorted(missing)))}, which {paths[0].name} does not have. "
            f"{f.signature()} Its outputs: {', '.join(map(repr, outputs))}."
        )
    dtype = numpy_type(outputs[next(iter(known))])
    pair = Pair(
        forward=lambda: f,
        inverse=partial(Renamed, g, inputs, recovered),
        instrumented=None,
        ports=inputs_of_f,
        recovered=list(recovered),
        given=given,
        known=list(known),
        dtype=dtype,
        eps=max(eps(kind) for kind in [dtype, *(p.dtype for p in inputs_of_f if p.name in recovered)]),
    )
    batches = None
    if data is None and claim is not None and g.metadata.get("onnx_invert.prior") == "decoder":
        raise UsageError(
            f"{paths[1].name} returns inputs that a decoder makes, and promises only the y of such inputs: give some "
            "with --data."
        )
    if data is not None:
        arrays = match(load(Path(data)), [port.name for port in inputs_of_f], Path(data).name)
        batches = list(cut(arrays, inputs_of_f, pair.main, samples))
    # A solver's claim is for the y that some x gives; which those are is not known, so that none are drawn.
    solver = claim is not None and "newton" in g.metadata.get("onnx_invert.method", "")
    measured = verify(pair, claim or Guarantee.RIGHT, {}, data=batches, count=samples or 256, rtol=rtol, solver=solver)
    found = _shown(measured)
    if claim is None:
        # Nothing was promised: what is drawn directly is told, and only the weakest promise decides.
        drawn = measured.drawn
        measured = replace(measured, drawn=None if drawn is None else replace(drawn, promised=False))
    report = {
        "model": str(paths[0]),
        "inverse": str(paths[1]),
        "claim": claim.value if claim is not None else None,
        "evidence": None if claim is None else _evidence(g.metadata),
        "requirements": [] if claim is None else g.metadata.get("onnx_invert.requirements", "").splitlines(),
        "found": found.value,
        "round_trip": document.round_trip(measured),
        "version": __version__,
    }
    return Check(claim, found, measured, note, report)


def _lossless(
    paths: tuple[Path, Path],
    f: Session,
    g: Session,
    *,
    data: str | Path | None,
    samples: int | None,
    rtol: float | None,
) -> Check:
    """g⁺(f⁺(x)) = x of a lossless pair."""
    inputs = ports(f)
    names = latent_names(g)
    recovered = [port.name for port in inputs if port.name in g.outputs]
    known = [name for name in f.outputs if name in g.names and name not in names]
    batches = None
    if data is not None:
        arrays = match(load(Path(data)), [port.name for port in inputs], Path(data).name)
        batches = list(cut(arrays, inputs, recovered[0], samples))
    found = measure(f, g, inputs, recovered, known, names, batches=batches, count=samples or 256, rtol=rtol)
    measured = found.round_trip("given data" if data is not None else "drawn")
    why = g.metadata.get(GIVEN)
    note = (
        f"a lossless pair: x from y and {', '.join(names) or 'nothing else'}; largest error {found.absolute.max():.2g}"
        f"{'' if why is None else f'; z must be given: {why}'}"
    )
    shown = Guarantee.LEFT if found.passed else Guarantee.APPROXIMATE
    report = {
        "model": str(paths[0]),
        "inverse": str(paths[1]),
        "claim": Guarantee.LEFT.value,
        "latents_may_be_left_out": why is None,
        "found": shown.value,
        "round_trip": document.round_trip(measured),
        "version": __version__,
    }
    return Check(Guarantee.LEFT, shown, measured, note, report)


def made_for(metadata: dict[str, str], model: Path) -> bool:
    """True if an inverse's metadata name this very file as its model."""
    digest = metadata.get("onnx_invert.model_sha256")
    with model.open("rb") as file:
        if digest == hashlib.file_digest(file, "sha256").hexdigest():
            return True
    from onnx_invert.graph.read import file_hash

    return digest == file_hash(model)


def ports(session: Session) -> list[Port]:
    """The inputs of a model that onnxruntime has loaded."""
    return [Port(value.name, _shape(value.shape), numpy_type(value)) for value in session.inputs]


def _sized(of_f: list[Port], of_g: dict[str, Any]) -> list[Port]:
    """The inputs of f at the sizes that g is for, where f leaves them open."""
    return [
        port
        if port.name not in of_g
        else replace(
            port,
            shape=tuple(
                other if isinstance(size, str) and isinstance(other, int) else size
                for size, other in zip(port.shape, of_g[port.name].shape, strict=True)
            ),
        )
        for port in of_f
    ]


def _claim(metadata: dict[str, str], model: Path) -> tuple[Guarantee | None, str]:
    """The guarantee in the inverse's metadata, if it was made for this very file."""
    stated = metadata.get("onnx_invert.guarantee")
    if stated is None:
        return None, "the inverse states no guarantee"
    if stated == Guarantee.APPROXIMATE.value:
        return None, "the inverse states that it is approximate: it promises nothing"
    if not made_for(metadata, model):
        return None, "the inverse was made for another model, or another version of it"
    try:
        note = f"the inverse states: {stated}{', tried' if _evidence(metadata) == 'tried' else ''}"
        requirements = metadata.get("onnx_invert.requirements")
        return Guarantee(stated), note if not requirements else f"{note}; if {'; '.join(requirements.splitlines())}"
    except ValueError:
        return None, f"the inverse states {stated!r}, which is no guarantee known here"


def _evidence(metadata: dict[str, str]) -> str:
    """What the claim of an inverse rests on, as its file says."""
    return metadata.get("onnx_invert.evidence", "tried")


def _matched(f: Session, g: Session) -> tuple[dict[str, str], dict[str, str]]:
    """f's outputs to g's inputs, and f's inputs to g's outputs."""
    f_in, f_out = [v.name for v in f.inputs], f.outputs
    known = {name: name for name in f_out if name in g.names}
    recovered = {name: name for name in f_in if name in g.outputs}
    if not known and len(f_out) == 1 and len(g.names) == 1:
        known = {f_out[0]: next(iter(g.names))}
    if not recovered and len(f_in) == 1 and len(g.outputs) == 1:
        recovered = {f_in[0]: g.outputs[0]}
    if not known or not recovered:
        raise UsageError(
            "The two files do not fit: no output of the model is an input of the inverse, or no output of the "
            f"inverse an input of the model. Model: {f_in} → {f_out}; inverse: {sorted(g.names)} → {g.outputs}."
        )
    _same_shape({v.name: v for v in f.output_ports}, {v.name: v for v in g.inputs}, known, "takes")
    _same_shape({v.name: v for v in f.inputs}, {v.name: v for v in g.output_ports}, recovered, "returns")
    return known, recovered


def _same_shape(mine: dict[str, Any], theirs: dict[str, Any], names: dict[str, str], verb: str) -> None:
    for name, other in names.items():
        a, b = mine[name], theirs[other]
        clash = a.type != b.type or (
            len(a.shape) != len(b.shape)
            or any(isinstance(p, int) and isinstance(q, int) and p != q for p, q in zip(a.shape, b.shape, strict=True))
        )
        if clash:
            raise UsageError(
                f"The two files do not fit: {name!r} is {a.type[7:-1]}{a.shape} in the model; the inverse {verb} "
                f"{b.type[7:-1]}{b.shape}."
            )


def _shape(dims: Sequence[int | str | None]) -> tuple[int | str, ...]:
    return tuple(f"?{axis}" if dim is None else dim for axis, dim in enumerate(dims))


def _shown(measured: RoundTrip) -> Guarantee:
    """The strongest guarantee that the samples do not contradict."""
    if not measured.y.holds and not measured.x.holds:
        return Guarantee.APPROXIMATE
    onto = measured.drawn is not None and measured.drawn.holds and measured.y.holds
    return Guarantee.of(measured.x.holds, bool(onto))
