"""A second solver for models of which the first leaves samples unsolved.

The plain iteration is tried on samples. Where it leaves some, starts are fitted: per system, what is plausible for its
unknowns given its known numbers, the same regression that a conditional prior is. Samples that stall then start from
there, with kinks softened in turns, and several systems are solved as one in the end. The starts are kept if they
leave fewer samples; a model that the plain iteration solves has none of this, neither nodes nor weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert.build.newton.inverse import Options, build_newton, build_probe
from onnx_invert.graph.write import to_proto
from onnx_invert.numerics.prior import fit
from onnx_invert.numerics.start import Start
from onnx_invert.numerics.tolerance import eps
from onnx_invert.plan.newton import NewtonPlan
from onnx_invert.runtime import Session
from onnx_invert.samples import SEED, Batch, cut, draw, ports_of
from onnx_invert.solving import SINGLE_RUNS, box, run_on, system_rows
from onnx_invert.trips import by_sample

Array = NDArray[np.float64]

DRAWS = 2048
"""Samples that starts are fitted to."""

MOST_NUMBERS = 1 << 22
"""Numbers of one tensor in all samples that starts are fitted to, at most: 32 MB."""

TRIED, TRIED_AGAIN = 128, 16
"""Samples that the plain iteration is tried on, and how many of those that it leaves are tried with starts."""

LANDMARKS = 256
"""Of the regression, at most: a start has to be near, not the nearest."""

MOST_PAIRED = 1 << 17
"""Numbers of the pairs that the file keeps for one system: half a megabyte in float32."""

LEAST_DRAWS = 64
"""Below this many nothing is fitted."""

LARGEST = 1024
"""Numbers of a sample's unknowns, or known ones, that a start is fitted for at most: its covariance is held."""

OTHER_SEED = SEED + 1
"""Starts are not fitted to the samples that the verification draws."""


def with_starts(
    plan: NewtonPlan, options: Options, data: Batch | None, prior: Mapping[str, NDArray[Any]] | None
) -> Options:
    """The options with starts, if the plain iteration leaves samples unsolved and starts leave fewer.

    `data` are inputs to try it on, None to draw them; `prior` are those that a prior was fitted to, which the starts
    are fitted to as well.
    """
    if options.unroll is not None:
        return options
    left = _unsolved(plan, options, _to_try(plan, data, options))
    if not left:
        return options
    more = replace(options, starts=_fit_starts(plan, prior, options))
    return more if _count(plan, _unsolved(plan, more, left)) < _count(plan, left) else options


def _to_try(plan: NewtonPlan, data: Batch | None, options: Options) -> list[Batch]:
    """Inputs of the model whose unknowns the systems have."""
    ports, main = ports_of(plan.solved.inputs), plan.solved.recovered[0].name or ""
    if data is not None and plan.decoder is None:
        return list(cut(data, ports, main, TRIED))
    single = not next(port for port in ports if port.name == main).has_batch
    return list(draw(ports, SINGLE_RUNS if single else TRIED, 0, main, bounds=box(plan, options.bounds)))


def _unsolved(plan: NewtonPlan, options: Options, batches: Sequence[Batch]) -> list[Batch]:
    """The samples that the inverse leaves above the residual of a solution, `TRIED_AGAIN` of them at most."""
    known, main = plan.solved.known, plan.solved.recovered[0].name or ""
    forward = Session(to_proto(build_probe(plan, known)).SerializeToString(), "the model")
    inverse = build_newton(plan, replace(options, residual=True))
    session = Session(to_proto(inverse.model).SerializeToString(), "the inverse")
    ports = ports_of(plan.solved.inputs)
    apart = next(port for port in ports if port.name == main).has_batch
    dtype = plan.problem.known[0].dtype
    assert dtype is not None
    left = []
    for batch in batches:
        found = run_on(forward, batch).values()
        y = {value.name or "": array for value, array in zip(known, found, strict=True)}
        residual = run_on(session, {**batch, **y})[session.outputs[-1]].reshape(-1)
        # What f itself makes infinite cannot be solved for.
        finite = np.logical_and.reduce([np.isfinite(by_sample(a, residual.size)).all(axis=1) for a in y.values()])
        rows = np.flatnonzero(~(residual <= options.solved(dtype)) & finite)[:TRIED_AGAIN]
        if len(rows):
            left.append({p.name: batch[p.name][rows] if apart and p.has_batch else batch[p.name] for p in ports})
    return left[:TRIED_AGAIN]


def _count(plan: NewtonPlan, batches: Sequence[Batch]) -> int:
    """How many samples there are."""
    main = plan.solved.recovered[0].name or ""
    return sum(len(batch[main]) for batch in batches)


def _fit_starts(plan: NewtonPlan, prior: Mapping[str, NDArray[Any]] | None, options: Options) -> list[Start | None]:
    """One for each system and one for all as one; None where a sample has too many numbers, or there are too few."""
    ports, main = ports_of(plan.solved.inputs), plan.solved.recovered[0].name or ""
    systems = plan.systems
    widest = max(max(s.m, s.n) for s in systems)
    count = min(DRAWS, max(LEAST_DRAWS, MOST_NUMBERS // widest))
    single = not next(port for port in ports if port.name == main).has_batch
    session = Session(to_proto(build_probe(plan)).SerializeToString(), "the model up to its equations")
    if prior is not None and plan.decoder is None:
        batches = list(cut(dict(prior), ports, main, count))
    else:
        within = box(plan, options.bounds)
        batches = list(draw(ports, SINGLE_RUNS if single else count, 0, main, seed=OTHER_SEED, bounds=within))
    found = [run_on(session, batch) for batch in batches]
    outputs = iter(session.outputs)
    known = [system_rows(found, [next(outputs) for _ in s.wanted], s.m) for s in systems]
    x = system_rows(batches, [value.name or "" for value in plan.solved.recovered], systems[-1].n)
    pairs = [*zip(known, [*known[1:], x], strict=True), (known[0], x)]
    unit = eps(plan.dtypes[0].numpy())
    return [_fit(y, unknown, unit) for y, unknown in pairs]


def _fit(known: Array, unknown: Array, unit: float) -> Start | None:
    finite = np.isfinite(known).all(axis=1) & np.isfinite(unknown).all(axis=1)
    known, unknown = known[finite], unknown[finite]
    if len(known) < LEAST_DRAWS or max(known.shape[1], unknown.shape[1]) > LARGEST:
        return None
    plausible = fit(lambda: [(known, unknown)], conditional=True, landmarks=LANDMARKS, unit=unit)
    most = max(LEAST_DRAWS, MOST_PAIRED // (known.shape[1] + unknown.shape[1]))
    return Start(plausible, known[:most], unknown[:most])
