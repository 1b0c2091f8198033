"""What an inversion gives back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_invert.errors import UsageError
from onnx_invert.fibres.fibre import Fibre
from onnx_invert.fibres.networks import Networks
from onnx_invert.graph.write import check_target, staged, to_proto
from onnx_invert.lossless import LosslessPair
from onnx_invert.plan.choice import AnyPlan
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.trips import RoundTrip


@dataclass
class Inversion:
    """The result of `invert`: the plan, what was measured, and the model.

    `guarantee` is what may be said of the inverse: the plan's, or approximate where the round trips did
    not keep it. `round_trip` is None if it was not verified, `path` None if it was not written. `notes`
    are options that had no effect, and equations that are left over. Of a lossless inversion without an inverse from y
    alone `plan` is None, and guarantee and round trip are those of x from y and z.
    """

    plan: AnyPlan | None
    guarantee: Guarantee
    round_trip: RoundTrip | None
    report: dict[str, Any]
    path: Path | None = None
    _model: ir.Model | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    lossless: LosslessPair | None = field(default=None, repr=False)
    _networks: Networks | None = field(default=None, repr=False)

    @property
    def forward(self) -> onnx.ModelProto:
        """The network with its latents as further outputs, of a lossless inversion."""
        if self.lossless is None:
            raise UsageError("There is no forward network with latents: invert with lossless=True or a path.")
        return to_proto(self.lossless.forward)

    def fibre(self, y: NDArray[Any] | Mapping[str, NDArray[Any]], *, tolerance: float | None = None) -> Fibre:
        """All x with f(x) = y, of a lossless inversion: sampled, or reached by their latents.

        Args:
            y: one sample of what the inverse takes: its outputs and, by name, the inputs that are not recovered.
            tolerance: max |f(x) − y| that counts as the same y, beside the largest |y|: 1e-5, or 16 units of rounding
                of a narrower type than float32.

        Raises:
            UsageError: the inversion is not lossless, or y does not fit.
        """
        if self._networks is None:
            forward, inverse = self.forward, self.model
            names = "the network with latents", "the inverse"
            self._networks = Networks(forward.SerializeToString(), inverse.SerializeToString(), forward, names)
        return Fibre(self._networks.at(y), tolerance=tolerance)

    @property
    def model(self) -> onnx.ModelProto:
        """The inverse as a protobuf message; read back from the file if it was written to one."""
        if self._model is not None:
            return to_proto(self._model)
        if self.path is None:
            raise UsageError("The inverse was not kept: it was neither verified nor written.")
        return onnx.load(self.path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the inverse to `path`, whole or not at all."""
        target = Path(path)
        check_target(target, None)
        model = self._model if self._model is not None else ir.from_proto(self.model)
        with staged(model, target) as file:
            file.commit()
