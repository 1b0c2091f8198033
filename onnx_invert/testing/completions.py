"""The laws of completions: x comes back from (y, z), y is the network's own, and z has no number too many.

(y, z) = f⁺(x)        g⁺(y, z) = x        |y| + |z| − |x| = surplus
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import DTypeLike, NDArray

from onnx_invert.build.lossless.forward import build_forward
from onnx_invert.build.lossless.inverse import LeftOut, build_inverse
from onnx_invert.build.lossless.latents import latents
from onnx_invert.errors import ModelError
from onnx_invert.graph.normalise import normalise
from onnx_invert.graph.read import from_proto
from onnx_invert.graph.write import to_proto
from onnx_invert.plan.lossless.completed import Lossless
from onnx_invert.plan.lossless.search import make_lossless
from onnx_invert.plan.lossless.steps import EFFORTS, Effort
from onnx_invert.plan.problem import pose
from onnx_invert.rules import RuleSet, default_rules
from onnx_invert.samples import DISTRIBUTIONS
from onnx_invert.testing.accuracy import allowance, compare
from onnx_invert.testing.case import Case, Runner
from onnx_invert.testing.portable import check_portable

Array = NDArray[Any]

ROWS = 5
"""Samples that each law is tried on."""

SPREAD = 2.0
"""How far drawn samples reach: past the kinks of most functions, short of where they overflow."""


@dataclass(frozen=True)
class Count:
    """The numbers of a sample: x's, y's, z's, and what z holds (empty where nothing is lost)."""

    x: int
    y: int
    z: int
    latent: str

    @property
    def surplus(self) -> int:
        """|y| + |z| − |x|, 0 for a minimal completion."""
        return self.y + self.z - self.x


def pair_of(
    model: onnx.ModelProto,
    effort: Effort = EFFORTS[0],
    *,
    recover: tuple[str, ...] = (),
    rules: RuleSet | None = None,
    per_node: bool = False,
) -> tuple[Lossless, onnx.ModelProto, onnx.ModelProto]:
    """The plan of a lossless pair, f⁺ and g⁺. Where z is left out of g⁺ it is 0, whatever that gives; where y
    does not tell how many samples there are it cannot be left out.

    Raises:
        ModelError: the model is unsound, or its sizes are not known.
    """
    source = from_proto(model)
    normalise(source)
    problem = pose(source.model, recover)
    plan = make_lossless(problem, rules or default_rules(), effort)
    taken = [value.name or "" for value in (*problem.graph.inputs, *problem.graph.outputs)]
    layout = latents(plan, per_node=per_node, taken=taken)
    forward = to_proto(build_forward(plan, from_proto(model).model, layout, {}))
    # Without an axis of samples in y zeros would not know how many rows they are.
    left_out = LeftOut.ZERO if plan.fixed or plan.batch is not None else LeftOut.NEVER
    return plan, forward, to_proto(build_inverse(plan, None, layout, left_out=left_out))


def check_completion(
    op_type: str,
    *,
    surplus: int = 0,
    unknown: int = 0,
    operands: Mapping[int, Array] | None = None,
    given: Mapping[int, Array] | None = None,
    attributes: Mapping[str, Any] | None = None,
    shape: tuple[int, ...] = (4,),
    dtype: DTypeLike = np.float32,
    opset: int = 17,
    domain: str = "",
    outputs: int = 1,
    samples: Array | None = None,
    rules: RuleSet | None = None,
    surround: bool = True,
    emits: Collection[str] = (),
) -> Count:
    """Hold one completion to the laws; AssertionError names the law, the case and the figures.

    Held to: the operator has a completion; f⁺ and g⁺ are valid ONNX of operators that run everywhere; y is bit for
    bit the model's; z is finite; x comes back in onnxruntime and in onnx's reference evaluator, to rounding as it is
    amplified; one row comes back as in a batch, and as a model without an axis of samples; z has |x| − |y| + `surplus`
    numbers. All but the last also for the more careful efforts, and behind and before other nodes.

    Args:
        op_type: the operator.
        surplus: numbers that y and z hold beyond those of x, a sample; 0 for a minimal completion.
        unknown: index of the operand that comes back.
        operands: the constant operands by index, as numpy arrays of the model's type.
        given: operands by index that are inputs of both files, with rows for samples.
        attributes: of the node.
        shape: of one sample; an axis of samples is put before it.
        dtype: of the unknown operand.
        opset: of the default domain, or of `domain` 1.
        domain: the operator's domain.
        outputs: how many outputs the node has; x comes back from the first.
        samples: values of the unknown operand, (count, *shape); drawn where the model is finite by default.
        rules: the registry to check; the rules of onnx-invert by default.
        surround: check between a square product and a scaling too. False where the operator cannot follow one.
        emits: operators that g⁺ needs though not every runtime has them: those of the network itself, say.

    Returns:
        The numbers of x, y and z.
    """
    case = Case(
        op_type, unknown, operands or {}, given or {}, attributes or {}, (ROWS, *shape), dtype, opset, domain, outputs,
        symbolic=True, rules=rules,
    )  # fmt: skip
    xs = _samples(case) if samples is None else np.asarray(samples, dtype)
    if samples is not None:
        case = case.variant(shape=xs.shape)
    plan = _comes_back(case, xs, EFFORTS[0], emits)
    kept = [slot.name for slot in plan.slots if slot.latent == "kept as it is"]
    assert not kept, f"the operator has a completion\n  {case}\n  {', '.join(kept)} is kept as it is"
    names = dict.fromkeys(slot.latent for slot in plan.slots)
    count = Count(plan.x_size, plan.y_size or 0, plan.size, ", ".join(names))
    assert count.surplus == surplus, (
        f"|y| + |z| − |x| is the surplus stated\n  {case}\n"
        f"  {count.y} + {count.z} − {count.x} = {count.surplus}, stated {surplus}"
    )
    for effort in EFFORTS[1:-1]:
        _comes_back(case, xs, effort, emits)
    if not case.given:
        alone = case.variant(shape=(1, *shape), symbolic=False)
        _comes_back(alone, xs[:1], EFFORTS[0], emits)
    if surround and shape:
        inner = np.linalg.inv(case.before.astype(np.float64))
        around = (xs.astype(np.float64) @ inner).astype(dtype)
        _comes_back(case.variant(surrounded=True), around, EFFORTS[0], emits)
    return count


def _samples(case: Case) -> Array:
    """Rows of the first distribution on which the model is finite."""
    model = Runner(case.model, "the model")
    for _, draw in DISTRIBUTIONS:
        x = (SPREAD * draw(np.random.default_rng(3), case.shape)).astype(case.dtype)
        y = model.run({"x": x, **_given(case)})["y"]
        if np.isfinite(y.astype(np.float64)).all():
            return x
    raise AssertionError(f"the model is finite on drawn samples\n  {case}\n  give samples=")


def _given(case: Case) -> dict[str, Array]:
    return {f"c{index}": array for index, array in case.given.items()}


def _comes_back(case: Case, x: Array, effort: Effort, emits: Collection[str]) -> Lossless:
    """x → f⁺ → (y, z) → g⁺ → x on all rows, and on the first alone."""
    try:
        model = _shaped(case.model)
        plan, forward, inverse = pair_of(model, effort, recover=("x",), rules=case.rules)
    except ModelError as error:
        raise AssertionError(f"the pair can be built\n  {case}\n  {error}") from error
    _sound(case, forward, inverse, plan, emits)
    given = _given(case)
    f, g = Runner(forward, "f⁺", optimised=False), Runner(inverse, "g⁺")
    plain = Runner(model, "the model", optimised=False).run({"x": x, **given})["y"]
    made = f.run({"x": x, **given})
    y, z = made["y"], made.get("latent")
    same = plain.dtype == y.dtype and np.array_equal(plain, y, equal_nan=plain.dtype.kind == "f")
    assert same, f"y is the model's, bit for bit\n  {case}\n  {y}, expected {plain}"
    assert z is None or np.isfinite(z).all(), f"z is finite\n  {case}, {effort}\n  {z}"

    def both(run: Any, y: Array, z: Array | None, rows: slice = slice(None)) -> Array:
        feeds = {"y": y[rows] if case.symbolic else y}
        feeds |= {name: array[rows] if case.symbolic else array for name, array in given.items()}
        return np.asarray(run(feeds if z is None else {**feeds, "latent": z[rows]})["x"])

    back = both(g.run, y, z)
    assert back.dtype == x.dtype, f"x keeps its type\n  {case}\n  {back.dtype}"
    rows = len(x) if case.symbolic else 1
    joined = _Joined(y, z, rows)
    room = allowance([np.dtype(case.dtype)], by_row=True).around(
        lambda v: both(g.run, *joined.apart(v)).reshape(rows, -1), joined.whole, back.reshape(rows, -1)
    )
    law = f"g⁺(y, z) = x for (y, z) = f⁺(x), {effort}"
    compare(back.reshape(rows, -1), x.reshape(rows, -1), room, law, case)
    other = both(g.reference, y, z).reshape(rows, -1)
    compare(other, x.reshape(rows, -1), room, f"{law}, in the reference evaluator", case)
    if case.symbolic and not given:
        one = f.run({"x": x[:1]})
        alone = both(g.run, one["y"], one.get("latent")).reshape(1, -1)
        compare(alone, x[:1].reshape(1, -1), room[:1], f"{law}, of one row", case)
    counted = y.size // rows
    assert plan.y_size in {None, counted}, f"y has the numbers stated\n  {case}\n  {counted}, stated {plan.y_size}"
    return replace(plan, y_size=counted)


def _shaped(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shape of y, which f⁺ states as the model does."""
    source = from_proto(model)
    normalise(source)
    value = to_proto(source.model).graph.output[0]
    model.graph.output[0].CopyFrom(value)
    return model


class _Joined:
    """y and z side by side as rows, so that both are shaken; a y of whole numbers stays as it is."""

    def __init__(self, y: Array, z: Array | None, rows: int) -> None:
        self._y, self._z = y, z
        parts = [y.reshape(rows, -1)] if y.dtype.kind == "f" else []
        parts += [] if z is None else [z]
        self.whole = np.concatenate(parts, axis=1) if parts else np.zeros((rows, 0), np.float32)

    def apart(self, whole: Array) -> tuple[Array, Array | None]:
        """y and z again."""
        y = self._y
        size = y.size // len(whole) if y.dtype.kind == "f" else 0
        if size:
            y = whole[:, :size].reshape(y.shape).astype(y.dtype)
        return y, None if self._z is None else whole[:, size:].astype(self._z.dtype)


def _sound(
    case: Case, forward: onnx.ModelProto, inverse: onnx.ModelProto, plan: Lossless, emits: Collection[str]
) -> None:
    """Both files are valid ONNX; the inverse is of operators that run everywhere, unless it runs the model's own."""
    for name, model in (("f⁺", forward), ("g⁺", inverse)):
        try:
            onnx.checker.check_model(model, full_check=not case.domain)
        except Exception as error:  # the checker and shape inference raise classes of their own
            raise AssertionError(f"{name} is valid ONNX\n  {case}\n  {error}") from error
    try:
        double = any(value.dtype == ir.DataType.DOUBLE for value in (*plan.problem.recovered, *plan.problem.known))
        check_portable(inverse, double=double, allowed=emits)
    except AssertionError as error:
        raise AssertionError(f"g⁺ runs everywhere\n  {case}\n  {error}") from error
    names = [slot.latent for slot in plan.slots]
    assert all(names), f"every latent says what it is\n  {case}\n  {names}"
