"""Write docs/operators.md from the rules, docs/cli.md from the --help texts, and docs/coupling.svg (`make docs`).

python tools/make_docs.py [--check]

--check writes nothing, and exits with 1 if a page is not what would be written.
"""

import inspect
import math
import os
import subprocess
import sys
from pathlib import Path

import onnx.parser

import onnx_invert
from onnx_invert.rules import default_rules
from onnx_invert.rules.registry import Rule

DOCS = Path(__file__).resolve().parent.parent / "docs"
MADE = "<!-- Written by tools/make_docs.py. Do not edit: change the package and run  make docs. -->\n"
COMMANDS = ("invert", "check", "explain", "run", "ops")


def pages() -> dict[Path, str]:
    """The text of every generated page."""
    return {
        DOCS / "operators.md": operators(),
        DOCS / "cli.md": command_line(),
        DOCS / "coupling.svg": drawn_coupling(),
    }


def operators() -> str:
    """What is supported, how, and why not."""
    rules = default_rules()
    known = sorted(rules, key=lambda rule: (rule.domain, rule.op_type, rule.since))
    refused = sorted(rules.refusals.items())
    lines = [
        "# Operators",
        "",
        MADE,
        f"{len(known)} rules undo an operator; {len(refused)} operators are refused with a reason. An operator in "
        "neither table is refused because there is no rule for it. `onnx-invert ops OP` prints one entry.",
        "",
        "x is what is recovered, y the known output, W and b constants, W⁺ the pseudo-inverse of W. What the whole "
        "inverse promises is decided along the path, not by the operator: see [guarantees](guarantees.md).",
        "",
        "## With an inverse",
        "",
        "| operator | since opset | inverse |",
        "|---|---|---|",
        *(f"| [{named(r)}](#{anchor(r)}) | {r.since} | {cell(r.summary)} |" for r in known),
        "",
        "## Without",
        "",
        "| operator | why there is none | what helps |",
        "|---|---|---|",
        *(
            f"| {qualified(domain, op)} | {cell(refusal.reason)} | {cell(refusal.remedy)} |"
            for (domain, op), refusal in refused
        ),
        "",
        "## What lossless mode keeps",
        "",
        "With `--lossless` an operator is completed to a bijection x ↔ (y, z): see [lossless](lossless.md). An "
        "operator that does not stand here has no completion: its input is kept as it is.",
        "",
        "| operator | z | numbers beyond a minimal completion |",
        "|---|---|---|",
        *(
            f"| {qualified(domain, op)} | {cell(latent[0])} | {cell(latent[1])} |"
            for domain, op in sorted({*rules.completions, *rules.kept})
            if (latent := rules.latent(op, domain)) is not None
        ),
        "",
        "## Each rule in full",
    ]
    for rule in known:
        text = inspect.getdoc(rule.function) if rule.function.__name__ != "<lambda>" else None
        lines += ["", f"### {named(rule)}", "", "```text", text or rule.summary, "```"]
    return "\n".join(lines) + "\n"


def command_line() -> str:
    """The help of every command."""
    lines = ["# Command line", "", MADE, "```text", helped(), "```"]
    for command in COMMANDS:
        lines += ["", f"## onnx-invert {command}", "", "```text", helped(command), "```"]
    return "\n".join(lines) + "\n"


def helped(*command: str) -> str:
    """What --help prints on a terminal of 100 columns."""
    environment = os.environ | {
        "COLUMNS": "100",
        "TERMINAL_WIDTH": "100",
        "NO_COLOR": "1",
        "PYTHONIOENCODING": "utf-8",
    }
    call = [sys.executable, "-m", "onnx_invert", *command, "--help"]
    done = subprocess.run(call, env=environment, capture_output=True, check=True, encoding="utf-8")
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def drawn_coupling() -> str:
    """What `explain coupling.onnx --recover x --graph coupling.svg` draws."""
    return onnx_invert.draw(onnx_invert.explain(coupling(), recover=["x"]), "coupling.onnx")


def coupling() -> onnx.ModelProto:
    """z = (x₁, x₂ · exp(s) + t), s and t from x₁ and a context, with log|det ∂z/∂x|; any weights do."""
    weights = {"w1": (5, 8), "b1": (8,), "w2": (8, 3), "b2": (3,), "w3": (8, 3), "b3": (3,)}
    return onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        coupling (float[N,6] x, float[N,2] context) => (float[N,6] z, float[N] log_det)
        <int64[2] halves = {3, 3}, int64[1] last = {1}, """
        + ", ".join(
            f"float[{','.join(map(str, shape))}] {name} = {{{', '.join(['0.5'] * math.prod(shape))}}}"
            for name, shape in weights.items()
        )
        + """> {
            x1, x2 = Split <axis = 1> (x, halves)
            both = Concat <axis = 1> (x1, context)
            hidden = Gemm (both, w1, b1)
            active = Tanh (hidden)
            s = Gemm (active, w2, b2)
            t = Gemm (active, w3, b3)
            scale = Exp (s)
            scaled = Mul (x2, scale)
            z2 = Add (scaled, t)
            z = Concat <axis = 1> (x1, z2)
            log_det = ReduceSum <keepdims = 0> (s, last)
        }"""
    )


def named(rule: Rule) -> str:
    """The operator's name, with its domain if that is not ONNX's own."""
    return qualified(rule.domain, rule.op_type)


def qualified(domain: str, op_type: str) -> str:
    """`domain::op`, or `op`."""
    return f"{domain}::{op_type}" if domain else op_type


def anchor(rule: Rule) -> str:
    """What a heading becomes in a link."""
    return named(rule).lower().replace("::", "").replace(".", "")


def cell(text: str) -> str:
    """Text inside a table."""
    return text.replace("|", "\\|")


def main() -> int:
    """Write the pages, or compare them."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"docs/{path.name} is out of date: run  make docs", file=sys.stderr)
        return 1 if stale else 0
    for path, text in pages().items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
