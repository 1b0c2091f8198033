"""The emitted inverses of float32 functions against the exact ones, in units in the last place (ulp).

y runs over numbers of every size, and over the 50 representable neighbours of each end of the image and of
every place where a textbook form loses digits. The exact x is computed in extended precision.
"""

import functools
from dataclasses import dataclass, field

import numpy as np
import pytest
import scipy.special
from onnx.reference import ReferenceEvaluator

from onnx_invert.testing import Case
from onnx_invert.testing.case import Runner, Subject

Long = np.longdouble
PI = Long(np.pi) + Long(1.2246467991473532e-16)
FLOAT = np.finfo(np.float32)
SELU_ALPHA, SELU_GAMMA = (float(np.float32(v)) for v in (1.67326319217681884765625, 1.05070102214813232421875))


def logit(y):
    return np.log(y) - np.log1p(-y)


def softplus_inverse(y):
    small = np.minimum(y, 2)
    return np.where(y > 1, y + np.log1p(-np.exp(-y)), np.log(np.expm1(small)))


def unit_inverse(y, alpha=1.0, gamma=1.0, width=1.0):
    return np.where(y >= 0, y / Long(gamma), Long(width) * np.log1p(np.minimum(y, 0) / (Long(gamma) * Long(alpha))))


def erfinv(y):
    y = y.astype(np.float64)  # scipy has no extended precision; erfcinv keeps what 1 − |y| holds
    return np.where(np.abs(y) < 0.5, scipy.special.erfinv(y), np.sign(y) * scipy.special.erfcinv(1 - np.abs(y)))


@dataclass(frozen=True)
class Exact:
    """`image` without its ends; `ulp` bounds the error in onnxruntime and in the reference evaluator."""

    image: tuple[float, float]
    inverse: object
    ulp: float
    attributes: dict = field(default_factory=dict)
    smallest: float = float(FLOAT.tiny)
    """Where |y| is smaller, onnxruntime's own Tanh kernel loses digits."""


def scaled(alpha):
    return float(np.float32(alpha))


# A kernel errs by up to 4 ulp itself (onnxruntime's Log 3.2, Tanh 3.9).
FUNCTIONS = {
    "Sigmoid": Exact((0, 1), logit, 4),
    "Tanh": Exact((-1, 1), np.arctanh, 5),
    "Softplus": Exact((0, np.inf), softplus_inverse, 10),
    "Softsign": Exact((-1, 1), lambda y: y / (1 - np.abs(y)), 2),
    "Elu": Exact((-1, np.inf), unit_inverse, 4),
    "Elu-0.3": Exact((-scaled(0.3), np.inf), lambda y: unit_inverse(y, scaled(0.3)), 5, {"alpha": 0.3}),
    "Elu-7.7": Exact((-scaled(7.7), np.inf), lambda y: unit_inverse(y, scaled(7.7)), 5, {"alpha": 7.7}),
    "Selu": Exact((-SELU_ALPHA * SELU_GAMMA, np.inf), lambda y: unit_inverse(y, SELU_ALPHA, SELU_GAMMA), 6),
    "Celu-0.3": Exact(
        (-scaled(0.3), np.inf), lambda y: unit_inverse(y, scaled(0.3), 1, scaled(0.3)), 5, {"alpha": 0.3}
    ),
    "Erf": Exact((-1, 1), erfinv, 4),
    "Sinh": Exact((-np.inf, np.inf), np.arcsinh, 5),
    "Cosh": Exact((1, np.inf), np.arccosh, 5),
    "Asinh": Exact((-np.inf, np.inf), np.sinh, 8, smallest=1e-30),
    "Acosh": Exact((0, np.inf), np.cosh, 8),
    "Atanh": Exact((-np.inf, np.inf), np.tanh, 5, smallest=1e-30),
    "Atan": Exact((-float(PI) / 2, float(PI) / 2), np.tan, 5),
    "Asin": Exact((-float(PI) / 2, float(PI) / 2), np.sin, 3),
    "Acos": Exact((0, float(PI)), lambda y: np.sin(PI / 2 - y), 3),
    "Exp": Exact((0, np.inf), np.log, 4),
    "Log": Exact((-np.inf, np.inf), np.exp, 3),
}


def neighbours(value, count=50):
    below = above = np.float32(value)
    found = [below]
    for _ in range(count):
        below, above = np.nextafter(below, np.float32(-np.inf)), np.nextafter(above, np.float32(np.inf))
        found += [below, above]
    return np.array(found)


@functools.cache
def subject(name):
    return Subject.of(Case(name.split("-")[0], shape=(1,), symbolic=True, attributes=FUNCTIONS[name].attributes))


@functools.cache
def numbers(name):
    """Float32 y inside the image whose x, and itself, are normal numbers."""
    exact = FUNCTIONS[name]
    sizes = 10.0 ** np.linspace(-38, 38.5, 5001)
    line = np.linspace(-1, 1, 10001)
    spread = np.concatenate([sizes, -sizes, line, 3 * line, 20 * line, 100 * line]).astype(np.float32)
    places = [0, 0.5, -0.5, 1, -1, np.log(2), *(end for end in exact.image if np.isfinite(end))]
    y = np.unique(np.concatenate([spread, *map(neighbours, places)]))
    y = y[(y > exact.image[0]) & (y < exact.image[1])]
    y = y[(np.abs(y) >= exact.smallest) | (y == 0)]
    with np.errstate(all="ignore"):
        x = np.asarray(exact.inverse(y.astype(Long)), dtype=Long)
        back = np.abs(x).astype(np.float32)
    held = np.isfinite(back) & (back < FLOAT.max) & ((back >= FLOAT.tiny) | ((x == 0) & (name != "Log")))
    if name == "Atanh":
        held &= back < 1
    return y[held], x[held]


RUNTIMES = ["onnxruntime", "reference"]


def run(name, y, runtime):
    made = subject(name)
    with np.errstate(all="ignore"):
        return made.g(y) if runtime == "onnxruntime" else made.reference(y)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_agrees_with_the_exact_inverse(name, runtime, record_property):
    y, x = numbers(name)
    assert len(y) > 4000
    got = run(name, y, runtime)
    assert got.dtype == np.float32
    unit = np.spacing(np.maximum(np.abs(x).astype(np.float32), FLOAT.tiny)).astype(Long)
    error = np.abs(got.astype(Long) - x) / unit
    worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    record_property("ulp", float(error[worst]))
    assert error[worst] <= FUNCTIONS[name].ulp, f"y = {y[worst]!r}: got {got[worst]!r}, exact {x[worst]}"


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_at_and_beyond_the_ends_x_is_finite(name, runtime):
    """Infinity comes back as infinity only where f goes there."""
    y = np.array([1, -1, 1.2, -1.2, 0, -0.0, 2, -2, 1e-45, -1e-45, 1e38, -1e38, FLOAT.max, FLOAT.min, np.inf, -np.inf])
    y = y.astype(np.float32)
    x = run(name, y, runtime)
    low, high = FUNCTIONS[name].image
    unbounded = (np.isneginf(y) & np.isneginf(low)) | (np.isposinf(y) & np.isposinf(high))
    assert np.isfinite(x[~unbounded]).all(), dict(zip(y, x, strict=True))
    assert not np.isnan(x).any()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_stays_nan(name, runtime):
    y = np.array([np.nan, 0.3, np.nan, 0.6] * 9, np.float32)  # vector lanes and their remainder
    assert np.array_equal(np.isnan(run(name, y, runtime)), np.isnan(y))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_increases(name):
    """Ordered y come back in order, up to the rounding that is allowed: no jump where two forms meet."""
    y, _ = numbers(name)
    x = run(name, y, "onnxruntime").astype(np.float64)
    steps = np.diff(x) * (-1 if name in {"Acos"} else 1)
    room = 2 * FUNCTIONS[name].ulp * np.spacing(np.abs(x[1:]).astype(np.float32))
    assert (steps >= -room).all()


@pytest.mark.parametrize("name", ["Erf", "Sin", "Cos", "Tan", "Softplus", "Tanh", "Sigmoid", "Sinh", "Cosh"])
def test_float64_keeps_its_digits(name):
    """In float64 too, where onnxruntime lacks kernels: 16 ulp; 200 of erfinv's polynomials, which end at 1e-14."""
    inverse = Subject.of(Case(name, shape=(1,), symbolic=True, dtype=np.float64)).inverse
    exact = {
        "Erf": erfinv, "Sin": np.arcsin, "Cos": np.arccos, "Tan": np.arctan, "Softplus": softplus_inverse,
        "Tanh": np.arctanh, "Sigmoid": logit, "Sinh": np.arcsinh, "Cosh": np.arccosh,
    }[name]  # fmt: skip
    y = np.linspace(-0.999, 0.999, 4001) if name != "Cosh" else 1 + np.geomspace(1e-12, 1e12, 4001)
    if name in {"Softplus", "Sigmoid"}:
        y = (y + 1) / 2
    x = np.asarray(exact(y.astype(Long)), dtype=Long)
    runner = Runner(inverse, "the inverse")
    for got in (runner.run({"y": y})["x"], ReferenceEvaluator(inverse).run(None, {"y": y})[0]):
        assert np.all(np.abs(got - x) <= (200 if name == "Erf" else 16) * np.spacing(np.abs(x).astype(np.float64)))
