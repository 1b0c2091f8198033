"""Operations that have no rule, and why: what they lose, and what would help.

An operator of ONNX that is neither here nor among the rules is refused as having no rule.
"""

from __future__ import annotations

from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

_OTHER_ACTIVATION = "use an activation that is one-to-one (LeakyRelu, Elu, Tanh) and train again"

for op_type, reason, remedy in (
    ("Relu", "every negative input becomes 0, and is not told from the others any more", _OTHER_ACTIVATION),
    ("HardSigmoid", "it is flat outside an interval", _OTHER_ACTIVATION),
    ("HardSwish", "it is flat on one side and not monotone", _OTHER_ACTIVATION),
    ("ThresholdedRelu", "everything below its threshold becomes 0", _OTHER_ACTIVATION),
    ("Gelu", "it is not monotone: two inputs have the same output", _OTHER_ACTIVATION),
    ("Mish", "it is not monotone: two inputs have the same output", _OTHER_ACTIVATION),
    ("Swish", "it is not monotone: two inputs have the same output", _OTHER_ACTIVATION),
    ("Abs", "the sign of its input is lost", ""),
    ("Sign", "only the sign of its input is left", ""),
    ("Softmax", "a constant added to all inputs changes nothing: one dimension is lost", "export the logits"),
    (
        "LogSoftmax",
        "a constant added to all inputs changes nothing: one dimension is lost",
        "export the logits",
    ),
    ("Hardmax", "only the place of the largest input is left", "export the logits"),
    ("ArgMax", "only the place of the largest input is left", "export the scores"),
    ("ArgMin", "only the place of the smallest input is left", "export the scores"),
    ("Max", "which operand was the larger is lost", ""),
    ("Min", "which operand was the smaller is lost", ""),
    ("Floor", "what rounding takes does not come back", ""),
    ("Ceil", "what rounding takes does not come back", ""),
    ("Round", "what rounding takes does not come back", ""),
    ("MaxPool", "of each window only the largest input is left", ""),
    ("GlobalMaxPool", "of each channel only the largest input is left", ""),
    ("AveragePool", "there is no rule for pooling yet", ""),
    ("GlobalAveragePool", "of each channel only the mean is left", ""),
    ("ReduceMean", "only the mean is left", ""),
    ("ReduceSum", "only the sum is left", ""),
    ("ReduceMax", "only the largest input is left", ""),
    ("ReduceMin", "only the smallest input is left", ""),
    ("ReduceL2", "only the norm is left", ""),
    ("LayerNormalization", "the mean and the scale of its input are lost", ""),
    ("InstanceNormalization", "the mean and the scale of its input are lost", ""),
    ("GroupNormalization", "the mean and the scale of its input are lost", ""),
    ("LpNormalization", "the norm of its input is lost", ""),
    ("Concat", "it moves elements of several tensors, or drops some: undone only where its pieces are found", ""),
    ("Split", "it moves elements of several tensors, or drops some: undone only where its pieces are found", ""),
    ("Slice", "it moves elements of several tensors, or drops some: undone only where its pieces are found", ""),
    ("Gather", "it moves elements of several tensors, or drops some: undone only where its pieces are found", ""),
    ("Pad", "it moves elements of several tensors, or drops some: undone only where its pieces are found", ""),
    ("TopK", "of the others only is left that they are smaller, or larger", ""),
    ("If", "which branch runs is known only at run time", ""),
    ("Loop", "there is no rule for loops", "unroll it before export"),
    ("Scan", "there is no rule for loops", "unroll it before export"),
):
    rules.refuse(op_type, reason, remedy)

for op_type in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"):
    rules.refuse(op_type, "only how its operands compare is left")
for op_type in ("LSTM", "GRU", "RNN"):
    rules.refuse(
        op_type,
        "its steps run inside of it, each from the one before: they are no equations of the graph",
        "write its steps out one after the other, in operations of their own, and export that",
    )
for op_type in ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"):
    rules.refuse(
        op_type,
        "what it makes is drawn anew at every run",
        "export the model for inference, with the mean in its place, or with what is drawn as an input",
    )

_BEFORE = "invert the model before quantization"

for op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
    rules.refuse(op_type, "what rounding takes does not come back", _BEFORE)
for op_type in ("DequantizeLinear", "QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger"):
    rules.refuse(op_type, "it takes what was rounded to whole numbers", _BEFORE)
rules.refuse(
    "ArrayFeatureExtractor",
    "of constant indices it is read as the Gather that it is; here they are computed, or x is a vector",
    domain="ai.onnx.ml",
)
rules.refuse("Imputer", "which elements it replaced is not told by its output", domain="ai.onnx.ml")
rules.refuse("Binarizer", "only the side of the threshold is left", domain="ai.onnx.ml")
rules.refuse("Normalizer", "the norm of its input is lost", domain="ai.onnx.ml")
rules.refuse("OneHotEncoder", "which category it is remains, and no number", domain="ai.onnx.ml")
rules.refuse("LabelEncoder", "it looks its input up in a table of names or numbers", domain="ai.onnx.ml")
rules.refuse(
    "LinearClassifier",
    "its scores are standard operators of a float32 matrix x, but for SOFTMAX_ZERO and PROBIT and for one row of "
    "coefficients without LOGISTIC; its label says no more than which score is largest",
    "export what is affine in it, the scores x W + b, as MatMul and Add",
    domain="ai.onnx.ml",
)
rules.refuse(
    "SVMClassifier",
    "it is not written out: one node makes label and scores",
    "of a regression of the scores (SVMRegressor) on the same data an inverse can be made",
    domain="ai.onnx.ml",
)
for op_type in ("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"):
    rules.refuse(
        op_type,
        "it is constant between its thresholds: nothing tells which way to change its input",
        "fit a smooth model (a network, a ridge or Gaussian-process regression) to what it gives, and invert that",
        domain="ai.onnx.ml",
    )
for op_type in ("MatMulNBits", "MatMulBnb4", "GatherBlockQuantized", "DynamicQuantizeMatMul", "QGemm"):
    rules.refuse(op_type, "its weights, or its input, are held in a few bits", _BEFORE, domain="com.microsoft")
