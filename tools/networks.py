"""Networks in Keras, reproducible: the same seed gives the same weights on the same machine."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras


def start(seed: int) -> None:
    """Fix every source of chance; call it once, before anything else is built.

    One thread, so that the number of cores does not change a sum. A second network trained in the same
    process would come out different from one trained alone, so the scripts train one network each time.
    """
    import keras
    import tensorflow as tf  # noqa: TID251 - the rule is meant for the package; Keras has no such switches

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def dense_network(
    name: str,
    input_name: str,
    sizes: Sequence[int],
    activation: float | str | None,
    *,
    output: str | None = None,
    noise: float = 0.0,
    dropout: float = 0.0,
    orthogonality: float = 0.0,
) -> keras.Model:
    """Dense layers of the given sizes, with an activation between them and `output` after the last one.

    An activation is the slope of a LeakyReLU, or one of Keras's names, or nothing.
    Kernels begin orthogonal, and a penalty of strength `orthogonality` keeps the columns of square ones near
    that: a random square matrix is far worse conditioned than anything training does to an orthogonal one.
    """
    import keras
    from keras import layers

    def penalty(kernel: keras.KerasTensor) -> keras.KerasTensor:
        gram = keras.ops.matmul(keras.ops.transpose(kernel), kernel)
        scale = keras.ops.trace(gram) / gram.shape[0]
        return orthogonality * keras.ops.sum(keras.ops.square(gram / scale - keras.ops.eye(gram.shape[0])))

    stack = noisy_input(input_name, sizes[0], noise)
    for k, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        stack.append(
            layers.Dense(
                fan_out,
                name=f"fc{k}",
                kernel_initializer="orthogonal",
                kernel_regularizer=penalty if orthogonality and fan_in == fan_out else None,
            )
        )
        last = k == len(sizes) - 1
        act = output if last else activation
        if act is not None:
            stack.append(
                layers.Activation(act, name=f"act{k}")
                if isinstance(act, str)
                else layers.LeakyReLU(negative_slope=act, name=f"act{k}")
            )
        if dropout and not last:
            stack.append(layers.Dropout(dropout, name=f"drop{k}"))
    return keras.Sequential(stack, name=name)


def lenet(
    name: str, input_name: str, channels: Sequence[int], widths: Sequence[int], *, noise: float = 0.0
) -> keras.Model:
    """28·28 pixels to convolutions of 5×5, each with ReLU and a maximum over 2×2, then to dense layers with ReLU."""
    import keras
    from keras import layers

    stack = [*noisy_input(input_name, 784, noise), layers.Reshape((28, 28, 1), name="pixels")]
    for k, count in enumerate(channels, start=1):
        stack.append(layers.Conv2D(count, 5, name=f"conv{k}"))
        stack += [layers.ReLU(name=f"act{k}"), layers.MaxPooling2D(name=f"pool{k}")]
    # Keras keeps channels last, ONNX first. This permutation cancels the exporter's, so that none is left.
    stack += [layers.Permute((3, 1, 2), name="channels"), layers.Flatten(name="flat")]
    for k, width in enumerate(widths, start=1):
        stack.append(layers.Dense(width, name=f"fc{k}"))
        if k < len(widths):
            stack.append(layers.ReLU(name=f"act{len(channels) + k}"))
    return keras.Sequential(stack, name=name)


def residual_network(
    name: str, input_name: str, sizes: tuple[int, int, int], hidden: int, blocks: int, *, noise: float = 0.0
) -> keras.Model:
    """Dense, then blocks x + down(gelu(up(norm(x)))) of one width, then layer norm and dense."""
    import keras
    from keras import layers

    fan_in, width, fan_out = sizes
    image, *rest = noisy_input(input_name, fan_in, noise)
    x = image
    for layer in (*rest, layers.Dense(width, name="embed")):
        x = layer(x)
    for k in range(1, blocks + 1):
        h = layers.LayerNormalization(name=f"norm{k}")(x)
        h = layers.Dense(hidden, name=f"up{k}")(h)
        h = gelu(f"act{k}", hidden)(h)
        h = layers.Dense(width, name=f"down{k}")(h)
        x = layers.Add(name=f"add{k}")([x, h])
    x = layers.LayerNormalization(name=f"norm{blocks + 1}")(x)
    return keras.Model(image, layers.Dense(fan_out, name="fc")(x), name=name)


def gelu(name: str, width: int) -> keras.Model:
    """x/2 · (1 + erf(x/√2)) in these very operations: Keras's own GELU exports as Erfc, which ONNX lacks.

    A model of its own, because it then gives its name to its nodes and is saved without this code.
    """
    import keras

    x = keras.Input((width,))
    return keras.Model(x, 0.5 * x * (1 + keras.ops.erf(x / math.sqrt(2))), name=name)


def noisy_input(name: str, width: int, noise: float) -> list[keras.Layer]:
    """The input, and noise on it while training, which leaves no node in the exported graph."""
    import keras

    stack = [keras.Input((width,), name=name)]
    return [*stack, keras.layers.GaussianNoise(noise)] if noise else stack
