"""The registry of rules: a value, made explicitly, with no effect on import.

A rule is a function from a `NodeView` to a chain of facts, or to `NoInverse`. `RuleSet.rule` registers
one for an operator from an opset on; `RuleSet.unary` registers a whole one-liner. A duplicate raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from onnx_invert.rules.completion import Completion, CompletionRule
from onnx_invert.rules.differential import At, DerivativeRule, scaling
from onnx_invert.rules.facts import (
    REALS,
    Array,
    Branch,
    Chain,
    Derivative,
    Diagonal,
    Elementwise,
    Emit,
    Interval,
    NoInverse,
    Numeric,
)
from onnx_invert.rules.node import NodeView

RuleFunction = Callable[[NodeView], Chain | NoInverse]


def quiet(function: Numeric) -> Numeric:
    """The function without numpy's warnings: infinite ends of intervals go through it as well."""

    def forward(v: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(function(v))

    return forward


@dataclass(frozen=True)
class Rule:
    """A registered rule: which operator, from which opset on, and how it is described."""

    op_type: str
    domain: str
    since: int
    function: RuleFunction
    summary: str


@dataclass
class RuleSet:
    """Rules by operator. `union` joins two sets; the result is a new one."""

    rules: dict[tuple[str, str], list[Rule]] = field(default_factory=dict)
    refusals: dict[tuple[str, str], NoInverse] = field(default_factory=dict)
    derivatives: dict[tuple[str, str], DerivativeRule] = field(default_factory=dict)
    completions: dict[tuple[str, str], CompletionRule] = field(default_factory=dict)
    kept: dict[tuple[str, str], str] = field(default_factory=dict)
    """What operators lose whose completion follows from the facts of their inverse: in words, for the pages."""

    def add(self, rule: Rule) -> None:
        """Register `rule`; ValueError if that operator and opset have one."""
        known = self.rules.setdefault((rule.domain, rule.op_type), [])
        if any(other.since == rule.since for other in known):
            raise ValueError(f"Two rules for {rule.op_type} since opset {rule.since}.")
        known.append(rule)
        known.sort(key=lambda r: -r.since)

    def rule(self, op_type: str, *, since: int = 7, domain: str = "") -> Callable[[RuleFunction], RuleFunction]:
        """Decorator: register a function. Its docstring's first line is the summary."""

        def register(function: RuleFunction) -> RuleFunction:
            summary = (function.__doc__ or "").strip().splitlines()[0].rstrip(".")
            self.add(Rule(op_type, domain, since, function, summary))
            return function

        return register

    def unary(
        self,
        op_type: str,
        summary: str,
        *,
        inverse: Emit,
        forward: Numeric,
        derivative: Derivative,
        domain: Interval = REALS,
        image: Interval = REALS,
        since: int = 7,
    ) -> None:
        """Register an elementwise function with one branch and no attributes."""
        fact = Elementwise(quiet(forward), derivative, (Branch(domain, image, inverse),), domain)
        self.add(Rule(op_type, "", since, lambda node: (fact,), summary))

    def refuse(self, op_type: str, reason: str, remedy: str = "", *, domain: str = "") -> None:
        """State why an operator has no rule."""
        if (domain, op_type) in self.refusals:
            raise ValueError(f"Two refusals for {op_type}.")
        self.refusals[domain, op_type] = NoInverse(reason, remedy)

    def derivative(self, op_type: str, *, domain: str = "") -> Callable[[DerivativeRule], DerivativeRule]:
        """Decorator: register how an operator is differentiated, at every opset."""

        def register(function: DerivativeRule) -> DerivativeRule:
            if (domain, op_type) in self.derivatives:
                raise ValueError(f"Two derivatives for {op_type}.")
            self.derivatives[domain, op_type] = function
            return function

        return register

    def differentiate(self, node: NodeView) -> At | NoInverse:
        """How a node is differentiated by its unknown operand: by its own rule, or as its inverse's facts say."""
        rule = self.derivatives.get((_plain(node.node.domain), node.op_type))
        if rule is not None:
            return rule(node)
        if self.find(node.node.domain, node.op_type, node.opset) is not None:
            chain = self.apply(node)
            if not isinstance(chain, NoInverse) and len(chain) == 1 and isinstance(fact := chain[0], Elementwise):
                return _slope(fact, node.unknown)
            if not isinstance(chain, NoInverse) and len(chain) == 1 and isinstance(fact, Diagonal):
                return _constant_slope(fact)
        where = f" of domain {node.node.domain!r}" if _plain(node.node.domain) else ""
        return NoInverse(f"there is no derivative of this operator{where}")

    def completion(self, op_type: str, *, domain: str = "") -> Callable[[CompletionRule], CompletionRule]:
        """Decorator: register what an operator loses, where it does not follow from the facts of its inverse."""

        def register(function: CompletionRule) -> CompletionRule:
            if (domain, op_type) in self.completions:
                raise ValueError(f"Two completions for {op_type}.")
            self.completions[domain, op_type] = function
            return function

        return register

    def latent(self, op_type: str, domain: str = "") -> tuple[str, str] | None:
        """What lossless mode keeps of an operator, and the numbers beyond a minimal completion; None if not stated."""
        rule = self.completions.get((_plain(domain), op_type))
        text = self.kept.get((_plain(domain), op_type), "") if rule is None else (rule.__doc__ or "").split("\n\n")[0]
        latent, _, surplus = " ".join(text.split()).partition(" Surplus: ")
        return (latent.rstrip("."), surplus.rstrip(".") or "none") if latent else None

    def complete(self, node: NodeView) -> Completion | NoInverse:
        """How a node is completed to a bijection for its unknown operand: by its own rule, or as its facts say."""
        rule = self.completions.get((_plain(node.node.domain), node.op_type))
        return self.apply(node) if rule is None else rule(node)

    def find(self, domain: str, op_type: str, opset: int) -> Rule | None:
        """The newest rule for the operator that `opset` reaches, or None."""
        for rule in self.rules.get((_plain(domain), op_type), ()):
            if rule.since <= opset:
                return rule
        return None

    def union(self, other: RuleSet) -> RuleSet:
        """A new set with the rules of both; ValueError on a duplicate."""
        joined = RuleSet(
            {key: list(rules) for key, rules in self.rules.items()},
            dict(self.refusals),
            dict(self.derivatives),
            dict(self.completions),
            self.kept | other.kept,
        )
        for rule in other:
            joined.add(rule)
        for (domain, op_type), refusal in other.refusals.items():
            joined.refuse(op_type, refusal.reason, refusal.remedy, domain=domain)
        for (domain, op_type), function in other.derivatives.items():
            joined.derivative(op_type, domain=domain)(function)
        for (domain, op_type), completing in other.completions.items():
            joined.completion(op_type, domain=domain)(completing)
        return joined

    def __iter__(self) -> Iterator[Rule]:
        for rules in self.rules.values():
            yield from rules

    def apply(self, node: NodeView) -> Chain | NoInverse:
        """The chain of facts of a node, or why there is none."""
        rule = self.find(node.node.domain, node.op_type, node.opset)
        if rule is not None:
            return rule.function(node)
        refusal = self.refusals.get((_plain(node.node.domain), node.op_type))
        if refusal is not None:
            return refusal
        where = f" of domain {node.node.domain!r}" if _plain(node.node.domain) else ""
        own = node.node.domain == "com.microsoft"
        remedy = "onnxruntime's own operators: save the model with ORT_ENABLE_BASIC, or invert it as it was exported"
        return NoInverse(
            f"there is no rule for this operator{where}", remedy if own else "onnx-invert ops  lists the rules"
        )


def _slope(fact: Elementwise, operand: int) -> At:
    return lambda p: scaling(p.held(fact.derivative(p.e, p.input(operand), p.outputs[0])))


def _constant_slope(fact: Diagonal) -> At:
    return lambda p: scaling(p.e.constant(fact.scale, "slope"))


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
