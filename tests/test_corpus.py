"""Models from real exporters: what each comes to, and that a refusal says why.

`data/keras` holds layers and small networks from Keras (x0, x1 …, y), `data/sklearn` transformers from
skl2onnx (x, t = transform(x), inv = inverse_transform(t) where there is one). Flows have tests of their own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from closed_form import invert

from onnx_invert import Guarantee, NotInvertibleError, UsageError

DATA = Path(__file__).parent / "data"

BIJECTION, LEFT, RIGHT, GENERALIZED = "bijection", "left-inverse", "right-inverse", "generalized-inverse"

# A guarantee; or (operator, reason) of a blocker that the refusal has to name.
NO_CONVOLUTION = "windows overlap or leave gaps"
SEVERAL = "one equation for several unknowns"

KERAS = {
    "act_elu_layer": LEFT,
    "act_prelu": BIJECTION,
    "act_relu_layer_slope": BIJECTION,
    "autoencoder_64_16": GENERALIZED,
    "avgpool_same_s1": ("AveragePool", "no rule for pooling"),
    "bn_conv": BIJECTION,
    "conv1dT": ("ConvTranspose", NO_CONVOLUTION),
    "conv1d_same": ("Conv", NO_CONVOLUTION),
    "conv2dT_valid_s2": BIJECTION,
    "conv2d_2x2_s2_patch": BIJECTION,
    "conv2d_dilated": ("Conv", NO_CONVOLUTION),
    "conv2d_same_s2": ("Conv", NO_CONVOLUTION),
    "conv2d_valid_s2": ("Conv", NO_CONVOLUTION),
    "dense_3d": BIJECTION,
    "dense_expand": LEFT,
    "dense_hard_sigmoid": RIGHT,
    "dense_hard_tanh": ("Min", "which operand was the smaller"),
    "dense_linear": BIJECTION,
    "dense_log_softmax": ("LogSoftmax", "one dimension is lost"),
    "dense_nobias": BIJECTION,
    "dense_relu": ("Relu", "every negative input becomes 0"),
    "dense_selu": BIJECTION,
    "dense_softmax": ("Softmax", "one dimension is lost"),
    "dense_softsign": BIJECTION,
    "dense_swish": ("Mul", SEVERAL),
    "dense_tanh_shrink": BIJECTION,
    "dropout": BIJECTION,
    "embedding": ("input", "only floating-point inputs"),
    "gap": ("ReduceMean", "only the mean is left"),
    "groupnorm": ("ReduceMean", "only the mean is left"),
    "layernorm": ("ReduceMean", "only the mean is left"),
    "maxpool": ("MaxPool", "only the largest input is left"),
    "mlp_3_tanh": LEFT,
    "ops_arcsinh": BIJECTION,
    "ops_exp_log": BIJECTION,
    "ops_logit": ("Div", SEVERAL),
    "ops_roll": BIJECTION,
    "ops_split_swap": BIJECTION,
    "realnvp_4": BIJECTION,
    "rescaling": BIJECTION,
    "reshape_m1": BIJECTION,
    "separable": ("Conv", NO_CONVOLUTION),
    "skip_concat": LEFT,
    "sub": BIJECTION,
    "upsample_bilinear": ("Resize", "no rule for this operator"),
    "zeropad": LEFT,
}

SKLEARN = {
    "Binarizer": ("Binarizer", "side of the threshold"),
    "ColumnTransformer_std_minmax": BIJECTION,
    "FunctionTransformer_identity": BIJECTION,
    "GaussianRandomProjection_5": RIGHT,
    "KBinsDiscretizer_onehot_dense": ("Concat", SEVERAL),
    "KMeans_transform": ("Gemm", SEVERAL),
    "KernelPCA_rbf_5": ("ReduceSum", "only the sum is left"),
    "LabelEncoder_int": ("input", "only floating-point inputs"),
    "LinearRegression_multi": BIJECTION,
    "MLP13_logistic": LEFT,
    "MLP13_tanh": LEFT,
    "MaxAbsScaler_clip": BIJECTION,
    "MinMaxScaler_clip": RIGHT,
    "Normalizer_l2": ("Normalizer", "the norm of its input is lost"),
    "OneHotEncoder_str": ("input", "only floating-point inputs"),
    "OrdinalEncoder_str": ("input", "only floating-point inputs"),
    "PCA_full": BIJECTION,
    "PCA_full.f64": BIJECTION,
    "PCA_whiten_full": BIJECTION,
    "PCA_whiten_full.f64": BIJECTION,
    "Pipeline_MinMax_PCA32_digits": RIGHT,
    "Pipeline_Quantile_Std": LEFT,
    "Pipeline_Std_PCAw": BIJECTION,
    "Pipeline_Std_PCAw.f64": BIJECTION,
    "PolynomialFeatures_2": ("Concat", SEVERAL),
    "PowerTransformer_yj": LEFT,
    "RobustScaler": BIJECTION,
    "SimpleImputer_indicator": ("Imputer", "not told by its output"),
    "StandardScaler": BIJECTION,
    "StandardScaler.f64": BIJECTION,
    "TargetEncoder": ("input", "only floating-point inputs"),
    "TruncatedSVD_5": RIGHT,
}

# Saturated in a hidden layer: float32 keeps fewer than two digits of some x. They have tests of their own.
ILL_CONDITIONED = {"mlp_3_tanh", "MLP13_logistic", "MLP13_tanh"}


def files(folder: str) -> list[Path]:
    return sorted((DATA / folder).glob("*.onnx"))


def arrays(path: Path) -> dict[str, np.ndarray]:
    return dict(np.load(path.with_name(path.name.split(".")[0] + ".npz"), allow_pickle=False))


def inputs(path: Path) -> dict[str, np.ndarray]:
    """The case's own inputs, under the names and in the types that the model has."""
    model = onnx.load(path)
    stored = arrays(path)
    columns = [stored[name] for name in ("x", "x0", "x1") if name in stored]
    ports = model.graph.input
    types = [onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type) for port in ports]
    return {port.name: column.astype(kind) for port, column, kind in zip(ports, columns, types, strict=True)}


def run(model: onnx.ModelProto | Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(str(model) if isinstance(model, Path) else model.SerializeToString())
    return session.run(None, feeds)[0]


def assert_refused(path: Path, expected: tuple[str, str]) -> None:
    with pytest.raises(NotInvertibleError) as error:
        invert(path)
    assert error.value.exit_code == 3
    assert any(b.op == expected[0] and expected[1] in b.reason for b in error.value.blockers), str(error.value)
    assert all(blocker.reason for blocker in error.value.blockers)


@pytest.mark.parametrize(("folder", "cases"), [("keras", KERAS), ("sklearn", SKLEARN)])
def test_every_case_is_listed(folder, cases):
    assert {path.stem for path in files(folder)} == set(cases)


@pytest.mark.parametrize("name", KERAS)
def test_keras(name):
    path, expected = DATA / "keras" / f"{name}.onnx", KERAS[name]
    if isinstance(expected, tuple):
        assert_refused(path, expected)
        return
    feeds = inputs(path)
    recover = list(feeds)[:1]
    on_own = invert(path, recover=recover, data=feeds)
    assert on_own.guarantee.value == expected
    assert on_own.round_trip.passed
    if name not in ILL_CONDITIONED:
        assert invert(path, recover=recover).guarantee.value == expected
    session = ort.InferenceSession(on_own.model.SerializeToString())
    wanted = {port.name for port in session.get_inputs()}
    y = run(path, feeds)
    given = {name: array for name, array in feeds.items() if name in wanted}
    back = session.run(None, {**given, next(iter(wanted - set(given))): y})[0]
    again = run(path, {**feeds, recover[0]: back})
    if name in ILL_CONDITIONED:
        return
    assert np.linalg.norm(again - y) <= 1e-5 * np.linalg.norm(y)
    if on_own.guarantee.promises_x:
        x = feeds[recover[0]]
        assert np.linalg.norm(back - x) <= 1e-5 * np.linalg.norm(x)


@pytest.mark.parametrize("name", SKLEARN)
def test_sklearn(name):
    path, expected = DATA / "sklearn" / f"{name}.onnx", SKLEARN[name]
    if isinstance(expected, tuple):
        assert_refused(path, expected)
        return
    if name not in ILL_CONDITIONED:
        for data in (None, inputs(path)):
            inversion = invert(path, data=data)
            assert inversion.guarantee.value == expected
            assert inversion.round_trip.passed


def test_a_sample_comes_back_alone_as_among_others():
    """A quantile map jumps at values that its table has twice, and gives the mean there: one number has that y."""
    path = DATA / "sklearn" / "Pipeline_Quantile_Std.onnx"
    x = inputs(path)
    y = run(path, x)
    inverse = invert(path, data=x).model
    (name,) = (port.name for port in inverse.graph.input)
    session = ort.InferenceSession(inverse.SerializeToString())
    alone = np.concatenate([session.run(None, {name: row[None]})[0] for row in y])
    np.testing.assert_array_equal(alone, session.run(None, {name: y})[0])
    (port,) = x
    np.testing.assert_allclose(run(path, {port: alone}), y, rtol=1e-4, atol=1e-5)


# Two units of rounding in z, where t = 6129 (z − 0.69): in float32 each of them moves x by 1.8e-5 of its norm.
ROUNDED = {"PowerTransformer_yj": 4e-5}

TRANSFORMERS = [name for name, e in SKLEARN.items() if isinstance(e, str) and not name.startswith(("MLP", "Linear"))]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_inverse_transform(name):
    """The inverse is scikit-learn's own, or x where it has none, to 1e-5 in every sample, or to what float32 holds."""
    path = DATA / "sklearn" / f"{name}.onnx"
    inverse = invert(path, verify=False).model
    kind = onnx.helper.tensor_dtype_to_np_dtype(inverse.graph.input[0].type.tensor_type.elem_type)
    stored = arrays(path)
    found = run(inverse, {inverse.graph.input[0].name: stored["t"].astype(kind)}).astype(np.float64)
    expected = stored["inv" if "inv" in stored else "x"].astype(np.float64)
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() <= ROUNDED.get(name, 1e-5)


def test_box_cox_before_a_rotation():
    """scikit-learn's PowerTransformer("box-cox") as exported, then a rotation: x > 0 comes back."""
    text = """<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 1]>
        boxcox (float[N, 3] x) => (float[N, 3] y)
        <float[3] power = {0.3, 1.4, -0.2}, float[3] one = {1, 1, 1}, float[3] off = {0, 0, 0},
         float[3, 3] w = {0.6, 0.8, 0, -0.8, 0.6, 0, 0, 0, 1}> {
            ones = Div (x, x)
            log = Log (x)
            raised = Pow (x, power)
            number = ai.onnx.ml.Imputer <imputed_value_floats = [0.0], replaced_value_float: float = nan> (log)
            less = Sub (raised, ones)
            shared = Div (less, power)
            switched = Mul (number, off)
            finite = ai.onnx.ml.Imputer <imputed_value_floats = [0.0], replaced_value_float: float = inf> (shared)
            kept = Mul (finite, one)
            z = Add (kept, switched)
            y = MatMul (z, w)
        }"""
    model = onnx.parser.parse_model(text)
    x = np.random.default_rng(0).lognormal(size=(64, 3)).astype(np.float32)
    inversion = invert(model, data=x)
    assert inversion.guarantee is Guarantee.LEFT and inversion.round_trip.passed
    back = run(inversion.model, {"y": run(model, {"x": x})})
    assert np.abs(back - x).max() <= 1e-4 * x.max()


@pytest.mark.parametrize("path", [p for f in ("keras", "sklearn") for p in files(f) if p.stem in ILL_CONDITIONED])
def test_ill_conditioned_networks_keep_two_digits_of_most_samples(path):
    """Saturation takes digits in float32: the report tells how many, and y still comes back to 1e-4."""
    for data in (None, inputs(path)):
        inversion = invert(path, data=data)
        x, y = inversion.round_trip.x, inversion.round_trip.y
        assert inversion.guarantee is Guarantee.LEFT
        assert np.mean(x.errors <= 1e-2) >= 0.9
        assert x.worst > 1e-4
        assert y.worst < 1e-4


@pytest.mark.parametrize("path", [p for f in ("keras", "sklearn") for p in files(f) if p.stem in ILL_CONDITIONED])
def test_ill_conditioned_networks_come_back_in_float64(path):
    """The plan is right: the same weights in float64 bring x back."""
    model = in_float64(onnx.load(path))
    x = next(iter(inputs(path).values())).astype(np.float64)
    inversion = invert(model, data=x)
    assert inversion.guarantee is Guarantee.LEFT
    assert inversion.round_trip.x.worst < 1e-5


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a float32 model with float64 in its place."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    single, double = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
    for tensor in copy.graph.initializer:
        if tensor.data_type == single:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(float), tensor.name)
            )
    for value in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        if value.type.tensor_type.elem_type == single:
            value.type.tensor_type.elem_type = double
    for node in copy.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == single:
                attribute.i = double
    copy.opset_import[0].version = 17  # the first with LeakyRelu in float64 in onnxruntime
    return copy


def test_two_inputs_need_a_choice():
    path = DATA / "keras" / "sub.onnx"
    with pytest.raises(UsageError, match="--recover") as error:
        invert(path)
    for port in onnx.load(path).graph.input:
        assert port.name in str(error.value)
        assert invert(path, recover=[port.name]).guarantee is Guarantee.BIJECTION
