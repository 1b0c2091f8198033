"""What each operation knows, by family. `default_rules()` composes the registry.

A rule states facts; it neither plans nor builds, and never sees another node.
"""

from __future__ import annotations

from functools import cache, reduce
from types import ModuleType

from onnx_invert.rules.registry import RuleSet


@cache
def default_rules() -> RuleSet:
    """The rules that come with onnx-invert."""
    from onnx_invert.rules import (
        activations,
        arithmetic,
        convolutions,
        functions,
        layout,
        linear,
        pipelines,
        refusals,
    )

    plain = (activations, arithmetic, convolutions, functions, layout, linear, pipelines, refusals)
    families = (*plain, *derivative_families(), *completion_families())
    return reduce(RuleSet.union, (family.rules for family in families), RuleSet())


def derivative_families() -> tuple[ModuleType, ...]:
    """The families of derivatives."""
    from onnx_invert.rules.derivatives import (
        einsum,
        elements,
        indexing,
        moves,
        normalisations,
        operands,
        pipelines,
        pointwise,
        pooling,
        products,
        reductions,
        resampling,
        windows,
    )

    return (
        *(einsum, elements, indexing, moves, normalisations, operands, pipelines, pointwise, pooling, products),
        *(reductions, resampling, windows),
    )


def completion_families() -> tuple[ModuleType, ...]:
    """The families of completions."""
    from onnx_invert.rules.completions import elements, facts, normalisations, picks, pipelines, reductions, windows

    return (elements, facts, normalisations, picks, pipelines, reductions, windows)


__all__ = ["RuleSet", "default_rules"]
