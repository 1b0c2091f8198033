"""A second solver for models of which the first leaves samples unsolved.

The plain iteration is tried on samples. Where it leaves some, starts are fitted: per system, what is plausible for its
unknowns given its known numbers, the same regression that a conditional prior is. Samples that stall then start from
there, with kinks rounded off in turns, and several systems are solved as one in the end. The starts are kept if they
leave fewer samples; a model that the plain iteration solves has none of this, neither nodes nor weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.bench import Bench
from onnx_invert.bounding import box
from onnx_invert.build.inverse import Inverse
from onnx_invert.build.newton.inverse import Options, build_probe
from onnx_invert.build.newton.reversed import Reversed, build_conditions, reverse
from onnx_invert.build.newton.solver import RESCUE_ITERATIONS
from onnx_invert.graph.read import Source
from onnx_invert.graph.write import to_proto
from onnx_invert.numerics.prior import fit
from onnx_invert.numerics.start import Start
from onnx_invert.numerics.tolerance import eps
from onnx_invert.plan.bounds import Ends
from onnx_invert.plan.newton import LARGEST_DENSE, NewtonPlan, System
from onnx_invert.plan.reversal import Chain, find_chain
from onnx_invert.rules.rounding import has_kink
from onnx_invert.runtime import Runs, Session
from onnx_invert.samples import SEED, Batch, Port, cut, draw, ports_of
from onnx_invert.solving import SAMPLES, SINGLE_RUNS, decoded, run_on, system_rows

Array = NDArray[np.float64]

DRAWS = 2048
"""Samples that starts are fitted to."""

MOST_NUMBERS = 1 << 22
"""Numbers of one tensor in all samples that starts are fitted to, at most: 32 MB."""

TRIED, TRIED_AGAIN = SAMPLES, 16
"""Samples that the plain iteration is tried on, and how many of those that it leaves are tried with starts."""

TRIED_OF_DATA = 1024
"""The same where data are given: the verification, which takes all of them, need not run these again."""

SHORTLY = RESCUE_ITERATIONS // 2
"""Iterations of the second loop where it is tried: which starts are the better ones shows before the last of them,
and samples that none helps take all."""

AT_FIRST = SHORTLY // 6
"""The same where one sample that is solved decides: mostly one is within the first eight starts, and the others then
need not take theirs."""

MOVED = 1e-3
"""By how much of themselves inputs are moved to try them again."""

LANDMARKS = 256
"""Of the regression, at most: a start has to be near, not the nearest."""

MOST_PAIRED = 1 << 17
"""Numbers of the pairs that the file keeps for one system: half a megabyte in float32."""

LEAST_DRAWS = 64
"""Below this many nothing is fitted."""

LEAST_SEEN = 3
"""So many samples of data tell something of the range of x."""

LARGEST = 1024
"""Numbers of a sample's unknowns, or known ones, that a start is fitted for at most: its covariance is held."""

OTHER_SEED = SEED + 1
"""Starts are not fitted to the samples that the verification draws."""


def with_starts(
    plan: NewtonPlan,
    options: Options,
    data: Batch | None,
    prior: Mapping[str, NDArray[Any]] | None,
    decoder: Source | None,
    bench: Bench,
) -> tuple[Options, Inverse | None, Runs | None]:
    """The options with starts, if the plain iteration leaves samples unsolved and starts leave fewer.

    `data` are inputs to try it on, None to draw them; `prior` are those that a prior was fitted to, which the starts
    are fitted to as well. Beside them the inverse, if it was made and solves all, and what that without starts was run
    on.
    """
    if options.unroll is not None:
        return options, None, None
    plain = bench.run(options, _to_try(plan, data, options, decoder), TRIED_AGAIN)
    if not plain.count:
        return options, plain.inverse, plain.runs
    left, runs, fewest, best = plain.left, plain.runs, plain.count, options
    del plain  # the inverse, with its weights
    batches = _to_fit(plan, data, prior, options)
    chains = _chains(plan, options)
    for way in _ways(plan, options, batches, chains):
        # Where there is but one way, it is kept for the first sample that it solves.
        for again in [SHORTLY] if any(chains) else [AT_FIRST, SHORTLY]:
            count = bench.run(replace(way, again=again), left, TRIED_AGAIN, threads=1).count
            if count < fewest:
                break
        # Of two that leave as many, the one without equations of its own, which comes first.
        if count < fewest:
            fewest, best = count, way
        if not fewest:
            break
    return best, None, runs


def _ways(
    plan: NewtonPlan, options: Options, batches: Sequence[Batch], chains: Sequence[Chain | None]
) -> Iterator[Options]:
    """The options with starts, and then with equations from y's side as well, which may take many times as long."""
    more = replace(options, starts=_fit_starts(plan, batches), kinks=_kinks(plan, batches))
    yield more
    if any(others := _reversed(plan, chains, batches)):
        yield replace(more, reversed=others)


def _to_try(plan: NewtonPlan, data: Batch | None, options: Options, decoder: Source | None) -> list[Batch]:
    """Inputs of the model, as the verification takes them."""
    if decoder is not None:
        return decoded(plan, decoder, plan.affordable(TRIED))
    ports, main = ports_of(plan.problem.inputs), plan.problem.recovered[0].name or ""
    if data is not None:
        batches = list(cut(data, ports, main, plan.affordable(TRIED_OF_DATA)))
        alone = not next(port for port in ports if port.name == main).has_batch
        most = plan.affordable(TRIED)
        return batches if alone else [*batches, *_moved(batches, main, most, box(plan, options.bounds).get(main))]
    single = not next(port for port in ports if port.name == main).has_batch
    count, within = plan.affordable(SINGLE_RUNS if single else TRIED), box(plan, options.bounds)
    return list(draw(ports, count, options.distribution, main, bounds=within, even=True))


def _moved(batches: Sequence[Batch], main: str, most: int, within: Ends | None) -> Iterator[Batch]:
    """The same inputs, moved a little `within` bounds, until there are `most`.

    Which samples the iteration leaves depends on rounding, so that of few it may solve all by chance.
    """
    rng = np.random.default_rng(OTHER_SEED)
    count = sum(len(batch[main]) for batch in batches)
    for _ in range(most // count - 1 if count else 0):
        for batch in batches:
            x = batch[main]
            moved = x * (1 + MOVED * rng.standard_normal(x.shape))
            yield {**batch, main: (moved if within is None else np.clip(moved, *within)).astype(x.dtype)}


def _to_fit(
    plan: NewtonPlan, data: Batch | None, prior: Mapping[str, NDArray[Any]] | None, options: Options
) -> list[Batch]:
    """Inputs that starts are fitted to: those of a prior, or drawn within bounds, or where data say that x lies."""
    ports, main = ports_of(plan.solved.inputs), plan.solved.recovered[0].name or ""
    widest = max(max(s.m, s.n) for s in plan.systems)
    count = min(DRAWS, max(LEAST_DRAWS, MOST_NUMBERS // widest))
    single = not next(port for port in ports if port.name == main).has_batch
    # What a prior is fitted to lies where x does, and within bounds what is drawn does.
    known = prior if prior is not None else data if options.bounds is None else None
    if known is not None and plan.decoder is None:
        if prior is not None and (single or len(prior[main]) >= LEAST_DRAWS):
            return list(cut(dict(prior), ports, main, count))
        if not single and len(known[main]) >= LEAST_SEEN:
            (seen,) = cut(dict(known), ports, main, None)
            return [_alike(seen, ports, main, count)]
    count, within = SINGLE_RUNS if single else count, box(plan, options.bounds)
    return list(draw(ports, count, options.distribution, main, seed=OTHER_SEED, bounds=within, even=True))


def _alike(seen: Batch, ports: Sequence[Port], main: str, count: int) -> Batch:
    """Inputs in the range of those that were seen, but other ones: each number is between those of two samples.

    Verification may be made on the same data, which would find itself among the pairs otherwise. Few samples show less
    than the range: M numbers that are uniform span (M − 1) / (M + 1) of theirs in the mean, and so far beyond the two
    samples they lie then.
    """
    rng = np.random.default_rng(OTHER_SEED)
    total = len(seen[main])
    beyond = 1 / (total - 1) if total < LEAST_DRAWS else 0.0
    rows = rng.integers(total, size=count)
    found: Batch = {}
    for port in ports:
        array = seen[port.name]
        if not port.has_batch:
            found[port.name] = array
        elif array.dtype.kind != "f":
            found[port.name] = array[rows]
        else:
            flat = array.reshape(total, -1)
            size = count, flat.shape[1]
            one, other = (np.take_along_axis(flat, rng.integers(total, size=size), axis=0) for _ in range(2))
            share = rng.uniform(-beyond, 1 + beyond, size=size)
            found[port.name] = (share * one + (1 - share) * other).astype(array.dtype).reshape(count, *array.shape[1:])
    return found


def _fit_starts(plan: NewtonPlan, batches: Sequence[Batch]) -> list[Start | None]:
    """One for each system, and of several one for all as one; None where a sample has too many numbers, or there are
    too few."""
    systems = plan.systems
    session = Session(to_proto(build_probe(plan)).SerializeToString(), "the model up to its equations")
    found = [run_on(session, batch) for batch in batches]
    outputs = iter(session.outputs)
    known = [system_rows(found, [next(outputs) for _ in s.wanted], s.m) for s in systems]
    x = system_rows(batches, [value.name or "" for value in plan.solved.recovered], systems[-1].n)
    pairs = [*zip(known, [*known[1:], x], strict=True)]
    if plan.joined is not None:
        pairs.append((known[0], x))
    unit = eps(plan.dtypes[0].numpy())
    return [_fit(y, unknown, unit) for y, unknown in pairs]


def _kinks(plan: NewtonPlan, batches: Sequence[Batch]) -> dict[ir.Value, float]:
    """The root mean square, over a few samples, of every tensor whose function has a kink that can be rounded off."""
    nodes = [step.node for step in (plan.joined or plan.systems[0]).program.steps]
    tensors = list(dict.fromkeys(v for node in nodes if has_kink(node) and (v := node.inputs[0]) is not None))
    if not tensors:
        return {}
    session = Session(to_proto(build_probe(plan, tensors)).SerializeToString(), "the model up to its kinks")
    ports = ports_of(plan.solved.inputs)
    first = batches[0]
    few = {p.name: first[p.name][:SAMPLES] if p.has_batch else first[p.name] for p in ports}
    sizes = [float(np.sqrt(np.mean(np.square(a.astype(np.float64))))) for a in run_on(session, few).values()]
    return {value: size for value, size in zip(tensors, sizes, strict=True) if 0 < size < np.inf}


def _chains(plan: NewtonPlan, options: Options) -> list[Chain | None]:
    """Each system's nodes as a chain that can be solved from y's side; None where they are none, or x has a prior or
    bounds, which those equations know nothing of."""
    found = list[Chain | None]()
    for system in plan.systems:
        free = system is not plan.systems[-1] or (options.prior is None and options.bounds is None)
        small = max(system.m, system.n) <= LARGEST_DENSE
        found.append(find_chain(system, plan.rules, plan.solved.opset) if free and small else None)
    return found


def _reversed(plan: NewtonPlan, chains: Sequence[Chain | None], batches: Sequence[Batch]) -> list[Reversed | None]:
    """How each system is solved from y's side."""
    pairs = zip(plan.systems, chains, strict=True)
    return [None if chain is None else _fit_reversed(plan, chain, system, batches) for system, chain in pairs]


def _fit_reversed(plan: NewtonPlan, chain: Chain, system: System, batches: Sequence[Batch]) -> Reversed | None:
    """With pairs, and with units: what its equations are off by where p is, by its own spread, anywhere."""
    if max(system.m + chain.conditions, len(chain.last.weight)) > LARGEST_DENSE:
        return None
    reversal = reverse(chain, plan.rules, plan.solved.opset)
    wanted = [*system.wanted, chain.hidden]
    session = Session(to_proto(build_probe(plan, wanted)).SerializeToString(), "the model up to its last layer")
    runs = [run_on(session, batch) for batch in batches]
    *names, last = session.outputs
    known, hidden = system_rows(runs, names, system.m), system_rows(runs, [last], reversal.system.n)
    finite = np.isfinite(known).all(axis=1) & np.isfinite(hidden).all(axis=1)
    known, hidden = known[finite], hidden[finite]
    if len(known) < LEAST_DRAWS:
        return None
    noise = np.random.default_rng(OTHER_SEED).standard_normal(hidden.shape)
    around = Session(to_proto(build_conditions(reversal)).SerializeToString(), "the equations from y's side")
    off = around.run({reversal.p.name or "": (hidden + hidden.std() * noise).astype(plan.dtypes[0].numpy())})
    units = [np.full(array.shape[1], float(np.std(array.astype(np.float64))) or 1.0) for array in off.values()]
    known = np.pad(known, ((0, 0), (0, chain.conditions)))
    most = max(LEAST_DRAWS, MOST_PAIRED // (known.shape[1] + hidden.shape[1]))
    return Reversed(reversal, Start(None, known[:most], hidden[:most]), np.concatenate(units))


def _fit(known: Array, unknown: Array, unit: float) -> Start | None:
    finite = np.isfinite(known).all(axis=1) & np.isfinite(unknown).all(axis=1)
    known, unknown = known[finite], unknown[finite]
    if len(known) < LEAST_DRAWS or max(known.shape[1], unknown.shape[1]) > LARGEST:
        return None
    plausible = fit(lambda: [(known, unknown)], conditional=True, landmarks=LANDMARKS, unit=unit)
    most = max(LEAST_DRAWS, MOST_PAIRED // (known.shape[1] + unknown.shape[1]))
    return Start(plausible, known[:most], unknown[:most])
