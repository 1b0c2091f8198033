"""A model at one size of everything: a copy that shares what is large, and leaves the model as it was."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from small_models import affine, text

import onnx_invert
from onnx_invert.errors import ModelError, NotInvertibleError
from onnx_invert.graph.concrete import concretise, settle
from onnx_invert.graph.normalise import normalise
from onnx_invert.graph.read import from_proto

BRANCHES = """g (float[N,2] x, bool c) => (float[N,2] y) {
    a = Neg(x) b = If (c) <then_branch = t () => (float[N,2] u) { u = Exp(a) },
                           else_branch = e () => (float[N,2] v) { v = Identity(a) }>
    y = Tanh(b)
}"""


def read(proto):
    source = from_proto(proto)
    normalise(source)
    return source.model


@pytest.mark.parametrize("proto", [affine(), text(BRANCHES)], ids=["plain", "with bodies"])
def test_a_copy_has_the_sizes_and_the_model_keeps_its_names(proto):
    model = read(proto)
    twin = concretise(model, {"N": 7})
    assert [node.name for node in twin.graph] == [node.name for node in model.graph]
    assert [node.op_type for node in twin.graph] == [node.op_type for node in model.graph]
    assert twin.graph.outputs[0].shape.numpy()[0] == 7
    assert str(model.graph.outputs[0].shape[0]) == "N"
    assert str(model.graph.inputs[0].shape[0]) == "N"
    mine, theirs = ({value for node in graph for value in node.outputs} for graph in (model.graph, twin.graph))
    assert not mine & theirs


def test_weights_are_shared():
    model = read(affine())
    twin = concretise(model, {"N": 7})
    assert set(twin.graph.initializers) == set(model.graph.initializers)
    for name, value in model.graph.initializers.items():
        assert twin.graph.initializers[name].const_value is value.const_value
        assert twin.graph.initializers[name] is not value


def test_an_input_of_unknown_rank_is_refused():
    model = read(affine())
    model.graph.inputs[0].shape = None
    with pytest.raises(ModelError, match="rank of 'x' is unknown"):
        concretise(model, {"N": 7})


def test_what_is_noted_of_a_node_is_kept():
    model = read(affine())
    next(iter(model.graph)).meta["held"] = True
    twin = concretise(model, {"N": 7})
    assert [bool(node.meta.get("held")) for node in twin.graph] == [True, False]
    assert isinstance(twin.graph, ir.Graph)


def test_branches_that_shapes_decide_one_after_the_other():
    """As older exporters write a squeeze: what a branch makes has a shape as soon as the branch before is decided."""
    count = 12
    body = "".join(
        f"""
        s{i} = Shape(a{i}) d{i} = Gather(s{i}, one) c{i} = Equal(d{i}, two)
        a{i + 1} = If (c{i}) <then_branch = t () => (float[N,2] u{i}) {{ u{i} = Tanh(a{i}) }},
                              else_branch = e () => (float[N] v{i}) {{ v{i} = ReduceSum<keepdims = 0>(a{i}, one) }}>
        """
        for i in range(count)
    )
    head = "g (float[N,2] x) => (float[N,2] y) <int64[1] one = {1}, int64[1] two = {2}>"
    model = read(text(f"{head} {{ a0 = Neg(x) {body} y = Exp(a{count}) }}"))
    twin = concretise(model, {"N": 7})
    settle(model, "the model")
    for graph in (twin.graph, model.graph):
        asks = {"Shape", "Gather", "Equal"}  # nobody does any more
        assert [n.op_type for n in graph if n.op_type not in asks] == ["Neg", *["Tanh"] * count, "Exp"]


def test_a_size_that_the_exporter_fixed_inside_is_named_before_the_nodes_that_suffer_from_it():
    """The input says N, and the model holds 64: no other shape is known anywhere."""
    proto = text(
        """g (float[N,4] x) => (float[N,4] y) <int64[3] three = {64, 4, 1}, int64[1] last = {2}>
        { u = Unsqueeze(x, last) e = Expand(u, three) s = Squeeze(e, last) t = Tanh(s) m = Mul(t, x) y = Sinh(m) }"""
    )
    with pytest.raises(NotInvertibleError) as caught:
        onnx_invert.invert(proto, method="closed-form")
    assert caught.value.blockers[0].op == "sizes"
    assert "does not run" in caught.value.blockers[0].reason
    assert "Expand" in caught.value.blockers[0].reason
