"""What the second loop is made of: its linear systems, and the pairs that it starts from."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest
from scipy.spatial import KDTree
from solving import normal, run

from onnx_invert.build.inverse import assemble
from onnx_invert.build.newton.dense import direction
from onnx_invert.build.newton.iteration import State
from onnx_invert.build.newton.unknowns import nearest
from onnx_invert.graph.emit import Emitter
from onnx_invert.graph.write import to_proto

FLOAT = ir.TensorType(ir.DataType.FLOAT)


@dataclass
class Affine:
    """Equations whose J is an input of the graph: of `outputs` numbers, for `size` others."""

    outputs: int
    size: int
    j: ir.Value

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


def left_by(j, r, *, careful):
    """‖r − J s‖ / ‖r‖ of each sample after an undamped step s of the second phase."""
    m, n = j.shape[1:]
    e = Emitter(ir.DataType.FLOAT, ["j", "r", "out"])
    ports = [port("j", "N", m, n), port("r", "N", m)]
    affine = Affine(m, n, ports[0])
    number = e.op("Mul", e.op("ReduceSum", ports[1], e.ints([1]), keepdims=1), 0.0)
    point = e.constant(np.zeros((1, n)), "v")
    state = State(point, point, number, number, number, number, point, number)
    step = direction(affine, careful=careful).emit(e, affine, affine, ports[1], state)
    (s,) = run(finish(e, ports, step, "N", n), j=j, r=r)
    rest = r - (j.astype(np.float64) @ s[..., None])[..., 0]
    return np.linalg.norm(rest, axis=1) / np.linalg.norm(r, axis=1)


@pytest.mark.parametrize(("m", "n"), [(20, 24), (24, 20)])
def test_a_step_along_small_singular_values(m, n):
    """Singular values over five decades: float32 holds them in J, and their squares no longer in J Jᵀ.

    The residual of a Gauss–Jordan elimination is of the order of eps · condition, here 2e-16 · 1e10 (Higham, 14.4).
    """
    count, rank = 16, min(m, n)
    left, right = (np.linalg.qr(normal(count, size, rank, seed=seed))[0] for seed, size in enumerate((m, n)))
    values = np.geomspace(1, 1e-5, rank)
    j = ((left * values) @ right.transpose(0, 2, 1)).astype(np.float32)
    # A residual that a step of size 1 along every singular vector removes.
    r = (j.astype(np.float64) @ (right @ np.ones((count, rank, 1))))[..., 0].astype(np.float32)
    assert left_by(j, r, careful=True).max() < 1e-5
    assert left_by(j, r, careful=False).min() > 1e-2


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
