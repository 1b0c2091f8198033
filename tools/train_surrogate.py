"""Train the surrogate of docs/surrogates.md: what a wine is measured to hold → its alcohol and colour.

python tools/train_surrogate.py --out models/surrogates/

The data are the 178 wines that ship with scikit-learn (UCI Wine). The network takes the other eleven measurements in
their own units, and returns both in theirs: the standardisation is its first and its last step.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

PREDICTED = ("alcohol", "color_intensity")
WIDTH, SEED = 16, 0


def load() -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """The measurements (178, 11), alcohol and colour (178, 2), and the names of the eleven."""
    wine = load_wine()
    names = list(wine.feature_names)
    given = [name for name in names if name not in PREDICTED]
    columns = [names.index(name) for name in given]
    return wine.data[:, columns], wine.data[:, [names.index(name) for name in PREDICTED]], given


def export(scale: StandardScaler, network: MLPRegressor, unscale: StandardScaler) -> onnx.ModelProto:
    """(x − mean) / deviation, two layers with tanh, one without, and back to units."""
    weights = {"mean": scale.mean_, "deviation": scale.scale_, "unit": unscale.scale_, "level": unscale.mean_}
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "deviation"], ["h0"]),
    ]
    last = len(network.coefs_)
    for layer, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True), 1):
        weights |= {f"w{layer}": weight, f"b{layer}": bias}
        made = f"a{layer}" if layer < last else "standard"
        nodes += [
            helper.make_node("MatMul", [f"h{layer - 1}", f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Add", [f"m{layer}", f"b{layer}"], [made]),
        ]
        nodes += [helper.make_node("Tanh", [made], [f"h{layer}"])] if layer < last else []
    nodes += [helper.make_node("Mul", ["standard", "unit"], ["u"]), helper.make_node("Add", ["u", "level"], ["y"])]
    sizes = len(scale.mean_), len(unscale.mean_)
    graph = helper.make_graph(
        nodes,
        "surrogate",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", sizes[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", sizes[1]])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train, say how well, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    folder = parser.parse_args().out
    x, y, _ = load()
    train, test, y_train, y_test = train_test_split(x, y, test_size=0.25, random_state=SEED)
    scale, unscale = StandardScaler().fit(train), StandardScaler().fit(y_train)
    network = MLPRegressor(
        hidden_layer_sizes=(WIDTH, WIDTH),
        activation="tanh",
        solver="lbfgs",
        alpha=3.0,
        max_iter=5000,
        random_state=SEED,
    ).fit(scale.transform(train), unscale.transform(y_train))
    for name, inputs, outputs in (("training", train, y_train), ("test", test, y_test)):
        guess = unscale.inverse_transform(network.predict(scale.transform(inputs)))
        r2 = 1 - np.sum((guess - outputs) ** 2, axis=0) / np.sum((outputs - outputs.mean(axis=0)) ** 2, axis=0)
        print(
            f"R² on {len(inputs)} {name} wines:", ", ".join(f"{n} {v:.2f}" for n, v in zip(PREDICTED, r2, strict=True))
        )
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(export(scale, network, unscale), folder / "wine.onnx")
    print(f"→ {folder / 'wine.onnx'}")


if __name__ == "__main__":
    main()
