"""Train the other shipped networks, each for a small real job on the same digits, and write them as ONNX.

    python tools/train_small.py --model bijective --out models/

The networks that begin at logits read them from mnist_mlp.onnx and seed_mlp.onnx in the same folder, which
tools/train_mnist.py writes. The same command gives the same bytes on the same machine. Needs the dependency
group `train`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from digits import Digits, downsample_8x8, load_digits
from export import export, run
from networks import dense_network, start

if TYPE_CHECKING:
    from collections.abc import Callable

    import keras
    from numpy.typing import NDArray

    Loss = str | Callable[[keras.KerasTensor, keras.KerasTensor], keras.KerasTensor]

EPOCHS = 100
BATCH = 100


class Task(NamedTuple):
    """Inputs and targets, for training and for the measurement that `measure` puts in words."""

    x_train: NDArray[np.float32]
    t_train: NDArray
    x_test: NDArray[np.float32]
    measure: Callable[[NDArray[np.float32]], str]


class Spec(NamedTuple):
    """A network, the job it does, and how it learns it."""

    does: str
    input_name: str
    output_name: str
    sizes: tuple[int, ...]
    slope: float | None
    task: Callable[[Digits, Path], Task]
    loss: Loss = "mse"
    orthogonality: float = 0.0


def classify_and_keep(digits: Digits, _: Path) -> Task:
    """8×8 pixels to ten class scores and 54 features that hardly correlate with each other."""
    x = downsample_8x8(digits.x_test)

    def measure(features: NDArray[np.float32]) -> str:
        accuracy = (features[:, :10].argmax(axis=1) == digits.y_test).mean()
        return (
            f"test accuracy of the first ten {accuracy:.3f}; mean absolute correlation of the other 54"
            f" {mean_correlation(features[:, 10:]):.3f} (of the pixels {mean_correlation(x):.3f})"
        )

    return Task(downsample_8x8(digits.x_train), digits.y_train, x, measure)


def class_and_correlation(labels: keras.KerasTensor, features: keras.KerasTensor) -> keras.KerasTensor:
    """Cross-entropy of the first ten features, plus the squared covariances of the rest in the batch."""
    from keras import losses, ops

    entropy = losses.sparse_categorical_crossentropy(labels, features[:, :10], from_logits=True)
    rest = features[:, 10:]
    rest = rest - ops.mean(rest, axis=0)
    covariance = ops.matmul(ops.transpose(rest), rest) / BATCH
    off_diagonal = covariance * (1 - ops.eye(rest.shape[1]))
    return ops.mean(entropy) + ops.sum(ops.square(off_diagonal))


def compress(digits: Digits, _: Path) -> Task:
    """8×8 pixels to themselves, through ten numbers."""
    x_train, x_test = downsample_8x8(digits.x_train), downsample_8x8(digits.x_test)
    mean = x_train.mean(axis=0)
    components = np.linalg.svd(x_train - mean, full_matrices=False)[2][:10]
    pca = mean + (x_test - mean) @ components.T @ components
    reference = f"ten principal components {np.mean((pca - x_test) ** 2):.4f}, {variance(x_test)}"

    def measure(image: NDArray[np.float32]) -> str:
        return f"test MSE per pixel {np.mean((image - x_test) ** 2):.4f} ({reference})"

    return Task(x_train, x_train, x_test, measure)


def decode(digits: Digits, models: Path) -> Task:
    """The logits of mnist_mlp to the digit that they came from."""
    classifier = models / "mnist_mlp.onnx"

    def measure(image: NDArray[np.float32]) -> str:
        error = np.mean((image - digits.x_test) ** 2)
        return f"test MSE per pixel {error:.4f} ({variance(digits.x_test)})"

    return Task(run(classifier, digits.x_train), digits.x_train, run(classifier, digits.x_test), measure)


def translate(digits: Digits, models: Path) -> Task:
    """The logits of seed_mlp to those that mnist_mlp gives for the same digit."""
    source, target = models / "seed_mlp.onnx", models / "mnist_mlp.onnx"
    expected = run(target, digits.x_test)

    def measure(logits: NDArray[np.float32]) -> str:
        explained = 1 - np.mean((logits - expected) ** 2) / expected.var(axis=0).mean()
        agreement = (logits.argmax(axis=1) == expected.argmax(axis=1)).mean()
        return f"test R² {explained:.3f}; same class as mnist_mlp for {agreement:.3f} of the digits"

    return Task(run(source, digits.x_train), run(target, digits.x_train), run(source, digits.x_test), measure)


def variance(images: NDArray[np.float32]) -> str:
    """The mean squared error of always answering with the mean image, in words."""
    return f"variance {images.var(axis=0).mean():.4f}"


def mean_correlation(features: NDArray[np.float32]) -> float:
    """Mean |correlation| of the pairs of columns; columns that are constant are left out."""
    varying = features[:, features.std(axis=0) > 0]
    correlation = np.corrcoef(varying, rowvar=False)
    return float(np.abs(correlation[~np.eye(len(correlation), dtype=bool)]).mean())


MODELS = {
    "bijective": Spec(
        "8x8 pixels of a digit to ten class scores and 54 nearly uncorrelated features, with nothing lost.",
        "image",
        "features",
        (64, 64, 64),
        0.3,
        classify_and_keep,
        class_and_correlation,
        orthogonality=0.01,
    ),
    "autoencoder": Spec(
        "8x8 pixels of a digit to the same pixels, through ten numbers, all of it linear.",
        "image",
        "reconstruction",
        (64, 10, 64),
        None,
        compress,
    ),
    "widening": Spec(
        "The ten logits of mnist_mlp back to an image of the digit: a trained decoder.",
        "logits",
        "image",
        (10, 64, 64, 784),
        0.2,
        decode,
    ),
    "widen_shrink": Spec(
        "The ten logits of seed_mlp to those of mnist_mlp for the same digit.",
        "seed_logits",
        "logits",
        (10, 64, 64, 10),
        0.2,
        translate,
    ),
}


def train(name: str, spec: Spec, task: Task) -> keras.Model:
    """Train one network with Adam and a step size that falls to zero."""
    import keras

    start(seed=0)
    model = dense_network(name, spec.input_name, spec.sizes, spec.slope, orthogonality=spec.orthogonality)
    steps = EPOCHS * (len(task.x_train) // BATCH)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)), spec.loss)
    model.fit(task.x_train, task.t_train, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    for layer in model.layers:
        layer.kernel_regularizer = None  # so that the .keras file loads without this code
    return model


def main() -> None:
    """Train, write, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--out", type=Path, default=Path("models"), metavar="FOLDER")
    args = parser.parse_args()

    spec = MODELS[args.model]
    task = spec.task(load_digits(), args.out)
    model = train(args.model, spec, task)
    export(model, args.out, spec.output_name, spec.does, task.x_test)
    print(f"  {task.measure(model.predict(task.x_test, verbose=0))}")


if __name__ == "__main__":
    main()
