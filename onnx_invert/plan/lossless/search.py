"""The cheapest way to every tensor, as a shortest path over the equations.

Knuth's generalisation of Dijkstra's algorithm to equations with several unknowns. What is only kept weighs before
what is completed, and both before the number of steps. So a tensor that several nodes use costs one latent at most,
and what then lies behind it costs none.

Source: D. Knuth, A generalization of Dijkstra's algorithm, Information Processing Letters 6, 1977.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from itertools import count

import onnx_ir as ir

from onnx_invert.errors import ModelError
from onnx_invert.plan.lossless.completed import Lossless, slots_of
from onnx_invert.plan.lossless.factors import resolved
from onnx_invert.plan.lossless.samples import Samples, shape_of
from onnx_invert.plan.lossless.steps import EFFORTS, Effort, Join, Keep, Step, Undo
from onnx_invert.plan.lossless.ways import Ways
from onnx_invert.plan.problem import Problem
from onnx_invert.rules import RuleSet

Price = tuple[int, int, int]
"""Numbers kept, numbers of completions, steps."""


def make_lossless(problem: Problem, rules: RuleSet, effort: Effort = EFFORTS[0]) -> Lossless:
    """Choose the latents.

    Raises:
        ModelError: an input whose size is known only at run time.
    """
    samples = Samples(problem)
    steps = cheapest(Ways(problem, rules, effort, samples))
    for value in problem.recovered:
        if value not in steps:
            raise ModelError(f"The sizes of {value.name!r} are known only at run time: fix them with --shape.")
    chosen = tuple(resolved(step, effort) for step in _used(problem, steps))
    x_size = sum(samples.numbers(shape_of(value)) or 0 for value in problem.recovered)
    counts = [samples.size(value) for value in problem.known]
    y_size = None if None in counts else sum(count or 0 for count in counts)
    batch = next(((value, place) for value in problem.known if (place := samples.place(value)) is not None), None)
    return Lossless(problem, effort, chosen, slots_of(chosen, problem), x_size, y_size, samples.fixed, batch)


def _used(problem: Problem, steps: dict[ir.Value, Step]) -> list[Step]:
    """The steps that the recovered inputs need, in running order."""
    found: dict[ir.Value, Step] = {}
    stack = [(value, False) for value in reversed(problem.recovered)]
    while stack:
        value, done = stack.pop()
        if value in found or value not in steps:
            continue
        if done:
            found[value] = steps[value]
        else:
            stack.append((value, True))
            stack.extend((need, False) for need in steps[value].needs)
    return list(found.values())


def cheapest(ways: Ways) -> dict[ir.Value, Step]:
    """For every tensor that can be had the cheapest way; none for the known outputs."""
    settled: dict[ir.Value, Price] = {}
    steps: dict[ir.Value, Step] = {}
    waiting: dict[ir.Value, list[Step]] = {}
    tie = count()
    heap: list[tuple[Price, int, ir.Value, Step | None]] = []
    heap += [((0, 0, 0), next(tie), value, None) for value in ways.problem.known]
    for step in ways:
        if not step.needs:
            heapq.heappush(heap, (_price(step, settled, ways.uses), next(tie), step.value, step))
        for need in dict.fromkeys(step.needs):
            waiting.setdefault(need, []).append(step)
    while heap:
        price, _, value, way = heapq.heappop(heap)
        if value in settled:
            continue
        settled[value] = price
        if way is not None:
            steps[value] = way
        for step in waiting.get(value, ()):
            if step.value not in settled and all(need in settled for need in step.needs):
                heapq.heappush(heap, (_price(step, settled, ways.uses), next(tie), step.value, step))
    return steps


def _price(step: Step, settled: Mapping[ir.Value, Price], uses: Mapping[ir.Value, int]) -> Price:
    kept = step.numbers if isinstance(step, Keep) else 0
    latent = 0
    if isinstance(step, Undo):
        latent = sum(link.numbers for link in step.links)
        if uses.get(step.value, 0) > 1 and not step.whole:
            # What one node loses of a tensor that others use as well is not lost by the network.
            kept, latent = kept + latent, 0
    elif isinstance(step, Join):
        latent = int(step.missing.size)
    parts = [settled[need] for need in dict.fromkeys(step.needs)]
    return (
        kept + sum(p[0] for p in parts),
        latent + sum(p[1] for p in parts),
        1 + sum(p[2] for p in parts),
    )
