"""Where inverses of one model are tried before one of them is chosen: which samples does it leave?

What it was run on and what came out is kept, so that the verification need not run the same bytes on the same y again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnx_invert.build.inverse import Inverse
from onnx_invert.build.newton.inverse import Options, build_probe
from onnx_invert.errors import ModelError
from onnx_invert.graph.read import Source
from onnx_invert.graph.write import to_bytes, to_proto
from onnx_invert.plan.newton import NewtonPlan
from onnx_invert.runtime import Runs, Session
from onnx_invert.samples import Batch, parts, ports_of, sample_axes
from onnx_invert.trips import by_sample


@dataclass(frozen=True)
class Outcome:
    """The samples that an `inverse` leaves, as inputs of the model, and how many; `runs` is what it was run on."""

    inverse: Inverse
    left: list[Batch]
    count: int
    runs: Runs


@dataclass(frozen=True)
class Bench:
    """A model, and how an inverse of it is made: `make` emits the file that would be written with these options."""

    plan: NewtonPlan
    source: Source
    make: Callable[[Options], Inverse]

    def run(self, options: Options, batches: Sequence[Batch], most: int, *, threads: int | None = None) -> Outcome:
        """Solve for the y of all inputs in `batches`; of the samples that are left `most` come back at most.

        Left is what stays above the residual of a solution, in each output's own units. A y that is not finite is no
        sample. `threads` is how many the runtime takes, as many as it likes where it is None.

        Raises:
            ModelError: onnxruntime cannot run the model or the inverse.
        """
        inverse = self.make(options)
        encoded = to_bytes(inverse.model)
        session = Session(encoded, "the inverse", threads=threads)
        runs = Runs(hashlib.sha256(encoded).hexdigest(), session.names)
        del encoded  # the session has its own
        recovered = [value.name or "" for value in self.plan.problem.recovered]
        ports = ports_of(self.plan.problem.inputs)
        apart = next(port for port in ports if port.name == recovered[0]).has_batch
        solved = options.solved(self.plan.problem.known[0].dtype or self.plan.dtypes[0])
        left, count = list[Batch](), 0
        for batch in parts(batches, ports, recovered[0], self.plan.at_once):
            y = self._f(batch)
            feeds = {name: array for name, array in {**batch, **y}.items() if name in session.names}
            found = session.run(feeds, recovered)
            runs.add(feeds, found)
            bad = self._unsolved(y, self._f({**batch, **found}), len(batch[recovered[0]]) if apart else 1, solved)
            rows = np.flatnonzero(bad)[: max(most - count, 0)]
            if len(rows):
                left.append({p.name: batch[p.name][rows] if apart and p.has_batch else batch[p.name] for p in ports})
                count += len(rows)
        return Outcome(inverse, left, count, runs)

    def _unsolved(self, y: Batch, again: Batch, count: int, solved: float) -> NDArray[np.bool_]:
        """Of `count` samples those of finite y that is not reached."""
        axes = sample_axes(self.plan.problem)
        finite, reached = np.ones(count, dtype=bool), np.ones(count, dtype=bool)
        for name, array in y.items():
            rows, back = (
                by_sample(np.moveaxis(a, axes.get(name, 0), 0) if a.ndim else a, count).astype(np.float64)
                for a in (array, again[name])
            )
            finite &= np.isfinite(rows).all(axis=1)
            with np.errstate(over="ignore", invalid="ignore"):
                off, size = (np.linalg.norm(part, axis=1) for part in (back - rows, rows))
                reached &= off <= solved * size
        return finite & ~reached

    def _f(self, batch: Batch) -> Batch:
        """The known outputs."""
        session, names = self._forward
        found = session.run({name: array for name, array in batch.items() if name in session.names}, names)
        return {value.name or "": found[name] for value, name in zip(self.plan.problem.known, names, strict=True)}

    @cached_property
    def _forward(self) -> tuple[Session, list[str]]:
        """The model as its users have it, so that y is the verification's to the last bit, and its known outputs."""
        source, known = self.source, self.plan.problem.known
        try:
            session = Session(
                source.path if source.path is not None else source.data, source.name, packed=source.four_bits
            )
        except ModelError:  # what this runtime does not load may still be inverted, without verification
            probe = build_probe(self.plan, known, self.plan.problem)
            session = Session(to_proto(probe).SerializeToString(), source.name)
            return session, session.outputs
        return session, [value.name or "" for value in known]
