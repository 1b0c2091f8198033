"""Train a digit classifier, 784 pixels to ten logits, and write it as ONNX.

    python tools/train_mnist.py --model mnist_mlp --out models/

The same command gives the same bytes on the same machine. Needs the dependency group `train`.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from digits import Digits, load_digits
from export import export
from networks import dense_network, lenet, residual_network, start

if TYPE_CHECKING:
    from collections.abc import Callable

    import keras

EPOCHS = 60
BATCH = 50


MODELS: dict[str, Callable[..., keras.Model]] = {
    "mnist_mlp": partial(dense_network, sizes=(784, 128, 64, 10), activation=0.2),
    "seed_mlp": partial(dense_network, sizes=(784, 64, 64, 10), activation=0.3),
    "mnist_relu": partial(dense_network, sizes=(784, 128, 64, 10), activation="relu"),
    "mnist_lenet": partial(lenet, channels=(6, 16), widths=(120, 84, 10)),
    "mnist_residual": partial(residual_network, sizes=(784, 128, 10), hidden=128, blocks=2),
    "mnist_tanh": partial(dense_network, sizes=(784, 128, 64, 10), activation="tanh"),
    "mnist_wide": partial(dense_network, sizes=(784, 1024, 10), activation=0.2),
}


def train(name: str, digits: Digits) -> keras.Model:
    """Train one classifier; noise on the pixels and weight decay add two to three points of accuracy."""
    import keras

    start(seed=0)
    model = MODELS[name](name, "image", noise=0.5)
    steps = EPOCHS * (len(digits.x_train) // BATCH)
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(2e-3, steps), weight_decay=0.05),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(digits.x_train, digits.y_train, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


def main() -> None:
    """Train, write, print the test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--out", type=Path, default=Path("models"), metavar="FOLDER")
    args = parser.parse_args()

    digits = load_digits()
    model = train(args.model, digits)
    export(model, args.out, "logits", "Pixels of a handwritten digit to its ten class logits.", digits.x_test)
    accuracy = (model.predict(digits.x_test, verbose=0).argmax(axis=1) == digits.y_test).mean()
    print(f"  test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
