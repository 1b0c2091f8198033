"""`invert` and `explain` held to closed forms: what has none is refused, and Newton does not step in."""

from functools import partial

import onnx_invert

invert = partial(onnx_invert.invert, method="closed-form")
explain = partial(onnx_invert.explain, method="closed-form")
