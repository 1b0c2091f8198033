"""The forward kinematics of serial arms as graphs: Sin and Cos of each joint, a chain of 4 × 4 matrices."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Denavit and Hartenberg's a, alpha, d of each joint (metres, radians).
PLANAR = [(0.5, 0.0, 0.0), (0.4, 0.0, 0.0)]
ELBOW = [(0.0, np.pi / 2, 0.3), (0.5, 0.0, 0.0), (0.4, 0.0, 0.0)]
SCARA = [(0.25, 0.0, 0.4), (0.2, np.pi, 0.0), (0.0, 0.0, 0.05)]
PUMA = [
    (0.0, np.pi / 2, 0.67),
    (0.43, 0.0, 0.0),
    (0.02, -np.pi / 2, 0.15),
    (0.0, np.pi / 2, 0.43),
    (0.0, -np.pi / 2, 0.0),
    (0.0, 0.0, 0.06),
]


def arm(links, *, rotation=False, split=False):
    """q (N, joints) → position (N, 3), and with `rotation` (N, 3, 3); with `split` each joint is an input (N, 1)."""
    g = _Graph()
    joints = [f"q{i}" for i in range(len(links))]
    if split:
        inputs = [(name, ["N", 1]) for name in joints]
    else:
        inputs = [("q", ["N", len(links)])]
        g.node("Split", ["q", g.ints([1] * len(links))], joints, axis=1)
    whole = ""
    for (a, alpha, d), q in zip(links, joints, strict=True):
        c, s = g.node("Cos", [q]), g.node("Sin", [q])
        ca, sa = np.cos(alpha), np.sin(alpha)
        zero = g.node("Mul", [q, g.number(0)])
        rows = [
            [c, g.node("Mul", [s, g.number(-ca)]), g.node("Mul", [s, g.number(sa)]), g.node("Mul", [c, g.number(a)])],
            [s, g.node("Mul", [c, g.number(ca)]), g.node("Mul", [c, g.number(-sa)]), g.node("Mul", [s, g.number(a)])],
            [zero, *(g.node("Add", [zero, g.number(value)]) for value in (sa, ca, d))],
            [zero, zero, zero, g.node("Add", [zero, g.number(1)])],
        ]
        flat = g.node("Concat", [entry for row in rows for entry in row], axis=1)
        matrix = g.node("Reshape", [flat, g.ints([-1, 4, 4])])
        whole = g.node("MatMul", [whole, matrix]) if whole else matrix
    top = g.node("Slice", [whole, g.ints([0]), g.ints([3]), g.ints([1])])
    column = g.node("Slice", [top, g.ints([3]), g.ints([4]), g.ints([2])])
    g.node("Squeeze", [column, g.ints([2])], ["position"])
    outputs = [("position", ["N", 3])]
    if rotation:
        g.node("Slice", [top, g.ints([0]), g.ints([3]), g.ints([2])], ["rotation"])
        outputs.append(("rotation", ["N", 3, 3]))
    return g.model(inputs, outputs)


def reach(links, q):
    """The same in numpy, as 4 × 4 matrices (N, 4, 4)."""
    whole = np.eye(4)[None]
    for (a, alpha, d), angle in zip(links, np.asarray(q, dtype=np.float64).T, strict=True):
        c, s, ca, sa = np.cos(angle), np.sin(angle), np.cos(alpha), np.sin(alpha)
        zero, one = np.zeros_like(c), np.ones_like(c)
        rows = [
            [c, -s * ca, s * sa, a * c],
            [s, c * ca, -c * sa, a * s],
            [zero, sa * one, ca * one, d * one],
            [zero, zero, zero, one],
        ]
        whole = whole @ np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    return whole


class _Graph:
    def __init__(self):
        self._nodes, self._weights, self._count = [], {}, 0

    def node(self, op, inputs, outputs=(), **attributes):
        self._count += 1
        outputs = list(outputs) or [f"t{self._count}"]
        self._nodes.append(helper.make_node(op, inputs, outputs, name=f"{op}_{self._count}", **attributes))
        return outputs[0]

    def number(self, value):
        return self._weight(np.array([value], np.float32))

    def ints(self, values):
        return self._weight(np.array(values, np.int64))

    def _weight(self, array):
        return self._weights.setdefault((array.dtype.str, *array.tolist()), (f"w{len(self._weights)}", array))[0]

    def model(self, inputs, outputs):
        ports = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in p] for p in (inputs, outputs)]
        weights = [numpy_helper.from_array(array, name) for name, array in self._weights.values()]
        graph = helper.make_graph(self._nodes, "arm", *ports, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model
