"""Peak memory of inverting a large network, beyond what the imports take, in multiples of the model's size.

    python benchmarks/memory.py [--layers 12] [--width 2048] [--markdown FILE]

Each figure is the peak resident size of a fresh process (what the operating system accounts for it).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tables import arguments, publish, table

TARGET = 3.0


def save(layers: int, width: int, path: Path) -> None:
    """Square dense layers near the identity, with LeakyReLU between: as large as asked, and well conditioned."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, tensor = [], [], "x"
    for layer in range(layers):
        spread = 0.3 / np.sqrt(width)
        matrix = (np.eye(width) + spread * rng.standard_normal((width, width))).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        weights.append(numpy_helper.from_array(rng.standard_normal(width).astype(np.float32), f"b{layer}"))
        nodes.append(helper.make_node("MatMul", [tensor, f"w{layer}"], [f"m{layer}"], name=f"fc{layer}/MatMul"))
        nodes.append(helper.make_node("Add", [f"m{layer}", f"b{layer}"], [f"a{layer}"], name=f"fc{layer}/Add"))
        tensor = f"a{layer}"
        if layer + 1 < layers:
            nodes.append(helper.make_node("LeakyRelu", [tensor], [f"r{layer}"], alpha=0.5, name=f"act{layer}"))
            tensor = f"r{layer}"
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name in ("x", tensor)]
    graph = helper.make_graph(nodes, "large", ports[:1], ports[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def peak(command: list[str]) -> int:
    """Peak resident bytes of one process."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return usage.ru_maxrss * 1024


def main() -> None:
    """Measure and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make is not None:
        save(options.layers, options.width, options.make)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "large.onnx"
        # In a process of its own: a child's peak is never below what its parent held when it was started.
        sizes = ["--layers", str(options.layers), "--width", str(options.width)]
        subprocess.run([sys.executable, __file__, *sizes, "--make", str(model)], check=True)
        size = model.stat().st_size
        imports = peak([sys.executable, "-c", "import onnx_invert.api, onnx_invert.cli.render"])
        ours = [sys.executable, "-m", "onnx_invert", str(model), "-o", str(Path(folder) / "inverse.onnx"), "--quiet"]
        rows = []
        for name, command in {"verified": ours, "not verified": [*ours, "--no-verify"]}.items():
            top = peak(command)
            rows.append([name, f"{top / 2**20:.0f}", f"{(top - imports) / size:.2f}", f"{TARGET:g}"])
    found = table(["inversion", "peak MiB", "beyond the imports, in model sizes", "at most"], rows)
    sizes = f"A model of {size / 2**20:.0f} MiB; the imports take {imports / 2**20:.0f} MiB."
    publish([sizes, "", *found], options.markdown)


if __name__ == "__main__":
    main()
