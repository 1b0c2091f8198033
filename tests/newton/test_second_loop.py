"""What the second loop is made of: its linear systems, and where it starts from."""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import pytest
from scipy.spatial import KDTree
from solving import normal, run

from onnx_invert.build.inverse import assemble
from onnx_invert.build.newton.dense import direction
from onnx_invert.build.newton.iteration import Direction, Restarts, Settings, State, initial, step
from onnx_invert.build.newton.objective import Coordinates
from onnx_invert.build.newton.unknowns import Unknowns, nearest
from onnx_invert.graph.emit import Emitter
from onnx_invert.graph.write import to_proto
from onnx_invert.numerics.prior import fit
from onnx_invert.numerics.start import Start

FLOAT = ir.TensorType(ir.DataType.FLOAT)


@dataclass
class Affine:
    """Equations whose J is an input of the graph: of `outputs` numbers, for `size` others."""

    outputs: int
    size: int
    j: ir.Value
    box: None = None

    @property
    def coordinates(self):
        return self

    def jacobian(self, e):
        return self.j


def port(name, *shape):
    return ir.Value(name=name, shape=ir.Shape(shape), type=FLOAT)


def finish(e, ports, value, *shape):
    output = e.op("Identity", value)
    output.name, output.shape, output.type = "out", ir.Shape(shape), FLOAT
    return to_proto(assemble(e, ports, [output], {"": 17}, name="part"))


def a_step(j, r, damping, *, careful):
    """The step (N, n) of the second phase with J (N, m, n), a residual (N, m) and one damping."""
    m, n = j.shape[1:]
    e = Emitter(ir.DataType.FLOAT, ["j", "r", "out"])
    ports = [port("j", "N", m, n), port("r", "N", m)]
    affine = Affine(m, n, ports[0])
    number = e.op("Mul", e.op("ReduceSum", ports[1], e.ints([1]), keepdims=1), 0.0)
    point = e.constant(np.zeros((1, n)), "v")
    state = State(point, point, e.op("Add", number, damping), number, number, number, point, number)
    step = direction(affine, careful=careful).emit(e, affine, affine, ports[1], state)
    return run(finish(e, ports, step, "N", n), j=j, r=r)[0]


def left_by(j, r, *, careful, damping=0.0):
    """‖r − J s‖ / ‖r‖ of each sample after such a step s."""
    s = a_step(j, r, damping, careful=careful)
    rest = r - (j.astype(np.float64) @ s[..., None])[..., 0]
    return np.linalg.norm(rest, axis=1) / np.linalg.norm(r, axis=1)


def conditioned(m, n, least, seed=0):
    """J (16, m, n) of singular values from 1 down to `least`, and its right singular vectors."""
    count, rank = 16, min(m, n)
    left, right = (np.linalg.qr(normal(count, size, rank, seed=seed + i))[0] for i, size in enumerate((m, n)))
    values = np.geomspace(1, least, rank)
    return ((left * values) @ right.transpose(0, 2, 1)).astype(np.float32), right


SIZES = [(20, 24), (24, 20), (1, 5), (5, 1), (16, 40), (50, 33)]


@pytest.mark.parametrize(("m", "n"), SIZES)
@pytest.mark.parametrize("least", [1e-3, 1e-5])
def test_a_step_along_small_singular_values(m, n, least):
    """Singular values over decades: float32 holds them in J, and their squares no longer in J Jᵀ.

    Backward stable: the step is that of a J whose entries are changed by rounding.
    """
    j, right = conditioned(m, n, least)
    # A residual that a step of size 1 along every singular vector removes.
    r = (j.astype(np.float64) @ (right @ np.ones((*right.shape[::2], 1))))[..., 0].astype(np.float32)
    assert left_by(j, r, careful=True).max() < 1e-5
    if least < 1e-4 and min(m, n) > 1:
        assert left_by(j, r, careful=False).min() > 1e-4


@pytest.mark.parametrize(("m", "n"), [(40, 60), (60, 40)])
@pytest.mark.parametrize("damping", [1e-2, 1e-6, 1e-10])
def test_a_damped_step(m, n, damping):
    """numpy's singular value decomposition in float64; of the damped problem the condition is 1 / √λ."""
    j, _ = conditioned(m, n, 1e-6, seed=7)
    r = normal(16, m, seed=3).astype(np.float32)
    step = a_step(j, r, damping, careful=True).astype(np.float64)
    left, values, right = np.linalg.svd(j.astype(np.float64), full_matrices=False)
    share = damping * np.sum(np.square(values), axis=1, keepdims=True) / min(m, n)
    along = values / (values**2 + share) * np.einsum("bij,bi->bj", left, r.astype(np.float64))
    exact = np.einsum("bji,bj->bi", right, along)
    error = np.linalg.norm(step - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert error.max() < 20 * np.finfo(np.float32).eps / damping**0.5


@pytest.mark.parametrize(("m", "n"), [(48, 48), (30, 60), (60, 30)])
def test_a_singular_jacobian(m, n):
    """J of rank 3, up to three panels: what a step can remove is removed, and none is infinite without damping."""
    j = (normal(64, m, 3) @ normal(64, 3, n, seed=1)).astype(np.float32)
    r = (j.astype(np.float64) @ normal(64, n, 1, seed=2))[..., 0].astype(np.float32)
    assert left_by(j, r, careful=True, damping=1e-10).max() < 1e-5
    assert np.isfinite(a_step(j, r, 0.0, careful=True)).all()


def test_the_nearest_pairs():
    """As scipy's k-d tree has them, in units of each known number."""
    m, n, count = 3, 5, 4
    pairs, stored, known = normal(100, m), normal(100, n, seed=1), normal(6, m, seed=2)
    scale = np.array([[1.0, 20.0, 0.1]])
    e = Emitter(ir.DataType.FLOAT, ["known", "out"])
    source = port("known", "N", m)
    found = nearest(e, source, e.constant(scale, "scale"), pairs, stored, count)
    (rows,) = run(finish(e, [source], found, "N", count, n), known=known.astype(np.float32))
    _, expected = KDTree(pairs * scale).query(known * scale, k=count)
    np.testing.assert_allclose(rows, stored[expected], rtol=1e-6)


class Still:
    """Equations whose F is v, and steps of 0."""

    outputs, size, box = 2, 2, None

    @property
    def coordinates(self):
        return self

    def at(self, e, v, seeds, width=None):
        return Still.At(v)

    def value(self, e, v, width=None):
        return v

    @dataclass
    class At:
        value: ir.Value


def test_on_from_the_best():
    """A sample that stalls starts where it has been nearest to a solution, in the turns that are for that alone."""
    onwards = np.array([False, True])
    restarts = Restarts(np.array([[5.0, 5.0], [0.0, 0.0]]), np.ones(2, bool), onwards=onwards)
    settings = Settings(10, 1e-5, 1e-7, 1e-7, 1, restarts, 1e30)
    e = Emitter(ir.DataType.FLOAT, ["t", "best", "tries", "out"])
    ports = [port("t", "N", 2), port("best", "N", 2), port("tries", "N", 1)]
    number = e.op("Mul", ports[2], 0.0)
    begun = initial(e, ports[0], 2, settings, (e.op("Add", ports[0], 3.0), e.op("Add", number, 4.0)))
    begun = replace(begun, best=ports[1], tries=ports[2], stall=e.op("Add", number, 1.0))
    nothing = Direction(1, lambda e, objective, local, residual, state: e.op("Mul", state.v, 0.0))
    after, _ = step(e, Still(), nothing, ports[0], e.op("Add", number, 1.0), begun, settings)
    t, best = normal(3, 2).astype(np.float32), normal(3, 2, seed=1).astype(np.float32)
    tries = np.array([[0.0], [1.0], [2.0]], np.float32)
    (v,) = run(finish(e, ports, after.v, "N", 2), t=t, best=best, tries=tries)
    np.testing.assert_allclose(v, [[5.0, 5.0], best[1], t[2] + 3], rtol=1e-6)


@pytest.mark.parametrize("rounding", [True, False])
@pytest.mark.parametrize("plausible", [True, False])
def test_turns(rounding, plausible):
    """Of three times a sample starts from the regression, a pair and the best x so far, the last with kinks to round
    off only; there are never more starts from pairs than pairs."""
    known, unknown, count = normal(64, 3), normal(64, 5, seed=1), 96
    regression = fit(lambda: [(known, unknown)], conditional=True, unit=2.0**-23) if plausible else None
    e = Emitter(ir.DataType.FLOAT, ["known"])
    free = Unknowns(Coordinates(5), None, np.zeros(5), None, None)
    start, scale = Start(regression, known, unknown), e.constant(np.ones((1, 3)), "scale")
    found = free.rescues(e, port("known", "N", 3), scale, 30 * count, start, rounding=rounding)
    assert found.paired.sum() <= len(known)
    if not plausible:
        assert (len(found), found.width, found.onwards) == (64, None, None)
        return
    assert (len(found), found.onwards.sum()) == (count, count // 3 if rounding else 0)
    assert not (found.onwards & found.paired).any()
    if rounding:
        assert found.second[found.onwards].all()
        assert 0 < found.width[found.onwards].max() <= 0.1
