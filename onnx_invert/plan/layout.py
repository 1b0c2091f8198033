"""How tensors hold samples: along the first axis, in one row or several for each, or one sample as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from onnx_invert.describe import sizes
from onnx_invert.errors import ModelError


@dataclass(frozen=True)
class Layout:
    """How a tensor of the model holds its samples: `sizes` are those behind the first axis, `batched` says whether the
    first axis counts samples, `rows` how many entries of it belong to each. A tensor without such an axis is one
    sample as a whole."""

    sizes: tuple[int, ...]
    batched: bool
    rows: int = 1

    @staticmethod
    def of(value: ir.Value, rows: int = 1) -> Layout:
        """Read off the shape; `rows` has to come from whoever followed the samples to the tensor.

        Raises:
            ModelError: the rank, or a size other than that of the first axis, is known only at run time.
        """
        dims = None if value.shape is None else list(value.shape)
        if dims is None:
            raise ModelError(f"The rank of {value.name!r} is unknown: give the model's inputs a shape with --shape.")
        batched = bool(dims) and not isinstance(dims[0], int)
        rest = dims[1:] if batched else dims
        unknown = [str(dim.value or "?") for dim in rest if not isinstance(dim, int)]
        if unknown:
            raise ModelError(
                f"The sizes {', '.join(unknown)} of {value.name!r} are known only at run time: give numbers for them "
                f"with --shape {value.name}:{sizes(value)}."
            )
        return Layout(tuple(int(dim) for dim in rest), batched, rows if batched else 1)  # type: ignore[arg-type]

    @property
    def size(self) -> int:
        """The numbers in one sample."""
        return self.rows * math.prod(self.sizes)

    @property
    def is_matrix(self) -> bool:
        """True if the tensor is (samples, size) as it stands."""
        return self.batched and len(self.sizes) == 1 and self.rows == 1
