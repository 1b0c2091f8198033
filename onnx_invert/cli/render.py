"""Tables and lines for people: results on stdout, messages and progress on stderr."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from rich.table import Table
from rich.text import Text

from onnx_invert.cli.console import console, shown
from onnx_invert.comparison import Check
from onnx_invert.describe import describe
from onnx_invert.inversion import Inversion
from onnx_invert.lossless import LosslessPair
from onnx_invert.plan.bounded import BoundedPlan
from onnx_invert.plan.choice import AnyPlan, stated
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.plan.newton import NewtonPlan
from onnx_invert.plan.plan import Progress
from onnx_invert.plan.problem import left_out
from onnx_invert.plan.system_plan import SystemPlan
from onnx_invert.trips import RoundTrip, Trip, round_up


@contextmanager
def progress(quiet: bool) -> Iterator[Progress | None]:
    """A progress bar on a terminal, shown once the work has taken a second; else nothing."""
    stderr = console(stderr=True)
    if quiet or not (sys.stderr.isatty() and stderr.is_interactive):
        yield None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    bar = Bar(*columns, console=stderr, transient=True)
    task = bar.add_task("reading", total=None)
    later = threading.Timer(1.0, bar.start)
    later.daemon = True
    later.start()
    try:
        yield lambda what, done, total: bar.update(task, description=shown(what), completed=done, total=total)
    finally:
        later.cancel()
        later.join()  # so that it does not start what is stopped now
        bar.stop()


def message(text: str) -> None:
    """A line for people, on stderr."""
    print(text, file=sys.stderr)


def plan(plan: AnyPlan) -> None:
    """The table of a plan, in the order in which the inverse runs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("node", "op", "forward shapes", "undone as", "rank", "cond.", "lost", "note"):
        table.add_column(name, overflow="fold", justify="right" if name in {"rank", "cond.", "lost"} else "left")
    for row in plan.rows:
        table.add_row(
            *(
                Text(shown(cell))
                for cell in (
                    row.node,
                    row.op,
                    row.shapes,
                    row.guarantee.value,
                    "" if row.rank is None else str(row.rank),
                    _condition(row.condition),
                    str(row.lost) if row.lost else "",
                    row.note,
                )
            )
        )
    console().print(table)


def _condition(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if np.isfinite(value) else "∞"


def promise(plan: AnyPlan) -> None:
    """What the plan promises, in a few lines."""
    console().print()
    problem = plan.problem
    recovered = ", ".join(value.name or "" for value in problem.recovered)
    known = ", ".join(value.name or "" for value in problem.known)
    lines = [f"recovers   {recovered} from {known}"]
    if problem.given:
        lines.append(f"given      {', '.join(value.name or '' for value in problem.given)}")
    if problem.unused:
        reasons = left_out(problem)
        for reason in dict.fromkeys(reasons.values()):
            names = ", ".join(name for name, other in reasons.items() if other == reason)
            lines.append(f"left out   {names} ({reason})")
    lines.append(f"guarantee  {stated(plan, plan.guarantee)}: {plan.guarantee.equation}{_where(plan)}")
    lines += [f"if         {requirement}" for requirement in plan.requirements]
    if isinstance(plan, NewtonPlan):
        lines += _solver(plan)
    elif isinstance(plan, BoundedPlan):
        how = "equations" if isinstance(plan.closed, SystemPlan) and plan.closed.iterates else "closed form"
        lines.append(f"method     {how}, condition {_condition(plan.condition)}; where its x lies beyond the bounds:")
        lines += _solver(plan.newton, how="Newton, from the nearest x within them:")
    elif isinstance(plan, SystemPlan):
        steps = f"{len(plan.rows)} steps" + (", some of which iterate" if plan.iterates else "")
        lines.append(f"method     equations, in {steps}; condition of a step up to {_condition(plan.condition)}")
    else:
        lines.append(f"method     closed form, condition {_condition(plan.condition)}{_better(plan)}")
    console().print(shown("\n".join(lines)), soft_wrap=True)


def _solver(plan: NewtonPlan, how: str = "Newton: solves") -> list[str]:
    """How large the equations are, and what they cost."""
    sizes = ", then ".join(f"{s.m} equations for {s.n} unknowns" for s in plan.systems)
    itemsize = int(plan.dtypes[0].itemsize)
    memory = plan.memory(itemsize)
    each = f"{memory / 1e6:.3g} MB" if memory >= 1e5 else f"{memory / 1e3:.3g} kB"
    prior = []
    if plan.decoder is not None:
        prior = [
            f"prior      x is what {plan.decoder.name} makes of {describe(plan.decoder.w)}, the least that gives y"
        ]
    return [
        *prior,
        f"method     {how} {sizes}{_better(plan)}",
        f"cost       an iteration takes about {plan.passes} forward passes; at most {each} of memory for a sample",
    ]


def _where(plan: AnyPlan) -> str:
    if isinstance(plan, NewtonPlan):
        return "; measured on samples, not proven"
    if isinstance(plan, BoundedPlan):
        proven = "that one y has one x is tried, not proven" if plan.tried else "for x within the bounds"
        return f"; {proven}; a y that none of them gives is met as nearly as is found"
    if isinstance(plan, SystemPlan) and plan.tried:
        return "; that one y has one x is tried, not proven, and measured on samples"
    if isinstance(plan, SystemPlan) and plan.has_roots:
        return "; that one y has one x is proven, and that every y has one measured on samples"
    boxes = [f"{name} in {image}" for name, image in plan.images.items() if image is not None and not image.is_reals]
    if plan.guarantee in {Guarantee.LEFT, Guarantee.GENERALIZED}:
        return "; a y that no x gives is moved to one that some x gives"
    return f", for {' and '.join(boxes)}" if boxes else ", for every y"


def _better(plan: AnyPlan) -> str:
    if plan.guarantee.promises_x:
        return ""
    lost = sum(row.lost for row in plan.rows)
    return f"; x itself does not come back: the network loses {lost} dimensions" if lost else ""


def inversion(inversion: Inversion) -> None:
    """The plan, the promise and what was measured."""
    if inversion.plan is not None:
        plan(inversion.plan)
        promise(inversion.plan)
    elif inversion.lossless is not None:
        _from_both(inversion.lossless)
    if inversion.round_trip is not None:
        trips(inversion.round_trip)
    if inversion.lossless is not None:
        lossless(inversion.lossless)


def _from_both(pair: LosslessPair) -> None:
    """What an inverse promises that takes y and z."""
    problem = pair.plan.problem
    recovered = ", ".join(value.name or "" for value in problem.recovered)
    taken = ", ".join([*pair.known, *pair.names])
    lines = [f"recovers   {recovered} from {taken}"]
    if problem.given:
        lines.append(f"given      {', '.join(value.name or '' for value in problem.given)}")
    if unused := [value.name or "" for value in problem.graph.outputs if value.name not in pair.known]:
        lines.append(f"left out   {', '.join(unused)} (not needed)")
    lines.append(f"guarantee  {_stated(None, Guarantee.LEFT)}: g⁺(f⁺(x)) = x")
    lines += [f"if         {requirement}" for requirement in pair.plan.requirements]
    lines.append(f"method     closed form, condition {_condition(pair.plan.condition)}")
    console().print(shown("\n".join(lines)), soft_wrap=True)


def _stated(plan: AnyPlan | None, guarantee: Guarantee) -> str:
    if plan is None:
        return f"{guarantee.value} of y and z" if guarantee is not Guarantee.APPROXIMATE else guarantee.value
    return stated(plan, guarantee)


def lossless(pair: LosslessPair) -> None:
    """What z holds, and how well x comes back from y and z."""
    made = pair.plan
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("latent of", "op", "numbers", "what"):
        table.add_column(name, overflow="fold", justify="right" if name == "numbers" else "left")
    for slot in made.slots:
        table.add_row(*(Text(shown(cell)) for cell in (slot.name, slot.op, str(slot.numbers), slot.latent)))
    out = console()
    out.print()
    out.print(table)
    size = f"z has {made.size} numbers, y {_known(made.y_size)}, x {made.x_size}: surplus {_known(made.surplus)}; "
    size += str(made.effort)
    out.print(shown(size), soft_wrap=True)
    if pair.given:
        out.print(shown(f"z must be given: {pair.given}"), soft_wrap=True)
    if pair.overhead is not None:
        out.print(shown(f"cost: {pair.overhead}"), soft_wrap=True)
    movable = sum(slot.numbers for slot, moves in zip(made.slots, pair.free, strict=True) if moves)
    out.print(f"{movable} of {made.size} latents may take any value without changing y", soft_wrap=True)
    if pair.recorded:
        said = f"what the data say of x given y, for points of a fibre: {len(pair.recorded) / 1000:.0f} kB of metadata"
        out.print(said, soft_wrap=True)
    back = pair.measured
    if back is not None:
        verdict = "holds" if back.passed else "FAILS"
        out.print(
            shown(
                f"x → f⁺ → (y, z) → g⁺ → x: {back.relative.size} samples, largest error {back.absolute.max():.2g}, "
                f"relative {back.relative.max():.2g} of {back.tolerance:.2g}: {verdict}"
            ),
            soft_wrap=True,
        )


def _known(count: int | None) -> str:
    return "known at run time" if count is None else str(count)


def trips(measured: RoundTrip) -> None:
    """The table of the round trips."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("relative error", "median", "max", "tolerance", ""):
        table.add_column(name, justify="left" if name in {"relative error", ""} else "right")
    named = (
        ("x → f → g → x", measured.x),
        ("y → g → f → y, y = f(x)", measured.y),
        ("y → g → f → y, y drawn", measured.drawn),
    )
    for name, trip in named:
        if trip is not None and trip.errors.size:
            table.add_row(
                name,
                f"{trip.median:.2g}",
                f"{trip.worst:.2g}",
                _tolerances(trip) if trip.promised else "",
                _verdict(trip, solver=measured.solver),
            )
    out = console()
    out.print()
    out.print(table)
    notes = [f"{measured.samples} samples, {measured.source}"]
    if measured.skipped:
        notes.append(f"{measured.skipped} left out: the model is not finite there")
    if measured.clamped:
        where = ", ".join(f"{count} at {node}" for node, count in measured.clamped.items())
        notes.append(f"values outside an image, moved to the nearest inside: {where}")
    out.print(shown("; ".join(notes)), soft_wrap=True)


def _tolerances(trip: Trip) -> str:
    """The tolerance, from the strictest sample's to the loosest's where they differ much."""
    low, high = float(np.min(trip.tolerances)), trip.tolerance
    return f"{high:.2g}" if high <= 10 * low else f"{low:.1g} … {high:.1g}"


def _verdict(trip: Trip, *, solver: bool) -> str:
    if not trip.promised:
        return "not promised"
    if solver:
        count = trip.errors.size
        return (
            f"{count - trip.unsolved} of {count} samples solved" if trip.unsolved else f"holds on all {count} samples"
        )
    if not trip.holds:
        return "FAILS"
    return f"holds; {trip.lost} of {trip.errors.size} samples lost to rounding" if trip.lost else "holds"


def last_line(inversion: Inversion, *, failed: bool) -> None:
    """PASSED or FAILED, both errors, and the tolerance that would have passed."""
    measured = inversion.round_trip
    said = _stated(inversion.plan, inversion.guarantee)
    if measured is None:
        _line(f"NOT VERIFIED  {said} planned{_written(inversion)}")
        return
    share = f" on {measured.samples} samples" if said.endswith("tried") else ""
    if measured.solver:
        solved = measured.samples - measured.unsolved
        share = f", {'verified' if not measured.unsolved else 'solved'} on {solved} of {measured.samples} samples"
    verdict = "FAILED" if failed else "PASSED"
    _line(f"{verdict}  {said}{share}{_figures(measured)}{_written(inversion)}")


def _figures(measured: RoundTrip) -> str:
    x = f"x error {measured.x.worst:.2g}{'' if measured.x.promised else ' (not promised)'}"
    trips = [trip for trip in (measured.y, measured.drawn) if trip is not None and trip.errors.size]
    y = f"  y error {max(trip.worst for trip in trips):.2g}" if trips else ""
    finite = np.isfinite(measured.needed)
    wanted = f"would pass with --rtol {round_up(measured.needed)}" if finite else "no --rtol would pass"
    return f"  {x}{y}  {wanted}"


def _written(inversion: Inversion) -> str:
    return f"  → {inversion.path}" if inversion.path is not None else "  nothing written"


def check(result: Check, *, quiet: bool) -> None:
    """What a check measured."""
    if not quiet:
        _line(result.note)
        trips(result.round_trip)
        _line(f"the samples show: {result.found.value} ({result.found.equation})")
    held = result.claim.value if result.claim is not None else "f(g(f(x))) = f(x)"
    if result.report.get("evidence") == "tried" and result.claim is not None:
        held += ", tried"
    _line(f"{'PASSED' if result.passed else 'FAILED'}  {held}{_figures(result.round_trip)}")


def _line(text: str) -> None:
    console().print(shown(text), soft_wrap=True)
