"""Flows of normflows (github.com/VincentStimper/normalizing-flows): `inverse` runs from x to noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import normflows as nf
import torch
from normflows import flows as f
from torch import Tensor, nn

from .flow import Flow, images, toy

if TYPE_CHECKING:
    from collections.abc import Callable


class Stacked(nn.Module):
    """Flows in a row. In evaluation mode no act norm asks whether it has been initialised: a branch on data."""

    def __init__(self, flows: list[f.Flow]) -> None:
        super().__init__()
        self.flows = nn.ModuleList(flows)

    def train(self, mode: bool = True) -> Stacked:
        """As every module."""
        if not mode:
            settle(self)
        return super().train(mode)


def settle(module: nn.Module) -> None:
    """Make the flag of each act norm the Python bool that it stands for."""
    for layer in module.modules():
        if isinstance(layer, f.ActNorm) and "data_dep_init_done" in layer._buffers:
            del layer.data_dep_init_done
            layer.data_dep_init_done = True


class Density(Stacked):
    """x to (z, log_abs_det) by what normflows calls the inverse."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The flows in reverse order, each backwards."""
        return run(x, [layer.inverse for layer in reversed(self.flows)], ())


class ConditionalDensity(Stacked):
    """The same with a context."""

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """The flows in reverse order, each backwards."""
        return run(x, [layer.inverse for layer in reversed(self.flows)], (context,))


class Sampling(Stacked):
    """x to (z, log_abs_det) by what normflows calls forward."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What normflows calls forward."""
        return run(x, list(self.flows), ())


class Multiscale(Stacked):
    """x to the latents of all scales and log_abs_det."""

    def __init__(self, model: nf.MultiscaleFlow) -> None:
        super().__init__([])
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the model gives."""
        latents, log_det = self.model.inverse_and_log_det(x)
        return (*latents, log_det)


def run(
    x: Tensor, maps: list[Callable[..., tuple[Tensor, Tensor]]], context: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The maps in a row, and the sum of their log-dets (N,)."""
    total = torch.zeros(x.shape[0])
    for one in maps:
        x, log_det = one(x, *context)
        total = total + log_det
    return x, total


def density(name: str, kind: str, flows: list[f.Flow], x: Tensor, **more: object) -> Flow:
    """The direction of densities: data x to noise z."""

    def inverse(latents: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return run(latents[0], flows, others)

    module = ConditionalDensity(flows) if more.get("others") else Density(flows)
    return Flow(name, "normflows", kind, module, x, inverse, **more)


def sampling(name: str, kind: str, flows: list[f.Flow], x: Tensor, inverse: bool = True, **more: object) -> Flow:
    """The direction of sampling, for the flows whose other direction is missing or iterates."""

    def back(latents: tuple[Tensor, ...], _: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return run(latents[0], [layer.inverse for layer in reversed(flows)], ())

    return Flow(name, "normflows", kind, Sampling(flows), x, back if inverse else None, **more)


def mlp(*sizes: int) -> nn.Module:
    """A small LeakyReLU network of normflows."""
    return nf.nets.MLP(list(sizes), leaky=0.1)


def realnvp(name: str) -> Flow:
    """Affine couplings by halves, scales by exp and by sigmoid, with swaps between."""
    flows = []
    for scale_map in ("exp", "sigmoid", "sigmoid_inv"):
        flows += [f.AffineCouplingBlock(mlp(3, 16, 6), scale_map=scale_map), f.Permute(6, mode="swap")]
    return density(name, "coupling affine", flows, toy(6))


def checkerboard(name: str) -> Flow:
    """Affine couplings by every second feature, and a shuffle."""
    flows: list[f.Flow] = [
        f.AffineCouplingBlock(mlp(3, 16, 6), split_mode="checkerboard"),
        f.Permute(6, mode="shuffle"),
        f.AffineCouplingBlock(mlp(3, 16, 6), split_mode="checkerboard_inv"),
        f.AffineCouplingBlock(mlp(3, 16, 3), scale=False, split_mode="channel_inv"),
    ]
    return density(name, "coupling affine", flows, toy(6))


def masked(name: str) -> Flow:
    """Couplings by multiplication with a constant mask, and act norms."""
    flows: list[f.Flow] = []
    for odd in (0, 1, 0):
        b = ((torch.arange(5) + odd) % 2).float()
        flows += [f.MaskedAffineFlow(b, mlp(5, 16, 5), mlp(5, 16, 5)), f.ActNorm(5)]
    return density(name, "coupling affine, mask", flows, toy(5))


def planar(name: str) -> Flow:
    """Planar flows with a leaky ReLU, which have an algebraic inverse."""
    flows = [f.Planar((4,), act="leaky_relu") for _ in range(3)]
    return sampling(name, "planar", flows, toy(4), train=False)


def planar_tanh(name: str) -> Flow:
    """Planar flows with tanh, which the library cannot invert."""
    flows = [f.Planar((4,), act="tanh") for _ in range(3)]
    return sampling(name, "planar", flows, toy(4), inverse=False, train=False, note="the library has no inverse")


def radial(name: str) -> Flow:
    """Radial flows, which the library cannot invert."""
    flows = [f.Radial((4,)) for _ in range(3)]
    return sampling(name, "radial", flows, toy(4), inverse=False, train=False, note="the library has no inverse")


class Blocks(nn.Module):
    """Residual blocks x + g(x) in a row, without the library's estimate of the log-det."""

    def __init__(self, flows: list[f.Residual]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([flow.iresblock for flow in flows])

    def forward(self, x: Tensor) -> Tensor:
        """The blocks."""
        for block in self.blocks:
            x = block(x)
        return x

    def inverse(self, z: Tensor) -> Tensor:
        """The library's fixed points, which it stops where (x - x_before)² < 1e-5 (1 + |z|)."""
        for block in reversed(self.blocks):
            z = block.inverse(z)
        return z


def residual(name: str) -> Flow:
    """Invertible residual blocks with Lipschitz networks, as steep as these allow."""
    blocks = Blocks(
        [
            f.Residual(nf.nets.LipschitzMLP([4, 16, 16, 4], init_zeros=False, lipschitz_const=0.9), reverse=False)
            for _ in range(2)
        ]
    )
    with torch.no_grad():
        for parameter in blocks.parameters():
            if parameter.dim() == 2:
                nn.init.orthogonal_(parameter, gain=0.9)
    return Flow(
        name,
        "normflows",
        "residual contraction",
        blocks,
        3 * toy(4),
        lambda latents, _: (blocks.inverse(latents[0]), None),
        gives_log_det=False,
        noise=0.0,
        note="the library's log-det is an estimate by random vectors; its inverse stops at a change of about 0.003",
    )


def spline_coupling(name: str) -> Flow:
    """A rational-quadratic coupling with an LU layer, as in the library's examples."""
    flows: list[f.Flow] = [
        f.CoupledRationalQuadraticSpline(4, 1, 16, num_bins=4),
        f.LULinearPermute(4, identity_init=False),
    ]
    return density(name, "coupling spline, LU", flows, toy(4), exporters=("dynamo",))


def spline_autoregressive(name: str) -> Flow:
    """An autoregressive rational-quadratic spline."""
    flows = [f.AutoregressiveRationalQuadraticSpline(4, 1, 16, num_bins=4)]
    return density(name, "autoregressive spline", flows, toy(4))


def spline_circular(name: str) -> Flow:
    """A coupling by splines some of whose coordinates are angles."""
    flows = [
        f.CircularCoupledRationalQuadraticSpline(4, 1, 16, ind_circ=[0, 1], num_bins=4, reverse_mask=reverse)
        for reverse in (False, True)
    ]
    return density(name, "coupling spline, circular", flows, toy(4, within=2.9), train=False)


def maf(name: str) -> Flow:
    """Masked affine autoregressive, conditional."""
    flows: list[f.Flow] = [
        f.MaskedAffineAutoregressive(5, 16, context_features=2, num_blocks=1),
        f.MaskedAffineAutoregressive(5, 16, context_features=2, num_blocks=1),
    ]
    return density(name, "autoregressive affine, conditional", flows, toy(5), others={"context": toy(2, seed=1)})


def linear(name: str) -> Flow:
    """Invertible affine layers with and without LU, act norm, constant affine layers."""
    flows: list[f.Flow] = [
        f.InvertibleAffine(5, use_lu=True),
        f.ActNorm(5),
        f.InvertibleAffine(5, use_lu=False),
        f.AffineConstFlow((5,)),
        f.Permute(5),
    ]
    return density(name, "linear", flows, toy(5))


def glow(name: str) -> Flow:
    """Glow of two scales: squeeze, Glow blocks, half of the channels leave."""
    bases = [nf.distributions.DiagGaussian((1,)) for _ in range(2)]  # never used, but the model counts them
    flows = [[f.GlowBlock(8, 8), f.Squeeze()], [f.GlowBlock(4, 8), f.Squeeze()]]
    merges = [f.Merge()]
    model = nf.MultiscaleFlow(bases, flows, merges, class_cond=False)

    def inverse(latents: tuple[Tensor, ...], _: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return model.forward_and_log_det(list(latents))

    return Flow(
        name, "normflows", "coupling affine, images, multi-scale", Multiscale(model), images(1, 8), inverse, latents=2
    )


def conv1x1(name: str) -> Flow:
    """1×1 convolutions with and without LU, act norms and squeezing."""
    flows: list[f.Flow] = [
        f.Invertible1x1Conv(8, use_lu=True),
        f.ActNorm((8, 1, 1)),
        f.Invertible1x1Conv(8, use_lu=False),
        f.Squeeze(),
    ]
    return density(name, "linear, images", flows, images(2, 4))


FLOWS = {
    "normflows_realnvp": realnvp,
    "normflows_checkerboard": checkerboard,
    "normflows_masked_affine": masked,
    "normflows_planar": planar,
    "normflows_planar_tanh": planar_tanh,
    "normflows_radial": radial,
    "normflows_residual": residual,
    "normflows_spline_coupling": spline_coupling,
    "normflows_spline_autoregressive": spline_autoregressive,
    "normflows_spline_circular": spline_circular,
    "normflows_maf_context": maf,
    "normflows_linear": linear,
    "normflows_glow_multiscale": glow,
    "normflows_conv1x1": conv1x1,
}
