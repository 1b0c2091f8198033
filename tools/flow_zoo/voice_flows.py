"""Coupling flows as voice models have them (VITS, Glow-TTS), in plain torch.

x (N, C, T) and mask (N, 1, T) to z (N, C, T) and log_abs_det (N,).

They have no library of their own: published models carry the layers in their source, and these follow the papers
(Kim et al., arXiv:2005.11129 and arXiv:2106.06103). Frames where the mask is 0 are padding: x is 0 there, and so is z.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .flow import SAMPLES, Flow

FRAMES = 12


class GatedStack(nn.Module):
    """Dilated convolutions with tanh·sigmoid gates; each layer gives half to the next layer, half to the sum."""

    def __init__(self, width: int, layers: int, speaker: int) -> None:
        super().__init__()
        self.width = width
        self.convolutions = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(
                nn.Conv1d(width, 2 * width, 3, padding=2**i, dilation=2**i), name="weight"
            )
            for i in range(layers)
        )
        self.outputs = nn.ModuleList(
            nn.Conv1d(width, 2 * width if i < layers - 1 else width, 1) for i in range(layers)
        )
        self.condition = nn.Conv1d(speaker, 2 * width * layers, 1) if speaker else None

    def forward(self, h: Tensor, mask: Tensor, speaker: Tensor | None) -> Tensor:
        """Features (N, width, T) to features of that shape, zero where the mask is."""
        total = torch.zeros_like(h)
        given = self.condition(speaker) if self.condition is not None else None
        for i, (convolution, output) in enumerate(zip(self.convolutions, self.outputs, strict=True)):
            a = convolution(h)
            if given is not None:
                a = a + given[:, 2 * self.width * i : 2 * self.width * (i + 1)]
            a = torch.tanh(a[:, : self.width]) * torch.sigmoid(a[:, self.width :])
            a = output(a)
            if i < len(self.outputs) - 1:
                h = (h + a[:, : self.width]) * mask
                total = total + a[:, self.width :]
            else:
                total = total + a
        return total * mask


class ResidualCoupling(nn.Module):
    """The first half of the channels shifts, and unless `mean_only` scales, the second."""

    def __init__(self, channels: int, width: int, layers: int, mean_only: bool, speaker: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.mean_only = mean_only
        self.before = nn.Conv1d(self.half, width, 1)
        self.stack = GatedStack(width, layers, speaker)
        self.after = nn.Conv1d(width, self.half if mean_only else 2 * self.half, 1)

    def parameters_of(self, x0: Tensor, mask: Tensor, speaker: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shift and log-scale (N, C/2, T)."""
        stats = self.after(self.stack(self.before(x0) * mask, mask, speaker)) * mask
        if self.mean_only:
            return stats, torch.zeros_like(stats)
        shift, log_scale = torch.split(stats, [self.half, self.half], 1)
        return shift, log_scale

    def forward(self, x: Tensor, mask: Tensor, speaker: Tensor | None) -> tuple[Tensor, Tensor]:
        """Forwards, with the log-det (N,)."""
        x0, x1 = torch.split(x, [self.half, self.half], 1)
        shift, log_scale = self.parameters_of(x0, mask, speaker)
        x1 = shift + x1 * torch.exp(log_scale) * mask
        return torch.cat([x0, x1], 1), torch.sum(log_scale, [1, 2])

    def inverse(self, z: Tensor, mask: Tensor, speaker: Tensor | None) -> Tensor:
        """Backwards."""
        z0, z1 = torch.split(z, [self.half, self.half], 1)
        shift, log_scale = self.parameters_of(z0, mask, speaker)
        return torch.cat([z0, (z1 - shift) * torch.exp(-log_scale) * mask], 1)


class Flip(nn.Module):
    """The channels in reverse order."""

    def forward(self, x: Tensor, mask: Tensor, speaker: Tensor | None) -> tuple[Tensor, Tensor]:
        """Forwards."""
        return torch.flip(x, [1]), torch.zeros(x.shape[0])

    def inverse(self, z: Tensor, mask: Tensor, speaker: Tensor | None) -> Tensor:
        """Backwards."""
        return torch.flip(z, [1])


class ActNorm(nn.Module):
    """A scale and a shift a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(0.3 * torch.randn(1, channels, 1))
        self.shift = nn.Parameter(0.3 * torch.randn(1, channels, 1))

    def forward(self, x: Tensor, mask: Tensor, speaker: Tensor | None) -> tuple[Tensor, Tensor]:
        """Forwards; each frame that the mask keeps counts in the log-det."""
        z = (self.shift + torch.exp(self.log_scale) * x) * mask
        return z, torch.sum(self.log_scale) * torch.sum(mask, [1, 2])

    def inverse(self, z: Tensor, mask: Tensor, speaker: Tensor | None) -> Tensor:
        """Backwards."""
        return (z - self.shift) * torch.exp(-self.log_scale) * mask


class GroupedMixing(nn.Module):
    """An invertible 1×1 convolution of groups of four channels, two from each half."""

    GROUP = 4

    def __init__(self) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(self.GROUP, self.GROUP))[0]
        self.weight = nn.Parameter(rotation * torch.linspace(0.6, 1.4, self.GROUP), requires_grad=False)
        self.log_det = 0.0
        self.backwards = torch.eye(self.GROUP)

    def train(self, mode: bool = True) -> GroupedMixing:
        """In evaluation mode the matrix's log-det and inverse are numbers: neither has an ONNX operator."""
        self.log_det = float(torch.linalg.slogdet(self.weight.detach())[1])
        self.backwards = torch.linalg.inv(self.weight.detach())
        return super().train(mode)

    def mix(self, x: Tensor, weight: Tensor) -> Tensor:
        """`weight` on each group of channels."""
        n, c, t = x.shape
        x = x.view(n, 2, c // self.GROUP, self.GROUP // 2, t).permute(0, 1, 3, 2, 4).contiguous()
        x = x.view(n, self.GROUP, c // self.GROUP, t)
        x = nn.functional.conv2d(x, weight[:, :, None, None])
        x = x.view(n, 2, self.GROUP // 2, c // self.GROUP, t).permute(0, 1, 3, 2, 4).contiguous()
        return x.view(n, c, t)

    def forward(self, x: Tensor, mask: Tensor, speaker: Tensor | None) -> tuple[Tensor, Tensor]:
        """Forwards."""
        frames = torch.sum(mask, [1, 2])
        return self.mix(x, self.weight) * mask, self.log_det * (x.shape[1] // self.GROUP) * frames

    def inverse(self, z: Tensor, mask: Tensor, speaker: Tensor | None) -> Tensor:
        """Backwards."""
        return self.mix(z, self.backwards) * mask


class Squeezed(nn.Module):
    """Layers on pairs of frames, as Glow-TTS runs them: (N, C, T) seen as (N, 2C, T/2), for even T."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def squeeze(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs of frames become channels; a pair counts if its second frame does."""
        n, c, t = x.shape
        x = x.view(n, c, t // 2, 2).permute(0, 3, 1, 2).contiguous().view(n, 2 * c, t // 2)
        mask = mask[:, :, 1::2]
        return x * mask, mask

    def unsqueeze(self, x: Tensor, mask: Tensor) -> Tensor:
        """And back."""
        n, c, t = x.shape
        x = x.view(n, 2, c // 2, t).permute(0, 2, 3, 1).contiguous().view(n, c // 2, 2 * t)
        mask = mask.unsqueeze(-1).repeat(1, 1, 1, 2).view(n, 1, 2 * t)
        return x * mask

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Forwards, with the log-det (N,)."""
        x, pairs = self.squeeze(x, mask)
        total = torch.zeros(x.shape[0])
        for layer in self.layers:
            x, log_det = layer(x, pairs, None)
            total = total + log_det
        return self.unsqueeze(x, pairs), total

    def inverse(self, z: Tensor, mask: Tensor) -> Tensor:
        """Backwards."""
        z, pairs = self.squeeze(z, mask)
        for layer in reversed(self.layers):
            z = layer.inverse(z, pairs, None)
        return self.unsqueeze(z, pairs)


class Layers(nn.Module):
    """Layers in a row; their log-dets summed (N,)."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, mask: Tensor, speaker: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Forwards."""
        total = torch.zeros(x.shape[0])
        for layer in self.layers:
            x, log_det = layer(x, mask, speaker)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, mask: Tensor, speaker: Tensor | None = None) -> Tensor:
        """Backwards."""
        for layer in reversed(self.layers):
            z = layer.inverse(z, mask, speaker)
        return z


def vits(channels: int, couplings: int, mean_only: bool, speaker: int = 0) -> Layers:
    """Couplings with flips between, as VITS puts them between posterior and prior."""
    layers: list[nn.Module] = []
    for _ in range(couplings):
        layers += [ResidualCoupling(channels, width=8, layers=3, mean_only=mean_only, speaker=speaker), Flip()]
    return Layers(layers)


def utterances(channels: int, padded: bool = True) -> tuple[Tensor, Tensor]:
    """Smooth channels over time with their masks; if `padded`, the lengths are even and differ."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(SAMPLES, channels, FRAMES + 2, generator=generator)
    x = 0.6 * (noise[..., :-2] + noise[..., 1:-1] + noise[..., 2:])
    halves = torch.randint(FRAMES // 4, FRAMES // 2 + 1, (SAMPLES, 1), generator=generator)
    lengths = 2 * halves if padded else torch.full((SAMPLES, 1), FRAMES)
    mask = (torch.arange(FRAMES) < lengths).float()[:, None]
    return x * mask, mask


def flow(name: str, kind: str, module: nn.Module, channels: int, padded: bool, **others: Tensor) -> Flow:
    """The layers on utterances, T free."""
    x, mask = utterances(channels, padded)
    return Flow(
        name,
        "torch",
        kind,
        module,
        x,
        lambda latents, given: (module.inverse(latents[0], *given), None),
        others={"mask": mask, **others},
        dynamic={"x": {2: "frames"}, "mask": {2: "frames"}},
        note="T is free; where mask is 0, x is 0" if padded else "T is free; mask is 1",
    )


def mean_only(name: str) -> Flow:
    """The flow of VITS: four mean-only couplings, padded utterances."""
    return flow(name, "coupling additive, sequences", vits(4, 4, mean_only=True), 4, padded=True)


def affine(name: str) -> Flow:
    """The same with scales, for a speaker's vector."""
    generator = torch.Generator().manual_seed(6)
    speaker = torch.randn(SAMPLES, 3, 1, generator=generator)
    module = vits(4, 3, mean_only=False, speaker=3)
    return flow(name, "coupling affine, sequences, conditional", module, 4, padded=True, speaker=speaker)


def unpadded(name: str) -> Flow:
    """Affine couplings on utterances of one length."""
    return flow(name, "coupling affine, sequences", vits(6, 2, mean_only=False), 6, padded=False)


def glow_tts(name: str) -> Flow:
    """The decoder of Glow-TTS: squeezed frames, act norm, mixing in groups, affine coupling."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [ActNorm(8), GroupedMixing(), ResidualCoupling(8, 8, 2, mean_only=False, speaker=0)]
    return flow(name, "coupling affine, sequences, squeezed", Squeezed(layers), 4, padded=True)


FLOWS = {
    "voice_vits": mean_only,
    "voice_vits_speaker": affine,
    "voice_affine_unpadded": unpadded,
    "voice_glow_tts": glow_tts,
}
