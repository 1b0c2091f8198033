"""onnx-invert: writes the inverse of a trained ONNX network as another ONNX file.

    inversion = onnx_invert.invert("model.onnx", "inverse.onnx")
    print(inversion.guarantee, inversion.round_trip.y.worst)

The names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnx_invert._version import __version__

if TYPE_CHECKING:
    from onnx_invert.api import explain, explain_lossless, invert
    from onnx_invert.comparison import Check, check
    from onnx_invert.differentiation import jacobian
    from onnx_invert.errors import (
        Blocker,
        FibreError,
        FileError,
        ModelError,
        NotInvertibleError,
        OnnxInvertError,
        UsageError,
        VerificationError,
    )
    from onnx_invert.fibres.fibre import Fibre, fibre
    from onnx_invert.fibres.points import Points
    from onnx_invert.inversion import Inversion
    from onnx_invert.leakage import leaks
    from onnx_invert.plan.guarantee import Guarantee
    from onnx_invert.plan.plan import Plan
    from onnx_invert.report.drawing.svg import draw
    from onnx_invert.report.leaks import Leaks
    from onnx_invert.rules import RuleSet, default_rules

_HOMES = {
    "Inversion": "inversion",
    "explain": "api",
    "explain_lossless": "api",
    "invert": "api",
    "jacobian": "differentiation",
    "Check": "comparison",
    "check": "comparison",
    "Leaks": "report.leaks",
    "leaks": "leakage",
    "Blocker": "errors",
    "Fibre": "fibres.fibre",
    "FibreError": "errors",
    "FileError": "errors",
    "ModelError": "errors",
    "NotInvertibleError": "errors",
    "OnnxInvertError": "errors",
    "UsageError": "errors",
    "VerificationError": "errors",
    "Guarantee": "plan.guarantee",
    "Plan": "plan.plan",
    "Points": "fibres.points",
    "fibre": "fibres.fibre",
    "draw": "report.drawing.svg",
    "RuleSet": "rules",
    "default_rules": "rules",
}

__all__ = [
    "Blocker",
    "Check",
    "Fibre",
    "FibreError",
    "FileError",
    "Guarantee",
    "Inversion",
    "Leaks",
    "ModelError",
    "NotInvertibleError",
    "OnnxInvertError",
    "Plan",
    "Points",
    "RuleSet",
    "UsageError",
    "VerificationError",
    "__version__",
    "check",
    "default_rules",
    "draw",
    "explain",
    "explain_lossless",
    "fibre",
    "invert",
    "jacobian",
    "leaks",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'onnx_invert' has no attribute {name!r}")
    value = getattr(import_module(f"onnx_invert.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
