"""The linear systems of a step: where J is close to singular, no D⁻¹ of a block is to be formed."""

import numpy as np
import onnx_ir as ir
from solving import normal, run

from onnx_invert.build.inverse import assemble
from onnx_invert.build.newton.linear import solve
from onnx_invert.graph.emit import Emitter
from onnx_invert.graph.write import to_proto


def backward_error(a, b, *, careful):
    """‖A z − b‖ / (‖A‖ ‖z‖ + ‖b‖) of each sample, in float64."""
    size = a.shape[1]
    kind = ir.TensorType(ir.DataType.FLOAT)
    e = Emitter(ir.DataType.FLOAT, ["a", "b", "z"])
    ports = [
        ir.Value(name="a", shape=ir.Shape(["N", size, size]), type=kind),
        ir.Value(name="b", shape=ir.Shape(["N", size, 1]), type=kind),
    ]
    output = e.op("Identity", solve(e, *ports, size, careful=careful))
    output.name, output.shape, output.type = "z", ir.Shape(["N", size, 1]), kind
    model = to_proto(assemble(e, ports, [output], {"": 17}, name="linear"))
    z = run(model, a=a, b=b)[0].astype(np.float64)
    rest = np.linalg.norm(a.astype(np.float64) @ z - b, axis=(1, 2))
    return rest / (np.linalg.norm(a, 2, axis=(1, 2)) * np.linalg.norm(z, axis=(1, 2)) + np.linalg.norm(b, axis=(1, 2)))


def test_a_singular_jacobian():
    """J of rank 3: J Jᵀ + 1e-6 of its mean eigenvalue, three blocks. Some sample has a block D next to singular."""
    size = 48
    j = normal(64, size, 3) @ normal(64, 3, size, seed=1)
    gram = j @ j.transpose(0, 2, 1)
    mean = np.trace(gram, axis1=1, axis2=2)[:, None, None] / size
    a = (gram + 1e-6 * mean * np.eye(size)).astype(np.float32)
    b = normal(64, size, 1, seed=2).astype(np.float32)
    careful, fast = (backward_error(a, b, careful=careful).max() for careful in (True, False))
    assert careful < 1e-3
    assert careful < fast / 5
