"""What a call of `invert` asks for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnx_invert.errors import UsageError
from onnx_invert.graph.given_sizes import GivenShapes
from onnx_invert.graph.read import Source
from onnx_invert.graph.write import check_target
from onnx_invert.opening import ModelLike, open_model
from onnx_invert.plan.choice import AnyPlan
from onnx_invert.plan.newton import NewtonPlan
from onnx_invert.plan.plan import Progress
from onnx_invert.planning import Data, is_decoder
from onnx_invert.rules import RuleSet, default_rules
from onnx_invert.samples import SAMPLES, Batch, Port, cut
from onnx_invert.solving import Choices


@dataclass(frozen=True)
class Request:
    """The arguments of `invert`, which describes them; `beside` is where the network with its latents goes.

    Raises:
        UsageError: choices that make no sense together, whatever the model.
    """

    model: ModelLike
    shapes: GivenShapes | None = None
    recover: Sequence[str] = ()
    known: Sequence[str] = ()
    target: Path | None = None
    beside: Path | None = None
    lossless: bool = False
    latents: str = "flat"
    method: str = "auto"
    choices: Choices = field(default_factory=Choices)
    prior: Data | ModelLike | None = None
    log_det: bool = False
    opset: int | None = None
    data: Data | None = None
    samples: int | None = None
    rtol: float | None = None
    verify: bool = True
    force: bool = False
    rules: RuleSet = field(default_factory=default_rules)
    progress: Progress | None = None

    def __post_init__(self) -> None:
        samples, rtol = self.samples, self.rtol
        if (samples is not None and samples < 1) or (rtol is not None and not 0 <= rtol < np.inf):
            raise UsageError(f"samples has to be at least 1 and rtol a number from 0 on, not {samples} and {rtol}.")
        self.choices.check(self.method)
        if self.choices.has_prior:
            object.__setattr__(self, "method", "newton")
        if self.log_det and (self.method == "newton" or self.choices.needs_newton):
            raise UsageError("--log-det: Newton's method, a prior and bounds have no log-determinant; leave one out.")
        if self.latents != "flat" and not self.lossless:
            raise UsageError(
                f"--latents {self.latents}: there are none without --lossless; leave one out, or give both."
            )
        if self.beside is not None and self.target is None:
            raise UsageError("lossless is a path, and the inverse has none: both are written, or neither.")

    @property
    def takes_latents(self) -> bool:
        """True if a lossless pair will do in which z has to be given: nothing is asked for that concerns an inverse
        from y alone."""
        return self.lossless and not (self.choices.residual or self.log_det or self.choices.needs_newton)

    def count(self, plan: AnyPlan | None = None) -> int:
        """How many samples are drawn where there are no data; of a solver's large ones fewer, if nobody said."""
        if self.samples is not None:
            return self.samples
        return plan.affordable(SAMPLES) if isinstance(plan, NewtonPlan) else SAMPLES

    def tell(self, what: str) -> None:
        """Report the next thing that takes its time."""
        if self.progress is not None:
            self.progress(what, 1, 1)

    def batches(self, arrays: Batch | None, ports: Sequence[Port], main: str) -> list[Batch] | None:
        """As many samples of the data as are asked for, in batches; None where they are to be drawn."""
        return None if arrays is None else list(cut(arrays, ports, main, self.samples))

    def open(self, stack: ExitStack) -> tuple[Source, Source | None]:
        """The model, and the decoder if the prior is one.

        Raises:
            FileError, ModelError: one cannot be read, or is unsound.
            UsageError: what would be written is a file that is read.
        """
        source = open_model(self.model, stack, self.shapes)
        decoder = open_model(self.prior, stack) if is_decoder(self.prior) else None
        if self.target is not None:
            read = [file for part in (source, decoder) if part is not None for file in part.files]
            read += [Path(file) for file in (self.data, self.prior) if isinstance(file, str | os.PathLike)]
            path = Path(self.model) if isinstance(self.model, str | os.PathLike) else None
            check_target(self.target, path, read)
            if self.beside is not None:
                check_target(self.beside, path, [*read, self.target])
        return source, decoder
