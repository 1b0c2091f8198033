"""In words, what is lost where it follows from the facts of an inverse. The numbers are the planner's."""

from __future__ import annotations

from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

NOTHING = "nothing is lost"
MATRIX = "z = coordinates in the null space of W. Surplus: none where it narrows; where it widens, what y has more"
FACTOR = "z = the elements that a constant 0 multiplies; else nothing is lost. Surplus: one for each of them"
BRANCHES = "z = x − h(y), h the principal branch. Surplus: one number a number"

_ONE_TO_ONE = (
    *(
        "Acos",
        "Acosh",
        "Add",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "Celu",
        "Elu",
        "Erf",
        "Exp",
        "Log",
        "Neg",
        "Reciprocal",
    ),
    *("Selu", "Sigmoid", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Tanh"),
    *("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"),
)

rules.kept |= {("", op): NOTHING for op in _ONE_TO_ONE}
rules.kept |= {("", op): MATRIX for op in ("MatMul", "Gemm")}
rules.kept |= {("", op): FACTOR for op in ("BatchNormalization", "Div", "Mul")}
rules.kept |= {("", op): BRANCHES for op in ("Cos", "Cosh", "Sin", "Tan")}
rules.kept |= {
    ("", "CumSum"): "nothing is lost; with exclusive = 1 z = the number that no sum takes",
    ("", "LeakyRelu"): "nothing is lost; with a slope of 0 or below " + BRANCHES,
    ("", "PRelu"): "nothing is lost; with a slope of 0 or below " + BRANCHES,
    ("", "Pow"): "nothing is lost for odd powers; for even ones " + BRANCHES,
    ("ai.onnx.ml", "LinearRegressor"): MATRIX,
    ("ai.onnx.ml", "Scaler"): FACTOR,
}
