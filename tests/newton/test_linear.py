"""Elimination in the graph against LAPACK's Cholesky factorisation, whatever the units."""

import numpy as np
import onnx_ir as ir
import pytest
from scipy.linalg import solve as lapack
from solving import normal, run

from onnx_invert.build.inverse import assemble
from onnx_invert.build.newton.linear import BLOCK, solve
from onnx_invert.graph.emit import Emitter
from onnx_invert.graph.write import to_proto

EPS = np.finfo(np.float32).eps
FLOAT = ir.TensorType(ir.DataType.FLOAT)


def solved(a, b):
    """z (N, k, 1) of A z = b in onnxruntime."""
    size = a.shape[1]
    ports = [ir.Value(name=name, shape=ir.Shape(["N", size, k]), type=FLOAT) for name, k in (("a", size), ("b", 1))]
    e = Emitter(ir.DataType.FLOAT, ["a", "b", "z"])
    z = e.op("Identity", solve(e, *ports, size))
    z.name, z.shape, z.type = "z", ir.Shape(["N", size, 1]), FLOAT
    return run(to_proto(assemble(e, ports, [z], {"": 17}, name="solve")), a=a, b=b)[0]


@pytest.mark.parametrize("size", [1, 2, 10, BLOCK, BLOCK + 1, 40, 100])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e4, 1e8])
def test_as_lapack_in_every_unit(size, unit):
    """The condition is at most 10: what is lost is lost by the elimination."""
    j = normal(8, size, size)
    a = unit * (np.eye(size) + j @ j.transpose(0, 2, 1) * 9 / np.linalg.norm(j, 2, axis=(1, 2))[:, None, None] ** 2)
    a, b = a.astype(np.float32), normal(8, size, 1, seed=1).astype(np.float32)
    got = solved(a, b)
    for matrix, right, found in zip(a.astype(np.float64), b.astype(np.float64), got, strict=True):
        true = lapack(matrix, right, assume_a="pos")
        assert np.linalg.norm(found - true) < 20 * EPS * np.linalg.norm(true)
