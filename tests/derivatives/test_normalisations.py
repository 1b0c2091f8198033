"""Normalisations and softmax against differences."""

import numpy as np
import pytest
from differences import at_old_opset, filled_in, session
from finite_differences import X, check, draw, hold, jacobians, one_node

import onnx_invert
from onnx_invert.errors import NotInvertibleError


@pytest.mark.parametrize("axis", [-1, 1, 2, -2])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_normalization(axis, bias):
    x = draw(2, 3, 2, 4)
    scale = draw(*x.shape[axis:])
    operands = [scale, draw(*scale.shape)] if bias else [scale]
    check("LayerNormalization", X(x), *operands, axis=axis)
    check("LayerNormalization", X(x), *operands, axis=axis, epsilon=0.5)


def test_layer_normalization_of_everything():
    check("LayerNormalization", X(draw(3, 2), batched=False), draw(3, 2), axis=0)


def test_layer_normalization_by_its_scale_and_bias():
    x = draw(2, 3)
    for stated in ((X(x), X(draw(3), False), draw(3)), (x, draw(3), X(draw(3), False)), (x, X(draw(3), False))):
        operands = [X(o.value, False) if isinstance(o, X) else o for o in stated]
        check("LayerNormalization", *operands)


def test_layer_normalization_broadcasts_a_scale():
    check("LayerNormalization", X(draw(2, 3, 4)), draw(1), draw(3, 4), axis=1)


@pytest.mark.parametrize("image", [(3, 4), (2, 2, 3), (1, 2, 2, 2)], ids=str)
def test_instance_normalization(image):
    check("InstanceNormalization", X(draw(2, *image)), draw(image[0]), draw(image[0]))
    check("InstanceNormalization", X(draw(2, *image)), draw(image[0]), draw(image[0]), epsilon=0.1)


GROUPS = """
    <ir_version: 10, opset_import: ["" : 21]>
    g (double[N,{image}] x) => (double[N,{image}] y)
    <double[4] s, double[4] b, int64[{rank}] there = {{-1, {image}}}> {{
        z = GroupNormalization<num_groups={groups}, epsilon=0.01>(x, s, b)
        y = Reshape(z, there)
    }}
"""
"""The Reshape says the shape that onnx's shape inference does not find."""


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("image", [(4, 3), (4, 2, 2)], ids=str)
def test_group_normalization(groups, image):
    text = GROUPS.format(groups=groups, image=", ".join(map(str, image)), rank=len(image) + 1)
    hold(filled_in(text), {"x": draw(2, *image)})


def slopes(function, x):
    """(y, x) by differences."""
    steps = 1e-5 * np.eye(x.size).reshape(-1, *x.shape)
    return np.stack([(function(x + d) - function(x - d)).reshape(-1) / 2e-5 for d in steps], axis=1)


def test_group_normalization_of_opset_18():
    """It has a scale per group; onnx's checker refuses it."""
    x, scale, bias = draw(2, 4, 3), draw(2), draw(2)

    def function(x):
        groups = x.reshape(2, 2, 6)
        d = groups - groups.mean(axis=2, keepdims=True)
        y = d / np.sqrt((d**2).mean(axis=2, keepdims=True) + np.float32(0.1))
        return (y * scale[:, None] + bias[:, None]).reshape(x.shape)

    for found in at_old_opset("GroupNormalization", 18, x, function(x), scale, bias, num_groups=2, epsilon=0.1):
        np.testing.assert_allclose(found, slopes(function, x), atol=1e-8)


@pytest.mark.parametrize("axis", [-1, 1])
def test_rms_normalization(axis):
    check("RMSNormalization", X(draw(2, 3, 4)), draw(4) if axis == -1 else draw(3, 4), axis=axis, opset=23)
    check("RMSNormalization", X(draw(2, 4), False), X(draw(4), False), epsilon=0.1, opset=23)


@pytest.mark.parametrize(("axes", "shape"), [((0, 2, 3), (2, 2, 1, 2)), ((1, -1), (2, 2, 3)), ((2,), (2, 1, 3))])
def test_mean_variance_normalization(axes, shape):
    """onnx defines it in float32 alone; what the rule says is held to a function of numpy."""

    def function(x):
        d = x - x.mean(axis=axes, keepdims=True)
        return d / (np.sqrt((d**2).mean(axis=axes, keepdims=True)) + 1e-9)

    x = draw(*shape)
    for found in at_old_opset("MeanVarianceNormalization", 13, x, function(x), axes=list(axes)):
        np.testing.assert_allclose(found, slopes(function, x), atol=1e-8)


def test_mean_variance_normalization_in_onnxruntime():
    x = draw(2, 2, 2, 3)
    model, values = one_node("MeanVarianceNormalization", X(x), dtype=np.float32, axes=[2, 3])
    expected = check("InstanceNormalization", X(x), np.ones(2), np.zeros(2), epsilon=0.0)
    for mode in ("forward", "reverse"):
        (found,) = session(onnx_invert.jacobian(model, mode=mode)).run(None, values)
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("axis", [-1, 1])
def test_lp_normalization(axis, power):
    check("LpNormalization", X(draw(2, 3, 4)), axis=axis, p=power)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_lrn(size):
    check("LRN", X(draw(2, 4, 2, 2)), size=size, alpha=0.8, beta=0.6, bias=1.5)


def test_lrn_of_large_values():
    check("LRN", X(30 * draw(2, 3, 1, 2)), size=3, step=1e-4)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_softmax(op, axis):
    check(op, X(3 * draw(2, 3, 4)), axis=axis)
    check(op, X(draw(3), False), axis=0)


@pytest.mark.parametrize(("op", "axis"), [("Softmax", 1), ("Softmax", 2), ("LogSoftmax", 1), ("Softmax", 0)])
def test_softmax_until_opset_12(op, axis):
    """Over all axes from `axis` on."""
    x = draw(2, 3, 2)
    flat = x.reshape(int(np.prod(x.shape[:axis])), -1)
    y = np.exp(flat) / np.exp(flat).sum(axis=1, keepdims=True)
    blocks = [np.diag(row) - np.outer(row, row) if op == "Softmax" else np.eye(row.size) - row for row in y]
    expected = np.zeros((x.size, x.size))
    for index, block in enumerate(blocks):
        places = slice(index * len(block), (index + 1) * len(block))
        expected[places, places] = block
    y = (y if op == "Softmax" else np.log(y)).reshape(x.shape)
    for found in at_old_opset(op, 11, x, y, axis=axis):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_log_softmax_of_far_logits():
    """Softmax is 0 there, its logarithm is not."""
    model, values = one_node("LogSoftmax", X(np.array([[0.0, 900.0, -900.0]])))
    for found in jacobians(model, values):
        np.testing.assert_allclose(found[0], np.eye(3) - [0, 1, 0], atol=1e-12)


@pytest.mark.parametrize("image", [(3,), (3, 2), (3, 2, 2), (2, 1, 2, 2)], ids=str)
def test_batch_normalization(image):
    c = image[0]
    check("BatchNormalization", X(draw(2, *image)), draw(c), draw(c), draw(c), np.abs(draw(c)) + 0.2)


def test_outputs_beside_the_first_are_refused():
    model, _ = one_node("LayerNormalization", X(draw(2, 3)), draw(3), outputs=2, of=(0, 1), dtype=np.float32)
    with pytest.raises(NotInvertibleError, match="its mean or its scale is an output that is used"):
        onnx_invert.jacobian(model)


# A transformer's block: attention among four tokens, then a dense layer, each behind a layer norm and beside a sum.
BLOCK = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (double[N,4,6] x) => (double[N,4,6] y)
    <double[6] s1, double[6] b1, double[6] s2, double[6] b2, double[6,6] q, double[6,6] k, double[6,6] v,
     double[6,8] u, double[8,6] d> {
        n = LayerNormalization(x, s1, b1)
        queries = MatMul(n, q)
        keys = MatMul(n, k)
        values = MatMul(n, v)
        turned = Transpose<perm=[0, 2, 1]>(keys)
        scores = MatMul(queries, turned)
        attention = Softmax(scores)
        mixed = MatMul(attention, values)
        h = Add(x, mixed)
        m = LayerNormalization(h, s2, b2)
        wide = MatMul(m, u)
        act = Tanh(wide)
        narrow = MatMul(act, d)
        y = Add(h, narrow)
    }
"""


def test_a_transformer_block():
    hold(filled_in(BLOCK), {"x": draw(2, 4, 6)})
