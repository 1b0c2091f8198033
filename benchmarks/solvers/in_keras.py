"""On the input in TensorFlow: Keras's Adam, and scipy's L-BFGS on its gradients, as Keras has none of its own.

The loss is that of in_torch.py: ‖f(x) − y‖² / ‖y‖², summed over the samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import scipy.optimize
import tensorflow as tf

from solvers.problem import Array, DoneError, Kept, Outcome, Problem, rebuild

STEPS = 10
"""Steps of Adam in one call of the traced function."""


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
    "LeakyRelu": tf.nn.leaky_relu,
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


def threads(count: int) -> None:
    """How many threads an operation may use, for the whole process; before anything is computed."""
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def forward(problem: Problem, x: Array) -> Array:
    """f(x), to be compared with onnxruntime's."""
    return np.asarray(rebuild(problem.model, OPERATORS, tf.constant)(tf.constant(x)))


def adam(problem: Problem, limit: float, *, rate: float, half: int) -> Outcome:
    """At most `limit` seconds of Adam, as for torch; ten steps to a call of a traced function."""
    squares = _squares(problem)
    x = tf.Variable(problem.start)
    schedule = keras.optimizers.schedules.ExponentialDecay(rate, half, 0.5) if half else rate
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build([x])

    @tf.function
    def steps() -> Any:
        """The squares after the steps."""
        for _ in range(STEPS):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(squares(x))
            optimizer.apply_gradients([(tape.gradient(loss, x), x)])
        return squares(x)

    steps()
    x.assign(problem.start)
    for variable in optimizer.variables:
        if variable.path.rpartition("/")[2] not in {"learning_rate"}:
            variable.assign(tf.zeros_like(variable))
    kept = Kept(problem, limit)
    while not kept.see(np.sqrt(steps().numpy()), x.numpy):
        pass
    return kept.outcome(x.numpy())


def lbfgs(problem: Problem, limit: float, *, history: int) -> Outcome:
    """At most `limit` seconds of L-BFGS, on all samples as one problem; scipy's steps are in float64."""
    squares = _squares(problem)
    shape = problem.start.shape

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)])
    def evaluate(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            found = squares(x)
            loss = tf.reduce_sum(found)
        return found, tape.gradient(loss, x)

    evaluate(tf.constant(problem.start))
    kept = Kept(problem, limit)
    best = (np.inf, problem.start)

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best
        x = flat.reshape(shape).astype(np.float32)
        found, gradient = evaluate(tf.constant(x))
        total = float(found.numpy().sum(dtype=np.float64))
        if total < best[0]:
            best = total, x
        if kept.see(np.sqrt(found.numpy()), lambda: x):
            raise DoneError
        return total, gradient.numpy().astype(np.float64).ravel()

    options = {"maxcor": history, "maxiter": 100_000, "maxfun": 1_000_000, "ftol": 0.0, "gtol": 0.0}
    try:
        while True:  # as for torch: once more from where it gave up, while that helps
            before = best[0]
            scipy.optimize.minimize(value, best[1].ravel(), jac=True, method="L-BFGS-B", options=options)
            if best[0] >= before:
                break
    except DoneError:
        pass
    return kept.outcome(best[1])


def _squares(problem: Problem) -> Callable[[Any], Any]:
    """‖f(x) − y‖² / ‖y‖² of each sample."""
    f = rebuild(problem.model, OPERATORS, tf.constant)
    y, norm = tf.constant(problem.y), tf.constant(problem.norm[:, None])
    return lambda x: tf.reduce_sum(tf.square((f(x) - y) / norm), axis=1)
