"""Operators of onnxruntime's optimiser become standard ones; onnxruntime's own kernels are the oracle."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from small_models import text

import onnx_invert
from onnx_invert.errors import ModelError
from onnx_invert.graph.normalise import normalise
from onnx_invert.graph.read import from_proto

RNG = np.random.default_rng(7)
X = RNG.normal(size=(3, 2, 4)).astype(np.float32)
IMAGES = RNG.normal(size=(2, 2, 5, 5)).astype(np.float32)


def array(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def fused(op, x, *weights, opset=17, domain="com.microsoft", outputs=1, dtype=np.float32, **attributes):
    """One node of onnxruntime's on the input x; a weight that is None is left out."""
    names = ["" if w is None else f"w{i}" for i, w in enumerate(weights)]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    made = [f"y{i}" if i in {0, outputs - 1} else "" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], made, name="node", domain=domain, **attributes)],
        "g",
        [helper.make_tensor_value_info("x", kind, ["N", *x.shape[1:]])],
        [helper.make_tensor_value_info(name, kind, None) for name in made if name],
        [numpy_helper.from_array(w.astype(dtype), n) for w, n in zip(weights, names, strict=True) if w is not None],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def run(model, x):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # or it fuses them again
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def planned(model):
    source = from_proto(model)
    normalise(source)
    return ir.to_proto(source.model)


def standard(model):
    proto = planned(model)
    assert all(node.domain == "" for node in proto.graph.node)
    return proto


GEMM = (X[:, 0], array(4, 5), array(5))
CONV = (IMAGES, array(3, 2, 3, 3), array(3))
CASES = {
    "Gelu": lambda: fused("Gelu", X),
    "BiasGelu": lambda: fused("BiasGelu", X, array(4)),
    "FastGelu": lambda: fused("FastGelu", X),
    "FastGelu with a bias": lambda: fused("FastGelu", X, array(4)),
    "QuickGelu": lambda: fused("QuickGelu", X),
    "QuickGelu as SiLU": lambda: fused("QuickGelu", X, alpha=1.0),
    "FusedGemm, Relu": lambda: fused("FusedGemm", *GEMM, activation="Relu"),
    "FusedGemm, alpha and beta of both": lambda: fused(
        "FusedGemm", *GEMM, alpha=0.5, beta=2.0, activation="HardSigmoid", activation_alpha=0.3, activation_beta=0.4
    ),
    "FusedGemm, transposed": lambda: fused(
        "FusedGemm", X[:, 0], array(5, 4), array(1), transB=1, activation="LeakyRelu", activation_alpha=0.2
    ),
    "FusedGemm, Elu without C": lambda: fused(
        "FusedGemm", X[:, 0], array(4, 4), activation="Elu", activation_alpha=0.7
    ),
    "FusedConv without activation": lambda: fused("FusedConv", *CONV),
    "FusedConv, Relu": lambda: fused("FusedConv", *CONV, activation="Relu", pads=[1, 1, 1, 1]),
    "FusedConv, LeakyRelu": lambda: fused(
        "FusedConv", *CONV, activation="LeakyRelu", activation_params=[0.3], strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "FusedConv, Clip": lambda: fused("FusedConv", *CONV, activation="Clip", activation_params=[-0.5, 1.0]),
    "FusedConv, HardSigmoid": lambda: fused(
        "FusedConv", IMAGES, array(2, 1, 3, 3), activation="HardSigmoid", activation_params=[0.3, 0.4], group=2
    ),
    "FusedConv plus Z": lambda: fused("FusedConv", *CONV, array(1, 3, 3, 3).repeat(2, 0), activation="Tanh"),
    "FusedMatMul": lambda: fused("FusedMatMul", X, array(4, 3), alpha=0.5),
    "FusedMatMul, the weight transposed": lambda: fused("FusedMatMul", X, array(3, 4), transB=1),
    "FusedMatMul, x transposed": lambda: fused("FusedMatMul", X, array(2, 3), transA=1, alpha=2.0),
    "FusedMatMul, batches transposed": lambda: fused("FusedMatMul", X, array(2, 4, 3), transBatchA=1),
    "FusedMatMul, all of them": lambda: fused(
        "FusedMatMul", X, array(5, 2, 3), transBatchA=1, transA=1, transB=1, transBatchB=1
    ),
    "TransposeMatMul": lambda: fused("TransposeMatMul", X, array(3, 4), transB=1),
    "SkipLayerNormalization": lambda: fused("SkipLayerNormalization", X, X[:1] + 1, array(4), array(4), array(4)),
    "SkipLayerNormalization and its sum": lambda: fused(
        "SkipLayerNormalization", X, np.ones_like(X), array(4), None, array(4), outputs=4, epsilon=1e-3
    ),
    "SkipSimplifiedLayerNormalization": lambda: fused(
        "SkipSimplifiedLayerNormalization", X, np.ones_like(X), array(4), epsilon=1e-3
    ),
    "SimplifiedLayerNormalization": lambda: fused(
        "SimplifiedLayerNormalization", X, array(4), domain="", axis=-1, epsilon=1e-4
    ),
    "LayerNormalization before opset 17": lambda: fused(
        "LayerNormalization", X, array(4), array(4), domain="", opset=13, axis=2
    ),
    "LayerNormalization over two axes": lambda: fused(
        "LayerNormalization", X, array(2, 4), domain="", opset=13, axis=1
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("opset", [None, 20])
def test_the_same_numbers(name, opset):
    model = CASES[name]()
    if opset is not None:
        if "before opset 17" in name or "two axes" in name:
            pytest.skip("ONNX defines it there")
        model.opset_import[0].version, model.ir_version = opset, 9
    x = IMAGES if "Conv" in name else X[:, 0] if "Gemm" in name else X
    for found, expected in zip(run(standard(model), x), run(model, x), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("name", ["Gelu", "FastGelu", "FusedConv, Clip", "SkipLayerNormalization", "FusedGemm, Relu"])
def test_older_opsets(name, opset):
    model = CASES[name]()
    model.opset_import[0].version = opset
    x = IMAGES if "Conv" in name else X[:, 0] if "Gemm" in name else X
    np.testing.assert_allclose(run(standard(model), x)[0], run(model, x)[0], rtol=2e-5, atol=2e-6)


def test_types_follow_from_what_comes_before():
    """An operator without weights behind a cast: files of onnxruntime state no type for it."""
    model = text(
        """g (float16[N,4] x) => (float[N,4] y) { c = Cast<to = 1>(x) n = Neg(c) y = com.microsoft.Gelu(n) }""",
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    x = X[:, 0].astype(np.float16)
    np.testing.assert_allclose(run(standard(model), x)[0], run(model, x)[0], rtol=2e-5, atol=1e-6)


def test_ranks_follow_from_one_another():
    """The second product is known when the first has become a standard one."""
    model = text(
        "g (float[2,3,4] x) => (float[2,3,3] y) "
        "{ h = com.microsoft.FusedMatMul<transA = 1>(x, x) t = com.microsoft.Gelu(h) r = com.microsoft.FusedMatMul"
        "<transA = 1>(t, t) y = com.microsoft.FusedMatMul<transB = 1>(q, q) q = MatMul(x, r) }"
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    x = array(2, 3, 4)
    np.testing.assert_allclose(run(standard(model), x)[0], run(model, x)[0], rtol=1e-4, atol=1e-4)


def test_statistics_have_no_standard_form():
    model = fused("SkipLayerNormalization", X, np.ones_like(X), array(4), outputs=2)
    with pytest.raises(onnx_invert.NotInvertibleError, match="SkipLayerNormalization"):
        onnx_invert.explain(model, known=["y1"])
    (expected, _), (found, _) = run(model, X), run(planned(model), X)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_latents_of_fused_operators():
    """f⁺ is the model as it was read, with onnxruntime's operators, and makes beside them what its latents need."""
    model = fused("FusedGemm", X[:, 0], array(4, 3), array(3), activation="Sigmoid")
    done = onnx_invert.invert(model, lossless=True)
    assert done.report["lossless"]["passed"]
    assert (done.report["lossless"]["kept"], done.report["lossless"]["latent"]) == (0, 1)


def optimised(model, path, level):
    options = ort.SessionOptions()
    options.graph_optimization_level, options.optimized_model_filepath = level, str(path)
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


MLP = """g (float[N,5] x) => (float[N,3] y) {{ a = Gemm(x, w1, b1) h = {0} c = MatMul(h, w2) d = Mul(c, k)
    y = Tanh(d) }}"""


@pytest.mark.parametrize(
    ("activation", "kind", "guarantee"),
    [
        ("LeakyRelu<alpha = 0.2>(a)", "FusedGemm", "right-inverse"),
        ("Sigmoid(a)", "FusedGemm", None),
        ("Mul(a, s) s = Sigmoid(a)", "QuickGelu", "right-inverse"),
    ],
)
def test_a_model_that_onnxruntime_optimised(activation, kind, guarantee, tmp_path):
    rng = np.random.default_rng(3)
    weights = {"w1": rng.normal(size=(5, 4)), "b1": rng.normal(size=4), "w2": rng.normal(size=(4, 3)), "k": 0.25}
    model = text(MLP.format(activation))
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()
    )
    saved = optimised(model, tmp_path / "m.onnx", ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
    assert kind in {node.op_type for node in saved.graph.node}
    assert "FusedMatMul" in {node.op_type for node in saved.graph.node}
    plans = [onnx_invert.explain(m) for m in (model, saved)]
    assert plans[0].guarantee is plans[1].guarantee
    inversion = onnx_invert.invert(tmp_path / "m.onnx")
    assert guarantee is None or inversion.guarantee == guarantee
    assert [entry.domain for entry in inversion.model.opset_import] == [""]
    onnx.checker.check_model(inversion.model, full_check=True)


def test_what_onnxruntime_lays_out_for_one_processor():
    model = text(
        "g (float[N,8,2,2] x) => (float[N,8,2,2] y) { y = com.microsoft.nchwc.ReorderOutput<channels = 8>(x) }"
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    with pytest.raises(ModelError, match="ORT_ENABLE_EXTENDED"):
        onnx_invert.explain(model)


def test_what_has_no_standard_form_says_what_to_do():
    model = text("g (float[N,4] x) => (float[N,4] y) { y = com.microsoft.Rfft(x) }")
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(onnx_invert.NotInvertibleError, match="ORT_ENABLE_BASIC"):
        onnx_invert.explain(model)
