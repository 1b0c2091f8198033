"""Dense networks in Keras, reproducible: the same seed gives the same weights on the same machine."""

from __future__ import annotations

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
    slope: float | None,
    *,
    noise: float = 0.0,
    orthogonality: float = 0.0,
) -> keras.Model:
    """Dense layers of the given sizes with LeakyReLU(slope) between them, the last one linear.

    Kernels begin orthogonal, and a penalty of strength `orthogonality` keeps the columns of square ones near
    that: a random square matrix is far worse conditioned than anything training does to an orthogonal one.
    `noise` is added to the input while training only; it leaves no node in the exported graph.
    """
    import keras
    from keras import layers

    def penalty(kernel: keras.KerasTensor) -> keras.KerasTensor:
        gram = keras.ops.matmul(keras.ops.transpose(kernel), kernel)
        scale = keras.ops.trace(gram) / gram.shape[0]
        return orthogonality * keras.ops.sum(keras.ops.square(gram / scale - keras.ops.eye(gram.shape[0])))

    stack: list[keras.Layer] = [keras.Input((sizes[0],), name=input_name)]
    if noise:
        stack.append(layers.GaussianNoise(noise))
    for k, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        stack.append(
            layers.Dense(
                fan_out,
                name=f"fc{k}",
                kernel_initializer="orthogonal",
                kernel_regularizer=penalty if orthogonality and fan_in == fan_out else None,
            )
        )
        if slope is not None and k < len(sizes) - 1:
            stack.append(layers.LeakyReLU(negative_slope=slope, name=f"act{k}"))
    return keras.Sequential(stack, name=name)
