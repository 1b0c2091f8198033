"""What has no inverse is refused with a reason; what has only a weaker one says so."""

import numpy as np
import onnx
import pytest
from cases import away_from_zero, draw, floats, positive
from closed_form import explain
from onnx import TensorProto

from onnx_invert import NotInvertibleError
from onnx_invert.testing import Case, refusals

NORMAL = {1: away_from_zero(4), 2: draw(4), 3: draw(4), 4: positive(4)}

REFUSED = [
    ("Elu", {"attributes": {"alpha": 0.0}}, "not one-to-one"),
    ("Elu", {"attributes": {"alpha": -1.0}}, "not one-to-one"),
    ("Selu", {"attributes": {"alpha": -1.0}}, "not one-to-one"),
    ("Selu", {"attributes": {"gamma": 0.0}}, "not one-to-one"),
    ("Celu", {"attributes": {"alpha": -1.0}}, "not one-to-one"),
    ("Elu", {"attributes": {"alpha": float("nan")}}, "not one-to-one"),
    ("LeakyRelu", {"attributes": {"alpha": float("inf")}}, "its alpha is inf"),
    ("LeakyRelu", {"attributes": {"alpha": float("nan")}}, "its alpha is nan"),
    ("Clip", {"unknown": 1, "shape": (), "operands": {0: draw(3, 4)}}, "is one of its bounds"),
    ("Clip", {"given": {1: np.float32(-1)}}, "bounds becomes the bound, and they are not constant"),
    ("Clip", {"operands": {1: np.float32(1), 2: np.float32(1)}}, "nothing lies between its bounds 1 and 1"),
    ("PRelu", {"unknown": 1, "shape": (4,), "operands": {0: draw(3, 4)}}, "is its slope"),
    ("PRelu", {"given": {1: positive(4)}}, "slope is not constant"),
    ("Pow", {"operands": {1: np.float32(0)}}, "y is 1 whatever x is"),
    ("Pow", {"operands": {1: floats(2, 3, 2, 2)}}, "several kinds (positive even, positive odd)"),
    ("Pow", {"operands": {1: floats(0, 3, 2, 2)}}, "several kinds"),
    ("Pow", {"unknown": 1, "operands": {0: positive(3, 4)}}, "is its exponent"),
    ("Pow", {"given": {1: positive(3, 4)}}, "exponent is not constant"),
    ("Pow", {"shape": (3, 1), "operands": {1: floats(2, 4, 2, 2)}}, "repeats its input 4 times"),
    ("Div", {"operands": {1: floats(1, 0, 2, 0)}}, "divisor has 2 zeros"),
    ("Div", {"unknown": 1, "operands": {0: floats(1, 0, 2, 3)}}, "dividend has 1 zero"),
    ("Gemm", {"operands": {1: draw(4, 4)}, "attributes": {"alpha": 0.0}}, "its alpha is 0"),
    (
        "Gemm",
        {"unknown": 2, "operands": {0: draw(3, 4), 1: draw(4, 4)}, "attributes": {"beta": 0.0}},
        "its beta is 0",
    ),
    ("Gemm", {"given": {1: draw(4, 4)}}, "its other factor is not constant"),
    ("MatMul", {"given": {1: draw(4, 4)}}, "its other operand is not constant"),
    ("BatchNormalization", {"operands": {**NORMAL, 4: -positive(4)}}, "variances plus epsilon are not positive"),
    ("BatchNormalization", {"operands": {1: NORMAL[1]}, "given": {i: NORMAL[i] for i in (2, 3, 4)}}, "not constant"),
    ("Dropout", {"operands": {1: np.float32(0.5), 2: np.array(True)}}, "training mode"),
    ("Dropout", {"operands": {1: np.float32(0.5)}, "given": {2: np.array(True)}}, "known only at run time"),
    ("Cast", {"attributes": {"to": TensorProto.INT32}}, "what rounding takes does not come back"),
    ("Cast", {"attributes": {"to": TensorProto.BOOL}}, "what rounding takes does not come back"),
    ("Squeeze", {"shape": (3, 1), "symbolic": True}, "may be 1 or not"),
    ("Add", {"shape": (3, 4), "symbolic": True, "operands": {1: draw(5, 4)}}, "unknown size 'N' against 5"),
    ("MatMul", {"shape": (2, 3, 4), "symbolic": True, "operands": {1: draw(5, 4, 4)}}, "unknown size 'N'"),
    ("Relu", {}, "every negative input becomes 0"),
    ("Abs", {}, "the sign of its input is lost"),
    ("Softmax", {}, "one dimension is lost"),
]


@pytest.mark.parametrize(
    ("op", "arguments", "reason"), REFUSED, ids=[f"{i}-{op}" for i, (op, _, _) in enumerate(REFUSED)]
)
def test_refused(op, arguments, reason):
    blockers = refusals(op, **arguments)
    assert any(reason in str(blocker) for blocker in blockers), list(map(str, blockers))
    assert all(blocker.op == op for blocker in blockers)


NOT_FINITE = [
    ("PRelu", {"operands": {1: floats(1, np.nan, 1, np.inf)}}, "2 of the 4 numbers of its slope are not finite"),
    ("Pow", {"operands": {1: np.float32("nan")}}, "its exponent is not finite"),
    ("Pow", {"operands": {1: np.float32("inf")}}, "its exponent is not finite"),
    ("Add", {"operands": {1: floats(1, -np.inf, 0, 0)}}, "1 of the 4 numbers of its constant operand is not finite"),
    ("Sub", {"operands": {1: floats(1, np.nan, 0, 0)}}, "is not finite"),
    ("Mul", {"operands": {1: floats(1, np.inf, 1, 1)}}, "is not finite"),
    ("Div", {"operands": {1: floats(1, np.inf, 1, 1)}}, "is not finite"),
    ("Gemm", {"operands": {1: draw(4, 4), 2: floats(0, np.inf, 0, 0)}}, "of its C is not finite"),
    ("BatchNormalization", {"operands": {**NORMAL, 3: floats(0, np.nan, 0, 0)}}, "of its mean is not finite"),
]


@pytest.mark.parametrize(("op", "arguments", "reason"), NOT_FINITE)
def test_constants_that_become_infinite(op, arguments, reason):
    """A file's weights are finite; what is computed from them need not be."""
    operands = arguments.pop("operands")
    finite = {index: np.where(np.isfinite(array), array, 1).astype(np.float32) for index, array in operands.items()}
    model = Case(op, operands=finite, **arguments).model
    for index, array in operands.items():
        good = np.isfinite(array)
        above = np.where(good, array, np.where(np.isnan(array), 0, np.sign(array))).astype(np.float32)
        constants = (above, np.where(good, 1, 0).astype(np.float32))
        names = [f"above{index}", f"below{index}"]
        model.graph.initializer.extend(map(onnx.numpy_helper.from_array, constants, names))
        kept = [tensor for tensor in model.graph.initializer if tensor.name != f"c{index}"]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        model.graph.node.insert(0, onnx.helper.make_node("Div", names, [f"c{index}"]))
    with pytest.raises(NotInvertibleError) as caught, np.errstate(all="ignore"):
        explain(model, recover=["x"])
    assert reason in str(caught.value)


@pytest.mark.parametrize(("opset", "mode"), [(15, "<training_mode = 1>"), (9, "")])
def test_batch_normalization_in_training_mode(opset, mode):
    extra = "" if mode else ", saved_mean, saved_var"
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        agraph (float[3,4] x) => (float[3,4] y, float[4] mean)
        <float[4] s = {{1, 2, 3, 4}}, float[4] b = {{0, 1, 0, 1}}, float[4] m = {{0, 0, 1, 1}},
         float[4] v = {{1, 1, 1, 1}}>
        {{ y, mean, var{extra} = BatchNormalization {mode} (x, s, b, m, v) }}
    """)
    with pytest.raises(NotInvertibleError, match="training mode"):
        explain(model, known=["y"])


def test_batch_normalization_in_training_mode_with_unused_outputs():
    assert refusals("BatchNormalization", operands=NORMAL, attributes={"training_mode": 1}, outputs=3)


def test_dropout_whose_mask_is_used():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 13]>
        agraph (float[3,4] x) => (float[3,4] y, bool[3,4] mask) { y, mask = Dropout(x) }
    """)
    with pytest.raises(NotInvertibleError, match="its mask is used"):
        explain(model, known=["y"])
