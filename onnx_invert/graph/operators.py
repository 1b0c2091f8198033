"""Whether a file's operators are ones that ONNX defines, with the attributes that it defines for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx
import onnx_ir as ir

from onnx_invert.bodies import bodies
from onnx_invert.errors import ModelError
from onnx_invert.graph.fused import OWN

KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft"})
LAID_OUT = frozenset({"com.microsoft.nchwc", "com.ms.internal.nhwc"})
"""Domains of what onnxruntime makes for one kind of processor."""


def _all_nodes(graph: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    """The nodes of a graph, each followed by those of the graphs within it."""
    for node in graph:
        yield node
        for body in bodies(node) if node.attributes else ():
            yield from _all_nodes(body)


def check_operators(model: ir.Model, name: str) -> None:
    """Every operator is one that ONNX defines at the model's opset, or a function of the file."""
    local = set(model.functions)
    unknown: dict[str, None] = {}
    laid_out: dict[str, None] = {}
    wrong: list[str] = []
    defined: dict[tuple[str, str, int], dict[str, ir.AttributeType] | None] = {}
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for body in graphs:
        for node in _all_nodes(body):
            if local and node.op_identifier() in local:
                continue
            domain = "" if node.domain == "ai.onnx" else node.domain
            version = body.opset_imports.get(domain) or model.opset_imports.get(domain)
            label = node.name or node.op_type
            if domain in LAID_OUT:
                laid_out[f"node {label!r}: {domain}::{node.op_type}"] = None
            elif domain not in KNOWN_DOMAINS:
                unknown[f"node {label!r}: {domain}::{node.op_type} (domain {domain!r} is not ONNX's)"] = None
            elif version is None:
                unknown[f"node {label!r}: {node.op_type} (the model imports no opset of {domain or 'ai.onnx'!r})"] = (
                    None
                )
            elif domain in ("", "ai.onnx.ml"):
                key = (node.op_type, domain, version)
                if key not in defined:
                    defined[key] = _attributes(*key)
                attributes = defined[key]
                if attributes is not None:
                    if node.attributes:
                        wrong += _wrong_attributes(node, label, attributes)
                elif domain or node.op_type not in OWN:
                    unknown[f"node {label!r}: {node.op_type} (not an operator of opset {version})"] = None
    if wrong:
        raise ModelError("\n".join([f"{name} has attributes of the wrong type:"] + [f"  {line}" for line in wrong]))
    if unknown:
        raise ModelError(
            "\n".join([f"{name} uses operators that ONNX does not define:"] + [f"  {line}" for line in unknown])
        )
    if laid_out:
        head = f"{name} was laid out by onnxruntime for one kind of processor:"
        last = "Invert the model as it was exported, or save it with ORT_ENABLE_EXTENDED, not ORT_ENABLE_ALL."
        raise ModelError("\n".join([head, *(f"  {line}" for line in laid_out), last]))


def _attributes(op_type: str, domain: str, version: int) -> dict[str, ir.AttributeType] | None:
    """The types of an operator's attributes; None if it is not defined at a version."""
    if not onnx.defs.has(op_type, max_inclusive_version=version, domain=domain):
        return None
    known: dict[str, Any] = dict(onnx.defs.get_schema(op_type, version, domain).attributes)
    return {name: ir.AttributeType(int(attribute.type)) for name, attribute in known.items()}


def _wrong_attributes(node: ir.Node, label: str, known: Mapping[str, ir.AttributeType]) -> list[str]:
    """The attributes whose type is not what ONNX defines for them."""
    wrong = []
    for attribute in node.attributes.values():
        expected = known.get(attribute.name)
        if expected is not None and expected != attribute.type and not attribute.is_ref():
            found = f"{attribute.name!r} is {attribute.type.name}, not {expected.name}"
            wrong.append(f"node {label!r} ({node.op_type}): {found}")
    return wrong
