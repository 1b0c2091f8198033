"""Sums and products, with either operand unknown or both, and what networks are composed of."""

import numpy as np
import onnx
import pytest
from finite_differences import X, check, draw, hold, one_node, positive, run

import onnx_invert


def text(body, opset=17):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {body}')


SHAPES = [
    ((3, 4), (4,)),
    ((3, 4), ()),
    ((3, 4), (1, 1)),
    ((3, 4), (3, 1)),
    ((3, 1), (4,)),
    ((2, 1, 3), (4, 1)),
    ((3,), (2, 3)),
    ((), (2, 3)),
    ((1,), (1,)),
    ((2, 3), (2, 3)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_broadcast(op, shapes):
    a, b = (positive(*shape) for shape in shapes)
    check(op, X(a, False), b)
    check(op, a, X(b, False))
    check(op, X(a, False), X(b, False))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_broadcast_in_a_batch(op):
    check(op, X(draw(3, 2, 4)), positive(4))
    check(op, X(draw(3, 1)), positive(4))
    check(op, draw(2, 1), X(positive(3, 1, 4)))
    check(op, X(draw(3, 2, 4)), X(positive(3, 1, 4)))
    check(op, X(draw(3, 2, 1)), X(positive(3, 1, 4)))
    check(op, X(draw(3, 4)), X(positive(1, 4)[0:1].repeat(3, 0)))


@pytest.mark.parametrize(
    "body",
    [
        "y = Mul(x, x)",
        "y = Add(x, x)",
        "y = Sub(x, x)",
        "y = Div(x, x)",
        "h = Exp(x) y = Div(h, x)",
        "h = Mul(x, x) y = Mul(h, x)",
        "h = Sigmoid(x) y = Mul(x, h)",
        "h = Log(x) y = Mul(x, h)",
        "h = Relu(x) n = Neg(x) l = Relu(n) k = Constant<value = double {0.2}>() m = Mul(l, k) y = Sub(h, m)",
    ],
)
def test_one_tensor_twice(body):
    hold(text(f"g (double[N,3] x) => (double[N,3] y) {{ {body} }}"), {"x": positive(2, 3)})


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 4), (4, 2)),
        ((4,), (4, 2)),
        ((3, 4), (4,)),
        ((4,), (4,)),
        ((2, 3, 4), (4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (3, 4, 2)),
        ((4,), (2, 4, 3)),
        ((2, 3, 4), (4,)),
        ((1, 3, 4), (2, 4, 2)),
    ],
    ids=str,
)
def test_matmul(a, b):
    check("MatMul", X(draw(*a), False), draw(*b))
    check("MatMul", draw(*a), X(draw(*b), False))
    check("MatMul", X(draw(*a), False), X(draw(*b), False))


def test_matmul_in_a_batch():
    check("MatMul", X(draw(3, 4)), draw(4, 2))
    check("MatMul", X(draw(3, 4)), draw(4))
    check("MatMul", X(draw(3, 2, 4)), draw(4, 2))
    check("MatMul", X(draw(3, 2, 4)), draw(4))
    check("MatMul", draw(2, 4), X(draw(3, 4, 2)))
    check("MatMul", draw(4), X(draw(3, 4, 2)))
    check("MatMul", X(draw(3, 2, 4)), X(draw(3, 4, 2)))
    check("MatMul", X(draw(2, 2, 3, 4)), X(draw(2, 2, 4, 3)))
    check("MatMul", X(draw(2, 2, 3, 4)), X(draw(2, 1, 4, 3)))


@pytest.mark.parametrize("flip_a", [0, 1])
@pytest.mark.parametrize("flip_b", [0, 1])
def test_gemm(flip_a, flip_b):
    a, b = draw(*((4, 3) if flip_a else (3, 4))), draw(*((2, 4) if flip_b else (4, 2)))
    given = {"transA": flip_a, "transB": flip_b, "alpha": 0.5, "beta": -2.0}
    check("Gemm", X(a, False), X(b, False), X(draw(2), False), **given)
    check("Gemm", X(a, False), b, **given)
    check("Gemm", a, X(b, False), draw(3, 1), **given)
    if not flip_a:
        check("Gemm", X(a), b, draw(2), **given)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3, 1), (1, 2), (3, 2)], ids=str)
def test_bias_of_gemm(shape):
    check("Gemm", draw(3, 4), draw(4, 2), X(draw(*shape), False), beta=1.5)


@pytest.mark.parametrize(
    ("equation", "a", "b"),
    [
        ("ij,jk->ik", (2, 3), (3, 4)),
        ("bij,bjk->bik", (2, 2, 3), (2, 3, 2)),
        ("bhqd,bhkd->bhqk", (2, 2, 2, 3), (2, 2, 2, 3)),
        ("bqhd,bkhd->bhqk", (2, 2, 2, 3), (2, 3, 2, 3)),
        ("ijk,jkl->il", (2, 3, 2), (3, 2, 4)),
        ("i,j->ij", (3,), (2,)),
        ("i,i->", (3,), (3,)),
        ("ij,ij->ij", (2, 3), (2, 3)),
        ("ij,k->jk", (2, 3), (4,)),
        ("...ij,jk->...ik", (2, 2, 3), (3, 2)),
        ("...j,...j", (2, 2, 3), (2, 2, 3)),
        ("ij,jk", (2, 3), (3, 4)),
        ("kj, ji -> ik", (2, 3), (3, 4)),
    ],
)
def test_einsum(equation, a, b):
    check("Einsum", X(draw(*a), False), X(draw(*b), False), equation=equation)


def test_einsum_of_one_operand():
    for equation in ("ijk->kij", "ijk->ik", "ijk->", "jik"):
        check("Einsum", X(draw(2, 3, 4), False), equation=equation)


def test_einsum_in_a_batch():
    check("Einsum", X(draw(3, 4)), draw(4, 2), equation="nj,jk->nk")
    check("Einsum", X(draw(3, 2, 4)), draw(2, 4, 5), equation="nhj,hjk->nkh")
    check("Einsum", X(draw(3, 2, 4)), draw(5, 4), equation="nij,kj->nik")
    check("Einsum", X(draw(2, 2, 3)), X(draw(2, 3, 2)), equation="nij,njk->nik")
    check("Einsum", X(draw(2, 2, 3)), X(draw(2, 3)), equation="nij,nj->ni")
    check("Einsum", X(draw(2, 2, 3)), equation="nij->nj")


@pytest.mark.parametrize(
    ("equation", "shapes", "reason"),
    [
        ("ii->i", [(3, 3)], "a label twice in one operand"),
        ("i,i,i->i", [(3,)] * 3, "it has 3 operands"),
        ("i...,...->i...", [(2, 3), (1,)], "it repeats an axis of size 1"),
    ],
)
def test_einsum_refuses(equation, shapes, reason):
    model, _ = one_node("Einsum", X(draw(*shapes[0]), False), *(draw(*s) for s in shapes[1:]), equation=equation)
    with pytest.raises(onnx_invert.NotInvertibleError, match=reason):
        onnx_invert.jacobian(model)


def test_attention():
    """Four axes, queries, keys and values of one tensor, softmax written out."""
    model = text("""
        g (double[N,3,4] x) => (double[N,3,4] y) {
            heads = Constant<value_ints = [0, 3, 2, 2]>()
            flat = Constant<value_ints = [0, 3, 4]>()
            last = Constant<value_ints = [-1]>()
            scale = Constant<value = double {0.7}>()
            s = Sin(x)
            qr = Reshape(x, heads)
            kr = Reshape(s, heads)
            q = Transpose<perm = [0, 2, 1, 3]>(qr)
            k = Transpose<perm = [0, 2, 3, 1]>(kr)
            v = Transpose<perm = [0, 2, 1, 3]>(kr)
            qs = Mul(q, scale)
            scores = MatMul(qs, k)
            top = ReduceMax<axes = [-1]>(scores)
            low = Sub(scores, top)
            exps = Exp(low)
            total = ReduceSum(exps, last)
            weights = Div(exps, total)
            mixed = MatMul(weights, v)
            back = Transpose<perm = [0, 2, 1, 3]>(mixed)
            joined = Reshape(back, flat)
            y = Add(joined, x)
        }""")
    hold(model, {"x": draw(2, 3, 4)})


def test_layer_norm_written_out():
    model = text("""
        g (double[N,5] x) => (double[N,5] y) {
            eps = Constant<value = double {0.01}>()
            two = Constant<value = double {2.0}>()
            m = ReduceMean<axes = [-1]>(x)
            d = Sub(x, m)
            q = Pow(d, two)
            v = ReduceMean<axes = [-1]>(q)
            ve = Add(v, eps)
            s = Sqrt(ve)
            r = Reciprocal(s)
            y = Mul(d, r)
        }""")
    for x in (draw(3, 5), np.ones((1, 5))):
        hold(model, {"x": x})


def test_coupling_layer():
    model = text("""
        g (double[N,6] x) => (double[N,6] y) {
            half = Constant<value_ints = [3, 3]>()
            a, b = Split<axis = 1>(x, half)
            s = Tanh(a)
            e = Exp(s)
            t = Sin(a)
            m = Mul(b, e)
            c = Add(m, t)
            j = Concat<axis = 1>(a, c)
            order = Constant<value_ints = [5, 1, 3, 0, 2, 4]>()
            y = Gather<axis = 1>(j, order)
        }""")
    hold(model, {"x": draw(3, 6)})


def test_several_inputs_and_outputs():
    model = text("""
        g (double[N,2] a, double[N,3] b, double[N,1] given) => (double[N,1] y, double[N,5] z, double[N,1] rest) {
            one = Constant<value_ints = [1]>()
            s = ReduceSum(a, one)
            t = ReduceMax<axes = [1]>(b)
            y = Mul(s, t)
            z = Concat<axis = 1>(a, b)
            rest = Exp(given)
        }""")
    values = {"a": draw(2, 2), "b": draw(2, 3)}
    found = onnx_invert.jacobian(model, wrt=["a", "b"], of=["z", "y"], mode="reverse")
    (result,) = run(found, {**values, "given": draw(2, 1)})
    assert result.shape == (2, 6, 5)
    np.testing.assert_array_equal(result[:, 1:], np.stack([np.eye(5)] * 2))
    best = values["b"].max(axis=1)
    np.testing.assert_allclose(result[:, 0, :2], np.stack([best, best], axis=1))


def test_two_sizes_that_may_be_repeated_or_not_are_refused():
    model = text("g (double[N,4] x, double[3,4] c) => (double[3,4] y) { y = Mul(x, c) }")
    with pytest.raises(onnx_invert.NotInvertibleError, match="the size 'N' of its operand, against 3"):
        onnx_invert.jacobian(model, wrt=["x"])


def test_in_float32_onnxruntime_agrees():
    check("MatMul", X(draw(2, 3, 4)), X(draw(2, 4, 3)), dtype=np.float32)
    model, values = one_node("Mul", X(draw(3, 4)), X(draw(3, 1)), dtype=np.float32)
    hold(model, values)
