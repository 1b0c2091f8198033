"""What nodes that move elements tell of their operands and outputs: which elements lie where, and in what form.

All of it follows from where the elements go and from which are known, so that it is looked at once for all nodes that
move them alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_invert.plan.elements import Elements, Mask, Pool
from onnx_invert.plan.moves import Form, InPlace, Pick, Turned, forms_of, numbered
from onnx_invert.rules.moving import Labels


@dataclass(frozen=True)
class Placing:
    """The elements `new` of an operand that come back from the elements `hits` of the outputs, as `forms` say."""

    new: Elements
    forms: tuple[Form, ...]
    hits: tuple[Elements, ...]


def placing(
    pool: Pool,
    node: ir.Node,
    place: int,
    sources: Sequence[Labels],
    before: Elements,
    known: Sequence[Elements | None],
    free: tuple[int, ...],
) -> Placing | None:
    """What comes back to the operand at `place`, of which `before` is known; None if that is nothing, or has no form.

    `sources` say where its elements go, `known` what is known of the outputs (None: all). Along the axes `free`, whose
    sizes are not fixed, it has to be the same.
    """
    found = np.zeros(before.mask.size + 1, bool)
    for source, state in zip(sources, known, strict=True):
        found[source.reshape(-1) if state is None else source[state.mask]] = True
    fresh = found
    fresh[1:] &= ~before.mask.reshape(-1)
    fresh[0] = False
    count = np.count_nonzero(fresh)
    if not count:
        return None
    new = pool.of(fresh[1:].reshape(before.shape).copy())
    if not new.uniform(free):
        return None
    hits = [
        fresh[source] if state is None else fresh[source] & state.mask
        for source, state in zip(sources, known, strict=True)
    ]
    seen = [source * hit for source, hit in zip(sources, hits, strict=True)]
    forms = forms_of(node, place, seen, before.shape, once=True)
    if forms is None:
        return None
    if sum(map(np.count_nonzero, hits)) != count:
        hits = _once(seen, fresh)
    return Placing(new, tuple(forms), tuple(map(pool.of, hits)))


def _once(seen: Sequence[Labels], fresh: Mask) -> list[Mask]:
    """Of an element that is repeated one place is the equation; the others are left over."""
    hits = []
    for source in seen:
        hit = fresh[source]
        numbers = source[hit]
        first = np.zeros(fresh.size, np.int64)
        first[numbers[::-1]] = np.arange(numbers.size)[::-1]
        hit[hit] = first[numbers] == np.arange(numbers.size)
        hits.append(hit)
        fresh[numbers] = False
    return hits


def carried(pool: Pool, sources: Sequence[Labels], state: Elements) -> list[Elements]:
    """Which elements of the outputs are known where the operand's `state` is, and all that comes from elsewhere."""
    known = np.ones(state.mask.size + 1, bool)  # 0 stands for elements of other operands
    known[1:] = state.mask.reshape(-1)
    return [pool.of(known[source]) for source in sources]


def reading(
    node: ir.Node,
    sources: Mapping[int, tuple[Sequence[Labels], Sequence[int]]],
    masks: Sequence[Elements],
    known: Sequence[Elements | None],
) -> dict[int, list[Form]] | None:
    """Where the elements of the outputs lie in the operands, if that says all of what is known of them: of `masks`.

    `sources` say of operands that are not constant where their elements go, and their shapes; `known` what is known of
    each (None: all).
    """
    forms: dict[int, list[Form]] = {}
    covered = [np.zeros(mask.shape, bool) for mask in masks]
    for place, (numbers, shape) in sources.items():
        state = known[place]
        seen = numbers if state is None else [_known_of(source, state.mask) for source in numbers]
        found = forms_of(node, place, seen, shape, once=False)
        if found is None or not all(isinstance(form, Turned | Pick | InPlace) for form in found):
            return None
        forms[place] = found
        covered = [cover | (source > 0) for cover, source in zip(covered, numbers, strict=True)]
    return forms if all(np.all(cover >= mask.mask) for cover, mask in zip(covered, masks, strict=True)) else None


def _known_of(source: Labels, mask: Mask) -> Labels:
    return np.where(numbered(mask)[source], source, 0)
