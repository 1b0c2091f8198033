"""Models that mix the samples of a batch are refused by name; ordinary networks are not."""

import numpy as np
import onnx
import onnxruntime
import pytest
from small_models import text

import onnx_invert
from onnx_invert import NotInvertibleError

W = "W = Constant<value = float[3,3] {2.0, 0.1, 0.2, 0.3, 2.0, 0.1, 0.0, 0.2, 2.0}>()"

# Body of a model x float[N,3] → y, the operator that mixes, and what is said of it.
MIXING = {
    "centred by the batch": ("m = ReduceMean<axes = [0]>(x) y = Sub(x, m)", "ReduceMean", "reduces axis 0"),
    "the sum of everything": ("s = ReduceSum<keepdims = 0>(x) y = Add(x, s)", "ReduceSum", "reduces all axes"),
    "softmax over the batch": ("y = Softmax<axis = 0>(x)", "Softmax", "along axis 0"),
    "softmax of the transposed": ("t = Transpose(x) s = Softmax(t) y = Transpose(s)", "Softmax", "along axis 1"),
    "a normalised batch": (
        "o = Constant<value = float[3] {1.0, 1.0, 1.0}>() z = Constant<value = float[3] {0.0, 0.0, 0.0}>() "
        "y, m, v = BatchNormalization<training_mode = 1>(x, o, z, z, o)",
        "BatchNormalization",
        "training mode",
    ),
    "attention between samples": ("t = Transpose(x) a = MatMul(x, t) y = MatMul(a, x)", "MatMul", "every sample"),
    "a gram matrix": ("t = Transpose(x) g = MatMul(t, x) y = MatMul(x, g)", "MatMul", "sums along axis 1"),
    "a running sum": ("i = Constant<value_int = 0>() y = CumSum(x, i)", "CumSum", "sums along axis 0"),
    "einsum": ('g = Einsum<equation = "ni,nj->ij">(x, x) y = MatMul(x, g)', "Einsum", "sums over an axis"),
    "rows of two samples": (
        "s = Constant<value_ints = [-1, 6]>() r = Reshape(x, s) "
        "m = ReduceMean<axes = [1]>(r) d = Sub(r, m) b = Constant<value_ints = [-1, 3]>() y = Reshape(d, b)",
        "ReduceMean",
        "changes what it makes of another",
    ),
    "samples in another order": (
        "a = Constant<value_ints = [2, -1, 3]>() h = Reshape(x, a) t = Transpose<perm = [1, 0, 2]>(h) "
        "b = Constant<value_ints = [-1, 3]>() s = Reshape(t, b) y = Sin(s)",
        "Sin",
        "moves the rows of others",
    ),
}


def model(body, outputs="float[N,3] y"):
    return text(f"g (float[N,3] x) => ({outputs}) {{ {body} }}")


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_is_refused_by_name(name):
    body, op, reason = MIXING[name]
    for attempt in (onnx_invert.jacobian, lambda f: onnx_invert.invert(f, method="newton")):
        with pytest.raises(NotInvertibleError) as error:
            attempt(model(body))
        assert any(b.op == op and reason in b.reason for b in error.value.blockers), str(error.value)


# The others have no derivative, or another number of outputs.
@pytest.mark.parametrize("name", [name for name in MIXING if MIXING[name][1] not in {"BatchNormalization", "CumSum"}])
def test_of_a_fixed_size_the_batch_is_one_sample(name):
    fixed = model(MIXING[name][0])
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    derivative = onnx_invert.jacobian(fixed)
    assert [dim.dim_value for dim in derivative.graph.output[0].type.tensor_type.shape.dim] == [1, 12, 12]


@pytest.mark.parametrize("last", ["", "Sigmoid"])
def test_a_sample_in_several_rows(last):
    """scikit-learn's networks of several targets return (N · 3, 1)."""
    body = f"{W} h = MatMul(x, W) g = Relu(h) u = Add(g, x) s = Constant<value_ints = [-1, 1]>() r = Reshape(u, s) "
    f = model(body + (f"y = {last}(r)" if last else "y = Identity(r)"), "float[M,1] y")
    derivative = onnx_invert.jacobian(f)
    assert [dim.dim_value for dim in derivative.graph.output[0].type.tensor_type.shape.dim] == [0, 3, 3]
    inversion = onnx_invert.invert(f, method="newton", residual=True)
    assert inversion.round_trip.unsolved == 0
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    (y,) = onnxruntime.InferenceSession(f.SerializeToString()).run(None, {"x": x})
    back, residual = onnxruntime.InferenceSession(inversion.model.SerializeToString()).run(None, {"y": y})
    assert back.shape == x.shape
    assert residual.shape == (5,)


# x float[N,3] → h float[N,3]: by a table that a number picks from, as scikit-learn's QuantileTransformer does with
# all numbers in one row; and by an operator that is not followed, so that how h lies is tried.
IN_ONE_ROW = """T = Constant<value = float[4] {0.0, 0.1, -0.2, 0.3}>() F = Flatten<axis = 0>(x) sh = Shape(x)
    lo = Constant<value_float = 0.0>() hi = Constant<value_float = 3.0>() c = Clip(F, lo, hi) i = Cast<to = 7>(c)
    t = Gather(T, i) b = Add(F, t) h = Reshape(b, sh)"""
NOT_FOLLOWED = """p = Constant<value_ints = [0, 1, 0, 0]>() q = Pad(x, p) s = Constant<value_ints = [1]>()
    e = Constant<value_ints = [4]>() h = Slice(q, s, e, s)"""
# What is not finite is not taken: 0/0 here, of integers, which no derivative goes through.
HALF_FINITE = (
    "v = Sub(x, x) j = Cast<to = 7>(v) z = Cast<to = 1>(j) n = Div(z, z) l = LessOrEqual(x, x) k = Where(l, x, n)"
)


@pytest.mark.parametrize("first", [IN_ONE_ROW, NOT_FOLLOWED, f"{HALF_FINITE} {NOT_FOLLOWED.replace('(x', '(k')}"])
def test_several_rows_behind(first):
    body = f"{W} {first} m = MatMul(h, W) g = Tanh(m) u = Add(g, m) s2 = Constant<value_ints = [-1, 1]>() "
    f = model(f"{body} y = Reshape(u, s2)", "float[M,1] y")
    inversion = onnx_invert.invert(f, method="newton", residual=True)
    assert inversion.round_trip.unsolved == 0
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(f.SerializeToString())
    (y,) = session.run(None, {"x": x})
    back, residual = onnxruntime.InferenceSession(inversion.model.SerializeToString()).run(None, {"y": y})
    assert y.shape == (15, 1)
    assert residual.shape == (5,)
    np.testing.assert_allclose(session.run(None, {"x": back})[0], y, atol=1e-5)


def test_what_is_not_finite_hides_no_mixing():
    body = (
        f"{HALF_FINITE} a = Constant<value_ints = [-1, 6]>() r = Reshape(k, a) w = ReduceMean<axes = [1]>(r) "
        "d = Sub(r, w) b = Constant<value_ints = [-1, 3]>() y = Reshape(d, b)"
    )
    for attempt in (onnx_invert.jacobian, lambda f: onnx_invert.invert(f, method="newton")):
        with pytest.raises(NotInvertibleError, match="changes what it makes of another"):
            attempt(model(body))


def test_rows_are_counted_of_what_is_never_finite():
    """Of outputs without a value nothing but their shape is known."""
    first = NOT_FOLLOWED.replace("(x", "(k")
    body = (
        f"o = Sub(x, x) k0 = Div(o, o) k = Add(k0, x) {first} z = Constant<value_ints = [-1, 2]>() y = Reshape(h, z)"
    )
    with pytest.raises(NotInvertibleError, match="6 rows for 4 samples"):
        onnx_invert.jacobian(model(body, "float[M,2] y"))


def test_samples_that_alternate_are_refused():
    body = "s = Constant<value_ints = [-1, 1]>() t = Transpose(x) y = Reshape(t, s)"
    with pytest.raises(NotInvertibleError, match="3 entries for each"):
        onnx_invert.jacobian(model(body, "float[M,1] y"))


# Bodies of x float[N,3] → y (N, …) that take each sample by itself.
SEPARATE = {
    "transposed and back": f"{W} t = Transpose(x) s = Sin(t) u = Transpose(s) y = MatMul(u, W)",
    "columns of a product": f"{W} t = Transpose(x) s = MatMul(W, t) y = Transpose(s)",
    "gemm of the transposed": f"{W} t = Transpose(x) y = Gemm<transA = 1>(t, W)",
    "rows of vectors": (
        f"a = Constant<value_ints = [-1, 1]>() r = Reshape(x, a) s = Tanh(r) b = Constant<value_ints = [-1, 3]>() "
        f"u = Reshape(s, b) {W} y = MatMul(u, W)"
    ),
    "a shape at run time": (
        f"sh = Shape(x) a = Constant<value_ints = [-1, 3]>() r = Reshape(x, a) {W} h = MatMul(r, W) y = Reshape(h, sh)"
    ),
    "folded and unfolded": (
        "a = Constant<value_ints = [-1, 6]>() r = Reshape(x, a) s = Tanh(r) "
        "b = Constant<value_ints = [-1, 3]>() y = Reshape(s, b)"
    ),
    "attention within a sample": (
        "i = Constant<value_ints = [1]>() c = Unsqueeze(x, i) t = Transpose<perm = [0, 2, 1]>(c) a = MatMul(t, c) "
        "p = Softmax<axis = -1>(a) o = MatMul(c, p) y = Squeeze(o, i)"
    ),
    "einsum": f'{W} y = Einsum<equation = "ni,ij->nj">(x, W)',
    "pieces": ("a, b, c = Split<axis = 1, num_outputs = 3>(x) d = Mul(a, b) y = Concat<axis = 1>(d, b, c)"),
    "a picked order": "i = Constant<value_ints = [2, 0, 1]>() g = Gather<axis = 1>(x, i) y = Mul(g, x)",
    "a stacked batch": (
        "z = Constant<value_ints = [0]>() a = Unsqueeze(x, z) b = Sin(x) c = Unsqueeze(b, z) "
        "d = Concat<axis = 0>(a, c) y = ReduceSum<keepdims = 0>(d, z)"
    ),
    "a normalised sample": "m = ReduceMean<axes = [1]>(x) y = Sub(x, m)",
}


@pytest.mark.parametrize("name", SEPARATE)
def test_what_keeps_samples_apart_is_not_refused(name):
    f = model(SEPARATE[name])
    f.opset_import[0].version = 17 if "axes = [" in SEPARATE[name] else 18
    derivative = onnx_invert.jacobian(f)
    assert len(derivative.graph.output) == 1


def test_a_cut_is_not_made_where_rows_are_parts_of_samples():
    """Vectors of 2 numbers, 3 of them a sample: narrower than x and y only as long as rows count as samples."""
    f = text("""g (float[N,3,4] x) => (float[N,12] y) {
        a = Constant<value_ints = [-1, 4]>() r = Reshape(x, a)
        V = Constant<value = float[4,2] {1.0, 0.2, 0.1, 1.0, 0.3, 0.4, 0.5, 0.6}>() h = MatMul(r, V)
        U = Constant<value = float[2,4] {1.0, 0.2, 0.1, 1.0, 0.3, 0.4, 0.5, 0.6}>() s = Tanh(h) u = MatMul(s, U)
        b = Constant<value_ints = [-1, 12]>() y = Reshape(u, b)
    }""")
    inversion = onnx_invert.invert(f, method="newton", force=True)
    assert inversion.round_trip.y.worst < 1e-4


def test_given_inputs_may_come_from_anywhere():
    """The mean of a context over the batch: no sample of x has to do with another one's outputs."""
    f = text("""g (float[N,3] x, float[N,3] c) => (float[N,3] y) {
        m = ReduceMean<axes = [0]>(c) s = Sin(x) t = Add(s, x) y = Add(t, m) }""")
    assert onnx_invert.jacobian(f, wrt=["x"]).graph.output
    assert onnx.checker.check_model(onnx_invert.invert(f, recover=["x"]).model) is None
    assert np.isfinite(onnx_invert.invert(f, recover=["x"]).round_trip.y.worst)
