"""Adam and L-BFGS on the input, in torch: ‖f(x) − y‖² / ‖y‖², summed over the samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch._dynamo  # its optimisers load it at their first step: it crashes when TensorFlow came first
from torch.nn import functional

from solvers.problem import Array, DoneError, Kept, Outcome, Problem, rebuild

OPERATORS = {
    "Add": torch.add,
    "Conv": lambda x, w, b=None, *, strides, dilations, group, kernel_shape: functional.conv2d(
        x, w, b, stride=strides, dilation=dilations, groups=group
    ),
    "Div": torch.div,
    "Erf": torch.erf,
    "LeakyRelu": lambda x, alpha: functional.leaky_relu(x, negative_slope=alpha),
    "MatMul": torch.matmul,
    "MaxPool": lambda x, kernel_shape, strides: functional.max_pool2d(x, kernel_shape, stride=strides),
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "ReduceMean": lambda x, axes, keepdims: torch.mean(x, dim=axes, keepdim=bool(keepdims)),
    "Relu": torch.relu,
    "Reshape": torch.reshape,
    "Sigmoid": torch.sigmoid,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
}

Network = Callable[[torch.Tensor], torch.Tensor]


def threads(count: int) -> None:
    """How many threads an operation may use, for the whole process."""
    torch.set_num_threads(count)


def network(problem: Problem) -> Network:
    """f in torch."""
    return rebuild(problem.model, OPERATORS, torch.tensor)


def forward(problem: Problem, x: Array) -> Array:
    """f(x), to be compared with onnxruntime's."""
    with torch.no_grad():
        return network(problem)(torch.tensor(x)).numpy()


def adam(problem: Problem, limit: float, *, rate: float, half: int) -> Outcome:
    """At most `limit` seconds of Adam. `rate` is halved every `half` steps; 0 leaves it as it is."""
    f, loss = network(problem), _Loss(problem)
    loss(f(loss.start())).backward()
    x = loss.start()
    optimizer = torch.optim.Adam([x], lr=rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5 ** (1 / half) if half else 1.0)
    kept = Kept(problem, limit)
    while True:
        optimizer.zero_grad()
        found = loss(f(x))
        if kept.see(loss.residuals, lambda: x.detach().numpy()):
            return kept.outcome(x.detach().numpy())
        found.backward()
        optimizer.step()
        schedule.step()


def lbfgs(problem: Problem, limit: float, *, history: int) -> Outcome:
    """At most `limit` seconds of L-BFGS with strong Wolfe steps, on all samples as one problem."""
    f, loss = network(problem), _Loss(problem)
    loss(f(loss.start())).backward()
    x = loss.start()
    optimizer = torch.optim.LBFGS(
        [x],
        lr=1,
        max_iter=100_000,
        max_eval=1_000_000,
        history_size=history,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    kept = Kept(problem, limit)
    best: tuple[float, Any] = (np.inf, x.detach().clone())

    def closure() -> torch.Tensor:
        nonlocal best
        optimizer.zero_grad()
        found = loss(f(x))
        if loss.total < best[0]:
            best = (loss.total, x.detach().clone())
        if kept.see(loss.residuals, lambda: x.detach().numpy()):
            raise DoneError
        found.backward()
        return found

    try:
        while True:  # it returns where its steps vanish: from there once more, with no history, while that helps
            before = best[0]
            optimizer.state.clear()
            optimizer.step(closure)
            if best[0] >= before:
                break
    except DoneError:
        pass
    return kept.outcome(best[1].numpy())


class _Loss:
    """The loss of f(x), and what it was made of."""

    def __init__(self, problem: Problem) -> None:
        self._start = torch.tensor(problem.start)
        self._y, self._norm = torch.tensor(problem.y), torch.tensor(problem.norm)
        self.total = np.inf
        self.residuals: Array = np.full(len(problem.y), np.inf, np.float32)

    def start(self) -> torch.Tensor:
        return self._start.clone().requires_grad_()

    def __call__(self, reached: torch.Tensor) -> torch.Tensor:
        squares = ((reached - self._y) / self._norm[:, None]).square().sum(dim=1)
        total = squares.sum()
        self.residuals, self.total = squares.detach().numpy() ** 0.5, float(total.detach())
        return total
