"""Which opset a graph is written in, when it holds copies of the model's own nodes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from onnx_invert.errors import ModelError, UsageError
from onnx_invert.graph.opsets import same_at

OPSET = 17
"""What is emitted unless the model needs newer: the newest that every runtime still in use loads."""

OLDEST_OPSET, NEWEST_OPSET = 13, 23
"""From 13 on the operators that rules emit have one signature."""


def opset_for(nodes: Sequence[ir.Node], model: int, wanted: int | None = None) -> int:
    """An opset at which copies of `nodes`, from a model of opset `model`, mean what they meant there.

    Raises:
        UsageError: the `wanted` one is not, or is none that is written.
        ModelError: none from 13 on is.
    """
    if wanted is not None and not OLDEST_OPSET <= wanted <= NEWEST_OPSET:
        raise UsageError(f"--opset {wanted}: inverses are written in opset {OLDEST_OPSET} to {NEWEST_OPSET}.")
    if not nodes:
        return wanted or OPSET
    for opset in [wanted] if wanted is not None else [OPSET, model]:
        if opset >= OLDEST_OPSET and all(same_at(node, model, opset) for node in nodes):
            return opset
    if wanted is not None:
        other = next(node for node in nodes if not same_at(node, model, wanted))
        raise UsageError(
            f"--opset {wanted}: the inverse runs {other.name!r} ({other.op_type}) forwards, and {other.op_type} of "
            f"opset {model}, the model's, is defined otherwise in {wanted}. Leave --opset out."
        )
    first = f"{nodes[0].name!r} ({nodes[0].op_type})"
    raise ModelError(
        f"The inverse has to run {first} forwards, from opset {model}. Convert the model to opset "
        f"{OLDEST_OPSET} or newer first (onnx.version_converter.convert_version)."
    )


def domains_of(nodes: Sequence[ir.Node], imports: dict[str, int]) -> dict[str, int]:
    """The versions of other domains that copies of `nodes` need."""
    names = {node.domain for node in nodes} - {"", "ai.onnx"}
    return {name: version for name, version in imports.items() if name in names}


def ir_version_for(opset: int) -> int:
    """The lowest IR version that carries `opset`, from 8 on."""
    return max(8, onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]))
