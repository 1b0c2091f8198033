"""Flows of nflows (github.com/bayesiains/nflows): x to noise is its forward direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from nflows import transforms as t
from nflows.nn import nets
from torch import Tensor, nn

from .flow import Flow, images, toy

if TYPE_CHECKING:
    from collections.abc import Callable

HIDDEN = 16


class Forward(nn.Module):
    """x, and context if there is one, to (z, log_abs_det)."""

    def __init__(self, transform: t.Transform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the transform gives."""
        return self.transform(x, context)


def flow(name: str, kind: str, parts: list[t.Transform], x: Tensor, **more: object) -> Flow:
    """The parts in a row."""
    transform = parts[0] if len(parts) == 1 else t.CompositeTransform(parts)

    def inverse(latents: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return transform.inverse(latents[0], *others)

    return Flow(name, "nflows", kind, Forward(transform), x, inverse, **more)


def mask(features: int, odd: bool = False) -> Tensor:
    """0 1 0 1 …, or 1 0 1 0 …."""
    return (torch.arange(features) + odd) % 2


def halves(features: int) -> Tensor:
    """The first half stays, the second changes."""
    return (torch.arange(features) >= features // 2).long()


def net(context: int | None = None, blocks: int = 1, batch_norm: bool = False) -> Callable[[int, int], nn.Module]:
    """A small residual network of nflows, as couplings want it."""

    def make(features_in: int, features_out: int) -> nn.Module:
        return nets.ResidualNet(
            features_in, features_out, HIDDEN, context, num_blocks=blocks, use_batch_norm=batch_norm
        )

    return make


def conv_net(channels_in: int, channels_out: int) -> nn.Module:
    """A small convolutional residual network of nflows."""
    return nets.ConvResidualNet(channels_in, channels_out, 8, num_blocks=1)


def maf(name: str) -> Flow:
    """Two masked affine autoregressive layers with permutations between."""
    layers = [
        t.MaskedAffineAutoregressiveTransform(6, HIDDEN, num_blocks=1),
        t.ReversePermutation(6),
        t.MaskedAffineAutoregressiveTransform(6, HIDDEN, num_blocks=1, use_residual_blocks=False),
        t.RandomPermutation(6),
    ]
    return flow(name, "autoregressive affine", layers, toy(6))


def maf_context(name: str) -> Flow:
    """A conditional masked autoregressive flow."""
    layers = [
        t.RandomPermutation(5),
        t.MaskedAffineAutoregressiveTransform(5, HIDDEN, context_features=3, num_blocks=1),
        t.ReversePermutation(5),
        t.MaskedAffineAutoregressiveTransform(5, HIDDEN, context_features=3, num_blocks=1),
    ]
    return flow(name, "autoregressive affine, conditional", layers, toy(5), others={"context": toy(3, seed=1)})


def rq_autoregressive(name: str) -> Flow:
    """Rational-quadratic splines whose parameters come autoregressively."""
    layers = [
        t.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
            4, HIDDEN, num_bins=5, num_blocks=1, tails="linear", tail_bound=3.0
        ),
        t.ReversePermutation(4),
    ]
    return flow(name, "autoregressive spline", layers, toy(4))


def rq_coupling_lu(name: str) -> Flow:
    """The neural spline flow of the paper: permutation, LU, rational-quadratic coupling."""
    layers = [
        t.RandomPermutation(4),
        t.LULinear(4, identity_init=False),
        t.PiecewiseRationalQuadraticCouplingTransform(mask(4), net(), num_bins=5, tails="linear", tail_bound=3.0),
    ]
    return flow(name, "coupling spline, LU", layers, toy(4))


def quadratic_coupling(name: str) -> Flow:
    """Piecewise-quadratic splines in a coupling."""
    layers = [
        t.PiecewiseQuadraticCouplingTransform(halves(4), net(), num_bins=5, tails="linear", tail_bound=3.0),
        t.ReversePermutation(4),
    ]
    return flow(name, "coupling spline", layers, toy(4))


def linear_spline_coupling(name: str) -> Flow:
    """Piecewise-linear functions on the unit interval in a coupling."""
    layers = [t.PiecewiseLinearCouplingTransform(mask(4), net(), num_bins=5)]
    return flow(name, "coupling spline", layers, 0.5 + toy(4, within=0.49), train=False)


def spline_cdf(name: str) -> Flow:
    """One rational-quadratic function a feature, between a sigmoid and its inverse."""
    layers = [t.CompositeCDFTransform(t.Sigmoid(), t.PiecewiseRationalQuadraticCDF([5], num_bins=5))]
    return flow(name, "elementwise", layers, toy(5))


def lu(name: str) -> Flow:
    """An LU layer alone."""
    return flow(name, "linear", [t.LULinear(6, identity_init=False)], toy(6))


def qr_svd(name: str) -> Flow:
    """QR and SVD layers with a leaky ReLU between."""
    layers = [t.QRLinear(6, num_householder=3), t.LeakyReLU(0.2), t.SVDLinear(6, num_householder=2)]
    return flow(name, "linear", layers, toy(6))


def elementwise(name: str) -> Flow:
    """Logit, leaky ReLU, a logarithmic tanh, an affine map a feature, and a sigmoid."""
    layers = [
        t.Logit(eps=1e-6),
        t.LeakyReLU(0.3),
        t.PointwiseAffineTransform(shift=torch.linspace(-0.5, 0.5, 5), scale=torch.linspace(0.5, 1.5, 5)),
        t.LogTanh(cut_point=1),
        t.AffineScalarTransform(shift=0.1, scale=1.5),
        t.Sigmoid(),
    ]
    return flow(name, "elementwise", layers, 0.5 + toy(5, within=0.45), train=False)


def affine_coupling(name: str) -> Flow:
    """Conditional affine couplings whose conditioners have batch norms, LU layers between."""
    layers = [
        t.AffineCouplingTransform(halves(6), net(context=3, batch_norm=True)),
        t.LULinear(6, identity_init=False),
        t.AffineCouplingTransform(1 - halves(6), net(context=3, batch_norm=True)),
        t.RandomPermutation(6),
    ]
    return flow(name, "coupling affine, conditional", layers, toy(6), others={"context": toy(3, seed=1)})


def glow(name: str) -> Flow:
    """Squeeze, then act norm, 1×1 convolution and affine coupling, twice, on small images."""
    layers: list[t.Transform] = [t.SqueezeTransform()]
    for odd in (False, True):
        layers += [t.ActNorm(8), t.OneByOneConvolution(8), t.AffineCouplingTransform(mask(8, odd), conv_net)]
    return flow(name, "coupling affine, images", layers, images(2, 4))


def multiscale(name: str) -> Flow:
    """Two scales: half of the channels leave after the first."""
    transform = t.MultiscaleCompositeTransform(num_transforms=2)
    first = t.CompositeTransform([t.SqueezeTransform(), t.ActNorm(8), t.AffineCouplingTransform(mask(8), conv_net)])
    shape = transform.add_transform(first, (8, 2, 2))
    second = t.CompositeTransform([t.ActNorm(shape[0]), t.AffineCouplingTransform(mask(shape[0], True), conv_net)])
    transform.add_transform(second, shape)
    return flow(name, "coupling affine, images, multi-scale", [transform], images(2, 4), exporters=("dynamo",))


FLOWS = {
    "nflows_maf": maf,
    "nflows_maf_context": maf_context,
    "nflows_rq_autoregressive": rq_autoregressive,
    "nflows_rq_coupling_lu": rq_coupling_lu,
    "nflows_quadratic_coupling": quadratic_coupling,
    "nflows_linear_spline_coupling": linear_spline_coupling,
    "nflows_spline_cdf": spline_cdf,
    "nflows_lu": lu,
    "nflows_qr_svd": qr_svd,
    "nflows_elementwise": elementwise,
    "nflows_affine_coupling_context": affine_coupling,
    "nflows_glow": glow,
    "nflows_multiscale": multiscale,
}
