"""`leaks`: what each layer of a network still holds of its input, measured on data.

    dimensions    a bound from the widths on the way (plan/layers.py)
    explained     1 − Σ‖x − x̂‖² / Σ‖x − x̄‖² on held-out rows, x̂ the ridge regression of x on the layer's numbers

A fifth of the rows is held out; the others are fitted (numerics/ridge.py). Rows are run in chunks and forgotten: what
stays is 8 · d · (d + p) bytes for a layer of d numbers and x of p. Layers are taken together up to `MEMORY`, and the
network runs twice for each such group. Wider layers, and a larger x, are projected at random.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.errors import UsageError
from onnx_invert.graph.given_sizes import GivenShapes
from onnx_invert.graph.normalise import normalise
from onnx_invert.graph.write import save
from onnx_invert.numerics.ridge import Estimate, Moments, Sketch
from onnx_invert.numerics.tolerance import eps
from onnx_invert.opening import ModelLike, open_model
from onnx_invert.plan.layers import Layer, dimensions, layers
from onnx_invert.plan.plan import Progress
from onnx_invert.plan.problem import Problem, pose
from onnx_invert.planning import Data, arrays_of
from onnx_invert.report.leaks import Leak, Leaks
from onnx_invert.runtime import Session
from onnx_invert.samples import SEED, Batch, chunks, ports_of
from onnx_invert.trips import by_sample

WIDEST = 2048
"""Numbers of a layer beyond which it is projected to as many."""

LARGEST = 4096
"""Numbers of x beyond which it is projected to 1024. The projection keeps sums of squares but for some per cent."""

MEMORY = 1 << 29
"""Bytes that the sums of a group of layers, and the activations of a chunk, take at most (one layer at the least)."""

HELD_OUT = 0.2
FEWEST = 10
NAMED = 3
SHOWN = 6
"""Held-out samples whose estimates are kept, to be drawn."""

PROBED = (4, 7)
"""Samples that show whether a tensor is laid out sample by sample: so many at once, from all over the data. One number
alone could be a tensor's own size."""

OTHER_SIZE = "how many numbers it has depends on the data"


@dataclass(frozen=True)
class _Fit:
    """How well x is estimated from one layer."""

    explained: float
    error: float
    alpha: float
    shown: NDArray[np.float64] | None


def leaks(
    model: ModelLike,
    data: Data,
    *,
    recover: Sequence[str] = (),
    known: Sequence[str] = (),
    shapes: GivenShapes | None = None,
    samples: int | None = None,
    progress: Progress | None = None,
) -> Leaks:
    """What each layer of `model` still holds of its input x: dimensions, and x's variance that is linear in it.

    Nothing is inverted: it serves any model that onnxruntime runs. Layers without an axis of samples are left out.

    Args:
        model: a path or a ModelProto.
        data: inputs of the model, samples along the first axis; an .npy file is read in chunks.
        recover: names of the inputs that count as x; may be left out if one input is floating-point.
        known: outputs whose layers are looked at; all by default.
        shapes: as for `invert`.
        samples: use the first of the data only.
        progress: called with (what, done, total) as the work goes on.

    Raises:
        FileError, ModelError, UsageError: something is wrong with what was given.
        NotInvertibleError: the input that was named is no floating-point tensor.
    """
    with ExitStack() as stack:
        source = open_model(model, stack, shapes)
        normalise(source)
        problem = pose(source.model, recover, known)
        arrays = arrays_of(data, problem, stack)
        assert arrays is not None
        found = layers(problem)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="onnx-invert-"))
        path = Path(folder) / "layers.onnx"
        shown = [layer for layer in found if layer.is_new and layer.value.name and _is_tensor(layer.value)]
        outputs = source.model.graph.outputs
        outputs.extend(layer.value for layer in shown if layer.value not in outputs)
        save(source.model, path)
        measuring = _Measuring(Session(path, source.name), problem, arrays, samples, progress)
        return measuring.leaks(source.name, found, shown)


def _is_tensor(value: ir.Value) -> bool:
    """True unless it is known to be something else, or text."""
    return value.type is None or (isinstance(value.type, ir.TensorType) and value.dtype != ir.DataType.STRING)


class _Measuring:
    """Runs the network on the data, as often as the layers need."""

    def __init__(
        self, session: Session, problem: Problem, data: Batch, samples: int | None, progress: Progress | None
    ) -> None:
        self._session, self._problem, self._data, self._progress = session, problem, data, progress
        self._ports = ports_of(problem.inputs)
        self._names = [value.name or "" for value in problem.recovered]
        self._main = next(port for port in self._ports if port.name == self._names[0])
        if flat := [name for name in self._names if not data[name].ndim]:
            raise UsageError(f"The data for {flat[0]!r} is one number: samples lie along a first axis.")
        self._count = min(len(data[self._names[0]]), samples or len(data[self._names[0]]))
        if self._main.shape and data[self._names[0]].ndim == self._main.rank and not self._main.has_batch:
            self._count -= self._count % int(self._main.shape[0])  # whole batches alone are run
        if self._count < FEWEST:
            raise UsageError(f"The data has {self._count} samples: {FEWEST} are needed to measure on some of them.")
        self._held = np.random.default_rng(SEED).random(self._count) < HELD_OUT
        self._held[0], self._held[1] = True, False

    def leaks(self, name: str, found: list[Layer], shown: list[Layer]) -> Leaks:
        """Every layer measured."""
        if not shown:
            raise UsageError("There is nothing to measure: no layer does more than move numbers.")
        numbers, skipped = self._probe(shown)
        size = sum(numbers[value] for value in self._problem.recovered)
        project = Sketch(size, LARGEST // 4) if size > LARGEST else None
        measured = [layer for layer in shown if layer.value in numbers]
        width = LARGEST // 4 if project is not None else size
        results: dict[ir.Value, _Fit] = {}
        variance, pictures = 0.0, None
        for group in _groups(measured, numbers, width):
            some, variance, pictures, bad = self._group(group, numbers, width, project)
            results |= some
            skipped |= bad
            if self._progress is not None:
                self._progress("layers", len(results), len(measured))
        left_out = tuple((layer.node.name or "", why) for layer, why in skipped.items())
        if not results:
            raise UsageError("\n  ".join(["No layer can be measured:", *_reasons(left_out)]))
        rows = tuple(self._rows(found, shown, numbers, results))
        fitted = int((~self._held).sum())
        return Leaks(
            name,
            rows,
            left_out,
            size,
            fitted,
            int(self._held.sum()),
            variance,
            tuple(self._data[self._names[0]].shape[1:]),
            pictures if len(self._names) == 1 and project is None else None,
            tuple(_notes(rows, fitted, size, left_out)),
        )

    def _rows(
        self,
        found: list[Layer],
        shown: list[Layer],
        numbers: dict[ir.Value, int],
        results: dict[ir.Value, _Fit],
    ) -> Iterator[Leak]:
        held = {value: numbers[value] for value in self._problem.recovered}
        whole, among = sum(held.values()), set(shown)
        by_value = {layer.value: layer for layer in found}
        for layer, bound in dimensions(self._problem, found, numbers):
            held[layer.value] = bound
            if layer not in among or layer.value not in results:
                continue
            fit = results[layer.value]
            above = layer.dominator
            while above is not None and above not in results:
                above = by_value[above].dominator
            before = 1.0 if above is None else results[above].explained
            yield Leak(
                layer.node.name or "",
                layer.node.op_type,
                layer.value.name or "",
                numbers[layer.value],
                bound,
                (whole if layer.dominator is None else held[layer.dominator]) - bound,
                fit.explained,
                before - fit.explained,
                fit.error,
                fit.alpha,
                numbers[layer.value] > WIDEST,
                fit.shown,
            )

    def _probe(self, shown: list[Layer]) -> tuple[dict[ir.Value, int], dict[Layer, str]]:
        """Numbers a sample, of every tensor that is laid out sample by sample, and why others are not."""
        numbers: dict[ir.Value, int] = {}
        skipped: dict[Layer, str] = {}
        for count in PROBED if self._main.has_batch else (0,):
            found, left = self._probed(shown, self._spread(count))
            skipped |= left
            for layer in shown:
                if found.get(layer.value) != numbers.setdefault(layer.value, found.get(layer.value, 0)):
                    skipped.setdefault(layer, OTHER_SIZE)
            numbers |= found
        for layer in skipped:
            numbers.pop(layer.value, None)
        return numbers, skipped

    def _spread(self, count: int) -> Batch:
        """So many samples from all over the data; with 0 the first batch that the model takes."""
        picked = np.unique(np.linspace(0, self._count - 1, min(count, self._count)).astype(int))
        whole = len(self._data[self._names[0]])
        some = {name: a[picked] if count and a.ndim and len(a) == whole else a for name, a in self._data.items()}
        return next(chunks(some, self._ports, self._names[0], len(picked) or self._count, max(1, len(picked))))

    def _probed(self, shown: list[Layer], batch: Batch) -> tuple[dict[ir.Value, int], dict[Layer, str]]:
        """The same of one batch: in reverse order of samples, a tensor is reversed."""
        rows = self._rows_of(batch)
        turned = {name: a[::-1] if rows > 1 and a.ndim and len(a) == rows else a for name, a in batch.items()}
        names = [layer.value.name or "" for layer in shown]
        first, second = self._session.run(batch, names), self._session.run(turned, names)
        numbers, skipped = {}, {}
        for value in self._problem.recovered:
            numbers[value] = math.prod(batch[value.name or ""].shape) // rows
        for layer, name in zip(shown, names, strict=True):
            a, b = first[name], second[name]
            if not isinstance(a, np.ndarray) or a.dtype.kind not in "fiub":
                skipped[layer] = "it is no tensor of numbers"
            elif a.size == 0 or a.size % rows or a.shape != b.shape or not _mirrored(a, b, rows):
                skipped[layer] = "it has no axis of samples in front"
            else:
                numbers[layer.value] = a.size // rows
        return numbers, skipped

    def _rows_of(self, batch: Batch) -> int:
        """The samples of a batch: 1 where the model takes an input without an axis of samples."""
        array = self._data[self._names[0]]
        return len(batch[self._names[0]]) if array.ndim == self._main.rank else 1

    def _runs(
        self, group: list[Layer], numbers: dict[ir.Value, int], project: Sketch | None
    ) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float64], dict[Layer, NDArray[np.float64]]]]:
        """Which rows are held out, x, and each layer's numbers, chunk by chunk."""
        widths = sum(numbers[layer.value] for layer in group)
        names = [layer.value.name or "" for layer in group]
        sketches = {layer: Sketch(numbers[layer.value], WIDEST) for layer in group if numbers[layer.value] > WIDEST}
        start = 0
        for batch in chunks(self._data, self._ports, self._names[0], self._count, max(1, MEMORY // (32 * widths))):
            rows = self._rows_of(batch)
            outputs = self._session.run(batch, names)
            x = np.concatenate([by_sample(batch[name], rows).astype(np.float64) for name in self._names], axis=1)
            if not np.isfinite(x).all():
                raise UsageError("The data holds NaN or infinity.")
            found = {}
            for layer, name in zip(group, names, strict=True):
                if outputs[name].size == rows * numbers[layer.value]:
                    h = outputs[name].reshape(rows, -1).astype(np.float64)
                    found[layer] = sketches[layer](h) if layer in sketches else h
            yield self._held[start : start + rows], x if project is None else project(x), found
            start += rows

    def _group(
        self, group: list[Layer], numbers: dict[ir.Value, int], width: int, project: Sketch | None
    ) -> tuple[
        dict[ir.Value, _Fit],
        float,
        NDArray[np.float64] | None,
        dict[Layer, str],
    ]:
        moments = {layer: Moments(min(numbers[layer.value], WIDEST), width) for layer in group}
        bad: dict[Layer, str] = {}
        for held, x, found in self._runs(group, numbers, project):
            bad |= {layer: OTHER_SIZE for layer in group if layer not in found}
            for layer, h in found.items():
                if layer not in bad and not np.isfinite(h).all():
                    bad[layer] = "it is not finite on the data"
                if layer not in bad:
                    moments[layer].add(h[~held], x[~held])
        mean: NDArray[np.float64] | None = None
        estimates: dict[Layer, Estimate] = {}
        for layer in group:
            if layer not in bad:
                estimates[layer] = moments.pop(layer).estimate()
                mean = estimates[layer].target
        squares = dict.fromkeys(estimates, 0.0)
        shown: dict[Layer, list[NDArray[np.float64]]] = {layer: [] for layer in estimates}
        pictures: list[NDArray[np.float64]] = []
        total, kept = 0.0, 0
        for held, x, found in self._runs(group, numbers, project):
            if mean is None or not held.any():
                continue
            total += float(np.sum(np.square(x[held] - mean)))
            wanted = SHOWN - kept
            kept += len(x[held][:wanted])
            pictures.append(x[held][:wanted])
            for layer, estimate in estimates.items():
                guess = estimate(found[layer][held])
                squares[layer] += float(np.sum(np.square(x[held] - guess)))
                shown[layer].append(guess[:wanted])
        if mean is not None and not total > 0:
            raise UsageError("All samples of the data are the same: there is no variance to explain.")
        count = int(self._held.sum()) * sum(numbers[value] for value in self._problem.recovered)
        results = {
            layer.value: _Fit(
                1 - squares[layer] / total,
                squares[layer] / count,
                estimate.alpha,
                None if project is not None else np.concatenate(shown[layer]),
            )
            for layer, estimate in estimates.items()
        }
        return results, total / count, np.concatenate(pictures) if pictures else None, bad


def _groups(found: list[Layer], numbers: dict[ir.Value, int], width: int) -> Iterator[list[Layer]]:
    """Layers whose sums fit into `MEMORY` together."""
    group: list[Layer] = []
    used = 0
    for layer in found:
        size = min(numbers[layer.value], WIDEST)
        bytes_ = 8 * size * (size + width)
        if group and used + bytes_ > MEMORY:
            yield group
            group, used = [], 0
        group.append(layer)
        used += bytes_
    if group:
        yield group


def _mirrored(a: NDArray[Any], b: NDArray[Any], rows: int) -> bool:
    """True if b's samples are a's in reverse order, but for rounding."""
    one, other = (np.asarray(v.reshape(rows, -1), np.float64) for v in (a, b))
    room = float(np.sqrt(eps(a.dtype))) if a.dtype.kind == "f" else 0.0
    size = float(np.max(np.abs(one), where=np.isfinite(one), initial=0.0))
    return bool(np.allclose(one[::-1], other, rtol=room, atol=room * size, equal_nan=True))


def _notes(rows: Sequence[Leak], fitted: int, numbers: int, left_out: Sequence[tuple[str, str]]) -> Iterator[str]:
    """What the figures rest on, where that needs saying."""
    widest = max((min(row.numbers, WIDEST) for row in rows), default=0)
    if fitted < 2 * widest:
        yield f"{fitted} samples are few for layers of up to {widest} numbers: from more, more is explained"
    if any(row.projected for row in rows):
        yield f"layers of more than {WIDEST} numbers were projected at random: they explain at least this"
    if numbers > LARGEST:
        yield f"x was projected from {numbers} numbers to {LARGEST // 4}: shares hold to some per cent"
    yield from _reasons(left_out)


def _reasons(left_out: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Which layers were left out, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in left_out:
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield f"left out {', '.join(names[:NAMED])}{more}: {why}"
