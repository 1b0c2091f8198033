"""Pieces of tensors as equations: what is used, what is left over, and what that makes of the promise."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from onnx_invert import explain


def coupling(end: str, columns: int) -> onnx.ModelProto:
    """x is split in a and b, b is scaled by what a tells, and `end` makes z of a and c."""
    body = f"""
        half = Constant<value_ints = [2, 2]>()
        a, b = Split<axis = 1>(x, half)
        t = Tanh(a) s = Exp(t) c = Mul(b, s)
        {end}
    """
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,{columns}] z) {{ {body} }}'
    return parser.parse_model(text)


@pytest.mark.parametrize(
    ("end", "columns", "promise"),
    [
        ("z = Concat<axis = 1>(a, c)", 4, "bijection"),
        ("order = Constant<value_ints = [3, 0, 2, 1]>() w = Concat<axis = 1>(a, c) z = Gather<axis = 1>(w, order)",
         4, "bijection"),
        ("z = Concat<axis = 1>(a, c, a)", 6, "left-inverse"),
        ("order = Constant<value_ints = [0, 1, 1, 2, 3]>() w = Concat<axis = 1>(a, c) z = Gather<axis = 1>(w, order)",
         5, "left-inverse"),
        ("d = Add(a, a) z = Concat<axis = 1>(a, c, d)", 6, "left-inverse"),
    ],
)  # fmt: skip
def test_an_equation_left_over_takes_the_bijection_away(end, columns, promise):
    assert explain(coupling(end, columns)).guarantee.value == promise
