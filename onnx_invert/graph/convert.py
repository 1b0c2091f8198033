"""Models brought up to a newer opset."""

from __future__ import annotations

from collections.abc import Iterable

import onnx.version_converter
import onnx_ir as ir

from onnx_invert.errors import ModelError
from onnx_invert.graph.checks import first_line
from onnx_invert.graph.indices import HELD
from onnx_invert.graph.normalise import normalise, restored, without_weights
from onnx_invert.graph.opsets import same_at
from onnx_invert.graph.read import Source


def raise_opset(source: Source, opset: int, nodes: Iterable[ir.Node] | None = None) -> bool:
    """Bring a normalised model up to `opset`; normalised again. True if operators had to be rewritten.

    Where all `nodes` (all of the graph by default) mean the same there, nothing but the number changes. Otherwise
    ONNX's converter rewrites them; whoever uses the result should hold it to the model as it was.

    Raises:
        ModelError: ONNX's converter has no way from one to the other.
    """
    model = source.model
    before = model.opset_imports.get("", opset)
    if before >= opset:
        return False
    if all(same_at(node, before, opset) for node in (model.graph if nodes is None else nodes)):
        model.opset_imports[""] = opset
        return False
    held = {node.outputs[0].name for node in model.graph if node.meta.get(HELD)}
    proto, weights = without_weights(model)
    proto.ir_version = max(proto.ir_version, 4)  # before, the converter wants weights among the inputs
    try:
        converted = onnx.version_converter.convert_version(proto, opset)
        model = ir.serde.deserialize_model(converted)
    except Exception as error:  # the converter's own, and what a missing adapter trips
        raise ModelError(
            f"{source.name} has opset {before}, and ONNX cannot convert it to {opset}: {first_line(error)} "
            "Export it again, at a newer opset."
        ) from error
    restored(model, weights)
    source.model = model
    normalise(source)
    for node in source.model.graph:
        if node.outputs[0].name in held:  # the converter keeps names, but no notes
            node.meta[HELD] = True
    return True
