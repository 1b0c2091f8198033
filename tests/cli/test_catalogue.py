"""`onnx-invert ops`, `explain`, `--help` and `--version`."""

from pathlib import Path

import pytest
from small_models import save, text

from onnx_invert import __version__
from onnx_invert.cli import COMMANDS, catalogue
from onnx_invert.rules import default_rules


def test_every_rule_and_every_refusal_is_listed(call):
    done = call("ops")
    assert done.code == 0
    listed = {line.split()[0] for line in done.out.splitlines()[1:] if line and not line.startswith(" ")}
    rules = default_rules()
    assert {rule.op_type for rule in rules} <= listed
    assert {f"{domain}::{op}" if domain else op for domain, op in rules.refusals} <= listed


@pytest.mark.parametrize("op", [rule.op_type for rule in default_rules()])
def test_every_rule_says_something(op):
    text = catalogue.detail(op)
    assert text.startswith(f"{op} (since opset ")
    assert len(text.splitlines()) >= 2


@pytest.mark.parametrize("spelling", ["Tanh", "tanh", "TANH"])
def test_a_one_liner(spelling, call):
    done = call("ops", spelling)
    assert done.code == 0
    assert done.out.startswith("Tanh (since opset 7)\n")
    assert "artanh" in done.out


def test_a_rule_in_full(call):
    out = call("ops", "Gemm").out
    for word in ("Shapes:", "Guarantee:", "Source:"):
        assert word in out


def test_a_refusal_says_why_and_what_helps(call):
    done = call("ops", "Relu")
    assert done.code == 0
    assert done.out.startswith("Relu: not supported: ")
    assert "\ntry  " in done.out


def test_an_operator_without_a_rule(call):
    done = call("ops", "NonMaxSuppression")
    assert done.code == 0
    assert "NonMaxSuppression: not supported" in done.out


def test_an_operator_that_onnx_does_not_have(call):
    done = call("ops", "Nonsense")
    assert done.code == 2
    assert done.err == ("error: ONNX has no operator 'Nonsense'.  onnx-invert ops  lists those that are known here.\n")


def test_explain(call, files):
    done = call("explain", "f.onnx")
    assert done.code == 0
    assert "MatMul" in done.out
    assert "guarantee  bijection" in done.out
    assert files() == {"f.onnx"}


def test_explain_takes_the_choice_of_inputs_and_outputs(call):
    body = "g (float[N,3] a, float[N,3] b) => (float[N,3] y, float[N,3] e) { y = Add(a, b) e = Exp(b) }"
    save(text(body), Path("f.onnx"))
    assert call("explain", "f.onnx").code == 2
    assert "recovers   b from e" in call("explain", "f.onnx", "--recover", "b", "--from", "e").out


def test_explain_of_what_is_not_invertible(call):
    save(text("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"), Path("f.onnx"))
    done = call("explain", "f.onnx", "--method", "closed-form")
    assert done.code == 3
    assert "Cannot invert node 'Relu_0' (Relu): " in done.err
    assert "\n  try  " in done.err


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help(arguments, call):
    done = call(*arguments)
    assert done.code == 0
    for word in (*COMMANDS, "Exit codes:", "101 a bug"):
        assert word in done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command, call):
    done = call(command, "--help")
    assert done.code == 0
    assert f"onnx-invert {command}" in done.out


def test_the_options_of_invert(call):
    out = call("invert", "--help").out
    for option in (
        "--output", "--recover", "--from", "--opset", "--data", "--samples", "--rtol", "--no-verify", "--report",
        "--dry-run", "--force", "--quiet",
    ):  # fmt: skip
        assert option in out


def test_version(call):
    done = call("--version")
    assert (done.code, done.out) == (0, f"onnx-invert {__version__}\n")


def test_a_model_that_is_called_like_a_command(call):
    Path("f.onnx").rename("ops")
    assert call("./ops", "-o", "g.onnx").code == 0
    assert call("invert", "ops", "-o", "g.onnx").code == 0


def test_a_misspelt_command(call):
    done = call("explian", "f.onnx")
    assert done.code == 2
    assert done.err == "error: 'explian' is neither a command nor a file. Did you mean 'explain'?\n"
