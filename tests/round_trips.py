"""Round trips measured without the package: both files in float64 in onnx's own evaluator.

How far a trip may be off is measured too. Every tensor of both files is multiplied by 1 ± 1e-13 at random,
hundreds of times what rounding does to it; a right trip cannot be off by more than a few times what that
does. A sample that it moves by a thousandth or more says nothing, and is not judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from random_networks import Network
from scipy.special import erf

from onnx_invert import Guarantee
from onnx_invert.rules.interval import Interval

Array = np.ndarray[Any, Any]

ETA = 1e-13
SAFETY = 10.0
FLOOR = 1e-12
JUDGED_BELOW = 1e-3


@dataclass(frozen=True)
class Trip:
    """Relative errors, one a sample, and how large they may be."""

    errors: Array
    allowed: Array

    @property
    def judged(self) -> Array:
        """The samples that say something."""
        return np.asarray(self.allowed < JUDGED_BELOW)

    @property
    def wrong(self) -> Array:
        """The samples on which the trip does not come back."""
        return np.asarray(self.judged & ~(self.errors <= self.allowed))


@dataclass(frozen=True)
class Trips:
    """x: g(f(x)) against x; y: f(g(y)) against y = f(x); drawn: the same for y drawn directly."""

    x: Trip
    y: Trip
    drawn: Trip | None

    def contradictions(self, guarantee: Guarantee) -> dict[str, float]:
        """Every promised trip that fails on a judged sample, with its worst error."""
        promised = {
            "g(f(x)) = x": (guarantee.promises_x, self.x),
            "f(g(f(x))) = f(x)": (guarantee.promises_reachable_y, self.y),
            "f(g(y)) = y": (guarantee.promises_every_y, self.drawn),
        }
        return {
            what: float(trip.errors[trip.wrong].max())
            for what, (holds, trip) in promised.items()
            if holds and trip is not None and trip.wrong.any()
        }


class Erf(OpRun):
    """erf in float64: onnx's own rounds to float32."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.asarray(erf(x), dtype=x.dtype),)


def evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """onnx's evaluator, with an exact Erf."""
    return ReferenceEvaluator(model, new_ops=[Erf])


class Pair:
    """f and g in float64, as they are and with noise."""

    def __init__(self, forward: onnx.ModelProto, inverse: onnx.ModelProto, noise: tuple[int, ...] = (1, 2)) -> None:
        models = (forward, inverse)
        self._plain = [evaluator(model) for model in models]
        self._noisy = [[evaluator(with_noise(model, seed)) for model in models] for seed in noise]

    def f(self, x: Array, noise: int | None = None) -> Array:
        """y of one run."""
        return self._run(0, x, noise)

    def g(self, y: Array, noise: int | None = None) -> Array:
        """x of one run."""
        return self._run(1, y, noise)

    @property
    def draws(self) -> range:
        """The numbers of the noisy copies."""
        return range(len(self._noisy))

    def _run(self, which: int, value: Array, noise: int | None) -> Array:
        session = (self._plain if noise is None else self._noisy[noise])[which]
        with np.errstate(all="ignore"):
            return np.asarray(session.run(None, {session.input_names[0]: value})[0])


def measure(
    network: Network, inverse: onnx.ModelProto, image: Interval | None, *, every_y: bool, seed: int = 7
) -> Trips | None:
    """Both trips on drawn samples, and the third where `every_y` is promised; None if f is not finite on any."""
    rng = np.random.default_rng(seed)
    pair = Pair(network.exact, inverse)
    x = network.draw(rng)
    y = [pair.f(run) for run in x]
    flat_x, flat_y = network.samples(x), network.samples(y, network.rows)
    finite = np.isfinite(flat_y).all(axis=1)
    if not finite.any():
        return None
    there = Trip(*_trip(network, pair, x, flat_x, finite, back=False))
    again = Trip(*_trip(network, pair, y, flat_y, finite, back=True))
    drawn = None
    if every_y:
        fresh = _fresh(flat_y[finite], len(flat_y), image, rng)
        drawn = Trip(*_trip(network, pair, network.back(fresh, y), fresh, np.ones(len(fresh), bool), back=True))
    return Trips(there, again, drawn)


def reproduces(network: Network, inverse: onnx.ModelProto) -> bool | None:
    """Whether f(g(f(x))) = f(x) on every judged sample; None if none is, or if f is constant."""
    pair = Pair(network.exact, inverse)
    y = [pair.f(run) for run in network.draw(np.random.default_rng(7))]
    flat = network.samples(y, network.rows)
    finite = np.isfinite(flat).all(axis=1)
    if not finite.any() or np.ptp(flat[finite], axis=0).max() <= 1e-9 * np.abs(flat[finite]).max():
        return None
    trip = Trip(*_trip(network, pair, y, flat, finite, back=True))
    return not trip.wrong.any() if trip.judged.any() else None


def _trip(
    network: Network, pair: Pair, start: list[Array], flat: Array, use: Array, *, back: bool
) -> tuple[Array, Array]:
    """x → f → g → x, or y → g → f → y where `back`: errors and what is allowed."""

    first, second = (pair.g, pair.f) if back else (pair.f, pair.g)

    def ends(noise: int | None) -> Array:
        runs = [second(first(run, noise), noise) for run in start]
        return network.samples(runs, network.rows if back else 0)

    norm = np.linalg.norm(flat, axis=1)
    norm = np.maximum(norm, 1e-3 * float(np.median(norm[use]) or 1.0))
    got = ends(None)
    with np.errstate(all="ignore"):
        errors = np.linalg.norm(got - flat, axis=1) / norm
        moved = np.max([np.linalg.norm(ends(draw) - got, axis=1) / norm for draw in pair.draws], axis=0)
    allowed = SAFETY * moved + FLOOR
    # Noise that leaves the finite numbers shows a sample at their edge; without it, the trip itself is wrong.
    allowed = np.where(np.isfinite(allowed), allowed, np.where(np.isfinite(errors), np.inf, FLOOR))
    # A point that no float64 holds cannot come back; NaN, though, is never an answer.
    middle = network.samples([first(run) for run in start], 0 if back else network.rows)
    allowed = np.where(np.isinf(middle).any(axis=1) & ~np.isnan(middle).any(axis=1), np.inf, allowed)
    return np.where(np.isfinite(errors), errors, np.inf)[use], allowed[use]


def _fresh(y: Array, count: int, image: Interval | None, rng: np.random.Generator) -> Array:
    """Outputs that no x was chosen for, inside the box that the inverse is promised for."""
    if image is not None and image.is_reals:
        spread = y.std(axis=0)
        return y.mean(axis=0) + 2 * np.where(spread > 0, spread, 1.0) * rng.standard_normal((count, y.shape[1]))
    rows = rng.integers(0, len(y), (count, y.shape[1]))
    return np.take_along_axis(y, rows, axis=0)


def with_noise(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """A copy in which every float64 tensor is multiplied by 1 + 1e-13·u, u random in ±1."""
    typed = onnx.shape_inference.infer_shapes(model)
    graph = typed.graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    nodes: list[onnx.NodeProto] = []
    constants = [helper.make_tensor(f"noise.{name}", TensorProto.DOUBLE, [], [v]) for name, v in _SCALARS]
    for index, node in enumerate(graph.node):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
        name = node.output[0]
        if kinds.get(name) != TensorProto.DOUBLE:
            continue
        copy.output[0] = raw = f"{name}.raw"
        u, small, factor = (f"{name}.{part}" for part in ("u", "small", "factor"))
        nodes += [
            helper.make_node(
                "RandomUniformLike", [raw], [u], low=-1.0, high=1.0, dtype=TensorProto.DOUBLE, seed=1e3 * seed + index
            ),
            helper.make_node("Mul", [u, "noise.eta"], [small]),
            helper.make_node("Add", [small, "noise.one"], [factor]),
            helper.make_node("Mul", [raw, factor], [name]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    return typed


_SCALARS = (("eta", ETA), ("one", 1.0))
