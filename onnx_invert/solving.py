"""What a user chooses of the solver, made into numbers: the units of the equations, and priors, from samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from onnx_invert.bounding import box, by_input, ends_of
from onnx_invert.build.newton.inverse import ITERATIONS, Options, build_probe
from onnx_invert.errors import UsageError
from onnx_invert.graph.read import Source
from onnx_invert.graph.write import to_proto
from onnx_invert.numerics.prior import Prior, fit
from onnx_invert.numerics.tolerance import eps
from onnx_invert.plan.bounds import Ends
from onnx_invert.plan.choice import Method
from onnx_invert.plan.newton import NewtonPlan
from onnx_invert.runtime import Session
from onnx_invert.samples import DISTRIBUTIONS, Batch, Port, cut, draw, ports_of
from onnx_invert.trips import by_sample

SAMPLES, SINGLE_RUNS = 256, 32
"""Samples that the spread of the known numbers is taken from; where the model takes one at a time, fewer are tried."""

CHUNK, CHUNK_NUMBERS = 4096, 1 << 23
"""Samples of a prior's data that are in memory at once, and numbers of them: 64 MB."""

MOST_KEPT = 1 << 23
"""Known numbers that are kept from one pass over a prior's data to the next; where there are more f runs again."""

LEAST_SPREAD = 1e-3
"""Of the widest: an output that hardly moves is not blown up beyond this."""


FEW = 8
"""So many samples weigh as much in an output's spread as all the other outputs."""


@dataclass(frozen=True)
class Choices:
    """The solver's options as `invert` takes them."""

    iterations: int | None = None
    tolerance: float | None = None
    unroll: int | None = None
    residual: bool = False
    bounds: tuple[Any, Any] | None = None
    prior: Mapping[str, NDArray[Any]] | None = None
    prior_kind: str | None = None
    decoder: bool = False

    @property
    def kind(self) -> str | None:
        """Which prior it is; None without one."""
        if self.decoder:
            return "decoder"
        return None if self.prior is None else self.prior_kind or "conditional"

    @property
    def has_prior(self) -> bool:
        """True if x is to be plausible, which the solver alone can see to."""
        return self.prior is not None or self.decoder

    @property
    def needs_newton(self) -> bool:
        """True if something was chosen that a closed form alone does not keep to."""
        return self.bounds is not None or self.has_prior

    def check(self, method: str) -> None:
        """Refuse what makes no sense, before any work.

        Raises:
            UsageError: a method that there is not, a number out of range, or a choice that closed forms do not have.
        """
        if method not in get_args(Method):
            raise UsageError(f"--method {method}: it is one of {', '.join(get_args(Method))}.")
        if self.iterations is not None and self.iterations < 1:
            raise UsageError(f"--iterations {self.iterations}: at least one is needed.")
        if self.unroll is not None and self.unroll < 1:
            raise UsageError(f"--unroll {self.unroll}: at least one iteration is needed.")
        if self.iterations is not None and self.unroll is not None:
            raise UsageError("--unroll K says how many iterations there are; leave --iterations out.")
        if self.tolerance is not None and not 0 < self.tolerance < math.inf:
            raise UsageError(f"--tolerance {self.tolerance:g}: it is a number above 0.")
        if method == "closed-form" and (idle := self.idle()):
            raise UsageError(idle)
        if method == "closed-form" and self.needs_newton:
            raise UsageError("--method closed-form keeps no bounds and has no prior: leave them, or it, out.")
        if self.prior_kind not in {None, "gaussian", "conditional"}:
            raise UsageError(f"--prior-kind {self.prior_kind}: it is gaussian or conditional.")
        if self.prior_kind is not None and self.prior is None:
            why = "a decoder is a prior of its own kind" if self.decoder else "there is no --prior DATA that it is for"
            raise UsageError(f"--prior-kind {self.prior_kind}: {why}; leave it out.")
        if self.decoder and self.bounds is not None:
            raise UsageError(
                "--bounds: x is what the decoder makes, and lies where the decoder puts it. Let its last layer keep "
                "the bounds (a Sigmoid, a Clip), and leave --bounds out."
            )

    def idle(self, *, unrolled: bool = False) -> str:
        """What a closed form does with the solver's options: a sentence, or nothing if none was given.

        `unrolled` says that it has loops of its own, which `unroll` writes out.
        """
        unroll = None if unrolled else self.unroll
        given = {"--iterations": self.iterations, "--tolerance": self.tolerance, "--unroll": unroll}
        names = [name for name, value in given.items() if value is not None]
        if not names:
            return ""
        return (
            f"{' and '.join(names)}: the inverse is a closed form, which iterates nothing. --method newton  solves "
            "f(x) = y instead."
        )

    def options(self, plan: NewtonPlan, data: Batch | None) -> Options:
        """For one plan; `data` are inputs of the model, None to draw them.

        Raises:
            UsageError: bounds that do not fit.
        """
        bounds = None if self.bounds is None else ends_of(plan, self.bounds)
        within = box(plan, bounds)
        seen = _look(plan, data, within)
        return Options(
            iterations=self.iterations or ITERATIONS,
            tolerance=self.tolerance,
            unroll=self.unroll,
            residual=self.residual,
            bounds=bounds,
            units=None if bounds is None else _units(plan, data, bounds),
            spreads=seen.spreads(plan),
            anchor=seen.anchor(plan, within) if self.prior is None and plan.decoder is None else None,
            distribution=seen.distribution,
            prior=None if self.prior is None else _fit(plan, self.prior, conditional=self.prior_kind != "gaussian"),
        )


@dataclass(frozen=True)
class _Seen:
    """The model up to its equations, as it runs on samples: what it was given, and what it made of that.

    `distribution` is that which they are drawn from, the first that all its known numbers are finite on.
    """

    session: Session
    batches: Sequence[Batch]
    found: Sequence[Mapping[str, NDArray[Any]]]
    distribution: int

    def spreads(self, plan: NewtonPlan) -> list[NDArray[np.float64]]:
        """Per system the standard deviation of its known numbers over samples, held off zero."""
        unit = eps(plan.dtypes[0].numpy())
        return [_spread(rows, unit) for rows in self._known(plan)]

    def anchor(self, plan: NewtonPlan, within: Mapping[str, Ends]) -> NDArray[np.float64] | None:
        """Numbers (n) of x to begin at where 0, or what of the bounds is nearest, has no finite y: log x, 1 / x.

        The mean of the samples, or the first of those whose y is finite. None where 0 will do, and where nothing does.
        """
        names = [value.name or "" for value in plan.solved.recovered]
        given = self.batches[0]
        zero = {name: np.clip(np.zeros_like(given[name]), *within.get(name, (-np.inf, np.inf))) for name in names}
        if self._finite(given, zero):
            return None
        x = system_rows(self.batches, names, plan.systems[-1].n)
        x = x[np.logical_and.reduce([np.isfinite(rows).all(axis=1) for rows in (x, *self._known(plan))])]
        for row in (np.mean(x, axis=0), x[0]) if len(x) else ():
            if self._finite(given, by_input(plan, row)):
                return np.asarray(row)
        return None

    def _known(self, plan: NewtonPlan) -> list[NDArray[np.float64]]:
        """Per system its known numbers (samples, m)."""
        names = iter(self.session.outputs)
        return [system_rows(self.found, [next(names) for _ in system.wanted], system.m) for system in plan.systems]

    def _finite(self, given: Batch, x: Mapping[str, NDArray[Any]]) -> bool:
        """Whether y is finite where x, numbers of one sample by input, stands in for what is given."""
        placed = {name: np.broadcast_to(part, given[name].shape).astype(given[name].dtype) for name, part in x.items()}
        return all(np.isfinite(array).all() for array in run_on(self.session, {**given, **placed}).values())


def _look(plan: NewtonPlan, data: Batch | None, within: Mapping[str, Ends]) -> _Seen:
    """Run the model on samples of `data`, or on drawn ones.

    With a decoder the samples are w's of its own, normal numbers; `data` are x's, of which no w is known.
    """
    data = None if plan.decoder is not None else data
    ports = ports_of(plan.solved.inputs)
    main = plan.solved.recovered[0].name or ""
    session = Session(to_proto(build_probe(plan)).SerializeToString(), "the model up to its equations")
    if data is not None:
        batches = list(cut(data, ports, main, SAMPLES))
        return _Seen(session, batches, [run_on(session, batch) for batch in batches], 0)
    for index in range(len(DISTRIBUTIONS)):
        batches = list(draw(ports, SAMPLES, index, main, bounds=within, even=True))
        seen = _Seen(session, batches, [run_on(session, batch) for batch in batches], index)
        if all(np.isfinite(array).all() for found in seen.found for array in found.values()):
            break
    return seen


def _units(plan: NewtonPlan, data: Batch | None, bounds: Ends) -> NDArray[np.float64] | None:
    """Per number of x its standard deviation over data, in which one counts that has an infinite end; None for 1."""
    if data is None or all(np.isfinite(end).all() for end in bounds):
        return None
    ports, names = ports_of(plan.solved.inputs), [value.name or "" for value in plan.solved.recovered]
    rows = system_rows(list(cut(data, ports, names[0], SAMPLES)), names, plan.systems[-1].n)
    found = np.std(rows, axis=0)
    return np.where(np.isfinite(found) & (found > 0), found, 1.0)


def decoded(plan: NewtonPlan, decoder: Source, count: int) -> list[Batch]:
    """Inputs of the model that the decoder makes of normal numbers, as the verification takes them."""
    inner, (x,) = plan.solved, plan.problem.recovered
    ports, (w,) = ports_of(inner.inputs), inner.recovered
    main = next(port for port in ports if port.name == w.name)
    session = Session(decoder.path if decoder.path is not None else decoder.data, decoder.name)
    batches = []
    for batch in draw(ports, count if main.has_batch else min(count, SINGLE_RUNS), 0, main.name):
        (made,) = session.run({session.inputs[0].name: batch.pop(main.name)}).values()
        batches.append({x.name or "": made, **batch})
    return batches


def _fit(plan: NewtonPlan, data: Mapping[str, NDArray[Any]], *, conditional: bool) -> Prior:
    """The prior of the last system's unknowns, from inputs of the model; f is run on them, a chunk at a time."""
    ports = ports_of(plan.problem.inputs)
    recovered = [value.name or "" for value in plan.problem.recovered]
    session = Session(to_proto(build_probe(plan)).SerializeToString(), "the model up to its equations")
    system = plan.systems[-1]
    names = session.outputs[-len(system.wanted) :]
    total = min(len(data[name]) for name in recovered if data[name].ndim) if recovered else 0
    rows = _chunk(ports, recovered[0], system.n)
    kept: dict[int, list[NDArray[np.float64]]] | None = {} if total * system.m <= MOST_KEPT else None

    shared = {name for name, array in data.items() if not array.ndim or len(array) != total}  # by all samples

    def chunks() -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        for start in range(0, total, rows):
            part = {name: array if name in shared else array[start : start + rows] for name, array in data.items()}
            seen = None if kept is None else kept.get(start)
            found = []
            for index, batch in enumerate(cut(part, ports, recovered[0], None)):
                known = system_rows([run_on(session, batch)], names, system.m) if seen is None else seen[index]
                found.append(known)
                parts = [by_sample(batch[name], len(known)) for name in recovered]
                yield known, np.concatenate(parts, axis=1).astype(np.float64)
            if kept is not None:
                kept[start] = found

    try:
        found = fit(chunks, conditional=conditional, unit=eps(plan.dtypes[0].numpy()))
        spread = found.factor.least + np.max(np.abs(found.factor.rows), initial=0.0)
        if not spread > 4 * eps(np.float64) * np.max(np.abs(found.mean), initial=0.0):  # no more than rounding
            raise ValueError("its samples are all the same, or follow from y alone")
        return found
    except ValueError as error:
        raise UsageError(f"No prior can be fitted to the data: {error}.") from error


def _chunk(ports: Sequence[Port], main: str, n: int) -> int:
    """How many samples of `n` numbers are read at once: whole batches, where the model takes a fixed number."""
    first = next(port.shape[0] for port in ports if port.name == main) if n else 1
    batch = first if isinstance(first, int) else 1
    return max(1, min(CHUNK, CHUNK_NUMBERS // max(n, 1)) // batch) * batch


def run_on(session: Session, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The outputs for a batch, of which the model may take a part alone."""
    return session.run({name: array for name, array in batch.items() if name in session.names})


def system_rows(found: Sequence[Mapping[str, NDArray[Any]]], names: Sequence[str], m: int) -> NDArray[np.float64]:
    """The known numbers (samples, m) of a system, from the outputs of several runs."""
    parts = []
    for outputs in found:
        arrays = [outputs[name] for name in names]
        count = sum(array.size for array in arrays) // m
        parts.append(np.concatenate([by_sample(array, count) for array in arrays], axis=1))
    return np.concatenate(parts).astype(np.float64)


def _spread(rows: NDArray[np.float64], unit: float) -> NDArray[np.float64]:
    """The units of the equations: standard deviations, of few samples drawn towards their geometric mean.

    Of four samples one is off by a factor of ten easily, which makes equations ill-conditioned that are not. An
    output that does not move, to the rounding `unit` of its type, tells nothing: in units of its own it would weigh
    most of all, and hide the residuals of the others.
    """
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) < 2:
        return np.ones(rows.shape[1])
    spread = np.std(rows, axis=0)
    moves = spread > 4 * unit * np.max(np.abs(rows), axis=0)
    if not moves.any():
        return np.ones(rows.shape[1])
    widest = float(spread[moves].max())
    logarithm = np.log(np.maximum(spread[moves], LEAST_SPREAD * widest))
    weight = len(rows) / (len(rows) + FEW)
    found = np.full(rows.shape[1], widest)
    found[moves] = np.exp(weight * logarithm + (1 - weight) * logarithm.mean())
    return found
