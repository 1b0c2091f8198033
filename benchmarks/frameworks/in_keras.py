"""Adam on the input in TensorFlow, with Keras's optimiser: ‖f(x) − y‖² / ‖y‖², summed over the samples."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from frameworks.rebuild import Outcome, Problem, rebuild

STEPS = 10
"""Steps in one call of the traced function."""


def _convolve(x: Any, w: Any, b: Any, *, strides: Any, dilations: Any, group: int, kernel_shape: Any) -> Any:
    if group != 1:
        raise SystemExit("no convolution in groups in the table of operators")
    # TensorFlow convolves on processors with the channels last only; its optimiser takes the transpositions out.
    x, w = tf.transpose(x, [0, 2, 3, 1]), tf.transpose(w, [2, 3, 1, 0])
    return tf.transpose(tf.nn.conv2d(x, w, strides, "VALID", dilations=dilations) + b, [0, 3, 1, 2])


def _pool(x: Any, kernel_shape: Any, strides: Any) -> Any:
    found = tf.nn.max_pool2d(tf.transpose(x, [0, 2, 3, 1]), kernel_shape, strides, "VALID")
    return tf.transpose(found, [0, 3, 1, 2])


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": tf.add,
    "Conv": _convolve,
    "Div": tf.divide,
    "Erf": tf.math.erf,
    "LeakyRelu": lambda x, alpha: tf.nn.leaky_relu(x, alpha),
    "MatMul": tf.matmul,
    "MaxPool": _pool,
    "Mul": tf.multiply,
    "Neg": tf.negative,
    "Reciprocal": tf.math.reciprocal,
    "ReduceMean": lambda x, axes, keepdims: tf.reduce_mean(x, axes, bool(keepdims)),
    "Relu": tf.nn.relu,
    "Reshape": tf.reshape,
    "Sigmoid": tf.sigmoid,
    "Sqrt": tf.sqrt,
    "Sub": tf.subtract,
    "Tanh": tf.tanh,
}


def forward(problem: Problem, x: np.ndarray) -> np.ndarray:
    """f(x), to be compared with onnxruntime's."""
    return np.asarray(rebuild(problem.model, OPERATORS, tf.constant)(tf.constant(x)))


def adam(problem: Problem, limit: float, *, rate: float, half: int) -> Outcome:
    """At most `limit` seconds of Adam, as for torch; ten steps to a call of a traced function."""
    f = rebuild(problem.model, OPERATORS, tf.constant)
    y, norm = tf.constant(problem.y), tf.constant(problem.norm[:, None])
    x = tf.Variable(problem.start)
    schedule = keras.optimizers.schedules.ExponentialDecay(rate, half, 0.5) if half else rate
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build([x])

    @tf.function
    def steps() -> Any:
        """The worst relative residual before the last of the steps."""
        worst = tf.constant(np.inf)
        for _ in range(STEPS):
            with tf.GradientTape() as tape:
                squares = tf.reduce_sum(tf.square((f(x) - y) / norm), axis=1)
                loss = tf.reduce_sum(squares)
            worst = tf.sqrt(tf.reduce_max(squares))
            optimizer.apply_gradients([(tape.gradient(loss, x), x)])
        return worst

    steps()
    x.assign(problem.start)
    for variable in optimizer.variables[2:]:
        variable.assign(tf.zeros_like(variable))
    optimizer.iterations.assign(0)
    begun = time.perf_counter()
    while time.perf_counter() - begun < limit:
        if float(steps()) <= problem.tolerance:
            break
    return Outcome(x.numpy(), time.perf_counter() - begun)
