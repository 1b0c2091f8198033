"""Products of constant matrices with tensors of which elements are 0 throughout: of those that are not, alone.

A coupling by a mask gives its network zeros where the mask has some. To put them between the others, and to multiply
them, takes as long as the numbers that count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_invert.build.system.columns import join
from onnx_invert.build.tape import again

if TYPE_CHECKING:
    from onnx_invert.build.system.realise import Realisation


def product(r: Realisation, node: ir.Node) -> list[ir.Value] | None:
    """What a MatMul or Gemm makes of a tensor with zeros along its last axis; None if none can be left out."""
    if node.op_type not in {"MatMul", "Gemm"} or node.domain not in {"", "ai.onnx"}:
        return None
    x, matrix = node.inputs[:2]
    if x is None or matrix is None or x not in r.pieces or any((node, place) in r.replaced for place in (0, 1)):
        return None
    flags = {name: node.attributes[name].as_int() for name in ("transA", "transB") if name in node.attributes}
    rank = len(r.shape(x))
    if matrix.const_value is None or len(matrix.const_value.shape) != 2 or rank < 2 or flags.get("transA"):
        return None
    line = r.pieces[x].line(rank - 1)
    if line is None:
        return None
    live = [at for at, column in enumerate(line) if column is None or column.value not in r.e.zeros]
    if not 0 < len(live) < len(line):
        return None
    along = 1 if flags.get("transB") else 0
    weight = matrix.const_value.numpy()
    if not np.isfinite(np.delete(weight, live, along)).all():  # 0 · ∞ is no 0
        return None
    columns = [column for at in live if (column := line[at]) is not None]
    if len(columns) < len(live):
        return None
    with r.typed(x):
        thin = join(r.e, rank - 1, columns, inner=())
        others = [r.operand(node, place) for place in range(2, len(node.inputs))]
        inputs = [thin, r.e.constant(np.take(weight, live, along), "thin"), *others]
    r.root.copied.append(node)
    return list(again(r.e, node, inputs))
