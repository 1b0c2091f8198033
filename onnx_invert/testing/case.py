"""One node as a model, its inverse, and how both are run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray
from onnx.reference import ReferenceEvaluator

from onnx_invert.build.inverse import Inverse, build
from onnx_invert.graph.normalise import normalise
from onnx_invert.graph.read import from_proto
from onnx_invert.graph.write import to_proto
from onnx_invert.plan.plan import Plan, make_plan
from onnx_invert.plan.problem import pose
from onnx_invert.rules import RuleSet, default_rules

Array = NDArray[Any]
HALVES = (np.dtype(np.float16),)


@dataclass(frozen=True)
class Case:
    """A node with one operand to recover.

    `unknown` is that operand's index; `operands` are constants by index, `given` those that are inputs of
    the model and of its inverse. `shape` is that of the unknown operand. With `symbolic` its first axis is
    the symbol "N", and so is that of a given operand which has the same rank and first size. `before` and
    `after` put other invertible nodes around it.
    """

    op_type: str
    unknown: int = 0
    operands: Mapping[int, Array] = field(default_factory=dict)
    given: Mapping[int, Array] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (3, 4)
    dtype: DTypeLike = np.float32
    opset: int = 17
    domain: str = ""
    outputs: int = 1
    symbolic: bool = False
    surrounded: bool = False
    rules: RuleSet | None = None

    def __str__(self) -> str:
        parts = [f"opset {self.opset}", np.dtype(self.dtype).name, f"x{list(self.shape)} at operand {self.unknown}"]
        parts += [f"{index}: {_brief(array)}" for index, array in sorted({**self.operands, **self.given}.items())]
        parts += [f"{name}={value}" for name, value in self.attributes.items()]
        parts += ["symbolic batch"] if self.symbolic else []
        parts += ["between two other nodes"] if self.surrounded else []
        return f"{self.op_type} ({', '.join(parts)})"

    def variant(self, **changes: Any) -> Case:
        """The same case with some things changed."""
        return replace(self, **changes)

    @property
    def before(self) -> Array:
        """The matrix, orthogonal up to a factor, that `surrounded` multiplies x by first.

        In half precision it mixes nothing: rounding would carry x out of the domains that end at 0.
        """
        size = self.shape[-1] if self.shape else 1
        q, _ = np.linalg.qr(np.random.default_rng(7).standard_normal((size, size)))
        if np.dtype(self.dtype) in HALVES:
            q = np.eye(size)[::-1]
        return np.asarray((0.5 * q).astype(self.dtype))

    @property
    def model(self) -> onnx.ModelProto:
        """The node as a model x → y."""
        dtype = np.dtype(self.dtype)
        kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        known = {**self.operands, **self.given}
        count = 1 + max([self.unknown, *known])
        names = ["x" if i == self.unknown else f"c{i}" if i in known else "" for i in range(count)]
        info = onnx.helper.make_tensor_value_info
        inputs = [info("x", kind, self._dims(self.shape))]
        for index, array in self.given.items():
            dims = self._dims(array.shape) if array.shape[:1] == self.shape[:1] else array.shape
            inputs.append(info(f"c{index}", onnx.helper.np_dtype_to_tensor_dtype(array.dtype), dims))
        constants = [onnx.numpy_helper.from_array(np.asarray(a), f"c{i}") for i, a in self.operands.items()]
        results = ["y", *(f"extra{i}" for i in range(1, self.outputs))]
        nodes = [onnx.helper.make_node(self.op_type, names, results, "node", domain=self.domain, **self.attributes)]
        target = self._made(kind)
        if self.surrounded:
            factor = np.asarray(0.5, onnx.helper.tensor_dtype_to_np_dtype(target))
            constants += [
                onnx.numpy_helper.from_array(self.before, "before"),
                onnx.numpy_helper.from_array(factor, "f"),
            ]
            nodes[0].input[self.unknown], nodes[0].output[0] = "inner", "outer"
            nodes.insert(0, onnx.helper.make_node("MatMul", ["x", "before"], ["inner"], "first"))
            nodes.append(onnx.helper.make_node("Mul", ["outer", "f"], ["y"], "last"))
        opsets = [onnx.helper.make_opsetid("", self.opset)]
        if self.domain:
            opsets.append(onnx.helper.make_opsetid(self.domain, 1))
        y = onnx.helper.make_tensor_value_info("y", target, None)
        graph = onnx.helper.make_graph(nodes, "case", inputs, [y], constants)
        ir_version = max(8, onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True))
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)

    def _made(self, kind: int) -> int:
        """The type of y."""
        if self.op_type == "Cast":
            return int(self.attributes["to"])
        if self.op_type == "QuantizeLinear":
            zero = self.operands.get(2, np.zeros((), np.uint8))
            return int(onnx.helper.np_dtype_to_tensor_dtype(zero.dtype))
        return kind

    def _dims(self, shape: tuple[int, ...]) -> list[int | str]:
        return ["N" if axis == 0 and self.symbolic else size for axis, size in enumerate(shape)]

    def plan(self) -> Plan:
        """The plan of its inverse; NotInvertibleError if there is none."""
        source = from_proto(self.model)
        normalise(source)
        return make_plan(pose(source.model, ["x"]), self.rules or default_rules())


@dataclass(frozen=True)
class Subject:
    """A case with its plan and its inverse, ready to run."""

    case: Case
    plan: Plan
    built: Inverse

    @staticmethod
    def of(case: Case) -> Subject:
        """Plan and build."""
        plan = case.plan()
        return Subject(case, plan, build(plan))

    @cached_property
    def inverse(self) -> onnx.ModelProto:
        """The inverse as a message."""
        return to_proto(self.built.model)

    @cached_property
    def _forward(self) -> Runner:
        return Runner(self.case.model, "the model")

    @cached_property
    def _backward(self) -> Runner:
        return Runner(self.inverse, "the inverse")

    def f(self, x: Array) -> Array:
        """The model's y."""
        return self._forward.run({"x": x, **self._given()})["y"]

    def g(self, y: Array) -> Array:
        """The inverse's x, in onnxruntime where it has the kernels."""
        return self._backward.run({"y": y, **self._given()})["x"]

    def reference(self, y: Array) -> Array:
        """The inverse's x, in onnx's reference evaluator."""
        return self._backward.reference({"y": y, **self._given()})["x"]

    def _given(self) -> dict[str, Array]:
        return {f"c{index}": array for index, array in self.case.given.items()}

    def clamped(self, y: Array) -> int:
        """How many values the probes count on the way back from y."""
        model = onnx.ModelProto()
        model.CopyFrom(self.inverse)
        names = [probe.tensor for probe in self.built.probes]
        made = [name for name in names if name != "y"]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in made)
        values = {"y": y, **Runner(model, "the inverse").reference({"y": y, **self._given()}, made)}
        return sum(probe.count(values[probe.tensor]) for probe in self.built.probes)


class Runner:
    """A model in onnxruntime; in the reference evaluator where onnxruntime lacks a kernel for its type."""

    def __init__(self, model: onnx.ModelProto, name: str, *, optimised: bool = True) -> None:
        self._model, self._name, self._optimised = model, name, optimised
        self._inputs = {value.name for value in model.graph.input}

    @cached_property
    def _session(self) -> ort.InferenceSession | None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        if not self._optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        data = self._model.SerializeToString()
        try:
            return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            if "NOT_IMPLEMENTED" in str(error) or "under development" in str(error):
                return None
            raise AssertionError(f"onnxruntime does not load {self._name}: {error}") from error

    @cached_property
    def _evaluator(self) -> ReferenceEvaluator:
        return ReferenceEvaluator(self._model)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name."""
        if self._session is None:
            return self.reference(feeds)
        wanted = {name: np.asarray(array) for name, array in feeds.items() if name in self._inputs}
        names = [value.name for value in self._model.graph.output]
        return {name: np.asarray(a) for name, a in zip(names, self._session.run(None, wanted), strict=True)}

    def reference(self, feeds: Mapping[str, Array], names: list[str] | None = None) -> dict[str, Array]:
        """The same in the reference evaluator."""
        names = names if names is not None else [value.name for value in self._model.graph.output]
        with np.errstate(all="ignore"):
            if not names:
                return {}
            feeds = {name: array for name, array in feeds.items() if name in self._inputs}
            found: Any = self._evaluator.run(names, dict(feeds))
            return {name: np.asarray(value) for name, value in zip(names, found, strict=True)}


def _brief(array: Array) -> str:
    return str(array.tolist()) if np.size(array) <= 6 else f"{np.asarray(array).dtype}{list(np.shape(array))}"
