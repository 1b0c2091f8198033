"""A decoder as a prior: against the Gaussian prior of the same covariance, and what a decoder can be wrong about."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from solving import layers, normal, residuals, run

import onnx_invert
from onnx_invert import Guarantee, UsageError, VerificationError, invert

ROOT = Path(__file__).parent.parent.parent
F = layers(normal(12, 20) / 3, "Tanh", normal(20, 4, seed=1) / 4, width=12)
A, MEAN = normal(12, 12, seed=2) / 3, normal(12, seed=3) / 2


def affine(a=A, mean=MEAN, opset=17, name="w", out="made", dtype=np.float32):
    """x = w a + mean."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node("MatMul", [name, "h0"], ["h"]), helper.make_node("Add", ["h", "w0"], [out])],
        "decoder",
        [helper.make_tensor_value_info(name, kind, ["batch", a.shape[0]])],
        [helper.make_tensor_value_info(out, kind, ["batch", a.shape[1]])],
        [numpy_helper.from_array(a.astype(dtype), "h0"), numpy_helper.from_array(mean.astype(dtype), "w0")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def bent(r=6, **options):
    """x = tanh(w a) b, 12 numbers of r."""
    model = layers(normal(r, 16, seed=4) / 8, "Tanh", normal(16, 12, seed=5) / 2, width=r, **options)
    model.graph.input[0].name = model.graph.node[0].input[0] = "latent"
    return model


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_an_affine_decoder_is_the_gaussian_prior(opset):
    """The least w of x = w A + mean is that of the Gaussian prior with mean and covariance AᵀA: unique, f affine."""
    linear = layers(normal(12, 4), "LeakyRelu", width=12)
    rng = np.random.default_rng(6)
    data = (rng.standard_normal((4000, 12)) @ A + MEAN).astype(np.float32)
    gaussian = onnx_invert.numerics.prior.fit(lambda: [(data[:, :4], data.astype(float))], conditional=False)
    same = affine(gaussian.factor.rows, gaussian.mean, opset=opset)
    y = run(linear, x=data[:50])[0]
    by_data = invert(linear, prior=data, prior_kind="gaussian").model
    inversion = invert(linear, prior=same)
    np.testing.assert_allclose(run(inversion.model, y=y)[0], run(by_data, y=y)[0], atol=2e-4)
    assert residuals(run(linear, x=run(inversion.model, y=y)[0])[0], y).max() < 1e-5


@pytest.mark.parametrize("residual", [False, True])
def test_x_is_one_that_the_decoder_makes(residual):
    d = bent()
    inversion = invert(F, prior=d, residual=residual)
    assert inversion.guarantee is Guarantee.RIGHT
    assert inversion.report["prior"] == "decoder"
    assert inversion.plan.requirements == ["y is f(x) of an x that the model makes"]
    assert [value.name for value in inversion.model.graph.output] == ["x", "residual"][: 1 + residual]
    w = normal(40, 6, seed=7).astype(np.float32)
    y = run(F, x=run(d, latent=w)[0])[0]
    x = run(inversion.model, y=y)[0]
    assert residuals(run(F, x=x)[0], y).max() < 1e-5
    inner, last = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in d.graph.initializer)
    nearest = [nearest_made(x_i, inner, last) for x_i in x[:5].astype(np.float64)]
    assert max(nearest) < 1e-4


def nearest_made(x, inner, last):
    """How far x is from what the decoder makes, by scipy from several starts."""
    import scipy.optimize

    starts = normal(12, inner.shape[0], seed=8)
    return min(
        np.linalg.norm(scipy.optimize.least_squares(lambda w: np.tanh(w @ inner) @ last - x, start).fun)
        for start in starts
    )


def test_fewer_numbers_than_outputs_find_the_decoders_own_x():
    d = bent(r=2)
    inversion = invert(F, prior=d)
    assert inversion.guarantee is Guarantee.LEFT
    made = run(d, latent=normal(30, 2, seed=9).astype(np.float32))[0]
    np.testing.assert_allclose(run(inversion.model, y=run(F, x=made)[0])[0], made, atol=1e-3)


def test_no_weight_is_there_twice_and_the_file_says_what_it_is(tmp_path):
    onnx.save(F, tmp_path / "f.onnx")
    onnx.save(bent(), tmp_path / "d.onnx")
    invert(tmp_path / "f.onnx", tmp_path / "g.onnx", prior=tmp_path / "d.onnx", residual=True)
    model = onnx.load(tmp_path / "g.onnx")
    large = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer if np.prod(tensor.dims) >= 48]
    for index, one in enumerate(large):
        assert all(one.shape != other.shape or np.any(one != other) for other in large[:index])
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert entries["onnx_invert.prior"] == "decoder"
    assert len(entries["onnx_invert.decoder_sha256"]) == 64
    with pytest.raises(UsageError, match="--data"):
        onnx_invert.check(tmp_path / "f.onnx", tmp_path / "g.onnx")
    made = run(bent(), latent=normal(30, 6, seed=9).astype(np.float32))[0]
    np.save(tmp_path / "x.npy", made)
    assert onnx_invert.check(tmp_path / "f.onnx", tmp_path / "g.onnx", data=tmp_path / "x.npy").passed


def test_a_y_that_no_x_of_the_decoder_gives_is_told():
    """Two numbers cannot make most x: samples stay unsolved, and nothing is promised."""
    with pytest.raises(VerificationError):
        invert(F, prior=bent(r=2), data=normal(64, 12, seed=10).astype(np.float32) * 2)


def test_other_inputs_stay():
    f = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,12] x, float[N,12] c) => (float[N,12] y) { s = Tanh(x) t = Add(x, s) y = Add(t, c) }""")
    inversion = invert(f, recover=["x"], prior=affine())
    assert [value.name for value in inversion.model.graph.input] == ["y", "c"]
    assert inversion.round_trip.unsolved == 0


@pytest.mark.parametrize("first", [11, 17])
def test_older_opsets_are_converted(first):
    """Clip takes its bounds as operands from opset 11 on, ReduceSum and Squeeze their axes from 13 on."""
    d = onnx.parser.parse_model(f"""
        <ir_version: 7, opset_import: ["" : {28 - first}]>
        d (float[N,12] w) => (float[N,12] made) {{ a = Tanh(w) s = Sin(a) made = Add(s, w) }}""")
    f = onnx.ModelProto()
    f.CopyFrom(F)
    f.opset_import[0].version = first
    assert invert(f, prior=d).round_trip.unsolved == 0


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (affine(normal(6, 5), normal(5)), r"it returns \(batch, 5\), and the input 'x' takes \(N, 12\)"),
        (affine(dtype=np.float64), "it takes double and returns double, where 'x' is float"),
        (
            onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
                d (float[N,12] a, float[N,12] b) => (float[N,12] made) { made = Add(a, b) }"""),
            "one input and one output; this has the inputs 'a', 'b'",
        ),
        (
            onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
                d (float[N,12] a) => (float[N,12] p, float[N,12] q) { p = Tanh(a) q = Sin(a) }"""),
            "the outputs 'p', 'q'",
        ),
        (
            onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
                d (float[1,12] a) => (float[1,12] made) { made = Tanh(a) }"""),
            "a batch of any size",
        ),
    ],
)
def test_decoders_that_do_not_fit(decoder, message):
    with pytest.raises(UsageError, match=message):
        invert(F, prior=decoder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": (0, 1)}, "lies where the decoder puts it"),
        ({"prior_kind": "gaussian"}, "a decoder is a prior of its own kind"),
        ({"method": "closed-form"}, "closed-form"),
    ],
)
def test_options_that_do_not_go_with_it(options, message):
    with pytest.raises(UsageError, match=message):
        invert(F, prior=affine(), **options)


def test_a_kind_without_a_prior_is_refused():
    with pytest.raises(UsageError, match="no --prior DATA"):
        invert(F, prior_kind="gaussian")


def test_a_decoder_of_digits():
    """Trained in seconds by scikit-learn: every logit comes back by an image that the decoder makes."""
    from digits import load_digits
    from sklearn.decomposition import PCA

    digits = load_digits()
    pca = PCA(32, whiten=True, random_state=0).fit(digits.x_train)
    components = pca.components_ * np.sqrt(pca.explained_variance_)[:, None]
    graph = affine(components, pca.mean_, out="h1")
    graph.graph.node.append(helper.make_node("Clip", ["h1", "low", "high"], ["pixels"]))
    graph.graph.initializer.extend([
        numpy_helper.from_array(np.float32(0), "low"),
        numpy_helper.from_array(np.float32(1), "high"),
    ])  # fmt: skip
    graph.graph.output[0].name = "pixels"
    inversion = invert(ROOT / "models/mnist_mlp.onnx", prior=graph)
    assert inversion.round_trip.unsolved <= 2
    back = run(inversion.model, logits=run(ROOT / "models/mnist_mlp.onnx", image=digits.x_test[:100])[0])[0]
    assert back.min() >= 0
    assert back.max() <= 1
    json.dumps(inversion.report)
