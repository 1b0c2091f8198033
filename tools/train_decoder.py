"""Train a decoder, the ten logits of a classifier to the 784 pixels that they came from, and write it as ONNX.

    python tools/train_decoder.py --model models/mnist_lenet.onnx --out tests/data/newton/

What `decoder_lenet.onnx` returns for the test digits is what two minutes of training give where nothing is
inverted: a figure for an inverse of mnist_lenet to be compared with. It is trained for a time and not for a
number of steps, so a faster machine writes another file. Needs the dependency group `train`.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from digits import Digits, load_digits
from export import export, run
from networks import dense_network, start
from train_small import variance

if TYPE_CHECKING:
    import keras

SIZES = (10, 256, 256, 784)
BATCH = 100
RATE = 2e-3
# Both keep the decoder from learning the training digits by heart. The noise is on the pixels that the
# classifier sees, in every epoch another, so that its logits are spread as they are for new digits.
PIXEL_NOISE = 0.3
DROPOUT = 0.2


def train(classifier: Path, digits: Digits, seconds: float) -> tuple[keras.Model, int]:
    """Train one decoder with a step size that falls to zero at the end of the time; also return the epochs."""
    import keras

    start(seed=0)
    name = f"decoder_{classifier.stem.removeprefix('mnist_')}"
    model = dense_network(name, "logits", SIZES, "relu", output="sigmoid", dropout=DROPOUT)
    model.compile(keras.optimizers.AdamW(RATE, weight_decay=0.05), "mse")
    x = digits.x_train
    rng = np.random.default_rng(0)
    epochs, begun = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < seconds:
        model.optimizer.learning_rate = RATE * (1 + math.cos(math.pi * elapsed / seconds)) / 2
        seen = x + PIXEL_NOISE * rng.standard_normal(x.shape, dtype=np.float32)
        model.fit(run(classifier, seen), x, batch_size=BATCH, epochs=1, verbose=0)
        epochs += 1
    return model, epochs


def main() -> None:
    """Train, write, print the error on the test digits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="784 pixels to ten logits")
    parser.add_argument("--out", type=Path, default=Path("tests/data/newton"), metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=120)
    args = parser.parse_args()

    digits = load_digits()
    model, epochs = train(args.model, digits, args.seconds)
    logits = run(args.model, digits.x_test)
    export(model, args.out, "image", f"The ten logits of {args.model.stem} back to an image of the digit.", logits)
    error = np.mean((run(args.out / f"{model.name}.onnx", logits) - digits.x_test) ** 2)
    print(f"  {epochs} epochs; test MSE per pixel {error:.4f} ({variance(digits.x_test)})")


if __name__ == "__main__":
    main()
