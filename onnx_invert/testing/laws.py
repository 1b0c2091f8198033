"""The laws, one function each; `check_rule` holds a rule to all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import scipy.linalg
from numpy.typing import DTypeLike, NDArray

from onnx_invert.errors import Blocker, NotInvertibleError
from onnx_invert.numerics.tolerance import eps
from onnx_invert.plan.guarantee import Guarantee
from onnx_invert.rules import RuleSet
from onnx_invert.rules.facts import Convert, Diagonal, Elementwise, Matrix, Paired, Rearrangement, Repeat
from onnx_invert.rules.interval import REALS, Interval
from onnx_invert.testing.accuracy import Allowance, allowance, compare
from onnx_invert.testing.case import Case, Runner, Subject
from onnx_invert.testing.elementwise import check_derivative, check_elementwise
from onnx_invert.testing.portable import check_portable
from onnx_invert.testing.values import beyond, inside

Array = NDArray[Any]

DRAWS = 3
"""Samples of the case's own shape that each law is tried on."""


def check_rule(
    op_type: str,
    *,
    unknown: int = 0,
    operands: Mapping[int, Array] | None = None,
    given: Mapping[int, Array] | None = None,
    attributes: Mapping[str, Any] | None = None,
    shape: tuple[int, ...] = (3, 4),
    dtype: DTypeLike = np.float32,
    opset: int = 17,
    domain: str = "",
    outputs: int = 1,
    samples: Array | None = None,
    rules: RuleSet | None = None,
    symbolic_batch: bool = True,
    surround: bool = True,
) -> Guarantee:
    """Hold one rule to the laws; AssertionError names the law, the case and the figures.

    Args:
        op_type: the operator.
        unknown: index of the operand to recover.
        operands: the constant operands by index, as numpy arrays of the model's type.
        given: operands by index that are inputs of the model, known when the inverse runs.
        attributes: of the node.
        shape: of the unknown operand.
        dtype: of the unknown operand.
        opset: of the default domain, or of `domain` 1.
        domain: the operator's domain.
        outputs: how many outputs the node has; the first is inverted.
        samples: values of the unknown operand, (count, *shape), in f's domain; drawn there by default.
        rules: the registry to check; the rules of onnx-invert by default.
        symbolic_batch: check with a symbolic first axis too. False where the operation needs its size.
        surround: check between a square product and a scaling too. False where the operator cannot follow one.

    Returns:
        The guarantee that the rule was held to.
    """
    case = Case(
        op_type, unknown, operands or {}, given or {}, attributes or {}, tuple(shape), dtype, opset, domain, outputs,
        rules=rules,
    )  # fmt: skip
    subject = _subject(case)
    xs = _samples(subject) if samples is None else np.asarray(samples, dtype)
    guarantee = _laws(subject, xs)
    if symbolic_batch and shape:
        same = _laws(_subject(case.variant(symbolic=True)), xs[:1], alone=False)
        assert same is guarantee, f"a symbolic batch changes no promise\n  {case}\n  {same}, fixed {guarantee}"
        if not case.given:
            _sizes(_subject(case.variant(symbolic=True)), xs)
    if surround and case.shape:
        between = _subject(case.variant(surrounded=True))
        inner = np.linalg.inv(case.before.astype(np.float64))
        same = _laws(between, (xs[:2].astype(np.float64) @ inner).astype(dtype), alone=False)
        assert same is guarantee, f"other nodes change no promise\n  {between.case}\n  {same}, alone {guarantee}"
    return guarantee


def refusals(op_type: str, **arguments: Any) -> tuple[Blocker, ...]:
    """Why a node has no inverse, for the arguments of `check_rule`; AssertionError if it has one."""
    case = Case(op_type, **{name: value for name, value in arguments.items() if value is not None})
    try:
        plan = case.plan()
    except NotInvertibleError as error:
        return error.blockers
    raise AssertionError(f"the node is refused\n  {case}\n  it was given {plan.guarantee}")


def _subject(case: Case) -> Subject:
    try:
        return Subject.of(case)
    except NotInvertibleError as error:
        raise AssertionError(f"the node has an inverse\n  {case}\n  {error}") from error


def _samples(subject: Subject) -> Array:
    """Values of x where f is defined: in the domain of the first function that has one."""
    first = subject.plan.paths[0].stages[:1]
    box = first[0].fact.domain if first and isinstance(first[0].fact, Elementwise) else REALS
    shape = subject.case.shape
    return np.stack([inside(box, shape, seed) for seed in range(DRAWS)]).astype(subject.case.dtype)


def _laws(subject: Subject, xs: Array, *, alone: bool = True) -> Guarantee:
    _sound(subject)
    guarantee = subject.plan.guarantee
    allowed = _allowed(subject)
    image = subject.plan.images["y"]
    for x in map(np.asarray, xs):
        y = subject.f(x)
        assert np.isfinite(y).all(), f"the samples lie in the domain\n  {subject.case}\n  f({x}) = {y}"
        _round_trip(subject, allowed, x, y)
    if guarantee.promises_every_y:
        assert image is not None, f"what is promised for every y states their box\n  {subject.case}"
        for seed in range(DRAWS):
            _drawn(subject, allowed, image, y, seed)
    _specials(subject, y)
    if alone:
        _facts(subject, xs)
        _moore_penrose(subject, allowed, xs)
    return guarantee


def _sound(subject: Subject) -> None:
    """The inverse is valid ONNX, of operators that run everywhere, with the names and types it should have."""
    model, case = subject.inverse, subject.case
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker and shape inference raise classes of their own
        raise AssertionError(f"the inverse is valid ONNX\n  {case}\n  {error}") from error
    forward = case.model
    double = any(dtype == ir.DataType.DOUBLE for dtype in subject.plan.dtypes)
    try:
        check_portable(model, double=double)
    except AssertionError as error:
        raise AssertionError(f"the inverse runs everywhere\n  {case}\n  {error}") from error
    assert [value.name for value in model.graph.output] == ["x"], f"its output is x\n  {case}"
    kinds = model.graph.output[0].type.tensor_type.elem_type, forward.graph.input[0].type.tensor_type.elem_type
    assert kinds[0] == kinds[1], f"x keeps its type\n  {case}\n  {kinds}"
    names = {value.name for value in model.graph.input}
    assert "y" in names <= {"y", *(value.name for value in forward.graph.input[1:])}, (
        f"its inputs\n  {case}\n  {names}"
    )


def _allowed(subject: Subject) -> Allowance:
    stages = subject.plan.paths[0].stages
    by_element = (Elementwise, Rearrangement, Convert, Paired)
    by_row = any(not isinstance(stage.fact, by_element) for stage in stages)
    return allowance([np.dtype(dtype.numpy()) for dtype in subject.plan.dtypes], by_row=by_row)


def _offset(subject: Subject, y: Array) -> float:
    """The size of what sums take off again: g(0), where it is finite."""
    with np.errstate(all="ignore"):
        zero = subject.g(np.zeros_like(y))
    stages = subject.plan.paths[0].stages
    affine = not any(isinstance(stage.fact, Elementwise | Paired) for stage in stages)
    return float(np.max(np.abs(zero), initial=0.0)) if affine and np.isfinite(zero).all() else 0.0


def _round_trip(subject: Subject, allowed: Allowance, x: Array, y: Array) -> None:
    case, guarantee = subject.case, subject.plan.guarantee
    back = subject.g(y)
    assert back.dtype == x.dtype, f"x keeps its type\n  {case}\n  {back.dtype}"
    assert back.shape == x.shape, f"x keeps its shape\n  {case}\n  {back.shape}, expected {x.shape}"
    tolerance = allowed.around(subject.g, y, back, _offset(subject, y)) + _moved_by_f(subject, x, y, back)
    compare(subject.reference(y), back, tolerance, "onnxruntime and the reference evaluator agree on g", case)
    if guarantee.promises_x:
        compare(back, x, tolerance, f"g(f(x)) = x, {guarantee}", case)
    again = subject.f(back)
    room = allowed.around(subject.f, back, again) + allowed.around(lambda v: v, y, y)
    compare(again, y, room, f"f(g(y)) = y for y = f(x), {guarantee}", case)


def _moved_by_f(subject: Subject, x: Array, y: Array, back: Array) -> Array:
    """How far the operator's own error takes x: onnxruntime's Celu, say, takes 1 off a rounded exp(x / alpha)."""
    stages = subject.plan.paths[0].stages
    fact = stages[0].fact if len(stages) == 1 else None
    if not isinstance(fact, Elementwise):
        return np.zeros(back.shape)
    exact = np.asarray(fact.forward(x.astype(np.float64))).astype(y.dtype)
    return np.asarray(np.abs(subject.g(exact).astype(np.float64) - back))


def _drawn(subject: Subject, allowed: Allowance, image: Interval, like: Array, seed: int) -> None:
    y = inside(image, like.shape, seed).astype(like.dtype)
    back = subject.g(y)
    again = subject.f(back)
    room = allowed.around(subject.f, back, again) + allowed.around(lambda v: v, y, y)
    law = f"f(g(y)) = y for every y in {image}, {subject.plan.guarantee}"
    compare(again, y, room, law, subject.case)


def _sizes(subject: Subject, xs: Array) -> None:
    """A symbolic batch takes any number of rows: what comes back of one row is what comes back of it in many."""
    x = xs.reshape(-1, *subject.case.shape[1:])
    constants = [np.shape(array) for array in subject.case.operands.values()]
    if any(len(dims) == len(subject.case.shape) and dims[:1] not in {(), (1,)} for dims in constants):
        return
    if subject.case.op_type == "MatMul" and len(subject.case.shape) == 1:
        return
    try:
        y, first = subject.f(x), subject.f(x[:1])
    except Exception:  # the operation itself fixes the number of rows
        return
    back = subject.g(y)
    assert back.shape == x.shape, f"any batch size comes back\n  {subject.case}\n  {back.shape}, expected {x.shape}"
    assert subject.g(first).shape == x[:1].shape, f"a batch of one comes back\n  {subject.case}"


def _specials(subject: Subject, y: Array) -> None:
    """NaN stays NaN; outside the image x is finite, that of the nearest y inside, and it is counted."""
    case, g = subject.case, subject.g
    stages = subject.plan.paths[0].stages
    runners: tuple[tuple[str, Callable[[Array], Array]], ...] = (
        ("onnxruntime", g),
        ("the reference evaluator", subject.reference),
    )
    for name, run in runners:
        lost = run(np.full_like(y, np.nan))
        assert np.isnan(lost).all(), f"NaN stays NaN in {name}\n  {case}\n  {lost}"
    probes = subject.built.probes
    if len(probes) != 1 or probes[0].tensor != "y":
        return
    probe, dtype = probes[0], y.dtype
    ends = [None if end is None else np.broadcast_to(end, y.shape) for end in (probe.low, probe.high)]
    low, high = (None if end is None else float(end.reshape(-1)[0]) for end in ends)
    elementwise = all(isinstance(stage.fact, Elementwise) for stage in stages)
    for value in beyond(low, high, dtype) if elementwise else ():
        outside = np.full_like(y, value)
        nearest = outside.copy()
        for end, pick in zip(ends, (np.maximum, np.minimum), strict=True):
            nearest = nearest if end is None else pick(nearest, end)
        _moved(subject, runners, outside, nearest)
    if probe.hole is not None:
        for value in (0.0, -0.0, probe.hole / 2):
            _moved(subject, runners, np.full_like(y, value), np.full_like(y, probe.hole))


def _moved(
    subject: Subject,
    runners: tuple[tuple[str, Callable[[Array], Array]], ...],
    outside: Array,
    nearest: Array,
) -> None:
    case, value = subject.case, outside.reshape(-1)[0]
    for name, run in runners:
        got = run(outside)
        moved = outside != nearest
        assert np.isfinite(got[moved]).all(), (
            f"outside the image x is finite in {name}\n  {case}\n  g({value}) = {got}"
        )
        assert np.array_equal(got, run(nearest), equal_nan=True), (
            f"a y outside the image counts as the nearest inside, in {name}\n  {case}\n  y {value}: {got}"
        )
    counted = subject.clamped(outside)
    assert counted == int(moved.sum()), f"the probe counts what is moved\n  {case}\n  y {value}: {counted} counted"
    inside_count = subject.clamped(nearest)
    assert inside_count == 0, (
        f"the probe counts nothing inside\n  {case}\n  y {nearest.reshape(-1)[0]}: {inside_count}"
    )


def _facts(subject: Subject, xs: Array) -> None:
    """What the facts state, each alone: derivative, branches, images, and `forward` against the operator."""
    case = subject.case
    stages = subject.plan.paths[0].stages
    if any(isinstance(stage.fact, Convert) for stage in stages):
        return
    y = subject.f(xs[0])
    for stage in stages:
        fact = stage.fact
        if isinstance(fact, Elementwise):
            check_elementwise(fact, y.shape, case)
        if isinstance(fact, Elementwise) and len(stages) == 1:
            for x in xs:
                exact = fact.forward(x.astype(np.float64))
                close = allowance([x.dtype], by_row=True).around(subject.f, x, subject.f(x))
                compare(subject.f(x), exact, close, "forward is the operator", case)
        if isinstance(fact, Paired) and len(stages) == 1:
            _paired(subject, fact, xs[0])


def _paired(subject: Subject, fact: Paired, x: Array) -> None:
    case = subject.case
    b = case.given[fact.other].astype(np.float64)
    wide = case.variant(dtype=np.float64, given={fact.other: b}).model
    f = Runner(wide, "the model")

    def forward(v: Array) -> Array:
        return f.run({"x": v, f"c{fact.other}": b})["y"]

    wide_x = x.astype(np.float64)
    check_derivative(forward, lambda e, v: fact.derivative(e, v[0], v[1]), wide_x, [wide_x, b], case)


def _moore_penrose(subject: Subject, allowed: Allowance, xs: Array) -> None:
    """An affine f, y = A x + b: g(y) = A⁺ (y − b) for any y, so of least norm and of least squares.

    A and b come from the operator itself, run in float64 on unit vectors; A⁺ from scipy.
    """
    case, stages = subject.case, subject.plan.paths[0].stages
    affine = (Diagonal, Matrix, Repeat, Rearrangement)
    if not stages or not all(isinstance(stage.fact, affine) for stage in stages):
        return
    constants = {
        i: np.asarray(a, np.float64) if np.asarray(a).dtype.kind == "f" else a for i, a in case.operands.items()
    }
    wide = case.variant(dtype=np.float64, operands=constants, symbolic=False)
    f = Runner(wide.model, "the model")
    size = int(np.prod(case.shape))
    basis = np.eye(size).reshape(size, *case.shape)
    bias = f.run({"x": np.zeros(case.shape)})["y"]
    columns = [f.run({"x": unit})["y"] - bias for unit in basis]
    matrix = np.stack([column.reshape(-1) for column in columns], axis=1)
    cutoff = max(matrix.shape) * eps(case.dtype)
    pinv = scipy.linalg.pinv(matrix, rtol=cutoff)
    rng = np.random.default_rng(3)
    for _ in range(DRAWS):
        y = (bias + np.abs(matrix).max() * rng.standard_normal(bias.shape)).astype(subject.f(xs[0]).dtype)
        expected = (pinv @ (y.astype(np.float64) - bias).reshape(-1)).reshape(case.shape)
        got = subject.g(y)
        room = allowed.around(subject.g, y, got, _offset(subject, y))
        whole = np.full(room.shape, float(np.sqrt(np.sum(np.square(room)))))
        compare(got, expected, whole, "g(y) is the least-norm least-squares solution (scipy.linalg.pinv)", case)
