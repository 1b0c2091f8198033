"""What a flow is here: a module from x (and other inputs) to the parts of z and log|det ∂z/∂x|, and its inverse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    # The library's own inverse: z and the other inputs -> x and log|det ∂x/∂z| (None where it gives none).
    Inverse = Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], tuple[Tensor, Tensor | None]]

SAMPLES = 64


@dataclass(frozen=True)
class Flow:
    """A flow to export.

    `module(x, *others)` returns `(z, log_abs_det)`, or `(z0, z1, …, log_abs_det)` for several latents, or the latents
    alone if `gives_log_det` is False. `others` are the further inputs of the 64 samples, by name. `dynamic` names, for
    an input, the axes beside the batch whose length is free.
    """

    name: str
    library: str
    kind: str
    module: nn.Module
    x: Tensor
    inverse: Inverse | None
    others: dict[str, Tensor] = field(default_factory=dict)
    latents: int = 1
    gives_log_det: bool = True
    # The log-det of the library is an estimate, or cannot be exported: the case stores that of autograd instead.
    log_det_is_exact: bool = True
    train: bool = True
    noise: float = 0.15
    dynamic: dict[str, dict[int, str]] = field(default_factory=dict)
    # The legacy exporter's files are large: a flow whose like is there already does without.
    exporters: tuple[str, ...] = ("dynamo", "legacy")
    note: str = ""


class LatentsOnly(nn.Module):
    """A flow without its log-det output."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The latents of the wrapped flow."""
        *latents, _ = self.flow(*inputs)
        return latents[0] if len(latents) == 1 else tuple(latents)


def toy(features: int, samples: int = SAMPLES, seed: int = 0, within: float | None = None) -> Tensor:
    """Samples of a curved density of `features` correlated coordinates, float32 (samples, features).

    Each coordinate bends with the one before; a coin throws each sample to one of two sides. With `within`, all
    coordinates lie in (-within, within).
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(samples, features, generator=generator)
    side = torch.randint(0, 2, (samples,), generator=generator) * 2 - 1
    x = noise.clone()
    x[:, 0] = 0.5 * noise[:, 0] + side
    for i in range(1, features):
        x[:, i] = 0.7 * torch.sin(2 * x[:, i - 1]) + 0.3 * x[:, i - 1] + 0.5 * noise[:, i]
    return x if within is None else within * torch.tanh(0.7 * x)


def images(channels: int, size: int, samples: int = SAMPLES, seed: int = 0) -> Tensor:
    """Smooth random images with a little noise, float32 (samples, channels, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(samples, channels, size // 2, size // 2, generator=generator)
    smooth = nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    return smooth + 0.3 * torch.randn(samples, channels, size, size, generator=generator)
