"""Layers whose numbers determine one another, in plain torch: Sylvester flows, several planar terms, residual blocks.

No library has them with an inverse. Each returns z alone; the case stores the log-determinant of autograd.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from .flow import Flow, images, toy


class Row(nn.Module):
    """Layers in a row."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Through all of them."""
        for layer in self.layers:
            x = layer(x)
        return x


class Given(nn.Module):
    """One layer that takes a further input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        """Through it."""
        return self.layer(x, given)


class Scale(nn.Module):
    """A scale and a shift of each channel, as an act norm leaves them."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("scale", 0.5 + torch.rand(*shape))
        self.register_buffer("shift", torch.randn(*shape))

    def forward(self, x: Tensor) -> Tensor:
        """x · scale + shift."""
        return x * self.scale + self.shift


class Rotation(nn.Module):
    """A random orthogonal matrix."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.linalg.qr(torch.randn(features, features))[0])

    def forward(self, x: Tensor) -> Tensor:
        """X @ Q."""
        return x @ self.matrix


def triangular(size: int) -> Tensor:
    """An upper triangular matrix whose diagonal lies in (−1, 1)."""
    return torch.triu(0.5 * torch.randn(size, size), 1) + torch.diag(torch.tanh(torch.randn(size)))


class Sylvester(nn.Module):
    """z = x + Q R tanh(R̃ Qᵀ x + b): Q orthonormal, R and R̃ triangular (van den Berg et al., 2018)."""

    def __init__(self, features: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("q", torch.linalg.qr(torch.randn(features, rank))[0])
        self.register_buffer("before", triangular(rank))
        self.register_buffer("after", triangular(rank))
        self.register_buffer("bias", torch.randn(rank))

    def forward(self, x: Tensor) -> Tensor:
        """The layer."""
        bent = torch.tanh(x @ self.q @ self.before.T + self.bias)
        return x + bent @ self.after.T @ self.q.T


class AmortisedSylvester(nn.Module):
    """The same with R, R̃ and b from a context."""

    def __init__(self, features: int, rank: int, context: int) -> None:
        super().__init__()
        self.rank = rank
        self.net = nn.Linear(context, 2 * rank * rank + rank)
        self.register_buffer("q", torch.linalg.qr(torch.randn(features, rank))[0])
        self.register_buffer("above", torch.triu(torch.ones(rank, rank), 1))
        self.register_buffer("identity", torch.eye(rank))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """The layer."""
        m = self.rank
        before, after, bias = self.net(context).split([m * m, m * m, m], dim=1)
        before, after = (w.reshape(-1, m, m) for w in (before, after))
        before, after = (w * self.above + torch.tanh(w) * self.identity for w in (before, after))
        s = torch.bmm(before, (x @ self.q)[:, :, None]) + bias[:, :, None]
        return x + torch.bmm(after, torch.tanh(s))[:, :, 0] @ self.q.T


class LowRank(nn.Module):
    """z = x + A h(B x + b) with any A and B, small enough to be one-to-one."""

    def __init__(self, features: int, rank: int, act: nn.Module, size: float) -> None:
        super().__init__()
        self.before, self.act = nn.Linear(features, rank), act
        self.after = nn.Linear(rank, features, bias=False)
        with torch.no_grad():
            for weight in (self.before.weight, self.after.weight):
                weight.copy_(torch.randn_like(weight))
            product = self.before.weight @ self.after.weight
            self.after.weight.mul_(size / torch.linalg.matrix_norm(product, 2))

    def forward(self, x: Tensor) -> Tensor:
        """The layer."""
        return x + self.after(self.act(self.before(x)))


class Planars(nn.Module):
    """Planar terms side by side: z = x + Σ uₖ tanh(wₖ·x + bₖ), each spelt out."""

    def __init__(self, features: int, count: int) -> None:
        super().__init__()
        self.register_buffer("w", torch.randn(count, features) / features**0.5)
        self.register_buffer("u", 0.4 * torch.randn(count, features) / features**0.5 + 0.3 * self.w)
        self.register_buffer("b", torch.randn(count))

    def forward(self, x: Tensor) -> Tensor:
        """The terms."""
        z = x
        for k in range(len(self.b)):
            z = z + self.u[k] * torch.tanh((self.w[k] * x).sum(-1, keepdim=True) + self.b[k])
        return z


class Gradient(nn.Module):
    """z = x + Wᵀ h(W x + b), the gradient of a convex function, with ‖W‖² above 1: no contraction."""

    def __init__(self, features: int, hidden: int, norm: float) -> None:
        super().__init__()
        w = torch.randn(hidden, features)
        self.register_buffer("w", norm * w / torch.linalg.matrix_norm(w, 2))
        self.register_buffer("b", torch.randn(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """The layer."""
        return x + torch.tanh(x @ self.w.T + self.b) @ self.w


class Steep(nn.Module):
    """z = x + g(x), g of three layers whose norms multiply to more than 1."""

    def __init__(self, features: int, hidden: int, norm: float) -> None:
        super().__init__()
        sizes = [features, hidden, hidden, features]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(sizes)])
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.mul_(norm / torch.linalg.matrix_norm(layer.weight, 2))

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        first, second, third = self.layers
        return x + third(torch.tanh(second(torch.tanh(first(x)))))


def norm_at(weight: Tensor, size: int) -> float:
    """The norm of a convolution of images of one size, by power iteration."""
    pad = weight.shape[-1] // 2
    x = torch.randn(1, weight.shape[1], size, size)
    found = 0.0
    for _ in range(200):
        y = nn.functional.conv_transpose2d(nn.functional.conv2d(x, weight, padding=pad), weight, padding=pad)
        found = float(y.norm())
        x = y / found
    return found**0.5


class ConvResidual(nn.Module):
    """z = x + g(x), g of convolutions 3×3, 1×1, 3×3 with ELU, each of norm below 1 at the images' size."""

    def __init__(self, channels: int, hidden: int, size: int) -> None:
        super().__init__()
        shapes = [(channels, hidden, 3), (hidden, hidden, 1), (hidden, channels, 3)]
        self.layers = nn.ModuleList([nn.Conv2d(a, b, k, padding=k // 2) for a, b, k in shapes])
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.mul_(0.95 / norm_at(layer.weight, size))

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        first, second, third = self.layers
        elu = nn.functional.elu
        return x + third(elu(second(elu(first(x)))))


class Frames(nn.Module):
    """z = (x + m · g(x)) · scale · m on masked utterances, g a network of each frame alone."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.before, self.after = nn.Conv1d(channels, hidden, 1), nn.Conv1d(hidden, channels, 1)
        self.register_buffer("scale", 0.5 + torch.rand(1, channels, 1))
        with torch.no_grad():
            for layer in (self.before, self.after):
                layer.weight.mul_(0.95 / torch.linalg.matrix_norm(layer.weight[:, :, 0], 2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """The block; x is 0 where the mask is."""
        x = x * mask
        return (x + self.after(torch.tanh(self.before(x))) * mask) * self.scale * mask


def case(name: str, kind: str, module: nn.Module, x: Tensor, **more: object) -> Flow:
    """A flow without an inverse or log-determinant of its own."""
    return Flow(name, "torch", kind, module, x, None, gives_log_det=False, train=False, noise=0.0, **more)


def sylvester(name: str) -> Flow:
    """Two Sylvester layers with a rotation between."""
    return case(name, "sylvester", Row([Scale(6), Sylvester(6, 3), Rotation(6), Sylvester(6, 2)]), toy(6))


def amortised(name: str) -> Flow:
    """A Sylvester layer whose matrices a context makes."""
    context = {"context": toy(4, seed=1)}
    return case(name, "sylvester, conditional", Given(AmortisedSylvester(6, 3, 4)), toy(6), others=context)


def low_rank(name: str) -> Flow:
    """Low-rank layers, one with kinks."""
    layers = [LowRank(8, 3, nn.LeakyReLU(0.2), 0.8), Scale(8), LowRank(8, 2, nn.Softplus(), 0.9)]
    return case(name, "low rank", Row(layers), toy(8))


def planars(name: str) -> Flow:
    """Three planar terms at once."""
    return case(name, "planar, in parallel", Row([Planars(6, 3), Scale(6)]), toy(6))


def steep(name: str) -> Flow:
    """A residual block that is no contraction, and one-to-one all the same."""
    return case(name, "residual", Row([Scale(5), Gradient(5, 12, 1.5), Rotation(5)]), toy(5))


def deep(name: str) -> Flow:
    """A residual block of three layers, no contraction, between layers of closed form."""
    return case(name, "residual, unproven", Row([Scale(5), Steep(5, 16, 1.25), Rotation(5)]), toy(5))


def convolutional(name: str) -> Flow:
    """Residual blocks of convolutions whose norms hold at the images' size."""
    layers = [Scale(2, 1, 1), ConvResidual(2, 8, 6), ConvResidual(2, 8, 6)]
    return case(name, "residual contraction, images", Row(layers), images(2, 6))


def frames(name: str) -> Flow:
    """A residual block on each frame of masked utterances, T free."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 10, (64,), generator=generator)
    mask = (torch.arange(9)[None] < lengths[:, None]).float()[:, None]
    x = torch.randn(64, 4, 9, generator=generator) * mask
    free = {"x": {2: "t"}, "mask": {2: "t"}}
    return case(name, "residual contraction, masked", Given(Frames(4, 8)), x, others={"mask": mask}, dynamic=free)


FLOWS = {
    "torch_sylvester": sylvester,
    "torch_sylvester_context": amortised,
    "torch_low_rank": low_rank,
    "torch_planars": planars,
    "torch_residual_monotone": steep,
    "torch_residual_steep": deep,
    "torch_residual_conv": convolutional,
    "torch_residual_frames": frames,
}
