"""Adam and L-BFGS on the input, in torch: ‖f(x) − y‖² / ‖y‖², summed over the samples."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from frameworks.rebuild import Outcome, Problem, rebuild

OPERATORS = {
    "Add": torch.add,
    "Conv": lambda x, w, b=None, *, strides, dilations, group, kernel_shape: functional.conv2d(
        x, w, b, stride=strides, dilation=dilations, groups=group
    ),
    "Div": torch.div,
    "Erf": torch.erf,
    "LeakyRelu": lambda x, alpha: functional.leaky_relu(x, alpha),
    "MatMul": torch.matmul,
    "MaxPool": lambda x, kernel_shape, strides: functional.max_pool2d(x, kernel_shape, strides),
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


def network(problem: Problem) -> Network:
    """f in torch."""
    return rebuild(problem.model, OPERATORS, torch.tensor)


def forward(problem: Problem, x: np.ndarray) -> np.ndarray:
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
    begun = time.perf_counter()
    while time.perf_counter() - begun < limit:
        optimizer.zero_grad()
        found = loss(f(x))
        if loss.reached:
            break
        found.backward()
        optimizer.step()
        schedule.step()
    return Outcome(x.detach().numpy(), time.perf_counter() - begun)


def lbfgs(problem: Problem, limit: float, *, history: int, together: bool = True) -> Outcome:
    """At most `limit` seconds of L-BFGS with strong Wolfe steps: all samples as one problem, or one after the other."""
    f = network(problem)
    if together:
        return _lbfgs(f, problem, limit, history)
    parts, begun = [], time.perf_counter()
    for index in range(len(problem.y)):
        left = limit - (time.perf_counter() - begun)
        one = slice(index, index + 1)
        single = Problem(problem.model, problem.start[one], problem.y[one], problem.tolerance)
        parts.append(_lbfgs(f, single, left, history).x if left > 0 else single.start)
    return Outcome(np.concatenate(parts), time.perf_counter() - begun)


class _Done(Exception):
    """Out of an optimiser that does not return by itself."""


def _lbfgs(f: Network, problem: Problem, limit: float, history: int) -> Outcome:
    loss = _Loss(problem)
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
    begun = time.perf_counter()
    best: tuple[float, Any] = (np.inf, x.detach().clone())

    def closure() -> torch.Tensor:
        nonlocal best
        optimizer.zero_grad()
        found = loss(f(x))
        if loss.worst < best[0]:
            best = (loss.worst, x.detach().clone())
        if loss.reached or time.perf_counter() - begun > limit:
            raise _Done
        found.backward()
        return found

    try:
        while True:  # it returns where its steps vanish: from there once more, with no history, while that helps
            before = best[0]
            optimizer.state.clear()
            optimizer.step(closure)
            if best[0] >= before:
                break
    except _Done:
        pass
    return Outcome(best[1].numpy(), time.perf_counter() - begun)


class _Loss:
    """The loss of f(x), and whether every sample is there."""

    def __init__(self, problem: Problem) -> None:
        self._start = torch.tensor(problem.start)
        self._y, self._norm = torch.tensor(problem.y), torch.tensor(problem.norm)
        self._tolerance = problem.tolerance
        self.worst = np.inf

    def start(self) -> torch.Tensor:
        return self._start.clone().requires_grad_()

    def __call__(self, reached: torch.Tensor) -> torch.Tensor:
        squares = ((reached - self._y) / self._norm[:, None]).square().sum(dim=1)
        self.worst = float(squares.detach().max()) ** 0.5
        return squares.sum()

    @property
    def reached(self) -> bool:
        """True if the last x was a solution for every sample."""
        return self.worst <= self._tolerance
