"""`onnx-invert ops`: what is supported, how, and why not."""

from __future__ import annotations

import inspect

from rich.table import Table
from rich.text import Text

from onnx_invert.cli.console import console
from onnx_invert.errors import UsageError
from onnx_invert.rules import default_rules
from onnx_invert.rules.registry import Rule


def show(op: str | None) -> None:
    """Print all operators, or one in full.

    Raises:
        UsageError: ONNX has no such operator.
    """
    if op is not None:
        print(detail(op))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("operator", "since", "inverse, or why there is none"):
        table.add_column(name, overflow="fold")
    for row in rows():
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)


def rows() -> list[tuple[str, str, str]]:
    """(operator, since, summary) of every rule, then of every stated refusal."""
    rules = default_rules()
    supported = sorted(((r.op_type, f"opset {r.since}", r.summary) for r in rules), key=lambda row: row[0])
    refused = sorted(
        (f"{domain}::{op}" if domain else op, "no", refusal.reason) for (domain, op), refusal in rules.refusals.items()
    )
    return supported + refused


def detail(op: str) -> str:
    """Everything that is stated about one operator."""
    rules = default_rules()
    found = [rule for rule in rules if rule.op_type.lower() == op.lower()]
    if found:
        return "\n\n".join(_describe(rule) for rule in found)
    for (domain, name), refusal in rules.refusals.items():
        if name.lower() == op.lower():
            remedy = f"\ntry  {refusal.remedy}" if refusal.remedy else ""
            named = f"{domain}::{name}" if domain else name
            return f"{named}: not supported: {refusal.reason}.{remedy}{kept(name, domain)}"
    import onnx

    if any(onnx.defs.has(op, domain=domain) for domain in ("", "ai.onnx.ml")):
        name = next((name for _, name in rules.completions if name.lower() == op.lower()), op)
        return f"{name}: not supported: there is no rule for this operator.{kept(name)}"
    raise UsageError(f"ONNX has no operator {op!r}.  onnx-invert ops  lists those that are known here.")


def kept(op_type: str, domain: str = "") -> str:
    """A line on what lossless mode keeps of it; empty where nothing is stated."""
    found = default_rules().latent(op_type, domain)
    return "" if found is None else f"\n\nLossless:  {found[0]}; numbers beyond a minimal completion: {found[1]}"


def _describe(rule: Rule) -> str:
    text = inspect.getdoc(rule.function) if rule.function.__name__ != "<lambda>" else None
    return f"{rule.op_type} (since opset {rule.since})\n{text or rule.summary}{kept(rule.op_type, rule.domain)}"
