"""Nodes that move elements alike are looked at once; nodes that differ in what counts are not taken for alike."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

import onnx_invert
from onnx_invert.graph.normalise import normalise
from onnx_invert.graph.read import from_proto
from onnx_invert.plan import knowledge
from onnx_invert.plan.alike import kind_of


def layers(orders: list[list[int]]) -> onnx.ModelProto:
    """Additive couplings, each of which permutes its columns by one of `orders` first."""
    lines = ["half = Constant<value_ints = [1, 2]>()"]
    for index, order in enumerate(orders):
        x = "x" if not index else f"z{index - 1}"
        lines.append(
            f"o{index} = Constant<value_ints = {order}>() p{index} = Gather<axis = 1>({x}, o{index}) "
            f"a{index}, b{index} = Split<axis = 1>(p{index}, half) t{index} = Tanh(a{index}) "
            f"c{index} = Add(b{index}, t{index}) z{index} = Concat<axis = 1>(a{index}, c{index})"
        )
    lines.append(f"z = Identity(z{len(orders) - 1})")
    text = '<ir_version: 8, opset_import: ["" : 17]> g (double[N,3] x) => (double[N,3] z) { %s }'
    return parser.parse_model(text % " ".join(lines))


@pytest.fixture
def looked_at(monkeypatch):
    """The nodes whose moves were looked at."""
    names = []

    def places(node, operand, shape):
        names.append(node.name)
        return before(node, operand, shape)

    before = knowledge.places
    monkeypatch.setattr(knowledge, "places", places)
    return names


def test_layers_that_come_again_are_looked_at_once(looked_at):
    onnx_invert.explain(layers([[2, 0, 1]] * 2))
    few = len(looked_at)
    looked_at.clear()
    onnx_invert.explain(layers([[2, 0, 1]] * 12))
    assert 0 < len(looked_at) == few


def test_layers_of_different_indices_each_come_back():
    orders = [[2, 0, 1], [1, 2, 0], [0, 2, 1], [2, 0, 1], [2, 1, 0], [1, 0, 2]]
    model = layers(orders)
    made = onnx_invert.invert(model, verify=False)
    x = np.random.default_rng(0).standard_normal((4, 3))
    sessions = [ort.InferenceSession(m.SerializeToString()) for m in (model, made.model)]
    z = sessions[0].run(None, {"x": x})[0]
    back = sessions[1].run(None, {sessions[1].get_inputs()[0].name: z})[0]
    np.testing.assert_allclose(back, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ("Gather<axis = 1>(x, i)", "Gather<axis = 1>(y, i)", True),
        ("Gather<axis = 1>(x, i)", "Gather<axis = 1>(x, j)", False),
        ("Gather<axis = 0>(s, i)", "Gather<axis = 1>(s, i)", False),
        ("Gather<axis = 1>(x, i)", "Gather<axis = 1>(s, i)", False),  # s has a fixed number of rows
        ("Concat<axis = 1>(x, y)", "Concat<axis = 1>(y, x)", True),
        ("Concat<axis = 1>(x, y)", "Concat<axis = 1>(x, w)", False),  # w is constant
        ("Concat<axis = 1>(x, y)", "Concat<axis = 1>(x, y, y)", False),
    ],
)
def test_what_counts_for_nodes_to_be_alike(first, second, alike):
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,2] x, float[N,2] y, float[2,2] s) => (float[A,K] u, float[B,M] v)
    <int64[2] i = {{1, 0}}, int64[2] j = {{0, 1}}, float[2,2] w = {{1, 2, 3, 4}}> {{ u = {first} v = {second} }}"""
    source = from_proto(
        parser.parse_model(text.replace("float[N,M]", "float[A,M]").replace("float[N,K]", "float[B,K]"))
    )
    normalise(source)
    graph = source.model.graph
    shapes = {value.name: (2, 2) for value in (*graph.inputs, *graph.initializers.values())}
    kinds = [kind_of(node, node, shapes) for node in graph]
    assert (kinds[0] == kinds[1]) is alike
