"""What has to hold of a step, whether that is proven or was tried, and how it is solved: in words."""

from __future__ import annotations

from typing import TypeGuard

from onnx_invert.plan.steps import Affine, Coupled, Root, Scale, Solve, Step, Sweep, Tear

_HOLDS: dict[type[Step], str] = {
    Root: "rises or falls throughout in every element",
    Scale: "no factor is 0",
    Tear: "the determinant keeps its sign",
    Coupled: "the determinant keeps its sign",
    Solve: "it is solved: as many equations as unknowns, and a determinant that keeps its sign",
}
"""What has to hold of a block, and is tried where it is not proven."""


def is_tried(step: Step) -> TypeGuard[Root | Scale | Tear | Coupled | Solve]:
    """Whether it was tried, and not proven, that a block has one solution."""
    if isinstance(step, Root | Scale):
        return not step.evidence.proven
    return isinstance(step, Tear) or (isinstance(step, Coupled | Solve) and not step.proof)


def what_is_tried(step: Step) -> str:
    """What of a step is tried, not proven; empty where all is proven."""
    if not is_tried(step):
        return ""
    where = ""
    if isinstance(step, Root):
        where = f" at {step.evidence.points} points"
    elif isinstance(step, Scale):
        where = " in one run"
    return f"{step.name}: {_HOLDS[type(step)]} (tried{where}, not proven)"


def said_of(block: Step) -> str:
    """Whether that a block has one x is proven, or tried; of a sweep, the roots inside it."""
    inner = block.inner if isinstance(block, Sweep) else [block]
    roots = [step for step in inner if isinstance(step, Root | Scale | Tear | Coupled | Solve)]
    if not roots:
        return ""
    return "tried, not proven" if any(map(is_tried, roots)) else "proven to have one x"


def is_bounded(step: Step) -> TypeGuard[Root]:
    """Whether a root does not take all numbers."""
    return isinstance(step, Root) and not step.domain.is_reals


def on_domain(step: Root) -> str:
    """What x and y have to be for a root on a domain."""
    domain, x = step.domain, step.x.name
    if domain.period is not None:
        half = f"{domain.period / 2:.6g}"
        return f"rises or falls throughout on {domain}; {x!r} comes back in [−{half}, {half}]"
    return f"rises or falls throughout on {domain}, where {x!r} lies; a y that is not reached there gives an end of it"


def strategy(block: Affine | Root | Scale | Tear | Coupled | Solve | Sweep) -> str:
    """How a block is solved, in a few words."""
    match block:
        case Affine():
            return "affine together: multiplied out"
        case Root():
            where = "" if block.domain.is_reals else f" on {block.domain}"
            return f"elementwise{where}: a root for every element, by bracketing"
        case Scale():
            return "y = a x + b in every element: divided by a"
        case Tear():
            return f"torn open at {block.s.name}: a root for it, by bracketing, and x from there"
        case Coupled():
            names = " and ".join(s.name or "" for s in block.s)
            how = f"; one solution: {block.proof}" if block.proof else ""
            return f"torn open at {names}: Newton's method for its numbers together, and x from there{how}"
        case Solve():
            how = f"one solution: {block.proof}" if block.proof else "one of what solves it comes back"
            return f"Newton's method for all numbers together; {how}"
        case Sweep():
            if block.rounds is not None:
                return f"triangular: at most {block.rounds} sweeps, each exact for more elements"
            return f"a contraction: sweeps, each at least {1 / (block.contraction or 1):.3g} times closer"
