"""From what users hand over to a plan: the model as equations, a decoder before it, data by input name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_invert.arrays import load
from onnx_invert.build.versions import OLDEST_OPSET, OPSET
from onnx_invert.conversion import raised
from onnx_invert.errors import NotInvertibleError, UsageError
from onnx_invert.graph.compose import join
from onnx_invert.graph.concrete import settle, small
from onnx_invert.graph.convert import raise_opset
from onnx_invert.graph.indices import check_indices, hold_indices
from onnx_invert.graph.normalise import normalise
from onnx_invert.graph.read import Source
from onnx_invert.graph.unpack import unpack
from onnx_invert.opening import ModelLike
from onnx_invert.plan.choice import AnyPlan, choose
from onnx_invert.plan.decoder import Decoder
from onnx_invert.plan.newton import NewtonPlan, make_newton_plan
from onnx_invert.plan.plan import Progress
from onnx_invert.plan.problem import Problem, pose
from onnx_invert.rules import RuleSet
from onnx_invert.rules.rows import row_by_row
from onnx_invert.samples import match

Data = str | os.PathLike[str] | NDArray[Any] | Mapping[str, NDArray[Any]]


def is_decoder(prior: Data | ModelLike | None) -> TypeGuard[ModelLike]:
    """True if a prior is a model, not data."""
    if isinstance(prior, onnx.ModelProto):
        return True
    return isinstance(prior, str | os.PathLike) and Path(prior).suffix == ".onnx"


def prepare(source: Source) -> None:
    """Bring a model, in place, into the form in which it is planned.

    Raises:
        ModelError: the graph is unsound.
    """
    normalise(source)
    unpack(source.model, source.name, row_by_row)
    settle(source.model, source.name)
    check_indices(source.model, source.name)
    hold_indices(source.model)


def make_plan(
    source: Source,
    recover: Sequence[str],
    known: Sequence[str],
    rules: RuleSet,
    method: str,
    progress: Progress | None,
    decoder: Source | None,
    log_det: bool,
    opset: int | None = None,
    raising: bool = True,
    bounded: bool = False,
) -> AnyPlan:
    """The plan of an inversion: by the solver behind a decoder where there is one, else by `method`.

    `bounded` says that x has bounds. With `raising` of the model at a newer opset where it takes one: a lossless pair
    keeps its own.

    Raises:
        ModelError, UsageError: the names, or the graph, are unsound.
        NotInvertibleError: no inverse can be promised; lists every node in the way.
    """
    prepare(source)

    def chosen() -> AnyPlan:
        posed = pose(source.model, recover, known, smooth=True)
        return choose(partial(small, source.model), posed, rules, method, progress, log_det=log_det, bounded=bounded)

    try:
        if decoder is not None:
            return _with_decoder(source, decoder, recover, known, rules)
        plan = chosen()
        if not raising or not raised(source, plan, opset):
            return plan
        unpack(source.model, source.name, row_by_row)
        settle(source.model, source.name)
        hold_indices(source.model)
        return chosen()
    except NotInvertibleError as error:
        raise NotInvertibleError(error.blockers, source.name) from None


def _with_decoder(
    source: Source, decoder: Source, recover: Sequence[str], known: Sequence[str], rules: RuleSet
) -> NewtonPlan:
    """The equations of the model behind the decoder, both at the newer of their opsets."""
    normalise(decoder)
    opset = max(part.model.opset_imports.get("", 0) for part in (source, decoder))
    opset = opset if opset >= OLDEST_OPSET else OPSET
    for part in (source, decoder):
        raise_opset(part, opset)
    problem = pose(source.model, recover, known, smooth=True)
    if len(problem.recovered) > 1:
        names = ", ".join(repr(value.name) for value in problem.recovered)
        raise UsageError(f"--prior {decoder.name}: a decoder makes one input; {names} are to be recovered.")
    made = join(source, decoder, problem.recovered[0])
    inner = pose(source.model, [made.w.name or ""], [value.name or "" for value in problem.known])
    return make_newton_plan(problem, rules, Decoder(inner, made.x, decoder.name, decoder.sha256))


def arrays_of(data: Data | None, problem: Problem, stack: ExitStack) -> dict[str, NDArray[Any]] | None:
    """The data by input name; what is large stays on the disk until it is used, `stack` says how long at most."""
    if data is None:
        return None
    names = [value.name or "" for value in problem.inputs]
    if isinstance(data, np.ndarray):
        return match({"": data}, names, "The data")
    if isinstance(data, Mapping):
        return match(data, names, "The data")
    path = Path(data)
    # What is still mapped cannot be removed everywhere.
    scratch = tempfile.TemporaryDirectory(prefix="onnx-invert-", ignore_cleanup_errors=True)
    return match(load(path, scratch=Path(stack.enter_context(scratch))), names, path.name)


def some_of(data: Mapping[str, NDArray[Any]], plan: AnyPlan, count: int) -> dict[str, NDArray[Any]]:
    """Samples of a prior's data to verify on, evenly spread: inputs that are drawn would be none it was fitted to."""
    name = plan.problem.recovered[0].name or ""
    if not data[name].ndim:
        raise UsageError(f"The data for {name!r} is one number: samples lie along a first axis.")
    total = len(data[name])
    rows = np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))
    return {
        name: np.asarray(array[rows]) if array.ndim and len(array) == total else array for name, array in data.items()
    }
