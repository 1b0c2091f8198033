"""Train a digit classifier, 784 pixels to ten logits, and write it as ONNX.

    python tools/train_mnist.py --model mnist_mlp --out models/

The same command gives the same bytes on the same machine. Needs the dependency group `train`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from digits import Digits, load_digits
from export import export
from networks import dense_network, start

if TYPE_CHECKING:
    import keras

EPOCHS = 60
BATCH = 50


class Spec(NamedTuple):
    """Layer sizes and the slope of the LeakyReLU between them."""

    sizes: tuple[int, ...]
    slope: float


MODELS = {
    "mnist_mlp": Spec((784, 128, 64, 10), 0.2),
    "seed_mlp": Spec((784, 64, 64, 10), 0.3),
}


def train(name: str, digits: Digits) -> keras.Model:
    """Train one classifier; noise on the pixels and weight decay add two to three points of accuracy."""
    import keras

    start(seed=0)
    model = dense_network(name, "image", *MODELS[name], noise=0.5)
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
