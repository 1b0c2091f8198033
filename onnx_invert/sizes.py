"""Names of sizes that follow from those of the inputs: `2*frames`, `frames/2`, `batch*frames`."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from itertools import combinations
from typing import NamedTuple

MOST = 3
"""Sizes of inputs that a product is looked for among: samples, rows and columns merged in one axis."""


class Size(NamedTuple):
    """`times` the product of the sizes `names`, divided by `parts`."""

    times: int
    names: tuple[str, ...]
    parts: int = 1

    def __str__(self) -> str:
        factors = [*([str(self.times)] if self.times > 1 or not self.names else []), *self.names]
        return "*".join(factors) + (f"/{self.parts}" if self.parts > 1 else "")

    @staticmethod
    def read(name: str) -> Size:
        """What a name says, which may be that of a size of its own."""
        whole, slash, divisor = name.rpartition("/")
        parts = int(divisor) if slash and divisor.isdigit() else 1
        factors = (whole if slash and divisor.isdigit() else name).split("*")
        numbers = [int(factor) for factor in factors if factor.isdigit()]
        return Size(math.prod(numbers), tuple(factor for factor in factors if not factor.isdigit()), parts)


def product(pair: tuple[int, int], bases: Mapping[tuple[int, int], str], most: int = MOST) -> Size | None:
    """What a size always is that is `pair` where those of `bases` are their keys: a multiple or a part of one of them,
    or of a product of up to `most`."""
    for length in range(1, most + 1):
        for chosen in combinations(bases, length):
            a, b = (math.prod(sizes) for sizes in zip(*chosen, strict=True))
            names = tuple(bases[key] for key in chosen)
            if pair[0] % a == 0 and pair[0] // a * b == pair[1]:
                return Size(pair[0] // a, names)
            if a % pair[0] == 0 and a // pair[0] * pair[1] == b:
                return Size(1, names, a // pair[0])
    return None


def is_told(name: str, known: Container[str]) -> bool:
    """Whether a size is one of those in `known`, or follows from them."""
    return name in known or all(factor in known for factor in Size.read(name).names)
